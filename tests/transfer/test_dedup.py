"""What is there already is not written again; what lies in a referenced base is not written at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptfmt import Store
from ckptfmt.errors import BaseMismatch, CkptfmtError, IntegrityError, NotFound
from tests.conftest import Made
from tests.fixtures import hf, nanogpt, peft_adapters, stages, trainer
from tests.transfer.headers import Written, file_of, noise
from tests.transfer.trees import (
    files_of,
    nothing_unfinished,
    objects_in,
    photograph,
    shard_bytes,
    store_files,
    there_and_back,
)

pytestmark = pytest.mark.fixtures
WEIGHTS = "model.safetensors"


@pytest.fixture
def base(checkpoint: Made, tmp_path: Path) -> Path:
    """A base of one's own: tests move and edit it."""
    copied = tmp_path / "models" / "base"
    shutil.copytree(checkpoint(hf.make, dtype="bfloat16"), copied)
    return copied


def tuned(base: Path, target: Path, *changed: str, seed: int = 0) -> Path:
    """A full export of a run that moved some tensors of `base` and left the others."""
    shutil.copytree(base, target)
    tensors = load_file(base / WEIGHTS)
    torch.manual_seed(seed)
    for name in changed:
        assert name in tensors
        tensors[name] = tensors[name] + torch.randn_like(tensors[name])
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    return target


HEAD = "lm_head.weight"
NORM = "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "maker", [hf.make, nanogpt.make, peft_adapters.make_several, stages.make, trainer.make_bloated]
)
def test_the_second_import_writes_nothing(maker: Callable[..., object], checkpoint: Made, store: Store) -> None:
    source = checkpoint(maker)
    first = store.import_path(source, name="x/{name}")
    assert first.new_bytes == shard_bytes(Path(store.path)) > 0
    before = store_files(Path(store.path))
    second = store.import_path(source, name="x/{name}")
    assert second.new_bytes == 0 and second.logical_bytes == first.logical_bytes
    assert [(each.ref, each.generation, each.manifest) for each in second.checkpoints] == [
        (each.ref, 1, each.manifest) for each in first.checkpoints
    ]
    assert store_files(Path(store.path)) == before
    # By another process, which knows nothing of what this one has in memory.
    with Store.open(store.path) as again:
        assert again.import_path(source, name="x/{name}").new_bytes == 0
    assert store_files(Path(store.path)) == before


def test_a_touched_file_makes_no_new_generation_and_no_new_id(base: Path, store: Store) -> None:
    """Times and modes are no content: equal contents have equal ids."""
    first = store.import_checkpoint(base, "x")
    os.utime(base / WEIGHTS, ns=(5, 5))
    (base / "config.json").chmod(0o600)
    second = store.import_checkpoint(base, "x")
    assert (second.manifest, second.generation) == (first.manifest, 1)


def test_another_name_for_the_same_content_writes_no_objects(base: Path, store: Store) -> None:
    first = store.import_checkpoint(base, "x")
    objects = objects_in(Path(store.path))
    second = store.import_checkpoint(base, "y")
    assert (second.manifest, second.new_bytes, second.generation) == (first.manifest, 0, 1)
    assert objects_in(Path(store.path)) == objects


def test_changed_content_is_the_next_generation(base: Path, store: Store, tmp_path: Path) -> None:
    first = store.import_checkpoint(base, "x")
    (base / "config.json").write_text("{}")
    second = store.import_checkpoint(base, "x", effort="fast")
    assert second.generation == 2 and second.manifest != first.manifest
    assert second.new_bytes < 1000
    store.restore("x@1", tmp_path / "one")
    store.restore("x", tmp_path / "two")
    assert files_of(tmp_path / "two") == files_of(base) != files_of(tmp_path / "one")


