"""What ckptfmt's encodings are held against, on the same frames in the same run: the lines of one kind of table."""

from __future__ import annotations

import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import zstandard

from ckptfmt.digest import FRAME_BYTES

XOR = "XOR + zstd-3"
WIDTHS = {"BF16": 2, "F16": 2, "F32": 4}
HEAD = (
    "| input | element | contender | bits an element | times smaller than raw | encode MB/s | decode MB/s | |",
    "|---|---|---|---:|---:|---:|---:|---|",
)


class Piece(NamedTuple):
    """A frame, the same range of what it was made from, and where both begin."""

    frame: bytes
    reference: bytes
    begin: int


class Contender(NamedTuple):
    """How pieces are stored and read again.

    Attributes:
        encode: from a piece to what is stored.
        decode: from what is stored, and the piece's reference and place, to the frame.
        pieces: so many are coded at most.
        rounds: so often at most.
    """

    encode: Callable[[Piece], Any]
    decode: Callable[[Any, Piece], Any]
    pieces: int | None = None
    rounds: int | None = None


class Seen(NamedTuple):
    """What a contender did.

    Attributes:
        size: bytes, of the whole where only a part was coded.
        seconds: of every round: encode and decode by the clock, encode and decode of CPU time; of the whole.
    """

    size: float
    seconds: list[list[float]]

    def best(self, way: int) -> float:
        """The least seconds: 0 and 1 to encode and decode by the clock, 2 and 3 of CPU time."""
        return min(each[way] for each in self.seconds)


def pieces_of(frame: bytes, reference: bytes) -> list[Piece]:
    """Cut both into frames of 4 MiB."""
    begins = range(0, len(frame), FRAME_BYTES)
    return [Piece(frame[at : at + FRAME_BYTES], reference[at : at + FRAME_BYTES], at) for at in begins]


def others(element: str) -> dict[str, Contender]:
    """XOR with zstd, as ZipLLM's BitX does; zstd alone; zipnn where it is installed; nothing."""
    found = {
        XOR: Contender(
            lambda piece: _compressed(xored(piece.frame, piece.reference), 3),
            lambda stored, piece: xored(_decompressed(stored), piece.reference),
        ),
        "zstd-3": Contender(
            lambda piece: _compressed(piece.frame, 3), lambda stored, _: _decompressed(stored), rounds=1
        ),
        "zstd-19": Contender(lambda piece: _compressed(piece.frame, 19), lambda stored, _: _decompressed(stored), 1, 1),
    }
    try:
        import zipnn
    except ImportError:
        pass
    else:
        dtype = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[element]

        def zipped(piece: Piece) -> bytes:
            return bytes(zipnn.ZipNN(bytearray_dtype=dtype, threads=1).compress(bytearray(piece.frame)))

        def unzipped(stored: bytes, _: Piece) -> bytes:
            return bytes(zipnn.ZipNN(bytearray_dtype=dtype, threads=1).decompress(bytearray(stored)))

        found["zipnn"] = Contender(zipped, unzipped, rounds=1)
    found["raw"] = Contender(
        lambda piece: bytes(bytearray(piece.frame)), lambda stored, _: bytes(bytearray(stored)), rounds=1
    )
    return found


def xored(frame: Any, reference: Any) -> Any:
    """The bits in which two buffers differ."""
    return (np.frombuffer(frame, np.uint8) ^ np.frombuffer(reference, np.uint8)).data


def _compressed(data: Any, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(data)


def _decompressed(stored: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(stored)


def compare(
    name: str, sides: dict[str, Contender], pieces: Sequence[Piece], threads: int, rounds: int
) -> dict[str, Seen]:
    """Let contenders take turns on the same pieces; ends the program where bytes do not come back."""
    total = sum(len(piece.frame) for piece in pieces)
    seen: dict[str, Seen] = {}
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(rounds):
            for title, side in sides.items():
                if turn >= (side.rounds or rounds):
                    continue
                some = pieces[: side.pieces]
                times = [(time.perf_counter(), time.process_time())]
                stored = list(pool.map(side.encode, some))
                times.append((time.perf_counter(), time.process_time()))
                decoded = list(pool.map(side.decode, stored, some))
                times.append((time.perf_counter(), time.process_time()))
                if any(bytes(given) != piece.frame for given, piece in zip(decoded, some, strict=True)):
                    sys.exit(f"{title} did not give {name} back")
                part = sum(len(piece.frame) for piece in some) / total
                took = [[(b - a) / part for a, b in itertools.pairwise(column)] for column in zip(*times, strict=True)]
                size = sum(map(len, stored)) / part
                seen.setdefault(title, Seen(size, [])).seconds.append([*took[0], *took[1]])
    return seen


def ratios(ours: Seen, theirs: Seen) -> list[float]:
    """How many times as fast ours is: the median of the rounds, in the order of `Seen.seconds`."""
    rounds = list(zip(ours.seconds, theirs.seconds, strict=True))
    return [statistics.median(b[way] / a[way] for a, b in rounds) for way in range(4)]


def lines(name: str, element: str, total: int, seen: dict[str, Seen], notes: dict[str, str]) -> Iterator[str]:
    """A line for each contender; every one gave the bytes back.

    Args:
        name: the input.
        element: its type.
        total: its bytes.
        seen: what each contender did.
        notes: said beside some of them.
    """
    for title, it in seen.items():
        rates = (f"{total / max(it.best(way), 1e-9) / 1e6:.0f}" for way in (0, 1))
        bits = 8 * WIDTHS[element] * it.size / total
        cells = (name, element, title, f"{bits:.4g}", f"{total / max(it.size, 1):.4g}", *rates, notes.get(title, ""))
        yield f"| {' | '.join(cells)} |"


def versions(threads: int, *packages: Any) -> str:
    """The machine's kind and what was measured with."""
    named = ", ".join(f"{each.__name__} {each.__version__}" for each in (np, zstandard, *packages))
    return f"{platform.machine()}, python {platform.python_version()}, {named}, {threads} threads"
