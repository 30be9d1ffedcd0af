"""Decodes `delta` by the specification alone (docs/format/encodings/delta.md): nothing of ckptfmt is used."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

if __package__:
    from tests.independent_encodings import decode_planes, decode_zstd, require, word_of
else:  # The files lie beside each other, somewhere else.
    from independent_encodings import decode_planes, decode_zstd, require, word_of


TILE = 1 << 18


def decode_delta(data: bytes, length: int, element: str | None, reference: bytes) -> bytes:
    """encodings/delta.md, element by element where that is simplest."""
    _, width = word_of(element)
    count, spare = divmod(length, width)
    require(len(reference) == length, "delta: wrong reference")
    if data[0] == 0:
        require(len(data) == 1, "delta: trailing bytes")
        return reference
    tail = data[1 : 1 + spare]
    basis = np.frombuffer(reference, f"<u{width}", count)
    if data[0] == 2:
        words = np.frombuffer(decode_planes(data[1 + spare :], count * width, element), basis.dtype)
        return (words ^ basis).tobytes() + tail
    require(data[0] == 1, "delta: unknown form")
    stream = Stream(data[1 + spare :], max(width, 2))
    rest, symbol_bits, dropped, pivot = np.frombuffer(stream.take(5), "<u2,u1,u1,u1")[0].tolist()
    group = delta_classes(basis, element)
    difference = np.zeros(count, np.int64)
    chosen = np.flatnonzero(group < rest)
    if len(chosen):
        planes = [stream.coded(len(chosen)) for _ in range(dropped)]
        wanted = np.clip(pivot - group[chosen].astype(int), 0, 8)
        tiles = [filled(wanted[begin : begin + TILE]) for begin in range(0, len(wanted), TILE)]
        if symbol_bits == 4:
            symbols = stream.coded(sum(map(len, tiles)) // 2)
            halves = [symbols[begin : begin + TILE // 2] for begin in range(0, len(symbols), TILE // 2)]
            symbols = np.concatenate([np.append(half & 15, half >> 4) for half in halves])
            require(not symbols[len(chosen) :].any(), "delta: a symbol too many")
        else:
            symbols = stream.coded(len(chosen))
        symbols = np.where(symbols < 1 << (symbol_bits - 1), symbols, symbols - (1 << symbol_bits))
        values = []
        for tile in tiles:
            half = len(tile) // 2
            tile[half:] = np.minimum(tile[half:], 8 - tile[:half])
            values += [(int(width), low) for width, low in zip(tile, stream.bits(tile.tolist()), strict=True)]
        scaled = [(int(symbol) << width) + low for symbol, (width, low) in zip(symbols, values, strict=False)]
        total = np.array(scaled[: len(chosen)])
        for plane in reversed(planes):
            total = total << 8 | plane
        difference[chosen] = total
    chosen = stream.places()
    difference[chosen] = stream.symbols(len(chosen))
    require(stream.position == len(stream.data), "delta: trailing bytes")
    return (basis + difference.astype(f"<i{width}").view(basis.dtype)).tobytes() + tail


def filled(widths: Any) -> Any:
    return np.append(widths, np.zeros(-len(widths) % 16, int))


def delta_classes(basis: Any, element: str | None) -> Any:
    """encodings/delta.md, "Classes"."""
    fields = {"BF16": (7, 8), "F16": (10, 5), "F32": (23, 8), "C64": (23, 8), "F64": (52, 11), "C128": (52, 11)}
    fields |= {"F8_E4M3": (3, 4), "F8_E5M2": (2, 5), "F8_E4M3FNUZ": (3, 4), "F8_E5M2FNUZ": (2, 5)}
    if element not in fields:
        return np.zeros(len(basis), int)
    low, bits = fields[element]
    field = (basis.astype(np.uint64) >> np.uint64(low)).astype(int) & ((1 << bits) - 1)
    return np.clip(field - 800, 0, 255) if bits == 11 else field


class Stream:
    """encodings/delta.md, "Streams"."""

    def __init__(self, data: bytes, escape_width: int) -> None:
        self.data, self.position, self.escape_width = data, 0, escape_width

    def take(self, count: int) -> bytes:
        require(self.position + count <= len(self.data), "delta: too short")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def coded(self, count: int) -> Any:
        if not count:
            return np.zeros(0, np.int64)
        stored = self.take(self.number())
        plane = stored if len(stored) == count else decode_zstd(stored, count, None)
        return np.frombuffer(plane, np.uint8).astype(np.int64)

    def symbols(self, count: int) -> Any:
        symbols = self.coded(count)
        escapes = self.number()
        values = symbols - 128
        planes = np.array([self.coded(escapes) for _ in range(self.escape_width)]).T.astype(np.uint8)
        values[symbols == 0] = np.ascontiguousarray(planes).reshape(-1).view(f"<i{self.escape_width}")
        return values

    def places(self) -> Any:
        place, places = -1, []
        for gap in self.coded(self.number()).tolist():
            place += gap
            if gap < 255:
                place += 1
                places.append(place)
        return np.array(places, np.int64)

    def bits(self, widths: list[int]) -> list[int]:
        """Numbers of these widths: those that are joined to one lie together, the last of them lowest."""
        stored = self.take((sum(widths) + 7) // 8)
        numbers, place, step = [0] * len(widths), 0, len(widths) // 16
        for first in range(step):
            lanes = [first + lane * step for lane in (15, 7, 11, 3, 13, 5, 9, 1, 14, 6, 10, 2, 12, 4, 8, 0)]
            bits = int.from_bytes(stored[place // 8 : place // 8 + 9], "little") >> place % 8
            for at in lanes:
                numbers[at] = bits & ((1 << widths[at]) - 1)
                bits >>= widths[at]
                place += widths[at]
        require(place % 8 == 0 or stored[-1] >> place % 8 == 0, "delta: bits after the last")
        return numbers


# --------------------------------------------------------------------------------------------------------- references

NUMBER = r"(0|[1-9][0-9]{0,17})"


def reference_of(text: str, tensors: list[bytes]) -> bytes:
    """encodings/delta.md, "The reference": the tensors' bytes, changed by each part of the text in turn."""
    parts = text.split(",") if text else []
    require(len(parts) <= 4, f"{text!r}: more than four parts")
    if parts and parts[0].startswith("fuse:"):
        data = fused(parts.pop(0), tensors)
    else:
        require(len(tensors) == 1, f"{text!r} is not made of {len(tensors)} tensors")
        data = tensors[0]
    for part in parts:
        data = changed(part, data)
    return data


