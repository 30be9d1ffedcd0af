"""Base records: their root, their names, and looking whether the files are still what was recorded."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptfmt import Store
from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError, Conflict, InvalidInput, NotFound
from ckptfmt.store import stat_cache
from tests.conftest import Made
from tests.fixtures import hf, nanogpt, peft_adapters
from tests.transfer.headers import Written, file_of
from tests.transfer.refusals import Meddling
from tests.transfer.trees import files_of, objects_in, store_files

WEIGHTS = "model.safetensors"


def write(directory: Path, *tensors: Written, name: str = WEIGHTS) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(file_of(*tensors))
    (directory / "config.json").write_text("{}")
    return directory


A = Written("model.a.weight", "F32", (2, 2), bytes(range(16)))
B = Written("model.b.weight", "BF16", (3,), b"bbbbbb")
C = Written("lm_head.weight", "I64", (), b"12345678")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base", A, B, C)


# --- the root --------------------------------------------------------------------------------------------------------


def test_vector(base: Path, store: Store) -> None:
    """The specification, by hand: JSON lines sorted by name, hashed."""
    lines = [
        ["lm_head.weight", "I64", [], digest_of(b"12345678")],
        ["model.a.weight", "F32", [2, 2], digest_of(bytes(range(16)))],
        ["model.b.weight", "BF16", [3], digest_of(b"bbbbbb")],
    ]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    report = store.add_base("x", base)
    assert report.root == digest_of(text.encode())
    assert report.root == "7895aeee951d9047393e5d7da7a4aa5e28446ee28214e13b6bb244a048867133"
    assert (report.name, report.files, report.tensors, report.kept, report.repo) == ("x", 2, 3, False, None)
    assert report.bytes == sum(path.stat().st_size for path in base.iterdir())
    assert objects_in(Path(store.path)) == {}


def test_what_does_not_count(base: Path, store: Store, tmp_path: Path) -> None:
    """Order, sharding, header and container are no part of a model's identity."""
    root = store.add_base("x", base).root
    shuffled = write(tmp_path / "shuffled", C, A, B)
    padded = tmp_path / "padded"
    write(padded)
    (padded / WEIGHTS).write_bytes(file_of(B, A, C, metadata={"format": "pt"}, padding=100))
    sharded = tmp_path / "sharded"
    write(sharded, A, name="model-00001-of-00002.safetensors")
    write(sharded, C, B, name="model-00002-of-00002.safetensors")
    index = {tensor.name: f"model-0000{1 if tensor is A else 2}-of-00002.safetensors" for tensor in (A, B, C)}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    tensors = load_file(base / WEIGHTS)
    torch.save(tensors, pickled / "pytorch_model.bin")
    (pickled / "config.json").write_text("{}")
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    torch.save({f"_orig_mod.{name}": value for name, value in tensors.items()}, compiled / "pytorch_model.bin")
    (compiled / "config.json").write_text("{}")
    for number, place in enumerate((shuffled, padded, sharded, pickled, compiled)):
        report = store.add_base(f"x{number}", place)
        assert report.root == root, place
        assert report.record != store.list_bases()[0].record
        assert store.import_checkpoint(place, f"r{number}").manifest
        assert store.show(f"r{number}").manifest.root == root


@pytest.mark.parametrize(
    "tensor",
    [
        Written("model.c.weight", "BF16", (3,), b"bbbbbb"),
        Written("model.b.weight", "F16", (3,), b"bbbbbb"),
        Written("model.b.weight", "BF16", (3, 1), b"bbbbbb"),
        Written("model.b.weight", "BF16", (3,), b"bbbbbc"),
    ],
)
def test_what_counts(tensor: Written, base: Path, store: Store, tmp_path: Path) -> None:
    other = store.add_base("y", write(tmp_path / "other", A, tensor, C))
    assert store.add_base("x", base).root != other.root


