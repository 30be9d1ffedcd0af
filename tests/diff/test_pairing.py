"""What belongs together, from names: files, tensors of each role, settings, and the table of layers and modules."""

from __future__ import annotations

import math

import pytest

from ckptfmt.diff.cells import Entry, Place, fill_table, mean_norm, place_of
from ckptfmt.diff.lineage import chain_of, relation
from ckptfmt.diff.pairing import pair_adapters, pair_files, pair_tensors
from ckptfmt.diff.values import compare_values, flat
from ckptfmt.errors import NotFound
from ckptfmt.format.manifest import Adapter, Extent, File, Lineage, Link, Manifest, Role, Tensor

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def manifest(*tensors: tuple[str, Role, str, tuple[int, ...], str], adapters: tuple[str, ...] = ()) -> Manifest:
    """Tensors as (name, role, dtype, shape, digest); those of adapters belong to `<adapter>/name`."""
    extents = tuple(Extent(4 * at, 4, digest) for at, (*_, digest) in enumerate(tensors))
    listed = []
    for at, (name, role, dtype, shape, _) in enumerate(tensors):
        part, _, rest = name.rpartition("|")
        listed.append(Tensor(name=rest, role=role, dtype=dtype, shape=shape, file=0, extent=at, part=part or None))
    return Manifest(
        version=1,
        layout="hf-full",
        files=(File(path="model.safetensors", size=9, sha256=A, container="safetensors", extents=extents),),
        tensors=tuple(listed),
        adapters=tuple(Adapter(name=name, path="", method="LORA", config={}, digest=A) for name in adapters),
    )


def names(found: object) -> list[str]:
    return [each.a.name if hasattr(each, "a") else each.name for each in found]  # type: ignore[attr-defined]


def test_tensors_are_sorted_by_what_became_of_them() -> None:
    first = manifest(
        ("same", "model", "F32", (2,), A),
        ("gone", "model", "F32", (2,), A),
        ("wider", "model", "F32", (2,), A),
        ("cast", "model", "F32", (2,), A),
        ("moved", "model", "F32", (2,), A),
        ("none", "model", "F32", (0, 2), A),
    )
    second = manifest(
        ("same", "model", "F32", (2,), A),
        ("new", "model", "F32", (2,), A),
        ("wider", "model", "F32", (3,), A),
        ("cast", "model", "BF16", (2,), A),
        ("moved", "model", "F32", (2,), B),
        ("none", "model", "F32", (0, 2), B),
    )
    found = pair_tensors(first, second)
    assert names(found.added) == ["new"]
    assert names(found.removed) == ["gone"]
    assert names(found.reshaped) == ["wider"]
    assert names(found.differing) == ["cast", "moved"]
    assert names(found.same) == ["none", "same"]


def test_roles_and_parts_are_kept_apart() -> None:
    first = manifest(
        ("w", "model", "F32", (2,), A), ("w", "optimizer", "F32", (2,), B), ("one|w", "state", "F32", (2,), C)
    )
    second = manifest(("w", "optimizer", "F32", (2,), A), ("two|w", "state", "F32", (2,), C))
    found = pair_tensors(first, second)
    assert [(pair.a.role, pair.b.role) for pair in found.differing] == [("optimizer", "optimizer")]
    assert [tensor.part for tensor in found.removed] == [None, "one"]
    assert [tensor.part for tensor in found.added] == ["two"]


def test_the_only_adapters_are_compared_whatever_they_are_called() -> None:
    first = manifest(("default|w", "adapter", "F32", (2,), A), adapters=("default",))
    second = manifest(("stage|w", "adapter", "F32", (2,), B), adapters=("stage",))
    pairs = pair_adapters(first, second)
    assert [(a.name, b.name) for a, b in pairs] == [("default", "stage")]
    assert names(pair_tensors(first, second, pairs).differing) == ["w"]
    several = manifest(adapters=("other", "stage"))
    assert pair_adapters(first, several) == ()
    assert [(a.name, b.name) for a, b in pair_adapters(second, several)] == [("stage", "stage")]


def test_a_model_saved_with_a_head_has_the_names_of_one_without() -> None:
    first = manifest(("h.0.w", "model", "F32", (2,), A), ("wte", "model", "F32", (2,), A))
    second = manifest(("transformer.h.0.w", "model", "F32", (2,), A), ("transformer.wte", "model", "F32", (2,), B))
    found = pair_tensors(first, second)
    assert found.key_map == "gpt2-prefix"
    assert names(found.same) == ["h.0.w"]
    assert names(found.differing) == ["wte"]
    assert pair_tensors(first, first).key_map == "same"


