"""References made from other tensors: exact, named maps of bytes. Specified in docs/format/encodings/delta.md.

A reference holds the same elements as the tensor that is coded, in its dtype and order. Where a model was saved again
in another dtype, transposed, split or fused, a reference is a chain of *steps*, each with a short textual name that
stands in the shard: `cast:BF16:F32`, `transpose:4096x11008`, `slice:2:4096x3x64:1+1`. Casts work on the bits of
numbers, without float arithmetic, so no machine's rounding or flushing of subnormals can change them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from ckptfmt.digest import Buffer
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.casts import CASTS, WIDTHS
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.transposing import Transpose, Windows
from ckptfmt.errors import FormatError

MAX_STEPS: Final = 4
MAX_DIMENSIONS: Final = 8
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,17})"


class Step(Protocol):
    """One map from a tensor's bytes to another's."""

    @property
    def name(self) -> str:
        """What `parse_step` makes this step of again."""
        ...

    def length(self, given: int) -> int:
        """Bytes of the result for a tensor of `given` bytes.

        Raises:
            FormatError: this step takes no such tensor.
        """
        ...

    def read(self, source: Source, begin: int, end: int) -> Buffer:
        """Bytes from `begin` to `end` of the result, both at elements' borders, read from `source`."""
        ...


@dataclass(frozen=True, slots=True)
class Cast:
    """Numbers of one float type as another: widened exactly, or rounded to the nearest, ties to even.

    NaNs keep sign and highest payload bits and become quiet where they lose bits or pass to another exponent width.
    """

    of: str
    to: str

    @property
    def name(self) -> str:
        """`cast:<dtype>:<dtype>`."""
        return f"cast:{self.of}:{self.to}"

    def length(self, given: int) -> int:
        """As many elements of the other width."""
        width = WIDTHS[self.of]
        if given % width:
            raise FormatError(f"{self.name}: {given} bytes are no whole number of elements")
        return given // width * WIDTHS[self.to]

    def read(self, source: Source, begin: int, end: int) -> Buffer:
        """Cast the elements from `begin` to `end`."""
        wide, narrow = WIDTHS[self.to], WIDTHS[self.of]
        given = np.frombuffer(source(begin // wide * narrow, end // wide * narrow), f"<u{narrow}")
        return CASTS[self.of, self.to](given).view(np.uint8).data


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a fused tensor along one axis: q out of q, k, v; one expert out of all.

    Attributes:
        width: bytes of an element.
        outer: product of the dimensions before the axis.
        size: length of the axis.
        inner: product of the dimensions after it.
        begin: first index taken.
        count: how many are taken.
    """

    width: int
    outer: int
    size: int
    inner: int
    begin: int
    count: int

    @property
    def name(self) -> str:
        """`slice:<width>:<outer>x<size>x<inner>:<begin>+<count>`."""
        return f"slice:{self.width}:{self.outer}x{self.size}x{self.inner}:{self.begin}+{self.count}"

    def length(self, given: int) -> int:
        """The part's length."""
        if given != self.width * self.outer * self.size * self.inner or self.begin + self.count > self.size:
            raise FormatError(f"{self.name}: {given} bytes are no such tensor")
        return self.width * self.outer * self.count * self.inner

    def read(self, source: Source, begin: int, end: int) -> Buffer:
        """Read the runs that the range lies in."""
        run = self.width * self.inner * self.count
        every, skip = self.width * self.inner * self.size, self.width * self.inner * self.begin
        parts = []
        while begin < end:
            outer, inside = divmod(begin, run)
            taken = min(run - inside, end - begin)
            start = outer * every + skip + inside
            parts.append(source(start, start + taken))
            begin += taken
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class Fuse:
    """Several tensors as one along one axis: q, k and v as q, k, v; the experts' matrices stacked.

    Attributes:
        width: bytes of an element.
        outer: product of the dimensions before the axis.
        sizes: length of the axis in each tensor.
        inner: product of the dimensions after it.
    """

    width: int
    outer: int
    sizes: tuple[int, ...]
    inner: int

    @property
    def name(self) -> str:
        """`fuse:<width>:<outer>x<size>+<size>+…x<inner>`."""
        return f"fuse:{self.width}:{self.outer}x{'+'.join(map(str, self.sizes))}x{self.inner}"

    def lengths(self) -> tuple[int, ...]:
        """Bytes of each tensor."""
        return tuple(self.width * self.outer * size * self.inner for size in self.sizes)

    def read(self, sources: Sequence[Source], begin: int, end: int) -> Buffer:
        """Bytes from `begin` to `end` of the fused tensor."""
        runs = [self.width * self.inner * size for size in self.sizes]
        every = sum(runs)
        parts = []
        while begin < end:
            outer, inside = divmod(begin, every)
            index = 0
            while inside >= runs[index]:
                inside -= runs[index]
                index += 1
            taken = min(runs[index] - inside, end - begin)
            start = outer * runs[index] + inside
            parts.append(sources[index](start, start + taken))
            begin += taken
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class Reference:
    """How a reference is made of one or more tensors.

    Attributes:
        fuse: first, several tensors become one; None where there is one.
        steps: then these, in order.
    """

    fuse: Fuse | None = None
    steps: tuple[Step, ...] = ()
    _windows: dict[int, Windows] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The steps' names, joined by commas; empty for the tensor itself."""
        first = [self.fuse.name] if self.fuse else []
        return ",".join([*first, *(step.name for step in self.steps)])

    def length(self, given: Sequence[int]) -> int:
        """Bytes of the reference.

        Args:
            given: bytes of each tensor.

        Raises:
            FormatError: it takes other tensors.
        """
        if self.fuse is not None and tuple(given) == self.fuse.lengths():
            length = sum(given)
        elif self.fuse is None and len(given) == 1:
            length = given[0]
        else:
            raise FormatError(f"the reference {self.name!r} is not made of tensors of {list(given)} bytes")
        for step in self.steps:
            length = step.length(length)
        return length

    def read(self, sources: Sequence[Source], begin: int, end: int) -> Basis:
        """Bytes from `begin` to `end`, both at elements' borders. `length` has been asked before.

        What is transposed is kept for the next range, as long as the sources are the very same.
        """
        fuse = self.fuse
        source: Source = sources[0] if fuse is None else lambda start, stop: fuse.read(sources, start, stop)
        for place, step in enumerate(self.steps):
            source = self._after(place, step, source, sources)
        return Basis(source(begin, end))

    def _after(self, place: int, step: Step, source: Source, sources: Sequence[Source]) -> Source:
        if isinstance(step, Transpose):
            windows = self._windows.setdefault(place, Windows())
            return lambda begin, end: windows.read(step, sources, source, begin, end)
        return lambda begin, end: step.read(source, begin, end)


def parse_reference(name: str) -> Reference:
    """Read what `Reference.name` gives; the one text of a reference, no other spelling of it.

    Raises:
        FormatError: it is no such name; the message says which part.
    """
    names = name.split(",") if name else []
    if len(names) > MAX_STEPS:
        raise FormatError(f"a reference of {len(names)} steps; at most {MAX_STEPS} are read")
    fuse = None
    if names and names[0].startswith("fuse:"):
        fuse = _parse_fuse(names.pop(0))
    return Reference(fuse, tuple(map(parse_step, names)))


def parse_step(name: str) -> Step:
    """Read the name of one step that takes one tensor.

    Raises:
        FormatError: there is none of that name.
    """
    if match := re.fullmatch(r"cast:(\w+):(\w+)", name, re.ASCII):
        if (match[1], match[2]) not in CASTS:
            raise FormatError(f"no reference can be made by {name!r}: no such cast")
        return Cast(match[1], match[2])
    numbers = [int(each) for each in re.findall(_NUMBER, name)]
    step: Step | None = None
    if re.fullmatch(rf"transpose:[1248]:{_NUMBER}x{_NUMBER}", name):
        step = Transpose(*numbers)
    elif re.fullmatch(rf"slice:[1248]:{_NUMBER}x{_NUMBER}x{_NUMBER}:{_NUMBER}\+{_NUMBER}", name):
        width, outer, size, inner, begin, count = numbers
        step = Slice(width, outer, size, inner, begin, count)
        numbers.remove(begin)
        if begin + count > size:
            raise FormatError(f"no reference can be made by {name!r}: it ends beyond its axis")
    if step is None or 0 in numbers or step.name != name:
        raise FormatError(f"no reference can be made by {name!r}")
    return step


def _parse_fuse(name: str) -> Fuse:
    match = re.fullmatch(rf"fuse:([1248]):({_NUMBER})x({_NUMBER}(?:\+{_NUMBER})+)x({_NUMBER})", name)
    if match is None:
        raise FormatError(f"no reference can be made by {name!r}")
    sizes = tuple(map(int, match[3].split("+")))
    fuse = Fuse(int(match[1]), int(match[2]), sizes, int(match[4]))
    if not math.prod((fuse.outer, *sizes, fuse.inner)):
        raise FormatError(f"no reference can be made by {name!r}: an axis of no length")
    return fuse