@pytest.mark.fixtures
def test_tied_weights(checkpoint: Made, store: Store, tmp_path: Path) -> None:
    """One storage under two names is one line, under the first; transformers and torch agree on what is left."""
    gpt = checkpoint(nanogpt.make)
    state = torch.load(gpt / "ckpt.pt", weights_only=True)["model"]
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    tied = tmp_path / "tied"
    tied.mkdir()
    torch.save(state, tied / "pytorch_model.bin")
    (tied / "config.json").write_text("{}")
    single = tmp_path / "single"
    single.mkdir()
    kept = {name: value.clone() for name, value in state.items() if name != "transformer.wte.weight"}
    save_file(kept, single / WEIGHTS)
    (single / "config.json").write_text("{}")
    untied = tmp_path / "untied"
    untied.mkdir()
    save_file({name: value.clone() for name, value in state.items()}, untied / WEIGHTS)
    (untied / "config.json").write_text("{}")
    roots = {place.name: store.add_base(place.name, place).root for place in (tied, single, untied)}
    assert roots["tied"] == roots["single"] != roots["untied"]


def test_no_model_no_base(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no weights")
    before = store_files(Path(store.path))
    for place in (tmp_path / "text", checkpoint(peft_adapters.make)):
        with pytest.raises(InvalidInput) as caught:
            store.add_base("x", place)
        assert caught.value.exit_code == 2 and str(place) in caught.value.message and caught.value.hint
    with pytest.raises(NotFound):
        store.add_base("x", tmp_path / "nowhere")
    with pytest.raises(InvalidInput):
        store.add_base("x", tmp_path / "text", revision="main")
    with pytest.raises(InvalidInput) as caught:
        store.add_base("../x", tmp_path / "text")
    assert caught.value.code == "ref-name"
    assert store_files(Path(store.path)) == before


# --- looking again ---------------------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if two seconds had passed since each file was written."""
    monkeypatch.setattr(stat_cache, "_YOUNG_NS", -1_000_000_000)


def test_young_files_are_not_trusted(base: Path, store: Store) -> None:
    store.add_base("x", base)
    assert store.verify_base("x").how == "read"
    assert store.verify_base("x").how == "read"
    time.sleep(2.1)
    assert store.verify_base("x").how == "read"
    assert store.verify_base("x").how == "cached"
    assert store.verify_base("x", full=True).how == "read"


@pytest.mark.usefixtures("settled")
def test_the_second_look_is_cached(base: Path, store: Store) -> None:
    store.add_base("x", base)  # It was read then.
    assert store.verify_base("x").how == "cached"
    with Store.open(store.path) as again:
        found = again.verify_base("x")
    assert (found.ok, found.how, found.mismatched, found.published) == (True, "cached", (), None)
    assert found.path == str(base) and found.root == store.list_bases()[0].root
    assert store.verify_base("x", path=base).how == "cached"
    assert store.verify_base("x", full=True).how == "read"


@pytest.mark.usefixtures("settled")
def test_a_rewritten_file_is_noticed(base: Path, store: Store) -> None:
    """Same size, mtime put back: the ctime tells."""
    store.add_base("x", base)
    found = (base / WEIGHTS).stat()
    data = bytearray((base / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (base / WEIGHTS).write_bytes(data)
    os.utime(base / WEIGHTS, ns=(found.st_atime_ns, found.st_mtime_ns))
    verified = store.verify_base("x")
    assert (verified.ok, verified.how, verified.mismatched) == (False, "read", ("lm_head.weight",))
    again = store.verify_base("x")
    assert (again.ok, again.mismatched) == (False, ("lm_head.weight",))


@pytest.mark.usefixtures("settled")
def test_full_does_not_trust_the_cache(base: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that no stat shows (a file system with coarse times, a clock put back): `full` reads."""
    monkeypatch.setattr(stat_cache, "stamp_of", lambda found: f"{found.st_size}")
    store.add_base("x", base)
    data = bytearray((base / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (base / WEIGHTS).write_bytes(data)
    assert store.verify_base("x").how == "cached"
    assert not store.verify_base("x", full=True).ok


@pytest.mark.usefixtures("settled")
def test_a_touched_file_is_read_and_fine(base: Path, store: Store) -> None:
    store.add_base("x", base)
    os.utime(base / WEIGHTS)
    assert (store.verify_base("x").ok, store.verify_base("x").how) == (True, "cached")
    (base / "config.json").unlink()
    shutil.copy(base / WEIGHTS, base / "config.json")
    verified = store.verify_base("x", path=base)
    assert (verified.ok, verified.mismatched) == (False, ("config.json",))


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_verified(base: Path, store: Store) -> None:
    """It is neither what was recorded nor not: that is said, and nothing is remembered of it."""
    store.add_base("x", base)
    data = (base / WEIGHTS).read_bytes()
    meddling = Meddling(3, lambda: (base / WEIGHTS).write_bytes(data[::-1]))  # Behind the two bytes of the config.
    with pytest.raises(CkptfmtError) as caught:
        store.verify_base("x", full=True, progress=meddling)
    assert meddling.acted and (caught.value.code, caught.value.exit_code) == ("changed-while-read", 3)
    assert f"{base}/" in caught.value.message and caught.value.hint
    verified = store.verify_base("x")
    assert (verified.ok, verified.how) == (False, "read")


def test_another_place(base: Path, store: Store, tmp_path: Path) -> None:
    """A copy is as good as the original; a place where files lack or differ is not noted."""
    store.add_base("x", base)
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (copy / "extra.txt").write_text("does not matter")
    assert store.verify_base("x", path=copy).ok
    assert store.list_bases()[0].path == str(copy)
    poor = tmp_path / "poor"
    shutil.copytree(base, poor)
    (poor / "config.json").unlink()
    (poor / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:-1])
    verified = store.verify_base("x", path=poor)
    assert (verified.ok, sorted(verified.mismatched)) == (False, ["config.json", WEIGHTS])
    assert store.list_bases()[0].path == str(copy)
    with pytest.raises(NotFound):
        store.verify_base("y")


# --- names -----------------------------------------------------------------------------------------------------------


def test_rm_is_refused_while_it_is_needed(base: Path, store: Store, tmp_path: Path) -> None:
    store.add_base("x", base)
    store.import_checkpoint(base, "run", base="x")
    before = store_files(Path(store.path))
    with pytest.raises(Conflict) as caught:
        store.drop_base("x")
    assert (caught.value.code, caught.value.exit_code) == ("needed", 1)
    assert "run" in caught.value.message and caught.value.hint == "ckptfmt rm run"
    assert store_files(Path(store.path)) == before
    store.drop("run")
    assert store.drop_base("x").manifest is None
    assert store.list_bases() == []
    with pytest.raises(NotFound):
        store.drop_base("x")
    with pytest.raises(NotFound) as missing:
        store.import_checkpoint(base, "run", base="x")
    assert "'x'" in missing.value.message and missing.value.hint
    store.add_base("x", base)
    store.import_checkpoint(base, "run", base="x")


def test_two_names_for_one_base(base: Path, store: Store, tmp_path: Path) -> None:
    first, second = store.add_base("x", base), store.add_base("org/x-8b", base)
    assert first.record == second.record
    assert [each.name for each in store.list_bases()] == ["org/x-8b", "x"]
    store.import_checkpoint(base, "run", base="x")
    store.drop_base("x")  # It has another name still.
    store.restore("run", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(base)
    with pytest.raises(Conflict):
        store.drop_base("org/x-8b")


def test_adding_again(base: Path, store: Store, tmp_path: Path) -> None:
    """The same: nothing happens. Changed: the name moves on, and what was bound stays bound to what it was."""
    first = store.add_base("x", base)
    files = store_files(Path(store.path))
    assert store.add_base("x", base) == first
    assert store_files(Path(store.path)) == files
    kept = tmp_path / "kept"
    shutil.copytree(base, kept)
    store.import_checkpoint(base, "run", base="x")
    write(base, A, Written(B.name, B.dtype, B.shape, b"cccccc"), C)
    second = store.add_base("x", base)
    assert second.record != first.record and second.root != first.root
    assert [each.record for each in store.list_bases()] == [second.record]
    assert [generation.target for generation in store.log("bases/x").generations] == [second.record, first.record]
    link = store.show("run").manifest.base
    assert link is not None and (link.record, link.root) == (first.record, first.root)
    with pytest.raises(CkptfmtError) as caught:
        store.restore("run", tmp_path / "back")
    assert caught.value.exit_code == 3 and not (tmp_path / "back").exists()
    store.add_base("old", kept)
    store.restore("run", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(kept)


def test_copy_and_keep(base: Path, store: Store, tmp_path: Path) -> None:
    copied = store.add_base("x", base, keep="copy")
    assert copied.kept and set(objects_in(Path(store.path)).values()) == {1}
    assert store.keep_base("x").bytes == 0
    with pytest.raises(InvalidInput):
        store.add_base("y", base, keep="hardlink")  # type: ignore[arg-type]
    shutil.rmtree(base)
    assert store.list_bases()[0].kept
    assert store.verify().damaged == () and store.verify().objects == len(objects_in(Path(store.path)))


def test_bind(base: Path, checkpoint: Made, store: Store, tmp_path: Path) -> None:
    """An adapter without a base gets one; one that cannot be its base is refused."""
    llama = checkpoint(hf.make, kind="llama", steps=0)
    store.add_base("llama", llama)
    store.add_base("other", base)
    store.import_checkpoint(checkpoint(peft_adapters.make), "adapter")
    assert store.list_refs()[0].binding == "none"
    with pytest.raises(CkptfmtError) as caught:
        store.bind("adapter", "other")
    assert (caught.value.code, caught.value.exit_code) == ("base-mismatch", 3) and "'other'" in caught.value.message
    with pytest.raises(CkptfmtError) as caught:
        store.import_checkpoint(checkpoint(peft_adapters.make), "adapter-2", base="other")
    assert caught.value.code == "base-mismatch" and [row.ref for row in store.list_refs()] == ["adapter"]
    bound = store.bind("adapter", "llama")
    assert (bound.base, bound.binding, bound.generation) == ("llama", "stated", 2)
    assert store.bind("adapter", "llama") == bound
    [row] = store.list_refs()
    assert (row.base, row.binding, row.manifest) == ("llama", "stated", bound.manifest)
    link = store.show("adapter").manifest.base
    assert link is not None
    assert {leaf.name for leaf in link.leaves} == {
        f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qv"
    }
    store.add_base("llama-2", checkpoint(hf.make, kind="llama", seed=1, steps=0))
    with pytest.raises(Conflict):
        store.bind("adapter", "llama-2")
    with pytest.raises(NotFound):
        store.bind("adapter", "nobody")
    store.restore("adapter", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(checkpoint(peft_adapters.make))


@pytest.mark.fixtures
def test_proven(checkpoint: Made, store: Store) -> None:
    """A wrapped model saved whole carries the base's own weights: they agree, or the binding is only stated."""
    store.add_base("llama", checkpoint(hf.make, kind="llama", steps=0))
    unmerged = store.import_checkpoint(checkpoint(peft_adapters.make_unmerged), "unmerged", base="llama")
    assert unmerged.binding == "proven"
    store.add_base("trained", checkpoint(hf.make, kind="llama", steps=1))
    stated = store.import_checkpoint(checkpoint(peft_adapters.make_unmerged), "other", base="trained")
    assert stated.binding == "stated"