def test_two_runs_share_every_unchanged_tensor(base: Path, store: Store, tmp_path: Path) -> None:
    """Without naming a base at all: the content says it."""
    count = len(load_file(base / WEIGHTS))
    store.import_checkpoint(base, "base")
    everything = objects_in(Path(store.path))
    for number, changed in enumerate((HEAD, NORM)):
        run = tuned(base, tmp_path / f"run-{number}", changed, seed=number)
        report = there_and_back(store, run, tmp_path / f"back-{number}", f"run-{number}")
        new = objects_in(Path(store.path)) - everything
        everything = objects_in(Path(store.path))
        assert len(new) == 1  # The tensor: the header is the base's.
        assert report.tensors == count
        digests = {tensor.name: extent_digest(store, f"run-{number}", tensor.name) for tensor in tensors_of(store)}
        same = [name for name, digest in digests.items() if digest == extent_digest(store, "base", name)]
        assert sorted(digests.keys() - set(same)) == [changed]
    assert set(everything.values()) == {1}


def tensors_of(store: Store, ref: str = "base") -> tuple[object, ...]:
    return store.show(ref).manifest.tensors


def extent_digest(store: Store, ref: str, name: str) -> str:
    manifest = store.show(ref).manifest
    [tensor] = [tensor for tensor in manifest.tensors if tensor.name == name]
    return manifest.files[tensor.file].extents[tensor.extent].digest