def fused(part: str, tensors: list[bytes]) -> bytes:
    match = re.fullmatch(rf"fuse:([1248]):{NUMBER}x({NUMBER}(?:\+{NUMBER})+)x{NUMBER}", part)
    require(match, f"unknown part {part!r}")
    width, outer, inner = int(match[1]), int(match[2]), int(match[6])
    sizes = [int(size) for size in match[3].split("+")]
    require(all([outer, inner, *sizes]), f"{part}: an axis of no length")
    lengths = [width * outer * size * inner for size in sizes]
    require(lengths == [len(tensor) for tensor in tensors], f"{part}: other tensors")
    shaped = [
        np.frombuffer(tensor, f"V{width}").reshape(outer, size, inner)
        for tensor, size in zip(tensors, sizes, strict=True)
    ]
    return np.concatenate(shaped, axis=1).tobytes()


def changed(part: str, data: bytes) -> bytes:
    if match := re.fullmatch(r"cast:(BF16|F16|F32):(BF16|F16|F32)", part):
        require(match[1] != match[2], f"unknown part {part!r}")
        return cast(data, match[1], match[2])
    if match := re.fullmatch(rf"transpose:([1248]):{NUMBER}x{NUMBER}", part):
        width, rows, columns = map(int, match.groups())
        require(len(data) == width * rows * columns > 0, f"{part}: another tensor")
        return np.frombuffer(data, f"V{width}").reshape(rows, columns).T.tobytes()
    match = re.fullmatch(rf"slice:([1248]):{NUMBER}x{NUMBER}x{NUMBER}:{NUMBER}\+{NUMBER}", part)
    require(match, f"unknown part {part!r}")
    width, outer, size, inner, begin, count = map(int, match.groups())
    require(len(data) == width * outer * size * inner > 0, f"{part}: another tensor")
    require(0 < count <= size - begin, f"{part}: beyond its axis")
    return np.frombuffer(data, f"V{width}").reshape(outer, size, inner)[:, begin : begin + count].tobytes()


def cast(data: bytes, of: str, to: str) -> bytes:
    """By way of F32, in integers but for the rounding of numbers to F16, which numpy does by itself."""
    require(len(data) % (4 if of == "F32" else 2) == 0, f"cast:{of}:{to}: no whole number of elements")
    words = np.frombuffer(data, "<u4" if of == "F32" else "<u2").astype(np.uint64)
    if of == "BF16":
        words = words << np.uint64(16)
    elif of == "F16":
        sign, payload = (words & np.uint64(0x8000)) << np.uint64(16), (words & np.uint64(0x3FF)) << np.uint64(13)
        is_nan = words & np.uint64(0x7FFF) > 0x7C00
        numbers = words.astype("<u2").view("<f2").astype("<f4").view("<u4").astype(np.uint64)
        words = np.where(is_nan, sign | np.uint64(0x7FC00000) | payload, numbers)
    is_nan = words & np.uint64(0x7FFFFFFF) > 0x7F800000
    if to == "BF16":
        odd = words >> np.uint64(16) & np.uint64(1)
        rounded = words + np.uint64(0x7FFF) + odd >> np.uint64(16)
        words = np.where(is_nan, words >> np.uint64(16) | np.uint64(0x40), rounded)
    elif to == "F16":
        sign, payload = (words >> np.uint64(16)) & np.uint64(0x8000), words >> np.uint64(13) & np.uint64(0x3FF)
        with np.errstate(all="ignore"):
            rounded = words.astype("<u4").view("<f4").astype("<f2").view("<u2")
        words = np.where(is_nan, sign | np.uint64(0x7E00) | payload, rounded)
    return words.astype("<u4" if to == "F32" else "<u2").tobytes()
