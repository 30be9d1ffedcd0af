"""Weight files that lie, by what they lie about; and what the refusal must name."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.containers.pickles import dictionary, tensor, whole
from tests.containers.zips import Record, build, torch_records
from tests.transfer.headers import Written, file_of, noise, with_header

GOOD = file_of(Written("first", "F32", (2, 2), noise(16)), Written("second", "U8", (8,), noise(8, 1)))


def entry(dtype: object = "U8", shape: object = (8,), offsets: object = (0, 8), **more: object) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def header(data: bytes = bytes(8), metadata: object = None, **tensors: object) -> bytes:
    document = tensors if metadata is None else {"__metadata__": metadata, **tensors}
    return with_header(json.dumps(document), data)


SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too few"),
    "seven bytes": (GOOD[:7], "too few"),
    "header cut off": (GOOD[:40], "past the end"),
    "data cut off": (GOOD[:-1], "truncated"),
    "data all cut off": (GOOD[:-24], "truncated"),
    "bytes behind": (GOOD + b"x", "after its last tensor"),
    "length of a whole file more": (struct.pack("<Q", len(GOOD)) + GOOD[8:], "past the end"),
    "length 2^63": (struct.pack("<Q", 1 << 63) + GOOD[8:], "limit"),
    "length 2^64-1": (b"\xff" * 8 + GOOD[8:], "limit"),
    "length too short": (struct.pack("<Q", 10) + GOOD[8:], "JSON"),
    "length 0": (bytes(8) + GOOD[8:], "begin"),
    "no JSON": (with_header("{no", b""), "JSON"),
    "an array": (with_header("[]", b""), "begin"),
    "spaces before": (with_header(" {}", b""), "begin"),
    "not UTF-8": (with_header(b'{"\xff":1}', b""), "JSON"),
    "deep": (with_header('{"w":' + "[" * 100_000, b""), "JSON"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(64), "limit"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "LFS"),
    "hole": (header(bytes(16), a=entry(), b=entry(offsets=[8 + 4, 16 + 4])), "hole"),
    "hole in front": (header(bytes(16), a=entry(offsets=[8, 16])), "hole"),
    "overlap": (header(bytes(12), a=entry(), b=entry(offsets=[4, 12])), "overlap"),
    "same place twice": (header(a=entry(), b=entry()), "overlap"),
    "offsets reversed": (header(a=entry(offsets=[8, 0])), "'a'"),
    "offsets past the end": (header(a=entry(shape=[16], offsets=[0, 16])), "truncated"),
    "offset negative": (header(a=entry(offsets=[-8, 0])), "data_offsets"),
    "offset a float": (header(a=entry(offsets=[0.0, 8.0])), "data_offsets"),
    "offset a bool": (header(bytes(1), a=entry(shape=[1], offsets=[False, True])), "data_offsets"),
    "one offset": (header(a=entry(offsets=[8])), "data_offsets"),
    "offsets huge": (header(a=entry(offsets=[2**64, 2**64 + 8])), "'a'"),
    "shape product": (header(a=entry(shape=[9])), "'a'"),
    "shape product of a float": (header(a=entry("F32", [8])), "'a'"),
    "shape negative": (header(a=entry(shape=[-8])), "shape"),
    "shape two negatives": (header(a=entry(shape=[-2, -4])), "shape"),
    "shape a float": (header(a=entry(shape=[8.0])), "shape"),
    "shape a bool": (header(bytes(1), a=entry(shape=[True], offsets=[0, 1])), "shape"),
    "shape a number": (header(a=entry(shape=8)), "shape"),
    "shape null": (header(a=entry(shape=None)), "shape"),
    "shape that wraps": (header(b"", a=entry(shape=[2**32, 2**32], offsets=[0, 0])), "64 bits"),
    "shape that wraps to eight": (header(a=entry("U8", [2**61, 64])), "64 bits"),
    "shape of thousands": (header(a=entry(shape=[2] * 5000)), "64 bits"),
    "dtype unknown": (header(a=entry("F7")), "F7"),
    "dtype of torch": (header(a=entry("torch.uint8")), "torch.uint8"),
    "dtype of ours alone": (header(bytes(16), a=entry("C128", [1], [0, 16])), "C128"),
    "dtype a number": (header(a=entry(8)), "dtype"),
    "half a byte": (header(bytes(2), a=entry("F4", [3], [0, 2])), "'a'"),
    "another field": (header(a=entry(stride=[1])), "exactly"),
    "a field missing": (header(a={"dtype": "U8", "shape": [8]}), "exactly"),
    "a tensor that is a list": (header(a=[1]), "exactly"),
    "metadata a list": (header(metadata=["x"], a=entry()), "__metadata__"),
    "metadata with a number": (header(metadata={"n": 1}, a=entry()), "__metadata__"),
    "a tensor twice": (
        with_header('{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2), bytes(8)), "twice"
    ),
    "a field twice": (
        with_header('{"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}}', bytes(8)), "twice"
    ),
    "metadata twice": (with_header('{"__metadata__":{},"__metadata__":{}}', b""), "twice"),
}  # fmt: skip

PAYLOAD = struct.pack("<4f", 1, 2, 3, 4)
STATE = whole(dictionary(w=tensor("0", 4, (2, 2))))


def records(data: bytes = PAYLOAD, pickle: bytes = STATE, **fields: object) -> list[Record]:
    """A sound file's records; `fields` are set on the one that holds the tensor."""
    made = torch_records(pickle, {"0": data})
    for key, value in fields.items():
        setattr(next(record for record in made if str(record.name).endswith("data/0")), key, value)
    return made


LOCAL = b"PK\x03\x04"
SOUND = build(records(), zip64=True)

ZIPS: dict[str, tuple[bytes, str]] = {
    "cut off": (SOUND[:-30], "truncated"),
    "cut in the middle": (SOUND[: len(SOUND) // 2], "truncated"),
    "only its first bytes": (b"PK\x03\x04", "truncated"),
    "overlapping entries": (build(records(central={"header": 0})), "byte 0"),
    "encrypted": (build(records(flags=0x9)), "encrypted"),
    "strongly encrypted": (build(records(flags=0x49)), "encrypted"),
    "an entry twice": (build([*records(), Record("archive/data/0", PAYLOAD)]), "twice"),
    "bytes between entries": (build(records(padding=b"hidden bytes")), "data/0"),
    "bytes in front": (build(records(), prefix=LOCAL + b"x" * 12), "16 bytes before"),
    "names differ": (build(records(local={"name": b"archive/data/1"})), "differ"),
    "methods differ": (build(records(local={"method": 8})), "differ"),
    "sizes differ": (build(records(compressed=12)), "data/0"),
    "two directories": (build(records(), comment=build(records())), "end record"),
    "a record too short": (build(records(PAYLOAD[:12])), "its record has 12"),
    "a record too long": (build(records(PAYLOAD * 2)), "its record has 32"),
    "no record": (build(records(pickle=whole(dictionary(w=tensor("7", 4, (2, 2)))))), "no record"),
    "a view past the end": (build(records(pickle=whole(dictionary(w=tensor("0", 4, (2, 2), (4, 1)))))), "reaches"),
    "a view from behind": (build(records(pickle=whole(dictionary(w=tensor("0", 4, (4,), offset=1))))), "reaches"),
}
