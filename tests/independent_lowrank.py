"""Predicts and decodes `lowrank` by the specification alone (docs/format/encodings/lowrank.md), in exact fractions."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tests.independent_delta import Stream, decode_delta
from tests.independent_reader import require

FORMATS = {"BF16": (2, 8, 7), "F16": (2, 5, 10), "F32": (4, 8, 23), "F64": (8, 11, 52)}
SHIFTS = {"BF16": 16, "F16": 13, "F32": 29}


def value_of(word: int, kind: str) -> Fraction | None:
    """The number, or None for NaN and infinities."""
    width, exponent_bits, fraction_bits = FORMATS[kind]
    field, fraction = word >> fraction_bits & ((1 << exponent_bits) - 1), word & ((1 << fraction_bits) - 1)
    if field == (1 << exponent_bits) - 1:
        return None
    bias = (1 << (exponent_bits - 1)) - 1
    mantissa = fraction + (1 << fraction_bits if field else 0)
    magnitude = Fraction(mantissa) * Fraction(2) ** (max(field, 1) - bias - fraction_bits)
    return -magnitude if word >> (8 * width - 1) else magnitude


def word_of_value(value: Fraction, kind: str) -> int:
    """The nearest number, ties to even; zero is positive, and what rounds to zero keeps its sign."""
    width, exponent_bits, fraction_bits = FORMATS[kind]
    bias = (1 << (exponent_bits - 1)) - 1
    magnitude = abs(value)
    exponent = 1 - bias
    if magnitude:
        exponent = max(exponent, floor_log2(magnitude))
    units = magnitude / Fraction(2) ** (exponent - fraction_bits)
    mantissa = round(units)
    # A mantissa with its leading one adds one to the field, and one that was rounded up to a power carries on.
    word = ((exponent + bias - 1) << fraction_bits) + mantissa if mantissa else 0
    word = min(word, ((1 << exponent_bits) - 1) << fraction_bits)
    return word | (int(value < 0) << (8 * width - 1))


def floor_log2(magnitude: Fraction) -> int:
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if Fraction(2) ** guess <= magnitude else guess - 1


def rounded(value: Fraction | None, kind: str) -> Fraction | None:
    return None if value is None else value_of(word_of_value(value, kind), kind)


class Update(NamedTuple):
    begin: int
    scale: Fraction
    rule: str
    product: list[list[Fraction]]


def predict(name: str, tensors: list[bytes]) -> tuple[bytes, bytes]:
    """Words and classes of a whole tensor; references are empty or a cast of BF16 to F32."""
    reference, head, *texts = name.split("|")
    held, element, shape, noise = head.split(":")
    rows, columns = map(int, shape.split("x"))
    require(reference in ("", "cast:BF16:F32"), "lowrank: a reference that this reader does not know")
    base = np.frombuffer(tensors[0], f"<u{2 if reference else FORMATS[held][0]}").astype(np.int64)
    base = base << 16 if reference else base
    updates = [update_of(text, *tensors[1 + 2 * index : 3 + 2 * index]) for index, text in enumerate(texts)]
    words = np.zeros(rows * columns, f"<u{FORMATS[element][0]}")
    classes = np.full(rows * columns, 50, np.uint8)
    for index, under in enumerate(base.tolist()):
        row, column = divmod(index, columns)
        these = [each for each in updates if each.begin <= row < each.begin + len(each.product)]
        words[index], classes[index] = one(
            under, held, element, int(noise), [(each, each.product[row - each.begin][column]) for each in these]
        )
    return words.tobytes(), classes.tobytes()


def one(under: int, held: str, element: str, noise: int, updates: list[tuple[Update, Fraction]]) -> tuple[int, int]:
    """One element's word and class."""
    before = value_of(under, held)
    if not updates and (held == element or before is None):
        return cast(under, held, element), 50
    exact, total, raw = None, before, None
    for index, (update, product) in enumerate(updates):
        if index:
            total = rounded(total, held)
        raw, added = added_by(update, product)
        if total is None or added is None:
            return cast(under, held, element), 50
        before, exact = total, total + added
        total = rounded(exact, "F32")
    if total is None:
        return cast(under, held, element), 50
    word = word_of_value(total, element)
    if total == 0 and not updates:
        word |= under >> (8 * FORMATS[held][0] - 1) << (8 * FORMATS[element][0] - 1)
    if value_of(word, element) is None:
        return cast(under, held, element), 50
    if not updates:
        return word, 50
    rule = updates[-1][0].rule
    assert exact is not None
    assert raw is not None
    assert before is not None
    if rule == "once":
        return word, class_of(rounded(exact, "F64") if element == "F32" else total, word, element, noise)
    kind = rule.split("-")[1]
    if element == "F32":
        return word, class_of(raw, word_of_value(raw, kind), kind, noise)
    return word, class_of_rounded(total, word, element, noise, before, raw, kind)


