"""Short pickles of enormous values, each cut within a fixed amount of memory and timed."""

from __future__ import annotations

import json
import resource
import sys
import time

from ckptfmt.containers.protocol import Opaque
from tests.containers.pickles import named, number, tensor, text, whole
from tests.containers.reading import cut_bytes
from tests.containers.zips import torch_zip

ADDRESS_SPACE_BYTES = 1 << 30


def laughs(levels: int, leaf: bytes, width: int = 10) -> bytes:
    """`width ** levels` leaves from a stream of some bytes a level."""
    stream = leaf + b"q\x00"
    for level in range(levels):
        stream += b"0](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * (width - 1) + b"eq" + bytes([level + 1])
    return stream


BOMBS = {
    "billion laughs": laughs(12, b"]"),
    "billion tensors": laughs(12, tensor("0", 4, (4,))),
    "billion keys": b"}("
    + b"".join(number(i) + b"N" for i in range(1000))
    + b"uq\x000"
    + b"]("
    + b"h\x00" * 5000
    + b"e",
    "long string, often": text("x" * 100_000) + b"q\x000" + b"](" + b"h\x00" * 5000 + b"e",
    "long key, often": b"](" + text("x" * 100_000) + b"q\x000" + b"}h\x00Ns" * 2000 + b"e",
    "long path, often": b"}" + text("x" * 100_000) + tensor("0", 4, (4,)) + b"q\x01" + b"0](" + b"h\x01" * 5000 + b"es",
    "deep lists": b"]" * 2000 + b"a" * 1999,
    "deep tuples": b")" + b"\x85" * 200_000,
    "deep inert": b"".join(named("a", "B") for _ in range(2000)) + b")" + b"\x85R" * 2000,
    "many marks": b"(" * 20_000,
    "dict copied often": b"]("
    + b"]q\x00("
    + b"N" * 50_000
    + b"e"
    + (named("builtins", "set") + b"h\x00\x85R") * 500
    + b"e",
    "many lists": b"(" + b"]" * 4_000_001 + b"l",
    "many memo entries": b"N" + b"\x94" * 4_000_001,
}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    outcomes = {}
    for name, value in BOMBS.items():
        begin = time.monotonic()
        result = cut_bytes(torch_zip(whole(value), {"0": bytes(16)}), "bomb.pt")
        outcomes[name] = (result.reason if isinstance(result, Opaque) else None, time.monotonic() - begin)
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
