"""Headers that lie."""

from __future__ import annotations

import json
import time

import pytest

from ckptfmt.errors import FormatError
from ckptfmt.format.safetensors import MAX_HEADER_BYTES, header_length, parse_header

W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
V = {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]}


def _parse(document: object, data_bytes: int) -> object:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_header(text, file_size=8 + len(text) + data_bytes, where="f")


def test_what_is_sound_is_read_in_the_order_of_offsets() -> None:
    header = _parse({"v": V, "w": W, "__metadata__": {"format": "pt"}}, 11)
    assert [(tensor.name, tensor.end - tensor.begin) for tensor in header.tensors] == [("w", 8), ("v", 3)]
    assert header.metadata == {"format": "pt"}
    assert _parse(b"{}" + b" " * 6, 0).tensors == ()
    empty = {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}
    assert len(_parse({"w": W, "e": empty, "f": empty}, 8).tensors) == 3


@pytest.mark.parametrize(
    ("document", "data_bytes", "says"),
    [
        ({"w": W}, 7, "truncated"),
        ({"w": W}, 9, "after its last tensor"),
        ({"w": W, "v": {**V, "data_offsets": [9, 12]}}, 12, "hole"),
        ({"w": W, "v": {**V, "data_offsets": [7, 10]}}, 10, "overlaps"),
        ({"w": {**W, "data_offsets": [8, 0]}}, 8, "span"),
        ({"w": {**W, "data_offsets": [-8, 0]}}, 0, "whole numbers"),
        ({"w": {**W, "data_offsets": [0.0, 8]}}, 8, "whole numbers"),
        ({"w": {**W, "data_offsets": [False, 8]}}, 8, "whole numbers"),
        ({"w": {**W, "shape": [3]}}, 8, "takes 12 bytes"),
        ({"w": {**W, "shape": [True, 2]}}, 8, "whole numbers"),
        ({"w": {**W, "shape": "2"}}, 8, "whole numbers"),
        ({"w": {**W, "shape": [2**40, 2**40, 0]}}, 8, "64 bits"),
        ({"w": {**W, "dtype": "F31"}}, 8, "unknown dtype"),
        ({"w": {**W, "dtype": "C128", "shape": []}}, 8, "unknown dtype"),
        ({"w": {**W, "dtype": ["F32"]}}, 8, "unknown dtype"),
        ({"w": {**W, "extra": 1}}, 8, "exactly"),
        ({"w": None}, 8, "exactly"),
        ({"__metadata__": {"a": 1}}, 0, "strings"),
        ({"__metadata__": []}, 0, "strings"),
        (b'{"w":{},"w":{}}', 0, "twice"),
        (b"[]", 0, "begin"),
        (b" {}", 0, "begin"),
        (b"{", 0, "JSON"),
        (b'{"a":\xff}', 0, "JSON"),
        (b'{"a":' + b"[" * 100_000, 0, "JSON"),
        (b"", 0, "begin"),
    ],
)
def test_lies_are_refused(document: object, data_bytes: int, says: str) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        _parse(document, data_bytes)
    assert caught.value.message.startswith("f: ")


def test_a_shape_that_would_take_hours_to_multiply() -> None:
    begin = time.monotonic()
    with pytest.raises(FormatError, match="64 bits"):
        _parse({"w": {**W, "shape": [2**63] * 200_000}}, 8)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("prefix", "size", "says"),
    [
        (b"\2\0\0\0", 4, "too few"),
        ((9).to_bytes(8, "little"), 16, "past the end"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 1 << 40, "limit"),
        (b"\xff" * 8, 1 << 40, "limit"),
    ],
)
def test_lengths(prefix: bytes, size: int, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        header_length(prefix, file_size=size, where="f")