def cast(word: int, held: str, element: str) -> int:
    if held == element:
        return word
    value = value_of(word, held)
    if value is not None:
        return word_of_value(abs(value), element) | word >> 31 << (8 * FORMATS[element][0] - 1)
    sign, fraction = word >> 31, word & 0x7FFFFF
    if element == "BF16":
        return word >> 16 | (0x40 if fraction else 0)
    return sign << 15 | 0x7C00 | (fraction >> 13 | 0x200 if fraction else 0)


def added_by(update: Update, product: Fraction) -> tuple[Fraction | None, Fraction | None]:
    """D' and D."""
    raw = added = rounded(product, "F32")
    if update.rule != "once":
        kind = update.rule.split("-")[1]
        added = rounded(added, kind)
        if update.rule.startswith("thrice"):
            raw = None if raw is None else rounded(raw * update.scale, "F32")
            added = None if added is None else rounded(added * update.scale, "F32")
            added = rounded(added, kind)
    return raw, added


class Next(NamedTuple):
    side: int
    step: int
    middle: Fraction
    given: Fraction
    moved: Fraction


def next_number(total: Any, word: int, element: str, source: str) -> Next:
    """Side, g, h, what it was taken of, and what was added for it."""
    shift, (width, _, fraction_bits) = SHIFTS[element], FORMATS[source]
    moved = Fraction(0)
    negative = total < 0
    if element == "F16" and abs(total) < Fraction(1, 1 << 14):
        moved = Fraction(1, 1 << 14)
        total = rounded(abs(total) + moved, "F32")
        total = -total if negative else total
    bits = word_of_value(total, source)
    side = int(negative) ^ (bits >> shift & 1) ^ (word & 1)
    exponent = (bits & ((1 << (8 * width - 1)) - 1)) >> fraction_bits
    bias = (1 << (FORMATS[source][1] - 1)) - 1
    middle = value_of(bits >> shift << shift | 1 << (shift - 1), source)
    assert middle is not None
    return Next(side, exponent - bias + shift - fraction_bits, middle, total, -moved if negative else moved)


def class_of(total: Any, word: int, element: str, noise: int) -> int:
    near = next_number(total, word, element, "F64" if element == "F32" else "F32")
    none = 4 * (near.step - SHIFTS[element]) - 508
    return level(abs(near.given - near.middle), none, near, noise)


def class_of_rounded(
    total: Fraction, word: int, element: str, noise: int, before: Fraction, raw: Fraction, kind: str
) -> int:
    near = next_number(total, word, element, "F32")
    need = rounded(near.middle - near.moved - before, "F32")
    nearest = rounded(need, kind)
    if nearest is None or need is None:
        return 50
    beyond = bool(word & 1) if nearest == need else (nearest < need) == bool(near.side)
    least, digits = (-126, 8) if kind == "BF16" else (-25, 11)
    half = Fraction(2) ** max(floor_log2(abs(nearest)) - digits if nearest else least, least)
    threshold = rounded(nearest - half if beyond != bool(near.side) else nearest + half, "F32")
    assert threshold is not None
    return level(abs(rounded(threshold - raw, "F32") or Fraction(0)), -508, near, noise)


def level(distance: Fraction, none: int, near: Next, noise: int) -> int:
    logarithm = none
    if distance:
        exponent = floor_log2(distance)
        logarithm = 4 * exponent + math.floor(4 * (distance / Fraction(2) ** exponent - 1))
    value = min(max(logarithm - 4 * noise + 8, 0), 25)
    steps = near.step - noise
    if steps >= 3:
        return 2 * value + near.side
    return 2 * (value + 26 * (3 - steps) if steps >= 0 else min(103 - steps, 119)) + near.side


