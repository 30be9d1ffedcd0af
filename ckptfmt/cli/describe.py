"""The words that several verbs use of a checkpoint: its base, its ratio, what it cannot do without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ckptfmt.cli.output import Line
from ckptfmt.cli.text import table
from ckptfmt.wording import ratio, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptfmt.api.results import CheckpointReport, NeedsBase, RefRow, Stored

BASE_NEEDED: Final = "*"
"""Stands behind a base without whose files a checkpoint cannot be restored."""


def base_of(row: CheckpointReport | RefRow) -> str:
    """A checkpoint's base in a column: its name, how it is known, and whether it is needed."""
    if row.base is None:
        return f"needs {row.needs_base.name} {BASE_NEEDED}" if row.needs_base else ""
    mark = f" {BASE_NEEDED}" if row.needs_base else ""
    return f"{row.base} ({row.binding}){mark}"


def needs(base: NeedsBase) -> str:
    """What a checkpoint needs that the store does not hold, and how to change that."""
    seen = f"last seen in {base.last_seen}" if base.last_seen else "never seen on this host"
    others = "".join(f", and those of base {name!r} ('ckptfmt base keep {name}')" for name in base.others)
    return f"the files of base {base.name!r}, {seen}; 'ckptfmt base keep {base.name}' copies them in{others}"


def legend(bases: Iterable[NeedsBase | None]) -> list[Line]:
    """What `BASE_NEEDED` means, one line for each base that is needed."""
    return [f"{BASE_NEEDED} needs {line}" for line in dict.fromkeys(needs(base) for base in bases if base)]


def shrunk(logical_bytes: int, stored_bytes: int) -> str:
    """`14.2 GB -> 160.1 MB, 89x`."""
    times = ratio(logical_bytes, stored_bytes)
    return f"{size(logical_bytes)} -> {size(stored_bytes)}" + (f", {times}" if times else "")


def encoding_table(encodings: Mapping[str, Stored], *, indent: str = "") -> list[Line]:
    """How objects are stored, one row an encoding."""
    rows = [
        (
            name,
            f"{stored.objects:,}",
            size(stored.logical_bytes),
            size(stored.stored_bytes),
            ratio(stored.logical_bytes, stored.stored_bytes),
        )
        for name, stored in encodings.items()
    ]
    header = ("ENCODING", "OBJECTS", "LOGICAL", "STORED", "RATIO")
    return table(header, rows, right=header[1:], indent=indent)
