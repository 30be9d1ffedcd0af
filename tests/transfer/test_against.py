"""Checkpoints stored against their base, their parent and the step before: smaller, and back to the byte."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptfmt import Store
from ckptfmt.encodings.references import parse_reference
from ckptfmt.errors import CkptfmtError, IntegrityError
from ckptfmt.format.manifest import objects_of
from ckptfmt.format.shard import MAX_DEPTH
from ckptfmt.store.graph import depth
from ckptfmt.store.store import open_store
from ckptfmt.transfer.held import Held
from ckptfmt.transfer.matching import Match, matches
from tests.conftest import Made
from tests.fixtures import hf
from tests.transfer.trees import photograph

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def base(checkpoint: Made, tmp_path: Path) -> Path:
    copied = tmp_path / "models" / "base"
    shutil.copytree(checkpoint(hf.make, dtype="bfloat16"), copied)
    return copied


def changed(source: Path, target: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint with other weights."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / WEIGHTS)), target / WEIGHTS, metadata={"format": "pt"})
    return target


def tuned(seed: int, scale: float = 1e-4) -> Callable[[Tensors], Tensors]:
    """A fine-tune: every weight moves a little."""

    def change(tensors: Tensors) -> Tensors:
        torch.manual_seed(seed)
        return {
            name: (tensor.float() + torch.randn(tensor.shape) * scale).to(tensor.dtype)
            for name, tensor in tensors.items()
        }

    return change


def comes_back(store: Store, name: str, original: Path, target: Path) -> None:
    store.restore(name, target)
    assert photograph(target) == photograph(original)


def encodings(store: Store, name: str) -> dict[str, int]:
    """Logical bytes by encoding."""
    return {encoding: stored.logical_bytes for encoding, stored in store.show(name).encodings.items()}


def test_a_fine_tune_is_stored_against_its_base(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", base)
    done = store.import_checkpoint(changed(base, tmp_path / "run", tuned(1)), "run", base="base")
    assert done.needs_base is not None and done.needs_base.name == "base"
    delta = done.encodings["delta"]
    assert delta.logical_bytes > 0.7 * done.logical_bytes and delta.stored_bytes < delta.logical_bytes / 3
    comes_back(store, "run", tmp_path / "run", tmp_path / "back")


def test_fast_looks_at_no_other_checkpoint(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", base)
    store.import_checkpoint(changed(base, tmp_path / "run", tuned(1)), "run", base="base", effort="fast")
    assert "delta" not in encodings(store, "run")


def test_the_base_may_be_copied_in_afterwards(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", base)
    run = changed(base, tmp_path / "run", tuned(1))
    store.import_checkpoint(run, "run", base="base")
    store.keep_base("base")
    shutil.rmtree(base)
    assert store.show("run").needs_base is None
    comes_back(store, "run", run, tmp_path / "back")
    assert store.verify().damaged == ()


def test_without_its_base_it_says_which(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", base)
    store.import_checkpoint(changed(base, tmp_path / "run", tuned(1)), "run", base="base")
    base.rename(tmp_path / "moved")
    with pytest.raises(CkptfmtError, match="base") as caught:
        store.restore("run", tmp_path / "back")
    assert caught.value.exit_code == 3 and not (tmp_path / "back").exists()
    with pytest.raises(CkptfmtError):
        store.restore("run", tmp_path / "back")
    store.verify_base("base", path=tmp_path / "moved")
    comes_back(store, "run", tmp_path / "run", tmp_path / "back")


def test_against_an_edited_base_nothing_comes_back(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", base)
    store.import_checkpoint(changed(base, tmp_path / "run", tuned(1)), "run", base="base")
    data = bytearray((base / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (base / WEIGHTS).write_bytes(data)
    with pytest.raises(IntegrityError, match="base"):
        store.restore("run", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_another_import_does_not_come_to_need_a_base_unasked(store: Store, base: Path, tmp_path: Path) -> None:
    """The same files without a base, quickly: they are stored again, for nobody looked whether the base is there."""
    store.add_base("base", base)
    run = changed(base, tmp_path / "run", tuned(1))
    store.import_checkpoint(run, "run", base="base")
    alone = store.import_checkpoint(run, "alone", effort="fast")
    assert alone.base is None and alone.needs_base is None
    shutil.rmtree(base)
    comes_back(store, "alone", run, tmp_path / "back")
    assert store.show("run").needs_base is None
    comes_back(store, "run", run, tmp_path / "again")


def test_a_base_that_others_are_stored_against_stays(store: Store, base: Path, tmp_path: Path) -> None:
    """Found, not named: the same files are not stored again, the base is needed, and cannot be dropped."""
    store.add_base("base", base)
    run = changed(base, tmp_path / "run", tuned(1))
    store.import_checkpoint(run, "run", base="base")
    alone = store.import_checkpoint(run, "alone")
    assert alone.base is None and alone.needs_base is not None and alone.needs_base.name == "base"
    assert [row.needs_base.name for row in store.list_refs() if row.needs_base] == ["base", "base"]
    store.drop("run")
    with pytest.raises(CkptfmtError, match="alone"):
        store.drop_base("base")
    comes_back(store, "alone", run, tmp_path / "back")
    store.keep_base("base")
    assert store.show("alone").needs_base is None


def test_steps_of_a_run_are_stored_against_the_step_before(store: Store, base: Path, tmp_path: Path) -> None:
    steps = 2 * MAX_DEPTH + 3
    made = {0: base}
    for step in range(1, steps):
        made[step] = changed(made[step - 1], tmp_path / f"step-{step}", tuned(step, 3e-5))
    for step, directory in made.items():
        store.import_checkpoint(directory, f"run/checkpoint-{step}")
    engine = open_store(str(store.path))
    catalog = engine.catalog()
    deepest = 0
    for step in made:
        objects = objects_of(engine.manifest(engine.resolve(f"run/checkpoint-{step}")[0]))
        deepest = max(deepest, *(depth(catalog.dependencies, digest) for digest in objects))
    engine.close()
    assert deepest == MAX_DEPTH
    assert store.stats().stored_bytes < store.stats().logical_bytes / 3
    for step in (1, MAX_DEPTH, MAX_DEPTH + 1, steps - 1):
        comes_back(store, f"run/checkpoint-{step}", made[step], tmp_path / f"back-{step}")


def test_what_a_checkpoint_is_stored_against_counts_as_its_own(store: Store, base: Path, tmp_path: Path) -> None:
    """Sizes and what is needed go through the dependencies."""
    store.import_checkpoint(base, "run/1", effort="fast")
    store.import_checkpoint(changed(base, tmp_path / "two", tuned(2)), "run/2")
    rows = {row.ref: row for row in store.list_refs()}
    assert rows["run/2"].stored_bytes > rows["run/1"].stored_bytes
    assert rows["run/2"].exclusive_bytes < rows["run/1"].stored_bytes / 2
    assert rows["run/1"].exclusive_bytes < rows["run/1"].stored_bytes / 2
    store.drop("run/1")
    (left,) = store.list_refs()
    assert store.stats().stored_bytes == left.stored_bytes


def resized(more: int) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            old = tensors[name]
            fresh = torch.randn(max(0, more), old.shape[1]).to(old.dtype)
            tensors[name] = torch.cat([old[: len(old) + more], fresh]).contiguous()
        return tensors

    return change


def recast(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor.clone() for name, tensor in tensors.items()}


def turned(tensors: Tensors) -> Tensors:
    return {name: tensor.T.contiguous() if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [resized(64), resized(-64), recast(torch.float16), recast(torch.float32), without_prefix, turned],
    ids=["grown", "shrunk", "fp16", "fp32", "no-prefix", "transposed"],
)
def test_a_model_saved_in_another_way_is_found(
    store: Store, base: Path, tmp_path: Path, change: Callable[[Tensors], Tensors]
) -> None:
    store.add_base("base", base)
    both = lambda tensors: change(tuned(3, 3e-5)(tensors))  # noqa: E731
    run = changed(base, tmp_path / "run", both)
    store.import_checkpoint(run, "run", base="base")
    found = store.show("run").encodings
    assert found["delta"].logical_bytes > 0.5 * sum(each.logical_bytes for each in found.values())
    assert found["delta"].stored_bytes < 0.6 * found["delta"].logical_bytes
    comes_back(store, "run", run, tmp_path / "back")


EXPERTS = "model.layers.0.mlp.experts"
OLD_EXPERTS = "model.layers.0.block_sparse_moe.experts"


def held(**named: tuple[str, tuple[int, ...]]) -> dict[tuple[str, str | None, str], Held]:
    return {
        ("model", None, name): Held(dtype, shape, f"{index:064x}")
        for index, (name, (dtype, shape)) in enumerate(named.items())
    }


def test_experts_are_found_fused_and_apart() -> None:
    apart = held(
        **{
            f"{OLD_EXPERTS}.{expert}.{module}.weight": ("BF16", (6, 4) if module != "w2" else (4, 6))
            for expert in range(3)
            for module in ("w1", "w3", "w2")
        }
    )
    digests = [each.digest for each in apart.values()]
    key = ("model", None, f"{EXPERTS}.gate_up_proj")
    assert list(matches(key, "BF16", (3, 12, 4), apart)) == [
        Match("fuse:2:1x6+6+6+6+6+6x4", (digests[0], digests[1], digests[3], digests[4], digests[6], digests[7]))
    ]
    together = held(**{f"{EXPERTS}.gate_up_proj": ("BF16", (3, 12, 4)), f"{EXPERTS}.down_proj": ("BF16", (3, 4, 6))})
    up = ("model", None, f"{OLD_EXPERTS}.1.w3.weight")
    assert list(matches(up, "F16", (6, 4), together)) == [Match("slice:2:1x36x4:18+6,cast:BF16:F16", (f"{0:064x}",))]
    down = ("model", None, f"{EXPERTS}.2.down_proj.weight")
    assert list(matches(down, "BF16", (4, 6), together)) == [Match("slice:2:1x12x6:8+4", (f"{1:064x}",))]


def test_projections_are_found_in_fused_ones() -> None:
    fused = held(**{"l.self_attn.qkv_proj.weight": ("F32", (16, 8)), "l.mlp.gate_up_proj.weight": ("F32", (20, 8))})
    for name, shape, reference in (
        ("l.self_attn.q_proj.weight", (8, 8), "slice:4:1x16x8:0+8"),
        ("l.self_attn.k_proj.weight", (4, 8), "slice:4:1x16x8:8+4"),
        ("l.self_attn.v_proj.weight", (4, 8), "slice:4:1x16x8:12+4"),
        ("l.mlp.up_proj.weight", (10, 8), "slice:4:1x20x8:10+10"),
    ):
        [match] = matches(("model", None, name), "F32", shape, fused)
        assert match.reference == reference


@pytest.mark.parametrize(
    ("fused", "shape", "parts", "references"),
    [
        ("self_attn.W_pack.weight", (24, 8), {"self_attn.{}_proj.weight": (8, 8)}, ["fuse:2:1x8+8+8x8"]),
        ("self_attn.qkv_proj.bias", (24,), {"self_attn.{}_proj.bias": (8,)}, ["fuse:2:1x8+8+8x1"]),
        (
            "attention.wqkv.weight",
            (256, 8),
            {"self_attn.q_proj.weight": (128, 8), "self_attn.{}_proj.weight": (64, 8)},
            ["fuse:2:1x128+64+64x8", "fuse:2:2x64+32+32x8", "fuse:2:4x32+16+16x8", "fuse:2:8x16+8+8x8"],
        ),
        (
            "attn.c_attn.weight",
            (8, 24),
            {"attn.{}_proj.weight": (8, 8)},
            ["fuse:2:1x8+8+8x8,transpose:2:24x8", "fuse:2:8x8+8+8x1"],
        ),
        ("attn.c_attn.weight", (8, 20), {"attn.{}_proj.weight": (8, 8)}, []),
    ],
)
def test_fused_projections_are_found_in_their_parts(
    fused: str, shape: tuple[int, ...], parts: dict[str, tuple[int, ...]], references: list[str]
) -> None:
    """Under the base model's prefix, and where the attention has another name."""
    apart = {name.format(letter): ("BF16", part) for name, part in parts.items() for letter in "qkv"}
    apart |= {name: ("BF16", part) for name, part in parts.items() if "{}" not in name}
    named = {f"model.layers.0.{name}": each for name, each in apart.items()}
    found = list(matches(("model", None, f"layers.0.{fused}"), "BF16", shape, held(**named)))
    assert [match.reference for match in found] == references
    for match in found:
        assert parse_reference(match.reference).length(
            [2 * math.prod(named[each][1]) for each in sorted_qkv(named)]
        ) == (2 * math.prod(shape))


