"""Predictions: what a merge of a base and low-rank factors ought to have given, as a text and as bytes.

A prediction names how the base's tensor is read, what kind of tensor the result is, and one to four *stages*, each an
update that is the product of two factors and the rule by which it was added. Specified in
docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ckptfmt.digest import Buffer
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.factors import FACTOR_TYPES, FLOATS, INTEGERS, MAX_RANK, WIDTHS, scale_of
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.references import Reference, parse_reference
from ckptfmt.encodings.rounding import RULES
from ckptfmt.encodings.stages import Target, predict
from ckptfmt.encodings.updates import Update, prepare, read_right
from ckptfmt.encodings.words import Words
from ckptfmt.errors import FormatError

MAX_STAGES: Final = 4
MAX_TEXT: Final = 2000
MAX_RIGHT: Final = 1 << 24
"""Elements of a factor that is held in memory."""
FORMS: Final = frozenset({"product", "transposed", "across"})
"""The update is U x V; its transpose; U times the transpose of V, which is stored (columns, rank)."""
NOISES: Final = range(-100, 101)
_NUMBER: Final = "(0|[1-9][0-9]{0,11})"
_HEAD: Final = re.compile(rf"(BF16|F16|F32):(BF16|F16|F32):{_NUMBER}x{_NUMBER}:(0|-?[1-9][0-9]{{0,2}})", re.ASCII)
_STAGE: Final = re.compile(
    rf"{_NUMBER}:(product|transposed|across):{_NUMBER}x{_NUMBER}x{_NUMBER}:([\w>]+):([\w>]+):([0-9a-f]{{8}}):([-\w]+)",
    re.ASCII,
)
_HELD_WIDTHS: Final = {name: layout.width for name, layout in FLOATS.items()}


@dataclass(frozen=True, slots=True)
class Stage:
    """One update: a product of U and V, scaled, added to some rows.

    Attributes:
        begin: first row that it is added to.
        rows: rows of U.
        rank: columns of U, rows of V.
        columns: columns of V.
        left: a key of `factors.FACTOR_TYPES`: how U is read.
        right: likewise V; both are floats, or both integers.
        scale: bits of a float32; for integers a positive power of two.
        rule: a key of `rounding.RULES`.
        form: a member of `FORMS`.
    """

    begin: int
    rows: int
    rank: int
    columns: int
    left: str
    right: str
    scale: int
    rule: str
    form: str = "product"

    @property
    def name(self) -> str:
        """`<begin>:<form>:<rows>x<rank>x<columns>:<U's type>:<V's type>:<scale>:<rule>`."""
        shape = f"{self.rows}x{self.rank}x{self.columns}"
        return f"{self.begin}:{self.form}:{shape}:{self.left}:{self.right}:{self.scale:08x}:{self.rule}"

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the update."""
        return (self.columns, self.rows) if self.form == "transposed" else (self.rows, self.columns)

    def lengths(self) -> tuple[int, int]:
        """Bytes of U and of V."""
        left, right = (WIDTHS[FACTOR_TYPES[each].stored] for each in (self.left, self.right))
        return self.rows * self.rank * left, self.rank * self.columns * right

    def check(self) -> None:
        """Make sure that there can be such a stage.

        Raises:
            FormatError: there cannot.
        """
        types = {FACTOR_TYPES[each].read if each in FACTOR_TYPES else each for each in (self.left, self.right)}
        known = types <= set(FLOATS) or types <= set(INTEGERS)
        if not known or self.rule not in RULES or self.form not in FORMS:
            raise FormatError(f"no prediction can be made by {self.name!r}: no such elements, form or rule")
        scale = scale_of(self.scale)
        if self.left in INTEGERS and scale.mantissa != 1:
            raise FormatError(f"no prediction can be made by {self.name!r}: integers are scaled by powers of two")
        if not 0 < self.rank <= MAX_RANK or not self.rows or not self.columns or self.begin < 0:
            raise FormatError(f"no prediction can be made by {self.name!r}: impossible shapes")
        if self.rank * self.shape[1] > MAX_RIGHT:
            raise FormatError(f"no prediction can be made by {self.name!r}: more than {MAX_RIGHT} elements in a factor")


