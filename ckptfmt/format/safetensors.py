"""The safetensors header, read as if an enemy had written it.

Layout of a file: 8 bytes little-endian N, N bytes of JSON (trailing spaces allowed), then the data.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS, size_bytes

MAX_HEADER_BYTES: Final = 100_000_000
LENGTH_BYTES: Final = 8
MAX_COUNT: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class HeaderTensor:
    """One tensor of a header; `begin` and `end` are bytes from the start of the *file*."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header that holds water: tensors sorted by offset tile the data exactly."""

    tensors: tuple[HeaderTensor, ...]
    metadata: dict[str, str]
    data_begin: int


def header_length(prefix: bytes, *, file_size: int, where: str) -> int:
    """Read N from the first 8 bytes of a file of `file_size` bytes.

    Raises:
        FormatError: the file is too short, or N is larger than the file or the limit.
    """
    if len(prefix) < LENGTH_BYTES:
        raise FormatError(f"{where}: {file_size} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"{where}: header length {length} is over the limit of {MAX_HEADER_BYTES} bytes")
    if LENGTH_BYTES + length > file_size:
        raise FormatError(f"{where}: header length {length} reaches past the end of the file ({file_size} bytes)")
    return length


def parse_header(data: bytes, *, file_size: int, where: str) -> Header:
    """Parse the N header bytes `data` (without the length prefix) of a file of `file_size` bytes.

    Raises:
        FormatError: anything that the format does not allow; the message names file, tensor and field.
    """
    if not data.startswith(b"{"):
        raise FormatError(f"{where}: header does not begin with '{{'")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: _no_duplicates(pairs, where))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: header is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FormatError(f"{where}: header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{where}: __metadata__: expected an object of strings")
    data_begin = LENGTH_BYTES + len(data)
    tensors = sorted(
        (_tensor(name, entry, data_begin, where) for name, entry in document.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    _check_tiling(tensors, data_begin, file_size, where)
    return Header(tuple(tensors), metadata, data_begin)


def _no_duplicates(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"{where}: header key {twice!r} stands twice")
    return result


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _countable(shape: list[int]) -> bool:
    """Tell whether the product, taken from the left as safetensors does, fits 64 bits; no larger one is computed."""
    product = 1
    for dimension in shape:
        product *= dimension
        if product > MAX_COUNT or dimension > MAX_COUNT:
            return False
    return True


def _tensor(name: str, entry: object, data_begin: int, where: str) -> HeaderTensor:
    place = f"{where}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{place}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS or dtype == "C128":
        raise FormatError(f"{place}: unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise FormatError(f"{place}: shape: expected a list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise FormatError(f"{place}: data_offsets: expected two whole numbers")
    begin, end = offsets
    if not _countable(shape):
        raise FormatError(f"{place}: shape: the number of elements does not fit 64 bits")
    size = size_bytes(dtype, shape)
    if size is None or end - begin != size:
        raise FormatError(f"{place}: {dtype}{shape} takes {size} bytes, but data_offsets span {end - begin}")
    return HeaderTensor(name, dtype, tuple(shape), data_begin + begin, data_begin + end)


def _check_tiling(tensors: list[HeaderTensor], data_begin: int, file_size: int, where: str) -> None:
    position = data_begin
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole before it"
            raise FormatError(f"{where}: tensor {tensor.name!r} at byte {tensor.begin} {what} (expected {position})")
        position = tensor.end
    if position != file_size:
        what = "is truncated" if position > file_size else "has bytes after its last tensor"
        raise FormatError(f"{where}: the file {what}: tensors end at byte {position}, the file at {file_size}")