def sorted_qkv(names: dict[str, object]) -> list[str]:
    return sorted(names, key=lambda name: "qkv".index(name.split(".")[-2][0]))


def test_the_base_is_found_when_nobody_names_it(store: Store, base: Path, tmp_path: Path) -> None:
    """Of two bases alike in names and shapes, the one whose bits are near; it says so, and binds nothing."""
    store.add_base("other", changed(base, tmp_path / "other", tuned(9, 0.02)))
    store.add_base("right", base)
    run = changed(base, tmp_path / "run", tuned(1))
    done = store.import_checkpoint(run, "run")
    assert done.found is not None and done.found.name == "base 'right'" and "sampled" in done.found.why
    assert done.base is None and done.binding == "none"
    assert done.needs_base is not None and done.needs_base.name == "right"
    assert done.encodings["delta"].stored_bytes < done.encodings["delta"].logical_bytes / 3
    comes_back(store, "run", run, tmp_path / "back")


def test_a_stored_model_is_found_too(store: Store, base: Path, tmp_path: Path) -> None:
    store.import_checkpoint(base, "models/start")
    run = changed(base, tmp_path / "run", lambda tensors: recast(torch.float16)(tuned(1)(tensors)))
    done = store.import_checkpoint(run, "elsewhere/run")
    assert done.found is not None and done.found.name == "models/start"
    assert done.needs_base is None
    comes_back(store, "elsewhere/run", run, tmp_path / "back")


def test_nothing_is_found_where_nothing_is_alike(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", changed(base, tmp_path / "other", tuned(9, 0.2)))
    done = store.import_checkpoint(base, "run")
    assert done.found is None and "delta" not in done.encodings and done.needs_base is None


def test_a_base_that_is_gone_is_passed_over(store: Store, base: Path, tmp_path: Path) -> None:
    store.add_base("base", base)
    run = changed(base, tmp_path / "run", tuned(1))
    shutil.rmtree(base)
    done = store.import_checkpoint(run, "run")
    assert done.found is None and done.needs_base is None
    comes_back(store, "run", run, tmp_path / "back")


def test_an_edited_base_is_passed_over(store: Store, base: Path, tmp_path: Path) -> None:
    """Files that are equal to the recorded ones are stored all the same: what lies there is something else by now."""
    store.add_base("base", base)
    run = changed(base, tmp_path / "run", tuned(1))
    data = bytearray((base / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (base / WEIGHTS).write_bytes(data)
    done = store.import_checkpoint(run, "run")
    assert done.found is None and done.needs_base is None
    comes_back(store, "run", run, tmp_path / "back")
