"""Inputs that fuzzing starts from: sound ones of each target, and the corpora that were kept, one archive a target.

`python -m tests.fuzz.seeds DIRECTORY` writes sound inputs, a directory a target; `… DIRECTORY pack` makes the archives
of `corpus/` of such a directory.
"""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ckptfmt.digest import digest_of
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.zstd import ZSTD
from tests.containers.pickles import call, dictionary, named, storage, tensor, text, whole
from tests.containers.zips import torch_zip
from tests.fuzz import targets
from tests.store.making import safetensors

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
GOLDEN = ROOT / "tests" / "format" / "golden"


def seeds() -> Iterator[tuple[str, bytes]]:
    """Target and input."""
    plain = safetensors({"a": ("F32", (2, 2), bytes(16)), "b": ("BF16", (3,), bytes(6))}, {"format": "pt"})
    yield "safetensors", plain
    yield "safetensors", safetensors({})
    yield "safetensors", safetensors({"e": ("U8", (0,), b""), "f": ("F8_E4M3", (5,), bytes(5))})
    for file in (plain, safetensors({"w": ("I64", (1,), bytes(8))})):
        yield "safetensors-header", _sized(file)
    for path in sorted(GOLDEN.rglob("*.safetensors")):
        data = path.read_bytes()
        yield "shard-start", data[:64]
        if "shards" in path.parts and len(data) < 1 << 16:
            yield "shard", _sized(data)
    for path in sorted(GOLDEN.rglob("*.json")):
        data = path.read_bytes()
        if "manifests" in path.parts:
            yield "document", b"m" + data
        elif "bases" in path.parts and "refs" not in path.parts:
            yield "document", b"b" + data
        elif "refs" in path.parts:
            yield "sealed", b"\x00" + data
            yield "sealed", b"\x81" + data.split(b',"xxh3"')[0] + b"}"
        elif path.name == "store.json":
            yield "sealed", b"\x02" + data
            yield "sealed", b"\x80" + data.split(b',"xxh3"')[0] + b"}"
    yield from _pickles()
    yield from _frames()
    for name in (
        "", "cast:BF16:F32", "transpose:2:32x32", "slice:2:4x16x16:1+2", "fuse:2:1x16+16x32", "cast:F32:F16",
        "fuse:2:2x3+1+4x8,transpose:2:2x64,cast:BF16:F32", "cast:F16:F32,slice:4:1x32x32:7+9",
    ):  # fmt: skip
        yield "reference", name.encode()
    page = (ROOT / "docs" / "format" / "encodings" / "lowrank.md").read_text()
    for name in re.findall(r'"prediction": ("[^"]*")', page):
        yield "prediction", json.loads(name).encode()
    for name in ("a", "runs/exp-1/stage_2", "bases/x.y", "a/../b", "/a", "a//b", "x" * 201, ".", "é"):
        yield "ref-name", name.encode()


def _sized(file: bytes) -> bytes:
    """A file's header, behind how many bytes follow it."""
    length = int.from_bytes(file[:8], "little")
    return (len(file) - length).to_bytes(2, "little") + file[8 : 8 + length]


def _pickles() -> Iterator[tuple[str, bytes]]:
    import torch

    buffer = io.BytesIO()
    weight = torch.arange(4.0)
    torch.save({"a": weight, "b": weight.view(2, 2).t(), "n": [1, "x", None, (2.5,)]}, buffer)
    yield "zip", buffer.getvalue()
    values = (
        dictionary(w=tensor("0", 4, (2, 2)), v=tensor("1", 3, (3,))),
        dictionary(model=dictionary(w=tensor("0", 4, (4,), (1,)))) + text("step") + b"K\x01s",
        b"](" + storage("0", 4) + b"Ne",
        call(named("argparse", "Namespace")) + dictionary(lr=b"G?\xb9\x99\x99\x99\x99\x99\x9a") + b"b",
    )
    for value in values:
        yield "pickle", whole(value)
        yield "zip", torch_zip(whole(value), targets.STORAGES)


def _frames() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(1)
    words = targets._WORDS
    numbers = (random.normal(0, 0.02, 1024).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    ordered = np.cumsum(random.integers(0, 9, 256)).astype("<i8").tobytes()
    near = (np.frombuffer(words, "<u2")[:1024] + random.integers(-3, 4, 1024).astype("<u2")).astype("<u2").tobytes()
    wide = (np.frombuffer(words, "<u4")[:512] ^ random.integers(0, 255, 512).astype("<u4")).astype("<u4").tobytes()
    for element, frame in (("BF16", numbers), ("I64", ordered), ("F32", wide), ("U8", numbers[:100] * 9)):
        if (stored := PLANES.encode(frame, element)) is not None:
            yield "planes", _head(element, frame) + bytes(stored)
    for frame in (b"to be, or not to be: that is the question. " * 9, bytes(2000)):
        yield "zstd", _head(None, frame) + bytes(ZSTD.encode(frame, None) or b"")
    for element, frame in (("BF16", near), ("F32", wide), ("I64", words[:800]), ("F16", near[:600])):
        basis = Basis(words[: len(frame)])
        if (stored := DELTA.encode(frame, element, basis)) is not None:
            yield "delta", _head(element, frame) + bytes(stored)
        width = {"BF16": 2, "F16": 2, "F32": 4}.get(element)
        if width:
            basis = Basis(words[: len(frame)], targets._CLASSES[: len(frame) // width])
            if (stored := LOWRANK.encode(frame, element, basis)) is not None:
                yield "lowrank", _head(element, frame) + bytes(stored)


def _head(element: str | None, frame: bytes) -> bytes:
    return bytes([targets.ELEMENTS.index(element)]) + len(frame).to_bytes(2, "little")


def write(directory: Path) -> None:
    for target, data in seeds():
        place = directory / target
        place.mkdir(parents=True, exist_ok=True)
        (place / digest_of(data)[:16]).write_bytes(data)


def pack(directory: Path) -> None:
    """Of each target what is below `directory`, the shortest first, in an archive that is the same for the same."""
    CORPUS.mkdir(exist_ok=True)
    for place in sorted(directory.iterdir()):
        inputs = sorted({path.read_bytes() for path in place.iterdir()}, key=lambda data: (len(data), data))
        with zipfile.ZipFile(CORPUS / f"{place.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for data in inputs:
                archive.writestr(zipfile.ZipInfo(digest_of(data)[:16], (1980, 1, 1, 0, 0, 0)), data)


def unpack(target: str) -> dict[str, bytes]:
    """The corpus of a target, by name."""
    with zipfile.ZipFile(CORPUS / f"{target}.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


if __name__ == "__main__":
    (pack if "pack" in sys.argv else write)(Path(sys.argv[1]))
