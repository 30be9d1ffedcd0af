"""Looks at one checkpoint: what it holds, how it is stored, with whom it shares, one tensor of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ckptfmt import Store
from ckptfmt.errors import FormatError, NotFound
from ckptfmt.format import documents
from ckptfmt.format.manifest import Extent, File, Manifest, Tensor
from ckptfmt.store.store import manifest_key
from tests.cli.made import adapter, full


class Told:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.done = 0

    def begin(self, label: str, total_bytes: int | None) -> None:
        self.steps.append((label, total_bytes))

    def advance(self, done_bytes: int) -> None:
        self.done += done_bytes

    def end(self) -> None:
        pass


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Iterator[Store]:
    """A referenced base; an adapter under two names; another one; a copy of the base with one more file."""
    full(tmp_path / "base")
    adapter(tmp_path / "adapter")
    adapter(tmp_path / "second", seed=1)
    full(tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").write_text("of my own", encoding="utf-8")
    store.add_base("tiny", tmp_path / "base")
    store.import_path(tmp_path / "adapter", name="runs/first", base="tiny")
    store.import_path(tmp_path / "second", name="runs/second", base="tiny")
    store.import_path(tmp_path / "copy", name="copy", base="tiny")
    yield store


def at(store: Store, ref: str, name: str) -> int:
    return next(i for i, tensor in enumerate(store.show(ref).manifest.tensors) if tensor.name == name)


def test_contents_and_how_they_are_kept_agree_with_show(filled: Store) -> None:
    for ref in ("runs/first", "copy"):
        held, shown = filled.contents(ref), filled.show(ref)
        assert (held.ref, held.generation, held.id, held.manifest) == (ref, 1, shown.id, shown.manifest)
        kept = filled.kept(held)
        assert [encoding for encoding, _ in kept.tensors] == [each.encoding for each in shown.tensor_encodings]
        assert [size for _, size in kept.tensors] == [each.stored_bytes for each in shown.tensor_encodings]
        assert kept.encodings == shown.encodings
        assert (kept.logical_bytes, kept.needs_base) == (shown.logical_bytes, shown.needs_base)
        row = next(row for row in filled.list_refs() if row.ref == ref)
        assert (kept.stored_bytes, kept.exclusive_bytes) == (row.stored_bytes, row.exclusive_bytes)


def test_contents_of_what_is_not_there_or_lies(filled: Store) -> None:
    with pytest.raises(NotFound):
        filled.contents("nobody")
    tensor = Tensor("weight", "model", "F32", (1,), 0, 3)
    file = File("model.safetensors", 4, "0" * 64, "safetensors", None, None, (Extent(0, 4, "1" * 64),))
    engine = filled.engine
    lying = engine.put_manifest(Manifest(1, "hf-full", (file,), tensors=(tensor,)))
    with pytest.raises(FormatError, match=r"tensors\[0\]"):
        filled.contents(lying)
    long = msgspec.structs.replace(tensor, extent=0, shape=(100,))
    lying = engine.put_manifest(Manifest(1, "hf-full", (file,), tensors=(long,)))
    held = filled.contents(lying)
    with pytest.raises(FormatError, match="reaches past its extent"):
        filled.kept(held)
    assert documents.encode(held.manifest) == engine.storage.read(manifest_key(lying), 0, 1 << 20)


def test_the_overview_counts_each_object_once(filled: Store) -> None:
    found = filled.overview()
    assert (found.checkpoints, found.bases) == (3, 1)
    assert found.logical_bytes == sum(row.logical_bytes for row in filled.list_refs())
    stats = filled.stats()
    assert found.stored_bytes == stats.stored_bytes
    assert found.by_encoding == stats.by_encoding
    filled.import_path(Path(filled.path).parent / "adapter", name="runs/again", base="tiny")
    more = filled.overview()
    assert more.logical_bytes > found.logical_bytes
    assert (more.distinct_bytes, more.stored_bytes) == (found.distinct_bytes, found.stored_bytes)


def test_sharing_names_who_shares_how_much(filled: Store, tmp_path: Path) -> None:
    found = filled.sharing("runs/first")
    config = (tmp_path / "adapter" / "adapter_config.json").stat().st_size
    assert [(each.ref, each.objects) for each in found.sharers] == [("runs/second", 2)], "configuration and skeleton"
    assert 0 < found.sharers[0].bytes == found.shared_bytes < config * 10
    assert (found.same, found.looked_at, found.refs) == ((), 3, 3)
    filled.import_path(tmp_path / "adapter", name="other/name", base="tiny")
    again = filled.sharing("runs/first")
    row = next(row for row in filled.list_refs() if row.ref == "runs/first")
    assert again.same == ("other/name",)
    assert again.shared_bytes == row.stored_bytes
    hurried = filled.sharing("runs/first", seconds=0.0)
    assert hurried.looked_at == 1, "the very same is known without a look"
    assert hurried.refs == 4


def test_a_damaged_neighbour_hides_nothing(filled: Store) -> None:
    row = next(row for row in filled.list_refs() if row.ref == "runs/second")
    (Path(filled.path) / manifest_key(row.manifest)).write_bytes(b"{}")
    with Store.open(filled.path) as store:
        assert store.sharing("runs/first").sharers == ()
        held = store.contents("runs/first")
        assert store.kept(held).stored_bytes > 0
        assert store.look_at("runs/first", 0).figures is not None


def test_a_look_at_a_tensor(filled: Store, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    numbers = load_file(tmp_path / "adapter" / "adapter_model.safetensors")[name].astype(np.float64)
    told = Told()
    look = filled.look_at("runs/first", at(filled, "runs/first", name), progress=told)
    assert (look.name, look.role, look.dtype, look.shape) == (name, "adapter", "F32", numbers.shape)
    assert look.figures is not None
    assert look.figures.least == numbers.min()
    assert look.figures.mean == pytest.approx(numbers.mean())
    assert look.figures.norm == pytest.approx(np.linalg.norm(numbers))
    assert sum(look.figures.counts) == numbers.size
    assert [step for step, _ in told.steps] == [f"read {name}", "look for it in the other checkpoints"]
    assert told.steps[0][1] == look.size_bytes == numbers.size * 4
    (copy,) = look.copies
    assert (Path(filled.path) / copy.shard).is_file()
    assert copy.stored_bytes <= look.object_bytes
    assert (look.outside, look.holders, look.holding) == (None, (), 0)
    filled.import_path(tmp_path / "adapter", name="other/name", base="tiny")
    again = filled.look_at("runs/first@1", at(filled, "runs/first", name))
    assert [(holder.ref, holder.tensor) for holder in again.holders] == [("other/name", name)]


def test_a_tensor_that_lies_in_its_base(filled: Store, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    look = filled.look_at("copy", at(filled, "copy", name))
    assert look.copies == ()
    assert look.outside is not None
    assert (look.outside.base, look.outside.there) == ("tiny", True)
    with open(look.outside.path, "rb") as file:
        file.seek(look.outside.offset)
        data = file.read(look.size_bytes)
    np.testing.assert_array_equal(
        np.frombuffer(data, "<f4").reshape(look.shape), load_file(tmp_path / "base" / "model.safetensors")[name]
    )
    assert [(holder.ref, holder.tensor) for holder in look.holders] == [("bases/tiny", name)]


def test_what_a_copy_is_stored_against_is_named(store: Store, tmp_path: Path) -> None:
    full(tmp_path / "base")
    near = full(tmp_path / "near")
    tensors = load_file(near / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name] * np.float32(1.0001)
    from safetensors.numpy import save_file

    save_file(tensors, near / "model.safetensors", metadata={"format": "pt"})
    store.add_base("tiny", tmp_path / "base", keep="copy")
    store.import_path(near, name="near", base="tiny")
    look = store.look_at("near", at(store, "near", name))
    assert look.copies[0].encoding == "delta"
    against = look.copies[0].against
    assert [(each.holder.ref, each.holder.tensor) for each in against if each.holder] == [("bases/tiny", name)]


def test_tensors_of_every_kind_in_a_torch_file(store: Store, tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "bf16": torch.tensor([1.5, -2.0, float("nan"), float("inf")], dtype=torch.bfloat16),
        "fp8": torch.tensor([1.0, -0.5, 0.0, 448.0]).to(torch.float8_e4m3fn),
        "int": torch.tensor([[3, -7], [2**40, 0]]),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.25),
        "empty": torch.empty(0, 5),
        "turned": base.t(),
        "columns": base[:, 1:3],
        "wide": base[0:1].expand(3, 6),
        "complex": torch.tensor([1 + 2j]),
    }
    directory = tmp_path / "pt"
    directory.mkdir()
    torch.save({"model": tensors}, directory / "model.pt")
    store.import_path(directory, name="kinds")
    held = store.contents("kinds").manifest
    found = {tensor.name.removeprefix("model."): index for index, tensor in enumerate(held.tensors)}
    for name, tensor in tensors.items():
        look = store.look_at("kinds", found[name])
        assert look.figures is not None, look.unread
        wide = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        numbers = wide.double().numpy().reshape(-1)
        finite = numbers[np.isfinite(numbers)]
        assert look.figures.counted == numbers.size, name
        assert look.figures.nans == int(np.isnan(numbers).sum())
        assert look.figures.positive_infinities == int(np.isposinf(numbers).sum())
        assert look.figures.least == (finite.min() if len(finite) else None), name
        assert look.figures.most == (finite.max() if len(finite) else None), name
        if len(finite):
            assert look.figures.mean == pytest.approx(finite.mean()), name
        json.dumps(msgspec.to_builtins(look), allow_nan=False)
    with pytest.raises(NotFound, match="has no tensor"):
        store.look_at("kinds", 1000)


def test_dropped_names_can_be_found_again(filled: Store) -> None:
    assert filled.dropped() == []
    filled.drop("runs/second")
    filled.rename("copy", "kept")
    assert [(item.name, item.number) for item in filled.dropped()] == [("runs/second", 1)], "a renamed one is not lost"
    filled.rollback("runs/second@1")
    assert filled.dropped() == []