def update_of(text: str, left: bytes, right: bytes) -> Update:
    """A stage: begin, s, rule and the product's values."""
    begin, form, shape, left_type, right_type, scale_text, rule = text.split(":")
    height, rank, width = map(int, shape.split("x"))
    scale = value_of(int(scale_text, 16), "F32")
    assert scale is not None
    first = numbers(left, left_type, height, rank)
    second = numbers(right, right_type, *((width, rank) if form == "across" else (rank, width)))
    if form == "across":
        second = transposed(second)
    if form == "transposed":
        first, second = transposed(second), transposed(first)
        left_type, right_type = right_type, left_type
    applied = Fraction(1) if rule.startswith("thrice") else scale
    room = 53 - (rank - 1).bit_length()
    if left_type.startswith("I"):
        steps = [[applied] * len(second[0])] * len(first)
        largest = max(abs(each) for row in second for each in row)
        product = limbs(first, second, int(left_type[1:]) - 1, room - max(largest - 1, 0).bit_length())
    else:
        first, first_steps = quantized(first, room // 2)
        second, second_steps = quantized(
            [[each * applied for each in row] for row in transposed(second)], room - room // 2
        )
        steps = [[one * other for other in second_steps] for one in first_steps]
        product = multiply(first, transposed(second))
    pairs = [zip(*rows, strict=True) for rows in zip(product, steps, strict=True)]
    return Update(int(begin), scale, rule, [[each * step for each, step in row] for row in pairs])


def limbs(first: Any, second: Any, bits: int, limb: int) -> Any:
    number = max(1, -(-bits // limb))
    total: Any = None
    for index in range(number):
        last = index == number - 1
        part = [[int(each) >> (limb * index) for each in row] for row in first]
        if not last:
            part = [[each & ((1 << limb) - 1) for each in row] for row in part]
        product = [[each << (limb * index) for each in row] for row in multiply(part, second)]
        if total is None:
            total = product
        else:
            pairs = [zip(*rows, strict=True) for rows in zip(total, product, strict=True)]
            total = [[int(rounded(Fraction(a + b), "F64") or 0) for a, b in pair] for pair in pairs]
    return total


def quantized(rows: Any, bits: int) -> tuple[Any, list[Fraction]]:
    """The integers of each row, and its step."""
    largest = [max(map(abs, row)) for row in rows]
    steps = [Fraction(2) ** (floor_log2(each) + 1 - bits) if each else Fraction(1) for each in largest]
    return [[round(each / step) for each in row] for row, step in zip(rows, steps, strict=True)], steps


def multiply(first: Any, second: Any) -> Any:
    product = np.array(first, object).dot(np.array([[int(each) for each in row] for row in second], object))
    return [[int(each) for each in row] for row in product]


def transposed(rows: Any) -> Any:
    return [list(row) for row in zip(*rows, strict=True)]


def numbers(data: bytes, kind: str, rows: int, columns: int) -> Any:
    kind, _, narrow = kind.partition(">")
    if kind.startswith("I"):
        flat: Any = np.frombuffer(data, f"<i{int(kind[1:]) // 8}").tolist()
    else:
        flat = [value_of(word, kind) for word in np.frombuffer(data, f"<u{FORMATS[kind][0]}").tolist()]
        if narrow:
            flat = [rounded(each, narrow) for each in flat]
        require(None not in flat, "lowrank: a factor is not finite")
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def decode_lowrank(data: bytes, length: int, element: str, words: bytes, classes: bytes) -> bytes:
    """A stored frame, and the prediction of its bytes."""
    require(len(words) == length, "lowrank: wrong basis")
    if data[0] == 0:
        require(len(data) == 1, "lowrank: trailing bytes")
        return words
    if data[0] == 2:
        return decode_delta(data[1:], length, element, words)
    require(data[0] == 1, "lowrank: unknown form")
    width = FORMATS[element][0]
    stream = Stream(data[1:], max(width, 2))
    count = length // width
    of = np.frombuffer(classes, np.uint8)
    (groups,) = stream.take(1)
    dense, table = [0], np.zeros(128, np.uint8)
    if groups > 1:
        dense = list(stream.take(groups))
        table = np.array(stream.coded(128), np.uint8)
    difference = np.zeros(count, np.int64)
    for group in range(groups):
        members = np.flatnonzero(table[of >> 1] == group) if group else np.arange(count)
        if dense[group]:
            difference[members] = stream.symbols(len(members))
            continue
        members = members[stream.places()]
        difference[members] = 1
        members = members[stream.places()]
        difference[members] = stream.symbols(len(members))
    require(stream.position == len(stream.data), "lowrank: trailing bytes")
    difference[of % 2 == 1] *= -1
    low = (1 << (8 * width - 1)) - 1
    signed = np.frombuffer(words, f"<i{width}").astype(np.int64)
    total = (np.where(signed < 0, signed ^ low, signed) + difference).astype(f"<i{width}")
    return bytes(np.where(total < 0, total ^ total.dtype.type(low), total).tobytes())


def scale_text(scale: float) -> str:
    """A scale as it stands in a stage."""
    return struct.pack(">f", scale).hex()