def test_a_frozen_adapter_in_ten_checkpoints_is_stored_once(checkpoint: Made, store: Store, tmp_path: Path) -> None:
    """TRL keeps a frozen reference adapter in every DPO checkpoint."""
    frozen = checkpoint(peft_adapters.make, seed=99)
    steps = tmp_path / "dpo"
    for step in range(1, 11):
        target = steps / f"checkpoint-{step}"
        shutil.copytree(checkpoint(peft_adapters.make), target)
        tensors = load_file(target / "adapter_model.safetensors")
        save_file({name: value * step for name, value in tensors.items()}, target / "adapter_model.safetensors")
        shutil.copytree(frozen, target / "ref")
        (target / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    report = store.import_path(steps, name="dpo/{name}")
    assert len(report.checkpoints) == 10
    objects = objects_in(Path(store.path))
    assert set(objects.values()) == {1}
    reference = {
        manifest.files[tensor.file].extents[tensor.extent].digest
        for each in report.checkpoints
        for manifest in [store.show(each.ref).manifest]
        for tensor in manifest.tensors
        if manifest.files[tensor.file].path.startswith("ref/")
    }
    assert len(reference) == len(load_file(frozen / "adapter_model.safetensors"))
    for step in (1, 10):
        store.restore(f"dpo/checkpoint-{step}", tmp_path / f"back-{step}")
        assert files_of(tmp_path / f"back-{step}") == files_of(steps / f"checkpoint-{step}")


@pytest.mark.parametrize("first", ["safetensors", "bin"])
def test_safetensors_and_bin_share_objects(first: str, base: Path, store: Store, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    (pickled / WEIGHTS).unlink()
    state = load_file(base / WEIGHTS)
    torch.save(state, pickled / "pytorch_model.bin")
    order = [base, pickled] if first == "safetensors" else [pickled, base]
    there_and_back(store, order[0], tmp_path / "back-0", "first")
    objects = objects_in(Path(store.path))
    there_and_back(store, order[1], tmp_path / "back-1", "second")
    assert len(objects_in(Path(store.path)) - objects) == 1  # The other container's skeleton.
    manifests = [store.show(ref).manifest for ref in ("first", "second")]
    assert manifests[0].root == manifests[1].root is not None


def test_repeated_tensors_in_one_file_are_stored_once(store: Store, tmp_path: Path) -> None:
    """Small ones and such as span several frames; identical files too."""
    large = noise(9 << 20)
    source = tmp_path / "source"
    source.mkdir()
    tensors = [Written(f"w{n}", "U8", (len(large),), large) for n in range(3)]
    tensors += [Written(f"small {dtype}", dtype, (5,), b"small") for dtype in ("U8", "I8")]
    (source / WEIGHTS).write_bytes(file_of(*tensors))
    for name in ("a.dat", "b.dat"):
        (source / name).write_bytes(large)
    there_and_back(store, source, tmp_path / "back", effort="fast")
    assert sorted(objects_in(Path(store.path)).values()) == [1, 1, 1]
    assert shard_bytes(Path(store.path)) < 1.01 * len(large)


def test_large_tensors_that_differ_behind_their_first_frame(store: Store, tmp_path: Path) -> None:
    """A nominated duplicate is decided by its whole content, small enough to hold in memory or not."""
    for size in (9 << 20, 33 << 20):
        one = noise(size)
        two = one[:-1] + bytes([one[-1] ^ 1])
        source = tmp_path / f"source-{size}"
        source.mkdir()
        for name, data in (("a.dat", one), ("b.dat", two), ("c.dat", one)):
            (source / name).write_bytes(data)
        there_and_back(store, source, tmp_path / f"back-{size}", f"x-{size}", effort="fast")
        assert there_and_back(store, source, tmp_path / f"again-{size}", f"y-{size}").new_bytes == 0
    assert store.verify().damaged == ()


# --- bases -----------------------------------------------------------------------------------------------------------


def test_a_referenced_base_is_not_written(base: Path, store: Store, tmp_path: Path) -> None:
    store.add_base("llama", base)
    assert objects_in(Path(store.path)) == {}
    run = tuned(base, tmp_path / "run", HEAD)
    report = there_and_back(store, run, tmp_path / "back", "run", base="llama")
    assert report.needs_base is not None
    assert (report.needs_base.name, report.needs_base.last_seen) == ("llama", str(base))
    assert (report.base, report.binding) == ("llama", "stated")
    tensors = load_file(base / WEIGHTS)
    values = {value.view(torch.uint8).numpy().tobytes() for name, value in tensors.items() if name != HEAD}
    assert report.encodings["base"].objects == len(values) + 4  # And the four files beside the weights.
    assert len(objects_in(Path(store.path))) == 2  # The head and the header.
    [row] = store.list_refs()
    assert row.needs_base == report.needs_base == store.show("run").needs_base
    assert row.exclusive_bytes < row.stored_bytes < report.logical_bytes / 2  # The header is the base's, too.
    assert store.verify().damaged == ()


def test_needs_base_only_when_it_does(base: Path, checkpoint: Made, store: Store, tmp_path: Path) -> None:
    """An adapter shares no bytes with its base; and a kept base is needed from nowhere else."""
    store.add_base("llama", base)
    adapter = store.import_checkpoint(checkpoint(peft_adapters.make), "adapter", base="llama")
    assert adapter.needs_base is None and adapter.binding == "stated"
    store.add_base("kept", tuned(base, tmp_path / "other", NORM), keep="copy")
    run = store.import_checkpoint(tuned(base, tmp_path / "run", HEAD, NORM), "run", base="kept")
    assert run.needs_base is None
    shutil.rmtree(tmp_path / "other")
    store.restore("run", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "run")


def test_a_moved_base(base: Path, store: Store, tmp_path: Path) -> None:
    store.add_base("llama", base)
    run = tuned(base, tmp_path / "run", HEAD)
    store.import_checkpoint(run, "run", base="llama")
    moved = tmp_path / "elsewhere"
    base.rename(moved)
    for fails in (
        lambda: store.restore("run", tmp_path / "back"),
        lambda: store.verify_base("llama"),
        lambda: store.keep_base("llama"),
        lambda: store.import_checkpoint(run, "again", base="llama"),
    ):
        with pytest.raises(BaseMismatch) as caught:
            fails()
        assert (caught.value.code, caught.value.exit_code) == ("base-mismatch", 3)
        assert "'llama'" in caught.value.message and str(base) in caught.value.message
        assert caught.value.hint == "ckptfmt base verify llama --path DIR"
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".back*"))
    damaged = store.verify().damaged
    assert damaged and {each.checkpoints for each in damaged} == {("run",)}
    with pytest.raises(NotFound):
        store.verify_base("llama", path=tmp_path / "nowhere")
    assert store.verify_base("llama", path=moved).ok
    store.restore("run", tmp_path / "back")
    assert photograph(tmp_path / "back") == photograph(run)
    assert store.show("run").needs_base.last_seen == str(moved)
    assert store.verify().damaged == ()


