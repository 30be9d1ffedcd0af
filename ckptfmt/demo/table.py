"""The one table of the demonstration."""

from __future__ import annotations

import shlex
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ckptfmt.demo.report import DemoReport

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """`count` bytes for people: three digits at least, in powers of 1000."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"


def ratio(before: int, after: int) -> str:
    """How many times smaller; '-' where nothing was written."""
    return f"{before / after:.1f} x" if after else "-"


def render(report: DemoReport) -> RenderableType:
    """The table, what it means, and what to try next."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("checkpoint")
    table.add_column("ref", overflow="fold")
    for heading in ("on disk", "in store", "ratio", "back"):
        table.add_column(heading, justify="right")
    base = (size(report.base_bytes), size(report.base_new_bytes), ratio(report.base_bytes, report.base_new_bytes))
    table.add_row("base", f"bases/{report.base}", *base, "")
    for row in report.rows:
        back = f"{row.files_same} of {row.files}"
        style = "" if row.files_same == row.files else "bold red"
        cells = (row.kind, row.ref, size(row.disk_bytes), size(row.new_bytes), ratio(row.disk_bytes, row.new_bytes))
        table.add_row(*cells, Text(back, style=style))
    table.add_section()
    total = (size(report.disk_bytes), size(report.store_bytes), ratio(report.disk_bytes, report.store_bytes))
    table.add_row("all of it", "", *total, f"{report.files_same} of {report.files}", style="bold")
    return Group(table, "", *_sentences(report))


def _exports(report: DemoReport) -> list[Text]:
    rows = [row for row in report.rows if row.merged]
    if not rows:
        return []
    before, after = sum(row.disk_bytes for row in rows), sum(row.new_bytes for row in rows)
    told = f"The {len(rows)} merged models, {size(before)}, take {size(after)} beside the base and the adapters"
    return [Text(f"{told} that were merged.")]


def _cleaned(report: DemoReport) -> list[Text]:
    cleanup = report.cleanup
    if cleanup is None or not cleanup.ok:
        return []
    told = (
        f"Cleaning up took the originals from {size(cleanup.before_bytes)} to {size(cleanup.left_bytes)}: "
        f"{cleanup.files} files, each rebuilt from the store and compared first. Its undo brought all of them back."
    )
    return [Text(told, style="green")]


def _sentences(report: DemoReport) -> list[Text]:
    if report.ok:
        verdict = Text(
            f"Every file came back with its SHA-256; all {report.objects} objects decode to their digests.",
            style="green",
        )
    else:
        lost = [name for row in report.rows for name in row.differing]
        verdict = Text(f"NOT everything came back: {', '.join(lost) or 'damaged objects'}", style="bold red")
    following = (
        ("ls", "what is there"),
        ("show merged/stage-3", "what one is made of"),
        ("log merged/stage-3", "where it came from"),
        ("restore merged/stage-3 ./stage-3", "get it back"),
        ("merge stages/stage-3 ./merged", "base and adapters, one model"),
        (f"scan {shlex.quote(report.path)}", "what on disk is redundant"),
    )
    merged = []
    if report.merge is not None and report.merge.same_bits:
        merged = [
            Text(
                f"The {report.merge.stages} stages, merged in one pass, have the very bits of what PEFT saved; a base "
                "with one changed bit was refused.",
                style="green",
            )
        ]
    lines = [
        *_exports(report),
        *merged,
        *_cleaned(report),
        Text(f"It took {report.seconds:.0f} s. The originals are in {report.path}"),
        Text("What to try next:"),
        Text.assemble("  ", (f"export CKPTFMT_STORE={shlex.quote(report.store)}", "cyan")),
        *(Text.assemble("  ", (f"ckptfmt {command:<36}", "cyan"), f"# {why}") for command, why in following),
    ]
    return [verdict, *lines]
