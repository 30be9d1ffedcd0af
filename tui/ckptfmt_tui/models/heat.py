"""A table of numbers as a heat map: its scale, its colours, its shades for terminals without colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

Rgb = tuple[int, int, int]

_SHADES: Final = "░▒▓█"
_LOGARITHMIC_FROM: Final = 30.0
"""Times by which the largest value exceeds the least one, from where on steps are factors instead of sums."""
# Both run from near the background to far from it, evenly in brightness, and are told apart by colour-blind people.
_DARK: Final[tuple[Rgb, ...]] = (
    (68, 40, 110),
    (59, 82, 139),
    (44, 113, 142),
    (33, 145, 140),
    (94, 201, 98),
    (253, 231, 37),
)
_LIGHT: Final[tuple[Rgb, ...]] = (
    (237, 248, 200),
    (180, 222, 190),
    (110, 195, 196),
    (50, 140, 190),
    (37, 94, 168),
    (20, 40, 110),
)
LEAST_WIDTH: Final = 6
"""Columns that a number of a cell needs: `1.2e-5`."""
_ROOMY: Final = 7
_MOST_WIDTH: Final = 12
_GAP: Final = 1


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell: `value` decides its colour (None: the same), `told` stands in it, `source` is what it stands for."""

    value: float | None
    told: str
    source: Any = None


@dataclass(frozen=True, slots=True)
class Grid:
    """What a heat map shows.

    Attributes:
        title: what the rows are.
        rows: their names.
        columns: their names.
        cells: by row and column; there may be none.
        outside: cells in no row, each with its name.
        below: names of those in no row that are the same.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[int, int], Heat]
    outside: tuple[tuple[str, Heat], ...] = ()
    below: str = ""

    @property
    def all_cells(self) -> tuple[Heat, ...]:
        """Every cell."""
        return (*self.cells.values(), *(cell for _, cell in self.outside))


@dataclass(frozen=True, slots=True)
class Scale:
    """From the least to the largest value; by factors where these are far apart."""

    low: float
    high: float

    @property
    def is_logarithmic(self) -> bool:
        """Whether equal steps are equal factors."""
        return self.low > 0 and self.high / self.low >= _LOGARITHMIC_FROM

    def at(self, value: float) -> float:
        """Where a value stands between both ends, 0 to 1."""
        low, high, here = self.low, self.high, value
        if self.is_logarithmic:
            low, high, here = math.log(low), math.log(high), math.log(max(value, self.low))
        return min(max((here - low) / (high - low), 0.0), 1.0) if high > low else 1.0


def scale_of(cells: Iterable[Heat]) -> Scale | None:
    """The scale of all values above zero; None where there are none."""
    values = [cell.value for cell in cells if cell.value]
    return Scale(min(values), max(values)) if values else None


def shade(position: float) -> str:
    """The shading character of a place on the scale."""
    return _SHADES[min(int(position * len(_SHADES)), len(_SHADES) - 1)]


def colour(position: float, *, dark: bool) -> Rgb:
    """The colour of a place on the scale, on a dark or a light background."""
    stops = _DARK if dark else _LIGHT
    at = position * (len(stops) - 1)
    index = min(int(at), len(stops) - 2)
    first, second = stops[index], stops[index + 1]
    red, green, blue = (round(a + (b - a) * (at - index)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def ink(paper: Rgb) -> Rgb:
    """Black or white, whichever is read better on a colour."""
    linear = [(part / 255 / 12.92) if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in paper]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def column_widths(names: Sequence[str], room: int) -> tuple[int, ...]:
    """Widths of columns under these names: as much as they need, cut evenly where that is more than `room`."""
    wanted = [min(max(len(name), _ROOMY), _MOST_WIDTH) for name in names]
    cap = max(wanted, default=LEAST_WIDTH)
    while cap > LEAST_WIDTH and sum(min(width, cap) + _GAP for width in wanted) > room:
        cap -= 1
    return tuple(min(width, cap) for width in wanted)


def headers(names: Sequence[str], widths: Sequence[int]) -> tuple[str, ...]:
    """The names in columns of these widths: those that are too long are cut so that no two of them look alike.

    A cut name shows its beginning, or, where others begin alike, what it has from where they differ on.
    """
    made = [name if len(name) <= width else f"{name[: width - 1]}…" for name, width in zip(names, widths, strict=True)]
    for told in {told for told in made if made.count(told) > 1}:
        alike = [at for at, each in enumerate(made) if each == told]
        for at, skipped in zip(alike, _told_apart([names[at] for at in alike]), strict=True):
            made[at] = _from(names[at], skipped, widths[at])
    for at, name in enumerate(names):
        if made.count(made[at]) > 1:  # Any part that nobody else shows.
            parts = (_from(name, begin, widths[at]) for begin in range(len(name)))
            made[at] = next((part for part in parts if part not in made), made[at])
    return tuple(made)


def _told_apart(names: Sequence[str]) -> list[int]:
    """The place in each name at which it differs first from the one of the others that is the most like it."""
    shared = [max((_alike(name, other) for other in names if other != name), default=0) for name in names]
    return [min(same, len(name) - 1) for same, name in zip(shared, names, strict=True)]


def _alike(first: str, second: str) -> int:
    """How many letters two names begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _from(name: str, at: int, width: int) -> str:
    """A name in `width` columns, so that the letter at a place is among them."""
    if len(name) <= width:
        return name
    begin = min(at, len(name) - width + 1)
    return f"…{name[begin:]}" if len(name) - begin < width else f"…{name[begin : begin + width - 2]}…"


def window(widths: Sequence[int], first: int, current: int, room: int) -> tuple[int, int]:
    """Columns from and before which are in sight, where the first was `first` and `current` has to be."""
    first = min(max(first, 0), current)
    while first < current and sum(width + _GAP for width in widths[first : current + 1]) > room:
        first += 1
    last, taken = first, 0
    while last < len(widths) and taken + widths[last] + _GAP <= max(room, widths[first] + _GAP):
        taken += widths[last] + _GAP
        last += 1
    while first > 0 and taken + widths[first - 1] + _GAP <= room:
        first -= 1
        taken += widths[first] + _GAP
    return first, last
