"""Parsers of what comes from elsewhere: each takes any bytes, and answers with data or with one of our errors.

A target returns normally whatever its input is; anything else it does (another error, a wrong length, a broken promise
of the result) is a finding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from ckptfmt.digest import checksum_of
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.prediction import parse_prediction
from ckptfmt.encodings.references import parse_reference
from ckptfmt.encodings.zstd import ZSTD
from ckptfmt.errors import CkptfmtError, FormatError, InvalidInput
from ckptfmt.format import documents
from ckptfmt.format.check import check_document
from ckptfmt.format.manifest import BaseRecord, Manifest
from ckptfmt.format.refs import Generation, Pin, StoreDocument, check_name, directory_of, name_of
from ckptfmt.format.safetensors import LENGTH_BYTES, header_length, parse_header
from ckptfmt.format.shard import parse_shard
from tests.containers.reading import survives
from tests.containers.zips import torch_zip

STORAGES: Final = {"0": bytes(range(16)), "1": bytes(12), "2": b""}
ELEMENTS: Final = (None, "BF16", "F16", "F32", "F64", "I64", "I32", "U8", "F8_E4M3", "BOOL")
SEALED: Final = (Generation, Pin, StoreDocument)
_WORDS: Final = b"".join(struct.pack("<H", (index * 2654435761 >> 7) % 0x500 + 0x3C00) for index in range(2048))
_CLASSES: Final = (bytes(range(0, 256, 5)) * 80)[:4096]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        run: gives it one input.
        tokens: what its inputs are made of, for the fuzzer's dictionary.
    """

    run: Callable[[bytes], None]
    tokens: tuple[bytes, ...] = ()


def safetensors(data: bytes) -> None:
    survives(data, "fuzz.safetensors")


def safetensors_header(data: bytes) -> None:
    """The header alone: the file is as long as its first number says."""
    size = int.from_bytes(data[:2], "little") + len(data)
    try:
        header = parse_header(data[2:], file_size=size, where="fuzz")
    except CkptfmtError:
        return
    end = LENGTH_BYTES + len(data) - 2
    for tensor in header.tensors:
        assert tensor.begin == end
        end = tensor.end
    assert end == size


def shard(data: bytes) -> None:
    size = int.from_bytes(data[:2], "little") + len(data)
    try:
        objects = parse_shard(data[2:], file_size=size, where="fuzz")
    except CkptfmtError:
        return
    end = LENGTH_BYTES + len(data) - 2
    for item in objects:
        assert end <= item.begin
        end = item.begin + item.stored.stored_bytes()
        assert item.stored.length >= 0
    assert end <= size


def shard_start(data: bytes) -> None:
    try:
        length = header_length(data, file_size=len(data), where="fuzz")
    except FormatError:
        return
    assert LENGTH_BYTES + length <= len(data)


def document(data: bytes) -> None:
    kind: type[Manifest] | type[BaseRecord] = BaseRecord if data[:1] == b"b" else Manifest
    try:
        found = documents.decode(data[1:], kind, where="fuzz")
        check_document(found, where="fuzz")
    except CkptfmtError:
        return
    again = documents.decode(documents.encode(found), kind, where="fuzz")
    assert again == found


def sealed(data: bytes) -> None:
    """The fuzzer cannot guess a checksum: it is set right half of the time."""
    kind = SEALED[data[0] % len(SEALED)] if data else Pin
    body = data[1:]
    if data[:1] >= b"\x80":
        head, tail = body[:-1] + b',"xxh3":"', b'"}\n'
        body = head + checksum_of(head + tail).encode() + tail
    try:
        found: msgspec.Struct = documents.unseal(body, kind, where="fuzz")
    except CkptfmtError:
        return
    assert documents.unseal(documents.seal(found), kind, where="fuzz") == found


def zip_file(data: bytes) -> None:
    survives(data, "fuzz.pt")


def pickle_stream(data: bytes) -> None:
    survives(torch_zip(data, STORAGES), "fuzz.pt")


def _framed(data: bytes) -> tuple[str | None, int, bytes]:
    """Element type, decoded length and stored bytes."""
    if len(data) < 3:
        return None, 1, data
    return ELEMENTS[data[0] % len(ELEMENTS)], int.from_bytes(data[1:3], "little") % 4097, data[3:]


def _decoded(decode: Callable[[], object], length: int) -> None:
    try:
        found = decode()
    except CkptfmtError:
        return
    assert len(memoryview(found).cast("B")) == length  # type: ignore[arg-type]


