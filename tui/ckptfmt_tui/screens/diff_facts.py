"""What the page of a comparison says beside its tables."""

from __future__ import annotations

from rich.text import Text

from ckptfmt.api.diff_words import number
from ckptfmt.api.results_diff import DiffReport, DiffSide
from ckptfmt.wording import clean, count, short, size
from ckptfmt_tui.models import diffs
from ckptfmt_tui.models.heat import Scale, colour, shade


def side_words(side: DiffSide) -> str:
    """What A or B is, in a line."""
    known = [
        side.layout if side.kind != "base" else "base",
        f"base {side.base} ({side.binding})" if side.base else "",
        "" if side.stage is None else f"stage {side.stage}",
        "" if side.step is None else f"step {side.step:,}",
        size(side.logical_bytes),
        short(side.manifest),
    ]
    return ", ".join(each for each in known if each)


def summary_text(report: DiffReport) -> Text:
    """What the comparison came to: how large the change is, how A and B belong together, notes."""
    found, text = report.summary, Text()
    if found.identical:
        text.append("no differences", "bold green")
    elif found.relative_norm is not None:
        text.append(f"change {number(found.relative_norm)}", "bold")
    base = {True: f"the same base {report.a.base}", False: "different bases", None: ""}[found.same_base]
    facts = [
        found.lineage or "",
        base,
        f"{size(found.read_bytes)} read" if found.read_bytes else "",
        f"{count(found.retyped, 'tensor')} of another dtype in B" if found.retyped else "",
    ]
    for fact in facts:
        if fact:
            text.append(f"{'   ' if text else ''}{clean(fact)}", "yellow" if fact == "different bases" else "dim")
    for said in found.notes:
        text.append(f"{chr(10) if text else ''}{clean(said)}", "yellow")
    return text


def empty_words(found: dict[diffs.Kind, int], kinds: frozenset[diffs.Kind]) -> str:
    """Why a part shows nothing: there is none, its kinds are hidden, or the filter fits none."""
    if not any(found.values()):
        return "there are none"
    hidden = [f"{number:,} {kind} (key {diffs.MARKS[kind]})" for kind, number in found.items() if number]
    return f"hidden: {', '.join(hidden)}" if not any(found[kind] for kind in kinds) else "nothing fits the filter"


def legend_text(scale: Scale, *, dark: bool, coloured: bool) -> Text:
    """The scale of the heat map."""
    text = Text(f"{number(scale.low)} ")
    for at in range(8):
        red, green, blue = colour(at / 7, dark=dark)
        text.append("█" if coloured else shade(at / 7), f"rgb({red},{green},{blue})" if coloured else "")
    text.append(f" {number(scale.high)}")
    return text.append(" by factors" if scale.is_logarithmic else "")
