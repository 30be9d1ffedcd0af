"""Numbers and tables as people read them. Plain string work: ten thousand rows take a fraction of a second."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ckptfmt.cli.output import Line, Styled, clean

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
_FIRST_METRICS: Final = ("success", "accuracy", "eval_loss", "val_loss", "loss")
_MOST_METRICS: Final = 3
_LEAST_LAST_COLUMN: Final = 8


def size(count: int) -> str:
    """`count` bytes, in powers of 1000: `512 B`, `14.2 GB`."""
    if abs(count) < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if abs(value) < 999.95 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}"
    raise AssertionError("unreachable")


def ratio(before: int, after: int) -> str:
    """How many times smaller `after` is: `26x`, `1.4x`; empty where there is nothing to compare."""
    if before <= 0 or after <= 0:
        return ""
    times = before / after
    if times >= 1000:
        return ">1000x"
    return f"{times:.0f}x" if times >= 9.95 else f"{times:.1f}x"


def count(number: int, noun: str) -> str:
    """`1 file`, `12 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """`8 s`, `2:05`, `1:02:05`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"


def short(digest: str) -> str:
    """The beginning of a digest, long enough to name it."""
    return digest[:12]


def value(anything: object) -> str:
    """One value of settings or metrics on one line."""
    if isinstance(anything, bool) or anything is None:
        return str(anything).lower() if anything is not None else "null"
    if isinstance(anything, float):
        return f"{anything:.4g}"
    if isinstance(anything, list | tuple):
        return ", ".join(map(value, anything))
    if isinstance(anything, Mapping):
        return "{" + ", ".join(f"{key}: {value(item)}" for key, item in anything.items()) + "}"
    return str(anything)


def metrics(found: Mapping[str, object]) -> str:
    """A few metrics on one line: numbers only, those that say how well it went first."""
    numbers = {
        name: number
        for name, number in _leaves(found)
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
    order = sorted(numbers, key=_metric_rank)
    return ", ".join(f"{name} {value(numbers[name])}" for name in order[:_MOST_METRICS])


def _leaves(found: Mapping[str, object]) -> list[tuple[str, object]]:
    leaves: list[tuple[str, object]] = []
    for name, item in found.items():
        if isinstance(item, Mapping):
            leaves += [(f"{name}.{inner}", each) for inner, each in item.items()]
        else:
            leaves.append((name, item))
    return leaves


def _metric_rank(name: str) -> int:
    return next((rank for rank, word in enumerate(_FIRST_METRICS) if word in name), len(_FIRST_METRICS))


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    width: int | None = None,
    indent: str = "",
) -> list[Line]:
    """Columns under a header, two spaces apart. A column without any content is left out.

    Args:
        header: names of the columns.
        rows: cells, as many in each row as there are columns.
        right: names of columns that are aligned on their right.
        width: columns of the terminal: the last column is cut to fit. None: it is as long as it is.
        indent: goes before every line.
    """
    cleaned = [[clean(cell) for cell in row] for row in rows]
    kept = [index for index in range(len(header)) if any(row[index] for row in cleaned)]
    if not kept:
        return []
    widths = [max(len(header[index]), *(len(row[index]) for row in cleaned)) for index in kept]
    if width is not None:
        room = width - len(indent) - sum(widths[:-1]) - 2 * (len(kept) - 1)
        if room < widths[-1] and len(kept) > 1:
            widths[-1] = max(room, _LEAST_LAST_COLUMN)
    cells = [
        f"{{:{'>' if header[index] in right else '<'}{each}.{each}}}" for index, each in zip(kept, widths, strict=True)
    ]
    form = indent + "  ".join(cells)
    lines: list[Line] = [Styled(form.format(*(header[index] for index in kept)).rstrip(), "bold")]
    lines += [form.format(*(row[index] for index in kept)).rstrip() for row in cleaned]
    return lines


def facts(pairs: Sequence[tuple[str, str]]) -> list[Line]:
    """`name  value` lines, aligned; pairs without a value are left out."""
    told = [(name, told) for name, told in pairs if told]
    column = max((len(name) for name, _ in told), default=0)
    return [f"{name:<{column}}  {told}" for name, told in told]