def test_files_and_links() -> None:
    def files(*parts: tuple[str, str, int], links: tuple[tuple[str, str], ...] = ()) -> Manifest:
        listed = tuple(File(path=path, size=size, sha256=sha, content=sha) for path, sha, size in parts)
        return Manifest(version=1, layout="unknown", files=listed, links=tuple(Link(*each) for each in links))

    first = files(("a", A, 1), ("b", A, 2), ("c", A, 3), links=(("l", "x"), ("m", "x")))
    second = files(("b", A, 2), ("c", B, 4), ("d", C, 5), links=(("l", "y"), ("m", "x")))
    found = pair_files(first, second)
    assert found.added == (("d", 5),)
    assert found.removed == (("a", 1),)
    assert found.changed == (("c", 3, 4), ("l", 0, 0))
    assert found.same == ("b", "m")


def test_values_have_flat_keys() -> None:
    a = flat({"lr": 1e-3, "optim": {"betas": [0.9, 0.95], "none": {}}, "x": 1, "nan": math.nan, "flag": True})
    b = flat({"lr": 2e-3, "optim": {"betas": [0.9, 0.95], "eps": 1}, "x": 1.0, "nan": math.nan, "flag": 1})
    found = compare_values(a, b)
    assert found.changed == (("flag", True, 1), ("lr", 1e-3, 2e-3))
    assert found.added == (("optim.eps", 1),)
    assert found.removed == (("optim.none", {}),)
    assert found.same == 3


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.mlp.up_proj.weight", Place("model.layers", 3, "mlp.up_proj")),
        ("model.layers.3.mlp.experts.7.w1.weight", Place("model.layers", 3, "mlp.experts.*.w1")),
        ("transformer.h.11.attn.c_attn.bias", Place("transformer.h", 11, "attn.c_attn")),
        ("h.0.ln_1", Place("h", 0, "ln_1")),
        ("lm_head.weight", Place(None, 0, "lm_head")),
        ("0.weight", Place("", 0, "*")),
        ("weight", Place(None, 0, "weight")),
    ],
)
def test_a_name_says_where_a_tensor_stands(name: str, place: Place) -> None:
    assert place_of(name) == place


def test_the_table_has_layers_by_number_and_what_is_the_same_as_zero() -> None:
    entries = [
        Entry("model.embed.weight", 10, 0.0, changed=False),
        Entry("model.layers.10.q.weight", 30, 0.4, changed=True),
        Entry("model.layers.10.q.bias", 10, 0.0, changed=False),
        Entry("model.layers.2.q.weight", 30, None, changed=True),
    ]
    table = fill_table([("model", entry) for entry in entries])
    assert table.layers == ("2", "10")
    assert table.modules == ("model.embed", "q")
    cells = {(cell.layer, cell.module): cell for cell in table.cells}
    assert [(cell.layer, cell.module) for cell in table.cells] == [(None, "model.embed"), ("2", "q"), ("10", "q")]
    assert (cells["10", "q"].tensors, cells["10", "q"].changed) == (2, 1)
    assert cells["10", "q"].relative_norm == pytest.approx(math.sqrt(0.75 * 0.16))
    assert (cells["2", "q"].relative_norm, cells["2", "q"].changed) == (None, 1)
    assert (cells[None, "model.embed"].relative_norm, cells[None, "model.embed"].changed) == (0.0, 0)


def test_layers_of_several_stacks_are_told_apart() -> None:
    entries = [
        Entry(f"{stack}.layers.{at}.q.weight", 1, 0.1, changed=True)
        for stack in ("encoder", "decoder")
        for at in (0, 1)
    ]
    table = fill_table([("model", entry) for entry in entries])
    assert table.layers == ("decoder.layers.0", "decoder.layers.1", "encoder.layers.0", "encoder.layers.1")


def test_norms_of_cells_neither_overflow_nor_divide_by_nothing() -> None:
    assert mean_norm([]) is None
    assert mean_norm([Entry("w", 0, 0.0, changed=False)]) == 0.0
    assert mean_norm([Entry("w", 3, 1e200, changed=True)]) == pytest.approx(1e200)


def test_how_two_stages_are_related() -> None:
    def stage(parent: str | None) -> Manifest:
        return Manifest(version=1, layout="peft", files=(), lineage=Lineage(parent=parent))

    known = {A: stage(None), B: stage(A), C: stage(B)}

    def load(digest: str) -> Manifest:
        if digest not in known:
            raise NotFound(digest)
        return known[digest]

    chains = {digest: chain_of(digest, found, load) for digest, found in known.items()}
    assert relation(chains[A], chains[B]) == "B was trained from A"
    assert relation(chains[C], chains[A]) == "A was trained from B, 2 stages before"
    assert relation(chains[A], chains[A]) == "A and B are one checkpoint"
    other = chain_of("d" * 64, stage(B), load)
    assert relation(chains[C], other) == f"A and B were both trained from {B[:12]}"
    assert relation(chain_of("e" * 64, stage("f" * 64), load), chains[A]) is None