def planes(data: bytes) -> None:
    element, length, stored = _framed(data)
    _decoded(lambda: PLANES.decode(stored, length, element), length)


def zstd(data: bytes) -> None:
    element, length, stored = _framed(data)
    _decoded(lambda: ZSTD.decode(stored, length, element), length)


def delta(data: bytes) -> None:
    element, length, stored = _framed(data)
    _decoded(lambda: DELTA.decode(stored, length, element, Basis(_WORDS[:length])), length)


def lowrank(data: bytes) -> None:
    element, length, stored = _framed(data)
    width = {None: 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4}.get(element, 1)
    basis = Basis(_WORDS[:length], _CLASSES[: length // width])
    _decoded(lambda: LOWRANK.decode(stored, length, element, basis), length)


def reference(data: bytes) -> None:
    """The text, and then a tensor read through it."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_reference(text)
    except FormatError:
        return
    assert found.name == text
    given = list(found.fuse.lengths()) if found.fuse else [2048]
    try:
        length = found.length(given)
    except FormatError:
        return
    if sum(given) > 1 << 16:
        return
    sources = [lambda begin, end, size=size: (_WORDS * (size // len(_WORDS) + 1))[begin:end] for size in given]
    basis = found.read(sources, 0, length)
    assert len(memoryview(basis.words).cast("B")) == length


def prediction(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_prediction(text)
    except FormatError:
        return
    assert found.name == text
    given = list(found.reference.fuse.lengths()) if found.reference.fuse else [found.rows * found.columns * 2]
    given += [length for stage in found.stages for length in stage.lengths()]
    try:
        length = found.length(given)
    except FormatError:
        return
    if max(given) > 1 << 13 or length > 1 << 13:
        return
    sources = [lambda begin, end, size=size: (_WORDS * (size // len(_WORDS) + 1))[begin:end] for size in given]
    try:
        basis = found.read(sources, 0, length)
    except CkptfmtError:
        return
    assert len(memoryview(basis.words).cast("B")) == length


def ref_name(data: bytes) -> None:
    name = data.decode("utf-8", "surrogateescape")
    try:
        check_name(name)
    except InvalidInput:
        return
    directory = directory_of(name)
    assert name_of(directory) == name
    assert "/" not in directory
    assert directory not in ("", ".", "..")


_JSON: Final = (
    b'":',
    b'","',
    b"[]",
    b"{}",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"\\u0000",
    b'"',
)
_HEADER: Final = (*_JSON, b'"dtype":"F32"', b'"BF16"', b'"shape":[', b'"data_offsets":[0,', b'"__metadata__":{', b"F4")
_OPCODES: Final = (
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"X\x07\x00\x00\x00storage",
    b"X\x01\x00\x00\x000",
    b"X\x03\x00\x00\x00cpu",
    b"(t",
    b"tQ",
    b"tR",
    b"}(",
    b"\x80\x02",
)
_STEPS: Final = (b"cast:BF16:F32", b"transpose:2:32x32", b"slice:2:4x16x16:1+2", b"fuse:2:1x16+16x32", b",", b"|", b"+")

TARGETS: Final[dict[str, Target]] = {
    "safetensors": Target(safetensors, _HEADER),
    "safetensors-header": Target(safetensors_header, _HEADER),
    "shard": Target(shard, (*_HEADER, b'"ckptfmt":"shard/1"', b'\\"encoding\\":\\"raw\\"', b'\\"sums\\":\\"')),
    "shard-start": Target(shard_start),
    "document": Target(document, (*_JSON, b'"format":"ckptfmt/manifest"', b'"files":[', b'"tensors":[', b'"base":{')),
    "sealed": Target(sealed, (*_JSON, b'"format":"ckptfmt/ref"', b'"version":1', b'"target":null')),
    "zip": Target(zip_file, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08")),
    "pickle": Target(pickle_stream, _OPCODES),
    "planes": Target(planes, (b"\x28\xb5\x2f\xfd",)),
    "zstd": Target(zstd, (b"\x28\xb5\x2f\xfd",)),
    "delta": Target(delta, (b"\x28\xb5\x2f\xfd",)),
    "lowrank": Target(lowrank, (b"\x28\xb5\x2f\xfd",)),
    "reference": Target(reference, _STEPS),
    "prediction": Target(prediction, (*_STEPS, b"F32:BF16:16x16:-3", b"BF16:BF16:", b"3f800000", b":")),
    "ref-name": Target(ref_name),
}
