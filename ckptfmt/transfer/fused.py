"""Projections that one model holds in one tensor and another apart, both ways: pure, by names and shapes alone.

Most models lay q, k and v one after another; some lay them head after head, and how long a head is no shape says: the
usual lengths are nominated. GPT-2's `c_attn` holds (in, out) where a linear layer holds (out, in): with it either side
may be the transpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.format.dtypes import BITS
from ckptfmt.transfer.held import WIDTHS, Find


@dataclass(frozen=True, slots=True)
class Made:
    """How elements of dtype `held` are made: steps as references name them, and digests of what they begin with."""

    held: str
    steps: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """Projections that are fused, in the order in which they lie."""

    fused: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    homes: tuple[str, ...]


_FAMILIES: Final = (
    _Family(
        ("qkv_proj", "c_attn", "query_key_value", "W_pack", "Wqkv", "wqkv", "qkv"),
        (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("wq", "wk", "wv")),
        ("self_attn", "attn", "attention", "self_attention"),
    ),
    _Family(("gate_up_proj",), (("gate_proj", "up_proj"), ("w1", "w3")), ("mlp", "feed_forward")),
)
_BY_HEADS: Final = frozenset({"query_key_value", "wqkv", "Wqkv", "qkv"})
"""Where heads may lie one after another, each with its q, k and v."""
_HEAD_LENGTHS: Final = (64, 128, 80, 96, 256, 32, 16, 8)
_TURNED: Final = "c_attn"
_NAME: Final = re.compile(r"(?P<stem>(?:.+\.)?)(?P<home>\w+)\.(?P<which>\w+)\.(?P<kind>weight|bias)")


def parts_of(name: str) -> Iterator[tuple[str, ...]]:
    """The names that the parts of a fused projection may have, in their order."""
    match = _NAME.fullmatch(name)
    for family in _FAMILIES:
        if match is not None and match["which"] in family.fused:
            for home in dict.fromkeys((match["home"], *family.homes)):
                for parts in family.parts:
                    yield tuple(f"{match['stem']}{home}.{part}.{match['kind']}" for part in parts)


def fused_from(name: str, shape: tuple[int, ...], find: Find) -> Iterator[Made]:
    """A fused projection made of its parts.

    Args:
        name: of the fused tensor.
        shape: its dimensions.
        find: gives a part by its name.
    """
    which = name.split(".")[-2] if "." in name else ""
    for names in parts_of(name):
        found = [find(each) for each in names]
        parts = [each for each in found if each is not None]
        if len(parts) != len(names) or len({each.dtype for each in parts}) != 1:
            continue
        if BITS.get(parts[0].dtype) not in WIDTHS or any(0 in part.shape for part in parts):
            continue
        digests = tuple(part.digest for part in parts)
        for steps in _joined(which, shape, [part.shape for part in parts], BITS[parts[0].dtype] // 8):
            yield Made(parts[0].dtype, steps, digests)


def _joined(
    which: str, shape: tuple[int, ...], parts: Sequence[tuple[int, ...]], width: int
) -> Iterator[tuple[str, ...]]:
    if len({(len(part), part[1:]) for part in parts}) == 1 and len(parts[0]) == len(shape):
        rows, rest = [part[0] for part in parts], parts[0][1:]
        if (sum(rows), *rest) == shape:
            yield (_fuse(width, 1, rows, rest),)
            for heads in _heads(which, rows):
                yield (_fuse(width, heads, [each // heads for each in rows], rest),)
        if which == _TURNED and len(shape) == 2 and (sum(rows), *rest) == shape[::-1]:
            yield _fuse(width, 1, rows, rest), f"transpose:{width}:{shape[1]}x{shape[0]}"
    if which == _TURNED and len(shape) == 2 and all(len(part) == 2 for part in parts):
        high, columns = {part[0] for part in parts}, [part[1] for part in parts]
        if high == {shape[0]} and sum(columns) == shape[1]:
            yield (_fuse(width, shape[0], columns, ()),)
        if high == {shape[1]} and sum(columns) == shape[0]:
            yield _fuse(width, shape[1], columns, ()), f"transpose:{width}:{shape[1]}x{shape[0]}"


def _fuse(width: int, outer: int, sizes: Sequence[int], rest: tuple[int, ...]) -> str:
    return f"fuse:{width}:{outer}x{'+'.join(map(str, sizes))}x{rest[0] if rest else 1}"


def _heads(which: str, rows: Sequence[int]) -> Iterator[int]:
    """Numbers of heads of k and v that `rows` of q, k and v may be of, where heads lie one after another."""
    query, key, value = rows if len(rows) == 3 else (0, 0, 1)
    if which in _BY_HEADS and key == value and query % key == 0:
        for length in _HEAD_LENGTHS:
            if key % length == 0 and key > length:
                yield key // length


def part_of(name: str, shape: tuple[int, ...], find: Find) -> Iterator[Made]:
    """One projection out of a fused one.

    Args:
        name: of the projection.
        shape: its dimensions.
        find: gives a fused tensor by its name.
    """
    match = _NAME.fullmatch(name)
    if match is None or len(shape) not in (1, 2) or 0 in shape:
        return
    for family in _FAMILIES:
        spelling = next((parts for parts in family.parts if match["which"] in parts), None)
        if spelling is None:
            continue
        index = spelling.index(match["which"])
        for home in dict.fromkeys((match["home"], *family.homes)):
            for which in family.fused:
                held = find(f"{match['stem']}{home}.{which}.{match['kind']}")
                if held is None or BITS.get(held.dtype) not in WIDTHS or len(held.shape) != len(shape):
                    continue
                for steps in _cut(which, shape, held.shape, (index, len(spelling)), BITS[held.dtype] // 8):
                    yield Made(held.dtype, steps, (held.digest,))


def _cut(
    which: str, shape: tuple[int, ...], held: tuple[int, ...], part: tuple[int, int], width: int
) -> Iterator[tuple[str, ...]]:
    """Ways to cut part number `part[0]` of `part[1]` out."""
    rest = shape[1:]
    if held[1:] == rest:
        yield from _runs(which, shape[0], (held[0], *rest), part, width)
    if which != _TURNED or len(shape) != 2:
        return
    (rows, columns), (high, wide) = shape, held
    if high == columns and 0 <= (begin := _begin(rows, wide, part)) <= wide - rows:
        yield f"transpose:{width}:{high}x{wide}", f"slice:{width}:1x{wide}x{high}:{begin}+{rows}"
    if high == rows and 0 <= (begin := _begin(columns, wide, part)) <= wide - columns:
        yield (f"slice:{width}:{high}x{wide}x1:{begin}+{columns}",)
    if wide == rows and 0 <= (begin := _begin(columns, high, part)) <= high - columns:
        yield f"slice:{width}:1x{high}x{wide}:{begin}+{columns}", f"transpose:{width}:{columns}x{wide}"


def _runs(which: str, rows: int, held: tuple[int, ...], part: tuple[int, int], width: int) -> Iterator[tuple[str, ...]]:
    total, inner = held[0], held[1] if len(held) == 2 else 1
    begin = _begin(rows, total, part)
    if not 0 <= begin <= total - rows:
        return
    yield (f"slice:{width}:1x{total}x{inner}:{begin}+{rows}",)
    if part[1] != 3 or (part[0] == 0 and (total - rows) % 2):
        return
    key = (total - rows) // 2 if part[0] == 0 else rows
    for heads in _heads(which, (total - 2 * key, key, key)):
        begin = _begin(rows // heads, total // heads, part)
        yield (f"slice:{width}:{heads}x{total // heads}x{inner}:{begin}+{rows // heads}",)


def _begin(rows: int, total: int, part: tuple[int, int]) -> int:
    """Where a part begins: the first at the beginning, the others, all alike, at the end."""
    index, count = part
    return 0 if index == 0 else total - (count - index) * rows