class _Cache:
    """The right factors that came last, and what was made of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[int, tuple[Words, Update]] = {}

    def updates(self, stages: Sequence[Stage], factors: Sequence[Source]) -> list[Update]:
        """What every range needs of each stage; made once, as long as the factors hold the same."""
        updates = []
        for index, stage in enumerate(stages):
            words = read_right(stage, factors[2 * index], factors[2 * index + 1])
            with self._lock:
                known = self._made.get(index)
                if known is None or not np.array_equal(known[0], words):
                    known = self._made[index] = words, prepare(stage, words)
            updates.append(known[1])
        return updates


@dataclass(frozen=True, slots=True)
class Prediction:
    """How a tensor is predicted from a base and factors.

    Attributes:
        reference: how the base's words are made, in elements of type `held`.
        held: the type that the merged tensor had between stages: BF16, F16 or F32.
        element: the type of the tensor that is predicted: `held`, or a narrower one if that is F32.
        rows: of the tensor.
        columns: of the tensor.
        noise: binary logarithm of how far the predicted sums may be off; only the classes depend on it.
        stages: what was added, in order.
    """

    reference: Reference
    held: str
    element: str
    rows: int
    columns: int
    noise: int
    stages: tuple[Stage, ...]
    _cache: _Cache = field(default_factory=_Cache, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sound = (
            self.element in _HELD_WIDTHS
            and self.held in (self.element, "F32")
            and self.rows > 0
            and self.columns > 0
            and self.noise in NOISES
            and 0 < len(self.stages) <= MAX_STAGES
        )
        if not sound:
            raise FormatError(f"no prediction can be made by {self.name!r}")
        for stage in self.stages:
            stage.check()
            height, width = stage.shape
            if width != self.columns or stage.begin + height > self.rows:
                raise FormatError(f"the update {stage.name!r} is no part of {self.rows} x {self.columns} elements")

    @property
    def name(self) -> str:
        """The one text of this prediction: `<reference>|<held>:<element>:<rows>x<columns>:<noise>|<stage>|…`."""
        head = f"{self.held}:{self.element}:{self.rows}x{self.columns}:{self.noise}"
        return "|".join((self.reference.name, head, *(stage.name for stage in self.stages)))

    @property
    def bases(self) -> int:
        """How many tensors the reference is made of; they come first, then U and V of each stage."""
        return len(self.reference.fuse.sizes) if self.reference.fuse else 1

    def length(self, given: Sequence[int]) -> int:
        """Bytes of what is predicted.

        Args:
            given: bytes of each tensor.

        Raises:
            FormatError: it takes other tensors.
        """
        factors = [length for stage in self.stages for length in stage.lengths()]
        base = self.reference.length(given[: self.bases])
        count = self.rows * self.columns
        if list(given[self.bases :]) != factors or base != count * _HELD_WIDTHS[self.held]:
            raise FormatError(f"the prediction {self.name!r} is not made of tensors of {list(given)} bytes")
        return count * _HELD_WIDTHS[self.element]

    def read(self, sources: Sequence[Source], begin: int, end: int) -> Basis:
        """Predict bytes from `begin` to `end`, both at elements' borders. `length` has been asked before.

        What was made of the right factors is kept for the next range.

        Args:
            sources: give the bytes of the base's tensors, then of U and V of each stage.
            begin: first byte.
            end: one past the last.

        Raises:
            FormatError: a factor holds NaN or an infinity.
            MergeError: floats cannot be trusted in this thread.
        """
        width, held = _HELD_WIDTHS[self.element], _HELD_WIDTHS[self.held]
        first, last = begin // width, end // width
        updates = self._cache.updates(self.stages, sources[self.bases :])
        words = self.reference.read(sources[: self.bases], first * held, last * held).words
        target = Target(self.held, self.element, self.columns, self.noise)
        predicted, classes = predict(words, first, target, updates, sources[self.bases :])
        return Basis(_bytes_of(predicted), _bytes_of(classes))


def parse_prediction(text: str) -> Prediction:
    """Read what `Prediction.name` gives; the one text of a prediction, no other spelling of it.

    Raises:
        FormatError: it is no such text.
    """
    parts = text.split("|")
    match = _HEAD.fullmatch(parts[1]) if len(text) <= MAX_TEXT and 2 < len(parts) <= MAX_STAGES + 2 else None
    if match is None:
        raise FormatError(f"no prediction can be made by {text[:MAX_TEXT]!r}")
    held, element, rows, columns, noise = match.groups()
    stages = tuple(map(_parse_stage, parts[2:]))
    return Prediction(parse_reference(parts[0]), held, element, int(rows), int(columns), int(noise), stages)


def _parse_stage(text: str) -> Stage:
    """Read what `Stage.name` gives.

    Raises:
        FormatError: it is no such text.
    """
    match = _STAGE.fullmatch(text)
    if match is None:
        raise FormatError(f"no prediction can be made by {text!r}")
    begin, form, rows, rank, columns, left, right, scale, rule = match.groups()
    shape = int(rows), int(rank), int(columns)
    return Stage(int(begin), *shape, left, right, int(scale, 16), rule, form)


def _bytes_of(words: Any) -> Buffer:
    flat: memoryview = words.reshape(-1).view("u1").data
    return flat
