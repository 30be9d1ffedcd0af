"""What the store's page says beside its tree: the whole store on one line, a run, a checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from ckptfmt.api.overview import Overview
from ckptfmt.api.results import RefRow
from ckptfmt.api.sharing import Sharing
from ckptfmt.wording import clean, count, ratio, short, size, value
from ckptfmt_tui.models.bars import bar
from ckptfmt_tui.models.columns import cut_left
from ckptfmt_tui.models.runs import Branch
from ckptfmt_tui.models.settings import numbers_of
from ckptfmt_tui.models.texts import fact

_WIDTH: Final = 13
_BAR: Final = 5
_NAME: Final = 25
_MOST_SHARERS: Final = 12
_MOST_METRICS: Final = 12
_fact = partial(fact, width=_WIDTH)


def summary_text(found: Overview) -> Text:
    """The store on one line: how many, how large as files, what deduplication and what encodings save."""
    text = Text()
    text.append(count(found.checkpoints, "checkpoint"), style="bold")
    text.append(f"  {size(found.logical_bytes)} in {size(found.stored_bytes)}")
    times = ratio(found.logical_bytes, found.stored_bytes)
    if times:
        text.append(f"  {times} smaller", style="bold green")
    shared = ratio(found.logical_bytes, found.distinct_bytes)
    if shared:
        text.append(f"  shared {shared}, encoded {ratio(found.distinct_bytes, found.stored_bytes)}", style="green")
    text.append(f"  {count(found.bases, 'base')}", style="dim")
    for name, stored in sorted(found.by_encoding.items(), key=lambda item: -item[1].logical_bytes):
        text.append(f"  {name} {ratio(stored.logical_bytes, stored.stored_bytes)}", style="dim")
    return text


def branch_text(branch: Branch) -> Text:
    """A run."""
    text = Text()
    text.append(f"{clean(branch.path)}\n", style="bold")
    _fact(text, "checkpoints", f"{branch.refs:,}")
    _fact(text, "newest", branch.newest)
    _fact(text, "as files", size(branch.logical_bytes))
    _fact(text, "only one's", size(branch.exclusive_bytes))
    text.append(
        "\nwhat only one checkpoint needs, each by itself; what they share among them comes on top\n", style="dim"
    )
    return text


def ref_text(row: RefRow, sharing: Sharing | None) -> Text:
    """A checkpoint, and with whom it shares; that is asked for later, and None until then."""
    text = Text()
    text.append(f"{clean(row.ref)}", style="bold")
    text.append(f"@{row.generation}\n", style="dim")
    _fact(text, "manifest", short(row.manifest))
    _fact(text, "layout", row.layout)
    _fact(text, "created", row.created)
    _fact(text, "pinned", "not pruned, not dropped" if row.pinned else "", style="green")
    _fact(text, "labels", ", ".join(row.labels), style="magenta")
    _fact(text, "stage", "" if row.stage is None else str(row.stage))
    _fact(text, "parent", _parent(row))
    _fact(text, "step", "" if row.step is None else f"{row.step:,}")
    _fact(text, "base", row.base or "none is bound", style="" if row.base else "yellow")
    _fact(text, "binding", row.binding if row.base else "", style="" if row.binding != "none" else "red")
    if row.needs_base is not None:
        where = row.needs_base.last_seen or "never seen on this host"
        _fact(text, "needs", f"the files of {row.needs_base.name}: {where}", style="yellow")
    text.append("\n")
    _fact(text, "as files", size(row.logical_bytes))
    _fact(text, "stored", _stored(row))
    _fact(text, "only its own", size(row.exclusive_bytes))
    _sharing_text(text, row, sharing)
    told = list(numbers_of(row.metrics))
    if told:
        text.append("\nMetrics\n", style="bold")
    for name, number in told[:_MOST_METRICS]:
        text.append(f"{clean(name):<{_WIDTH}} ", style="dim")
        text.append(f"{value(number)}\n")
    if len(told) > _MOST_METRICS:
        text.append(f"and {len(told) - _MOST_METRICS} more\n", style="dim")
    return text


def damaged_text(ref: str, why: str) -> Text:
    """A ref that cannot be read, and what may help."""
    text = Text()
    text.append(f"{clean(ref)}\n", style="bold red")
    text.append(f"cannot be read: {clean(why)}\n\n")
    text.append("The page Verify looks for what is damaged; u returns to an earlier generation.\n", style="dim")
    return text


def _parent(row: RefRow) -> str:
    if row.parent is None:
        return ""
    known = "/" in row.parent or not _is_digest(row.parent)
    return row.parent if known else f"{short(row.parent)}, which no ref stands for"


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def _stored(row: RefRow) -> str:
    times = ratio(row.logical_bytes, row.stored_bytes)
    return size(row.stored_bytes) + (f", {times} smaller" if times else "")


def _sharing_text(text: Text, row: RefRow, sharing: Sharing | None) -> None:
    shared = max(row.stored_bytes - row.exclusive_bytes, 0)
    _fact(text, "shared", size(shared))
    if not shared:
        return
    text.append("\nShared with\n", style="bold")
    if sharing is None:
        text.append("…\n", style="dim")
        return
    for ref in sharing.same:
        text.append(f"{clean(ref)}: the very same\n")
    for sharer in sharing.sharers[:_MOST_SHARERS]:
        text.append(bar(sharer.bytes, row.stored_bytes, _BAR), style="cyan")
        text.append(f" {size(sharer.bytes):>9} ")
        text.append(f"{cut_left(clean(sharer.ref), _NAME)}\n")
    if len(sharing.sharers) > _MOST_SHARERS:
        text.append(f"and {len(sharing.sharers) - _MOST_SHARERS:,} more\n", style="dim")
    if sharing.looked_at < sharing.refs:
        text.append(f"the nearest {sharing.looked_at:,} of {sharing.refs:,} were looked at\n", style="dim")
    elif not sharing.sharers and not sharing.same:
        text.append("earlier generations only\n", style="dim")
