"""Numbers and names as people read them, on every front end. Plain string work, without a dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_CONTROLS: Final = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)
"""C0, C1, and what breaks lines or turns the direction of text around."""

_SHOWN: Final = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
_FIRST_METRICS: Final = ("success", "accuracy", "eval_loss", "val_loss", "loss")
_MOST_METRICS: Final = 3
_VOWELS: Final = tuple("aeiou")


def clean(text: str) -> str:
    """`text` with control characters made visible."""
    return text if text.isprintable() else text.translate(_SHOWN)


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
    """`1 file`, `12 files`, `2 copies`."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in _VOWELS else f"{noun}s"
    return f"{number:,} {plural}"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are: `a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


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


def shape_words(shape: Sequence[int]) -> str:
    """`4096x11008`; a tensor without dimensions is `scalar`."""
    return "x".join(map(str, shape)) or "scalar"


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
