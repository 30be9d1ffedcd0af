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
from ckptfmt.encodings.factors import FLOATS
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.references import Reference, parse_reference
from ckptfmt.encodings.stage import Stage, parse_stage
from ckptfmt.encodings.stages import Part, Target
from ckptfmt.encodings.updates import Update, prepare, read_right
from ckptfmt.encodings.words import Words
from ckptfmt.errors import FormatError

MAX_STAGES: Final = 4
MAX_TEXT: Final = 2000
NOISES: Final = range(-100, 101)
_NUMBER: Final = "(0|[1-9][0-9]{0,11})"
_HEAD: Final = re.compile(rf"(BF16|F16|F32):(BF16|F16|F32):{_NUMBER}x{_NUMBER}:(0|-?[1-9][0-9]{{0,2}})", re.ASCII)
_HELD_WIDTHS: Final = {name: layout.width for name, layout in FLOATS.items()}


class _Cache:
    """The right factors that came last, and what was made of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[int, tuple[Words, Update]] = {}
        self.always = False
        """Whether classes are made with the words: set where they had to be made after them."""

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


class _Late:
    """A part of a predicted tensor; see `basis.Late`."""

    def __init__(self, part: Part, length: int, count: int, cache: _Cache) -> None:
        self.length = length
        self.count: int | None = count
        self._part, self._cache = part, cache

    def make(self, *, classes: bool, again: bool) -> tuple[Buffer, Buffer | None]:
        self._cache.always |= classes and again
        words, made = self._part.predict(classes=classes or self._cache.always)
        return _bytes_of(words), None if made is None else _bytes_of(made)

    def classes_at(self, places: Words) -> Words:
        return self._part.classes_at(places)


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
        part = Part(words, first, target, updates, sources[self.bases :])
        return Basis(_Late(part, end - begin, last - first, self._cache))


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
    stages = tuple(map(parse_stage, parts[2:]))
    return Prediction(parse_reference(parts[0]), held, element, int(rows), int(columns), int(noise), stages)


def _bytes_of(words: Any) -> Buffer:
    flat: memoryview = words.reshape(-1).view("u1").data
    return flat
