from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import save

from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.errors import CkptfmtError, FormatError
from tests.containers.reading import Spy, by_path, cut_bytes, logical, survives

NAME = "model.safetensors"

WRITABLE = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64", torch.float4_e2m1fn_x2: "F4",
}  # fmt: skip


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def noise(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    width = torch.empty(0, dtype=dtype).element_size()
    data = torch.randint(0, 2 if dtype == torch.bool else 256, (*shape[:-1], shape[-1] * width), dtype=torch.uint8)
    return data.view(dtype)


def hand_made(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("dtype", WRITABLE, ids=lambda dtype: WRITABLE[dtype])
def test_every_dtype(dtype):
    tensors = {"a": noise(dtype, 3, 4), "b": noise(dtype, 8)}
    data = save(tensors)
    cut = cut_bytes(data, NAME)
    assert isinstance(cut, Cut) and cut.container == "safetensors"
    for name, tensor in tensors.items():
        found = by_path(cut)[name,]
        assert found.dtype == WRITABLE[dtype]
        assert logical(cut, found, data) == raw(tensor)
        span = cut.extents[found.extent]
        assert (span.dtype, span.shape) == (found.dtype, found.shape)


def test_empty_and_scalar_tensors_and_metadata():
    tensors = {"none": torch.zeros(0), "none2": torch.zeros(3, 0, 2), "scalar": torch.tensor(2.5), "x": torch.ones(3)}
    data = save(tensors, metadata={"format": "pt", "": "odd", "é\n": "\u2028", "z" * 300: ""})
    cut = cut_bytes(data, NAME)
    found = by_path(cut)
    assert {path[0]: tensor.shape for path, tensor in found.items()} == {k: tuple(v.shape) for k, v in tensors.items()}
    assert cut.extents[found["none2",].extent].length == 0
    assert logical(cut, found["scalar",], data) == raw(tensors["scalar"])
    assert dict(cut.metadata) == {"format": "pt", "": "odd", "é\n": "\u2028", "z" * 300: ""}
    assert cut.tree is None


def test_header_order_does_not_matter_and_is_kept():
    generator = random.Random(5)
    names = [f"layer.{index}.weight" for index in range(40)]
    sizes = {name: generator.randrange(0, 5) for name in names}
    offsets, position = {}, 0
    for name in generator.sample(names, len(names)):
        offsets[name] = (position, position + 4 * sizes[name])
        position += 4 * sizes[name]
    header = {name: entry("F32", (sizes[name],), offsets[name]) for name in names}
    payload = generator.randbytes(position)
    data = hand_made(json.dumps(header).encode() + b"   ", payload)
    cut = cut_bytes(data, NAME)
    for name in names:
        begin, end = offsets[name]
        assert logical(cut, by_path(cut)[name,], data) == payload[begin:end]


def test_no_tensors_at_all():
    cut = cut_bytes(hand_made({}), NAME)
    assert cut == Cut("safetensors", (), ())


LIES = {
    "no header": b"",
    "half a length": b"\1\0\0",
    "length past the end": (50).to_bytes(8, "little") + b"{}",
    "length of everything": b"\xff" * 8 + b"{}",
    "not JSON": hand_made(b"{,}"),
    "not an object": hand_made(b"[]"),
    "leading space": hand_made(b" {}"),
    "not UTF-8": hand_made(b'{"\xff":1}'),
    "deep": hand_made(b'{"a":' * 50_000),
    "trailing bytes": hand_made({"a": entry()}, bytes(9)),
    "trailing after nothing": hand_made({}, b"x"),
    "truncated": hand_made({"a": entry()}, bytes(7)),
    "hole": hand_made({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17)),
    "hole first": hand_made({"a": entry(offsets=(1, 9))}, bytes(9)),
    "overlap": hand_made({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "same place": hand_made({"a": entry(), "b": entry()}, bytes(8)),
    "duplicate": hand_made(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "duplicate inside": hand_made(b'{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "bool as size": hand_made({"a": entry(shape=(True,), offsets=(0, 4))}, bytes(4)),
    "bool as offset": hand_made({"a": entry("U8", (1,), (False, True))}, bytes(1)),
    "float as size": hand_made({"a": entry(shape=(2.0,))}, bytes(8)),
    "negative size": hand_made({"a": entry(shape=(-2, -1))}, bytes(8)),
    "negative offset": hand_made({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "backwards": hand_made({"a": entry(offsets=(8, 0))}, bytes(8)),
    "size does not fit": hand_made({"a": entry(shape=(3,))}, bytes(8)),
    "overflow": hand_made({"a": entry("U8", (1 << 32, 1 << 32), (0, 0))}),
    "overflow to fit": hand_made({"a": entry("F32", ((1 << 62) + 2,), (0, 8))}, bytes(8)),
    "half a byte": hand_made({"a": entry("F4", (3,), (0, 1))}, bytes(1)),
    "unknown dtype": hand_made({"a": entry("F31")}, bytes(8)),
    "our dtype": hand_made({"a": entry("C128", (1,), (0, 16))}, bytes(16)),
    "dtype no string": hand_made({"a": entry(7)}, bytes(8)),
    "missing field": hand_made({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "extra field": hand_made({"a": {**entry(), "x": 1}}, bytes(8)),
    "three offsets": hand_made({"a": entry(offsets=(0, 4, 8))}, bytes(8)),
    "metadata of numbers": hand_made({"__metadata__": {"a": 1}}),
    "metadata a list": hand_made({"__metadata__": []}),
    "huge number": hand_made(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', b"x"),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_lies_are_refused(data):
    with pytest.raises(FormatError, match=r"^model\.safetensors"):
        cut_bytes(data, NAME)


def test_every_truncation_and_every_bit():
    data = save({"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int8)}, metadata={"format": "pt"})
    for length in range(len(data)):
        assert isinstance(survives(data[:length], NAME), CkptfmtError)
    for at in range(len(data)):
        for bit in range(8):
            survives(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], NAME)


def test_names_decide():
    data = save({"a": torch.ones(1)})
    assert isinstance(cut_bytes(data, "x/adapter_model.safetensors"), Cut)
    for name in ("model.safetensors.index.json", "safetensors", "notes.txt", "archive.zip", "paper.docx"):
        assert cut_bytes(data, name) == Opaque(None)


def test_a_pointer_of_git_lfs_is_named():
    with pytest.raises(FormatError, match="Git LFS pointer") as caught:
        cut_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", NAME)
    assert caught.value.hint == "git lfs pull"


def test_a_large_file_is_not_read(tmp_path):
    size = 5 << 30
    path = tmp_path / NAME
    head = hand_made({"a": entry("U8", (size,), (0, size))})
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + size)
    with FileSource(path) as source:
        spied = Spy(source)
        cut = cut_file(spied, NAME)
    assert cut.extents[0].length == size
    assert spied.read_bytes < 1000
