"""Shards: what is written is read back, by us and by safetensors; what contradicts itself is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from ckptfmt.digest import FRAME_BYTES, checksum_of, digest_of
from ckptfmt.errors import FormatError, UnsupportedVersion
from ckptfmt.format.shard import (
    ALIGNMENT,
    ShardObject,
    Stored,
    build_header,
    decoded_lengths,
    header_estimate,
    parse_shard,
    raw_hint,
)
from tests.format.examples import shard

WEIGHTS = bytes(range(24))
SMALL = {WEIGHTS: ("BF16", (3, 4)), b"odd": ("U8", (3,)), b"": ("F32", (0,)), b"12345678": ("F64", ())}


def _parse(data: bytes) -> tuple[ShardObject, ...]:
    length = int.from_bytes(data[:8], "little")
    return parse_shard(data[8 : 8 + length], file_size=len(data), where="s")


@pytest.mark.parametrize("room", [None, 4096])
def test_objects_come_back_aligned(room: int | None) -> None:
    data = shard(SMALL, room)
    objects = _parse(data)
    assert {item.digest for item in objects} == {digest_of(content) for content in SMALL}
    for item in objects:
        content = data[item.begin : item.begin + item.stored.stored_bytes()]
        assert digest_of(content) == item.digest
        assert item.begin % ALIGNMENT == 0
        assert item.stored.sums == (checksum_of(content) if content else "")
    if room:
        assert data[8:room].rstrip(b" ").endswith(b"}}")
        assert int.from_bytes(data[:8], "little") == room - 8


@pytest.mark.parametrize("room", [None, 4096])
def test_safetensors_opens_a_shard(room: int | None) -> None:
    tensors = load(shard(SMALL, room))
    weights = tensors[digest_of(WEIGHTS)]
    assert weights.dtype == torch.bfloat16
    assert weights.shape == (3, 4)
    assert weights.view(torch.uint8).numpy().tobytes() == WEIGHTS
    assert tensors[digest_of(b"odd")].numpy().tobytes() == b"odd"
    assert sorted(name for name in tensors if name.startswith("pad-")) == ["pad-0"]


def test_padding_covers_what_no_object_covers() -> None:
    stored = Stored("raw", 3, checksum_of(b"odd"))
    item = ShardObject(digest_of(b"odd"), stored, 16, "U8", (3,))
    data = build_header([item], 40, None) + bytes(16) + b"odd" + bytes(21)
    assert [item.begin % ALIGNMENT for item in _parse(data)] == [0]
    assert {name: tensor.numel() for name, tensor in load(data).items() if name.startswith("pad-")} == {
        "pad-0": 16,
        "pad-1": 21,
    }


def test_a_room_too_small() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        shard(SMALL, 64)


@settings(deadline=None)
@given(st.integers(0, 5 * FRAME_BYTES), st.lists(st.integers(0, 2**40), max_size=64))
def test_the_estimate_is_an_upper_bound(length: int, shape: list[int]) -> None:
    lengths = decoded_lengths(length)
    assert sum(lengths) == length
    stored = Stored("planes", length, "f" * 32 * len(lengths), lengths, "e" * 32, "F8_E4M3FNUZ")
    item = ShardObject("d" * 64, stored, 2**33, "F8_E4M3FNUZ", tuple(shape))
    empty = build_header([], 2**33, None)
    assert len(build_header([item], 2**33 + length, None)) - len(empty) <= header_estimate(length, len(shape))


@pytest.mark.parametrize(
    ("dtype", "shape", "stored", "hint"),
    [
        ("BF16", (2, 2), Stored("raw", 8, "s"), ("BF16", (2, 2))),
        ("BF16", (2, 2), Stored("planes", 8, "s", (5,)), ("U8", (5,))),
        ("BF16", (2, 3), Stored("raw", 8, "s"), ("U8", (8,))),
        ("C128", (1,), Stored("raw", 16, "s"), ("U8", (16,))),
        ("F4", (3,), Stored("raw", 8, "s"), ("U8", (8,))),
        (None, (), Stored("raw", 8, "s"), ("U8", (8,))),
        ("F32", (0,), Stored("raw", 0), ("U8", (0,))),
    ],
)
def test_hints(dtype: str | None, shape: tuple[int, ...], stored: Stored, hint: object) -> None:
    assert raw_hint(dtype, shape, stored) == hint


def _changed(**changes: object) -> bytes:
    """The shard of one raw object of 3 bytes, with changes to its `Stored`."""
    fields = {"encoding": "raw", "length": 3, "sums": checksum_of(b"odd")} | changes
    name = digest_of(b"odd")
    document = {
        "__metadata__": {"ckptfmt": "shard/1", name: json.dumps(fields)},
        name: {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
    }
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + b"odd"


def test_the_unchanged_one_is_sound() -> None:
    assert len(_parse(_changed())) == 1
    assert _parse(_changed(length=FRAME_BYTES, frames=[3], encoding="zstd"))[0].stored.stored_bytes() == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 4},
        {"length": -1},
        {"length": 10**18},
        {"length": 10**18, "frames": [3]},
        {"length": 0, "sums": ""},
        {"length": True},
        {"sums": ""},
        {"sums": "0" * 64},
        {"frames": [4]},
        {"frames": [0]},
        {"frames": [-3]},
        {"frames": [1, 2]},
        {"frames": [2]},
        {"length": FRAME_BYTES + 3, "sums": "0" * 64, "frames": [0, 3]},
        {"length": FRAME_BYTES + 3, "sums": "0" * 64, "frames": [-1, 4]},
        {"dependencies": ["../../etc"]},
        {"compression": 1},
        {"encoding": None},
    ],
)
def test_frame_tables_that_do_not_fit(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=r"s: object [0-9a-f]{16}: "):
        _parse(_changed(**changes))


def test_a_frame_that_takes_more_than_it_decodes_to() -> None:
    fields = {"encoding": "zstd", "length": 3, "sums": "0" * 32, "frames": [5]}
    name = digest_of(b"odd")
    document = {
        "__metadata__": {"ckptfmt": "shard/1", name: json.dumps(fields)},
        name: {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]},
    }
    text = json.dumps(document).encode()
    with pytest.raises(FormatError, match="frame table"):
        _parse(len(text).to_bytes(8, "little") + text + b"12345")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'"shard/1"', b'"shard/2"', UnsupportedVersion),
        (b'"shard/1"', b'"shirt/1"', FormatError),
        (b'"ckptfmt"', b'"cckptfm"', FormatError),
        (digest_of(b"odd").encode() + b'":{', b"x" * 64 + b'":{', FormatError),
        (digest_of(b"odd").encode() + b'":"', b"y" * 64 + b'":"', FormatError),
        (b'"pad-0"', b'"bad-0"', FormatError),
    ],
)
def test_headers_that_are_not_of_a_shard(old: bytes, new: bytes, error: type[FormatError]) -> None:
    data = shard({b"odd": ("U8", (3,)), WEIGHTS: ("BF16", (3, 4))})
    assert old in data
    with pytest.raises(error):
        _parse(data.replace(old, new, 1))


def test_names_that_are_no_digests() -> None:
    with pytest.raises(FormatError, match="no digest"):
        _parse(_changed().replace(digest_of(b"odd").encode(), b"x" * 64))


def test_descriptions_of_what_is_not_there() -> None:
    data = _changed()
    header = json.loads(data[8:-3])
    header["__metadata__"]["0" * 64] = header["__metadata__"][digest_of(b"odd")]
    text = json.dumps(header).encode()
    with pytest.raises(FormatError, match="does not hold"):
        _parse(len(text).to_bytes(8, "little") + text + b"odd")


def test_equal_objects_make_equal_bytes() -> None:
    assert shard(SMALL) == shard(SMALL)