@pytest.mark.parametrize("edit", ["one bit", "restored times", "shorter", "longer", "header", "link"])
def test_an_edited_base(edit: str, base: Path, store: Store, tmp_path: Path) -> None:
    """Whatever was done to it: never wrong bytes."""
    store.add_base("llama", base)
    run = tuned(base, tmp_path / "run", HEAD)
    store.import_checkpoint(run, "run", base="llama")
    weights = base / WEIGHTS
    data, found = bytearray(weights.read_bytes()), weights.stat()
    at = data.index(bytes(load_file(weights)[QUERY].view(torch.uint8).numpy().tobytes())) + 100
    if edit in ("one bit", "restored times"):
        data[at] ^= 0x10
    elif edit == "shorter":
        del data[-8:]
    elif edit == "longer":
        data += b"12345678"
    elif edit == "header":
        data[20:21] = b"x"
    if edit == "link":
        other = tmp_path / "other.safetensors"
        data[at] ^= 0x10
        other.write_bytes(data)
        weights.unlink()
        weights.symlink_to(other)
    else:
        weights.write_bytes(data)
    if edit == "restored times":
        os.utime(weights, ns=(found.st_atime_ns, found.st_mtime_ns))
    if edit not in ("shorter", "longer"):
        verified = store.verify_base("llama")
        assert not verified.ok and verified.how == "read"
        assert verified.mismatched == ((WEIGHTS,) if edit == "header" else (QUERY,))
    if edit == "header":  # No tensor changed, and the run has a header of its own: its bytes are right.
        store.restore("run", tmp_path / "back")
        assert files_of(tmp_path / "back") == files_of(run)
        return
    with pytest.raises(IntegrityError) as caught:
        store.restore("run", tmp_path / "back")
    assert caught.value.exit_code == 3
    assert "base 'llama'" in caught.value.message and caught.value.hint
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".back*"))
    before = store_files(Path(store.path))
    with pytest.raises(BaseMismatch):
        store.import_checkpoint(run, "again", base="llama")
    with pytest.raises(CkptfmtError) as caught:
        store.keep_base("llama")
    assert caught.value.exit_code in (3, 5)
    assert [ref.ref for ref in store.list_refs()] == ["run"] and not store.list_bases()[0].kept
    assert store_files(Path(store.path)) == before
    assert nothing_unfinished(Path(store.path))


def test_a_kept_base_survives_its_files(base: Path, store: Store, tmp_path: Path) -> None:
    store.add_base("llama", base)
    run = tuned(base, tmp_path / "run", HEAD)
    store.import_checkpoint(run, "run", base="llama")
    kept = store.keep_base("llama")
    assert kept.kept and kept.bytes == pytest.approx(shard_bytes(Path(store.path)), rel=0.6)
    assert store.list_bases()[0].kept
    assert store.keep_base("llama").bytes == 0
    shutil.rmtree(base)
    assert store.show("run").needs_base is None and store.list_refs()[0].needs_base is None
    store.restore("run", tmp_path / "back")
    assert photograph(tmp_path / "back") == photograph(run)
    again = store.import_checkpoint(tuned(run, tmp_path / "run-2", NORM), "run-2", base="llama")
    assert again.needs_base is None
    assert store.verify().damaged == ()


def test_a_base_of_one_file(base: Path, store: Store, tmp_path: Path) -> None:
    store.add_base("one", base / WEIGHTS)
    assert store.verify_base("one").ok
    run = tuned(base, tmp_path / "run", HEAD)
    report = store.import_checkpoint(run / WEIGHTS, "run", base="one")
    assert report.needs_base is not None and report.encodings["base"].objects > 10
    store.restore("run", tmp_path / "back")
    assert files_of(tmp_path / "back") == {WEIGHTS: files_of(run)[WEIGHTS]}


def test_a_full_model_that_is_the_base_itself(base: Path, store: Store, tmp_path: Path) -> None:
    """A 'merged' output that is byte for byte the base: nothing is stored but its header and its manifest."""
    store.add_base("llama", base)
    report = there_and_back(store, base, tmp_path / "back", "same", base="llama")
    assert report.new_bytes < 2000 and report.needs_base is not None
    assert len(objects_in(Path(store.path))) == 1
