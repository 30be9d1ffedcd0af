"""A look at a tensor as text: figures, bars, whereabouts."""

from __future__ import annotations

import math
from functools import partial
from typing import Final

from rich.text import Text

from ckptfmt.api.results_tensor import Copy, Figures, Holder, TensorLook
from ckptfmt.wording import clean, count, ratio, short, size
from ckptfmt_tui.models.bars import bar
from ckptfmt_tui.models.texts import fact

_WIDTH: Final = 11
_SECOND: Final = 22
_DIGEST: Final = 64
_MOST_HOLDERS: Final = 40
_fact = partial(fact, width=_WIDTH)


def number(value: float | int | None) -> str:
    """A figure, with as many digits as tell something."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def figures_text(look: TensorLook) -> Text:
    """Extremes, moments, and how many are none: two facts a line."""
    text = Text()
    found = look.figures
    if found is None:
        text.append(f"{clean(look.unread or 'its elements were not read')}\n", style="yellow")
        return text
    if not found.counted:
        text.append("it has no elements\n", style="dim")
        return text
    infinite = found.positive_infinities + found.negative_infinities
    share = f" ({found.zeros / found.counted:.1%})" if found.zeros else ""
    signs = f" ({found.positive_infinities:,} +, {found.negative_infinities:,} -)" if infinite else ""
    alarm = "bold red"
    facts = [
        ("parts" if look.dtype.startswith("C") else "elements", f"{found.counted:,}", ""),
        ("zeros", f"{found.zeros:,}{share}", ""),
        ("lowest", number(found.least), ""),
        ("highest", number(found.most), ""),
        ("mean", number(found.mean), ""),
        ("deviation", number(found.deviation), ""),
        ("norm", number(found.norm), ""),
        ("NaN", f"{found.nans:,}", alarm if found.nans else ""),
        ("infinite", f"{infinite:,}{signs}", alarm if infinite else ""),
    ]
    for at, (name, told, style) in enumerate(facts):
        text.append(f"{name:<{_WIDTH}}", style="dim")
        text.append(f"{told:<{_SECOND}}" if at % 2 == 0 else told, style=style)
        if at % 2 or at == len(facts) - 1:
            text.append("\n")
    if look.dtype.startswith("C"):
        text.append("real and imaginary parts are counted as numbers of their own\n", style="dim")
    return text


def fewer(found: Figures, most: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The histogram with at most so many bins, neighbours joined."""
    each = -(-len(found.counts) // max(most, 1))
    counts = tuple(sum(found.counts[at : at + each]) for at in range(0, len(found.counts), each))
    return (*found.edges[:-1:each], found.edges[-1]), counts


def histogram_text(found: Figures, room: int, lines: int, *, logarithmic: bool) -> Text:
    """A bar for each bin: where it begins, the bar, how many.

    Args:
        found: with a histogram.
        room: columns.
        lines: how many bars at most.
        logarithmic: lengths by the logarithm of the counts.
    """
    edges, counts = fewer(found, lines)
    heights = [math.log1p(each) if logarithmic else float(each) for each in counts]
    most = max(heights, default=0.0)
    labels = _labels(edges)
    wide = max(*map(len, labels), 4)
    digits = max(*(len(f"{each:,}") for each in counts), 8)
    columns = max(room - wide - digits - 3, 4)
    text = Text()
    title = "logarithm of how many" if logarithmic else "how many"
    text.append(f"{'from':>{wide}} {title:<{columns}}\n", style="dim")
    for index, each in enumerate(counts):
        low, high = edges[index], edges[index + 1]
        text.append(f"{labels[index]:>{wide}} ", style="bold" if low <= 0 < high else "dim")
        text.append(bar(heights[index], most, columns), style="cyan")
        text.append(f" {each:>{digits},}\n", style="" if each else "dim")
    text.append(f"{labels[-1]:>{wide}}\n", style="dim")
    return text


def _labels(edges: tuple[float, ...]) -> list[str]:
    """Edges with as many decimals as tell neighbours apart; very large and very small ones with an exponent."""
    apart = (edges[-1] - edges[0]) / max(len(edges) - 1, 1)
    largest = max(map(abs, edges))
    if not apart or not 1e-5 <= largest < 1e9:
        return [f"{edge:.4g}" for edge in edges]
    decimals = min(max(1 - math.floor(math.log10(apart)), 0), 12)
    if apart == int(apart) and all(edge == int(edge) for edge in edges):
        decimals = 0
    return [f"{edge:.{decimals}f}" for edge in edges]


def whereabouts_text(look: TensorLook, room: int) -> Text:
    """The object, every copy of it, what these are stored against, and who else needs it, in `room` columns."""
    text = Text()
    text.append("Its bytes\n", style="bold")
    _fact(text, "size", size(look.size_bytes))
    _fact(text, "file", f"{look.file}" + (f" as {look.key}" if look.key != look.name else ""))
    _fact(text, "object", look.object if room >= _DIGEST + _WIDTH else f"{look.object[:24]}…")
    whole = (
        "all of it" if look.offset == 0 and look.object_bytes == look.size_bytes else f"from byte {look.offset:,} of"
    )
    _fact(text, "holds", f"{whole}{'' if whole == 'all of it' else ' ' + size(look.object_bytes)}")
    if look.outside is not None:
        text.append(f"\nIn the files of base {clean(look.outside.base)}\n", style="bold")
        _fact(text, "file", look.outside.path)
        _fact(text, "byte", f"{look.outside.offset:,}")
        if not look.outside.there:
            _fact(text, "", "its files are not where they were last seen", style="yellow")
    if not look.copies and look.outside is None:
        text.append("\nno copy of it is in the store\n", style="bold red")
    for index, copy in enumerate(look.copies, 1):
        _copy_text(text, index, copy, look, room)
    if not look.holding:
        text.append("\nno other tensor or file is made of this object\n", style="dim")
    else:
        text.append(f"\nNeeded by {count(look.holding, 'other')} too\n", style="bold")
    for holder in look.holders[:_MOST_HOLDERS]:
        text.append(f"{_holder(holder, look)}\n")
    if look.holding > _MOST_HOLDERS:
        text.append(f"and {look.holding - _MOST_HOLDERS:,} more\n", style="dim")
    return text


def _copy_text(text: Text, index: int, copy: Copy, look: TensorLook, room: int) -> None:
    copies = len(look.copies)
    text.append(f"\nCopy {index} of {copies}\n" if copies > 1 else "\nIts copy in the store\n", style="bold")
    name = copy.shard.rpartition("/")[2].partition(".")[0]
    _fact(text, "shard", name if room >= _DIGEST + _WIDTH else f"{name[:24]}…")
    _fact(text, "byte", f"{copy.begin:,}")
    times = ratio(look.object_bytes, copy.stored_bytes)
    _fact(text, "stored", f"{size(copy.stored_bytes)}{f', {times} smaller' if times else ''}")
    _fact(text, "encoding", copy.encoding + (f" of {copy.element}" if copy.element else ""))
    _fact(text, "reference", copy.reference)
    for each in copy.against:
        holder = f"{_holder(each.holder, look)}" if each.holder else "nobody who stands"
        _fact(text, "against", f"{short(each.digest)}  {holder}")
    if copy.dependencies > len(copy.against):
        _fact(text, "", f"and {copy.dependencies - len(copy.against):,} more objects")


def _holder(holder: Holder, look: TensorLook) -> str:
    if holder.tensor is None:
        return f"{clean(holder.ref)}: a file"
    return clean(holder.ref) if holder.tensor == look.name else f"{clean(holder.ref)}: {clean(holder.tensor)}"
