"""Checkpoints stored against others come back through the independent reader, wherever these others lie."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckptfmt import Store
from ckptfmt.encodings.references import parse_reference
from ckptfmt.format.shard import MAX_DEPTH
from tests import independent_reader
from tests.format.golden.make import digests_below
from tests.format.relatives import (
    EXPERTS,
    Change,
    Tensors,
    after,
    model,
    recast,
    resized,
    stacked,
    trained,
    turned,
    write_model,
)
from tests.independent_delta import reference_of


def lies(store: Store) -> Path:
    return Path(store.path)


HALF, WHOLE = recast(torch.float16), recast(torch.float32)


def references(directory: Path) -> set[str]:
    """The kinds of reference in a store: the words of each part, "" for a tensor itself."""
    found = set()
    for copies in independent_reader.all_objects(directory).values():
        for _, _, stored in copies:
            if stored["encoding"] == "delta":
                found.add(",".join(part.split(":")[0] for part in stored.get("reference", "").split(",")))
    return found


@pytest.mark.parametrize("keep", ["copy", "reference"])
@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ([], {""}),
        ([recast(torch.float16)], {"cast"}),
        ([WHOLE], {"cast"}),
        ([turned], {"transpose"}),
        ([turned, WHOLE], {"transpose,cast"}),
        ([resized(75)], {"", "fuse,slice"}),
        ([resized(50), HALF], {"cast", "slice,cast"}),
        ([stacked], {"", "fuse"}),
    ],
    ids=["tuned", "fp16", "fp32", "turned", "turned-fp32", "grown", "shrunk-fp16", "stacked"],
)
def test_against_a_base(store: Store, tmp_path: Path, changes: list[Change], kinds: set[str], keep: str) -> None:
    base = model(1)
    store.add_base("base", write_model(tmp_path / "base", base), keep=keep)  # type: ignore[arg-type]
    run = write_model(tmp_path / "run", after(base, trained(2), *changes))
    report = store.import_checkpoint(run, "run", base="base")
    assert references(lies(store)) == kinds
    assert (report.needs_base is None) == (keep == "copy")
    bases = [tmp_path / "base"] if keep == "reference" else []
    independent_reader.restore(lies(store), "run", tmp_path / "back", bases)
    assert digests_below(tmp_path / "back") == digests_below(run)


def test_steps_of_a_run(store: Store, tmp_path: Path) -> None:
    tensors = model(3)
    for step in range(1, MAX_DEPTH + 4):
        directory = write_model(tmp_path / f"checkpoint-{step}", tensors)
        store.import_checkpoint(directory, f"run/{directory.name}")
        tensors = trained(step)(tensors)
    assert references(lies(store)) == {""}
    for step in range(1, MAX_DEPTH + 4):
        independent_reader.restore(lies(store), f"run/checkpoint-{step}", tmp_path / "back" / str(step))
        assert digests_below(tmp_path / "back" / str(step)) == digests_below(tmp_path / f"checkpoint-{step}")


def test_exports_of_a_step_of_a_referenced_base(store: Store, tmp_path: Path) -> None:
    """A dependency of a dependency lies outside the store."""
    base = model(4)
    store.add_base("base", write_model(tmp_path / "base", base))
    one = trained(1)(base)
    store.import_checkpoint(write_model(tmp_path / "1", one), "run/1", base="base")
    store.import_checkpoint(write_model(tmp_path / "2", WHOLE(one)), "run/2")
    store.import_checkpoint(write_model(tmp_path / "3", HALF(trained(2)(one))), "run/3")
    for name in ("1", "2", "3"):
        independent_reader.restore(lies(store), f"run/{name}", tmp_path / "back" / name, [tmp_path / "base"])
        assert digests_below(tmp_path / "back" / name) == digests_below(tmp_path / name)
        with pytest.raises(independent_reader.DamagedError, match="base"):
            independent_reader.restore(lies(store), f"run/{name}", tmp_path / "without" / name)


def test_a_base_that_changed_is_refused(store: Store, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", model(5))
    store.add_base("base", base)
    store.import_checkpoint(write_model(tmp_path / "run", trained(1)(model(5))), "run", base="base")
    write_model(tmp_path / "other", trained(2)(model(5)))
    with pytest.raises(independent_reader.DamagedError, match="not what was recorded"):
        independent_reader.restore(lies(store), "run", tmp_path / "back", [tmp_path / "other"])
    assert not (tmp_path / "back" / "model.safetensors").exists()
    independent_reader.restore(lies(store), "run", tmp_path / "back", [tmp_path / "other", base])
    assert digests_below(tmp_path / "back") == digests_below(tmp_path / "run")


def test_objects_of_several_frames(store: Store, tmp_path: Path) -> None:
    """Each frame takes its own part of the reference."""
    generator = torch.Generator().manual_seed(6)
    weights = (torch.randn(1100, 2000, generator=generator) * 0.02).bfloat16()

    def sparse(tensors: Tensors) -> Tensors:
        where = torch.rand(weights.shape, generator=generator) < 0.003
        words = tensors["model.w.weight"].view(torch.int16) + where.to(torch.int16)
        return {"model.w.weight": words.view(torch.bfloat16)}

    base = {"model.w.weight": weights}
    store.add_base("base", write_model(tmp_path / "base", base), keep="copy")
    for name, change in {"tuned": sparse, "turned": lambda tensors: turned(sparse(tensors)), "fp32": WHOLE}.items():
        run = write_model(tmp_path / name, change(base))
        store.import_checkpoint(run, name, base="base")
        independent_reader.restore(lies(store), name, tmp_path / "back" / name)
        assert digests_below(tmp_path / "back" / name) == digests_below(run)
    assert references(lies(store)) == {"", "transpose", "cast"}


def test_it_runs_alone_with_a_base(store: Store, tmp_path: Path) -> None:
    base = model(7)
    store.add_base("base", write_model(tmp_path / "base", base))
    run = write_model(tmp_path / "run", trained(1)(base))
    store.import_checkpoint(run, "run", base="base")
    beside = Path(independent_reader.__file__).parent
    for name in ("independent_reader.py", "independent_delta.py", "independent_encodings.py"):
        shutil.copy(beside / name, tmp_path)
    names = [store.path, "run", str(tmp_path / "out"), "--base", str(tmp_path / "base")]
    command = [sys.executable, str(tmp_path / "independent_reader.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "2 files restored\n", done.stderr
    assert digests_below(tmp_path / "out") == digests_below(run)


def _mixed(seed: int, size: int) -> bytes:
    """Words of all kinds: numbers, NaNs with payloads, infinities, subnormals."""
    generator = random.Random(seed)
    special = (b"\x80\x7f", b"\xc0\x7f", b"\x81\xff", b"\x01\x00", b"\x00\x80", b"\x00\x7c", b"\x01\xfc", b"\xff\xff")
    return b"".join(generator.choice((generator.randbytes(2), *special)) for _ in range(size // 2))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", (96,)),
        *((f"cast:{of}:{to}", (96,)) for of in ("BF16", "F16", "F32") for to in ("BF16", "F16", "F32") if of != to),
        ("transpose:2:6x8,cast:F16:BF16,transpose:2:8x6", (96,)),
        ("transpose:8:3x4", (96,)),
        ("slice:1:4x6x4:0+1", (96,)),
        ("slice:4:2x3x4:2+1,cast:F32:F16", (96,)),
        ("fuse:2:2x3+1+4x4,slice:2:2x8x4:1+6", (48, 16, 64)),
        ("fuse:1:1x48+48x1", (48, 48)),
    ],
)
def test_references_are_those_of_the_package(text: str, sizes: tuple[int, ...]) -> None:
    for seed in range(20):
        tensors = [_mixed(seed + index, size) for index, size in enumerate(sizes)]
        reference = parse_reference(text)
        length = reference.length(list(sizes))
        sources = [lambda begin, end, data=data: data[begin:end] for data in tensors]
        assert reference_of(text, tensors) == bytes(reference.read(sources, 0, length).words)


@pytest.mark.parametrize(
    "text",
    [
        "cast:BF16:BF16",
        "cast:BF16:F64",
        "cast:BF16:F32,",
        " cast:BF16:F32",
        "transpose:2:06x8",
        "transpose:3:4x8",
        "transpose:2:6x9",
        "slice:2:1x6x8:3+4",
        "slice:2:1x6x8:0+0",
        "slice:2:1x6x8:-1+2",
        "slice:2:0x6x8:0+1",
        "fuse:2:1x6x8",
        "fuse:2:1x3+3x8",
        "transpose:2:6x8,fuse:2:1x3+3x8",
        ",".join(["transpose:2:6x8"] * 5),
        "transpose:2:6x8\n",
        "transpose:2:٦x8",
        f"transpose:2:{10**18}x8",
        "delta",
    ],
)
def test_both_refuse_the_same_texts(text: str) -> None:
    from ckptfmt.errors import FormatError

    with pytest.raises(independent_reader.DamagedError):
        reference_of(text, [bytes(96)])
    with pytest.raises(FormatError):
        parse_reference(text).length([96])


def test_experts_are_stacked_as_the_fixture_says() -> None:
    fused = stacked(model(1))[f"{EXPERTS}.gate_up_proj"]
    assert torch.equal(fused[1, :24], model(1)[f"{EXPERTS}.1.gate_proj.weight"])
