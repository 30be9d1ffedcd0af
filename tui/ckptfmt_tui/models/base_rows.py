"""Bases as rows: where they are, whether they are there, what is bound to them, what a look at them found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.api.base_places import BaseLook, BasePlace
from ckptfmt.api.results import BaseReport, BaseVerified, RefRow
from ckptfmt.wording import count, short, size
from ckptfmt_tui.models import filters
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Said, Tone, some

COLUMNS: Final = (
    Column("name", "NAME", 16, 0, grows=True),
    Column("held", "HELD", 10, 0),
    Column("there", "FILES ARE", 10, 0),
    Column("size", "SIZE", 9, 1, "right"),
    Column("bound", "BOUND", 5, 1, "right"),
    Column("looked", "LOOKED AT", 13, 2),
    Column("seen", "LAST SEEN", 22, 3, grows=True),
    Column("root", "ROOT", 12, 5),
    Column("files", "FILES", 5, 7, "right"),
    Column("tensors", "TENSORS", 7, 6, "right"),
    Column("repo", "REPOSITORY", 20, 4, grows=True),
)
_MOST_NAMED: Final = 200


@dataclass(frozen=True, slots=True)
class BaseRow:
    """A base, the checkpoints that are bound to it, and those that cannot be restored without its files."""

    look: BaseLook
    bound: tuple[str, ...]
    needing: tuple[str, ...]

    @property
    def report(self) -> BaseReport:
        """The base as it was recorded."""
        return self.look.base

    @property
    def name(self) -> str:
        """What it is called."""
        return self.look.base.name

    @property
    def there(self) -> str:
        """How its files outside of the store stand, in a word."""
        if self.look.is_whole:
            return "there"
        if not self.look.places:
            return "never seen"
        return "incomplete" if any(place.is_there for place in self.look.places) else "gone"

    @property
    def tone(self) -> Tone:
        """How bad that is: nothing, where the store holds all of it."""
        if self.look.is_whole:
            return "good"
        return "dim" if self.report.kept else "bad"

    def cells(self, looked: str) -> dict[str, str]:
        """What stands under each of `COLUMNS`; `looked` is what the last look came to."""
        report = self.report
        return {
            "name": report.name,
            "held": "copy" if report.kept else "reference",
            "there": self.there,
            "size": size(report.bytes),
            "bound": str(len(self.bound)),
            "looked": looked,
            "seen": self.look.places[0].path if self.look.places else "",
            "root": short(report.root),
            "files": f"{report.files:,}",
            "tensors": f"{report.tensors:,}",
            "repo": repository(report),
        }

    def details(self) -> tuple[Said, ...]:
        """All there is to say about it."""
        report = self.report
        held = "the store holds all of it" if report.kept else "its bytes lie only outside of the store"
        lines = [
            Said(
                f"{report.name}: {count(report.files, 'file')}, {count(report.tensors, 'tensor')}, "
                f"{size(report.bytes)}; {held}",
                "bold",
            ),
            *(_place_line(place, kept=report.kept) for place in self.look.places),
            Said(f"record {report.record}"),
            Said(f"root   {report.root}"),
        ]
        if not self.look.places:
            lines.insert(1, Said("never seen on this host", "warn"))
        if report.repo:
            lines.append(Said(f"from   {repository(report)}"))
        if self.needing:
            lost = "cannot be restored now" if not self.look.is_whole else "cannot be restored without its files"
            lines.append(Said(f"{lost}: {some(self.needing, 8)}", "warn" if self.look.is_whole else "bad"))
        lines.append(Said(f"bound to it: {some(self.bound, 12)}" if self.bound else "no checkpoint is bound to it"))
        return tuple(lines)


def repository(report: BaseReport) -> str:
    """`repo@revision`; empty for a base that comes from none."""
    return f"{report.repo}@{report.revision}" if report.repo and report.revision else report.repo or ""


def _place_line(place: BasePlace, *, kept: bool) -> Said:
    if not place.is_there:
        return Said(f"seen in {place.path}: gone", "dim" if kept else "bad")
    if place.missing:
        return Said(f"seen in {place.path}: missing or of another size: {some(place.missing)}", "warn")
    return Said(f"seen in {place.path}: there", "good")


def rows_of(looks: Iterable[BaseLook], refs: Sequence[RefRow]) -> tuple[BaseRow, ...]:
    """Bases with what is bound to them, by the name that it was bound by."""
    return tuple(
        BaseRow(
            look,
            tuple(row.ref for row in refs if row.base == look.base.name),
            tuple(row.ref for row in refs if row.needs_base and row.needs_base.record == look.base.record),
        )
        for look in looks
    )


def fitting(rows: Sequence[BaseRow], words: str) -> Sequence[BaseRow]:
    """Bases in which every word of `words` stands, small letters as capitals; also in what is bound to them."""
    return filters.fitting(
        rows, words, lambda row: " ".join((*row.cells("").values(), row.report.record, row.report.root, *row.bound))
    )


def looked(verified: BaseVerified) -> tuple[str, Tone]:
    """What a look at a base came to, in a word or two."""
    if not verified.ok:
        return "DIFFERS", "bad"
    return ("unchanged" if verified.how == "cached" else "read: same"), "good"


def verified_lines(verified: BaseVerified, *, most: int = _MOST_NAMED) -> tuple[Said, ...]:
    """Whether a base's files are those that were recorded, and how that is known; what differs, a line each."""
    cached = "not read again: sizes and times are as at the last look"
    how = cached if verified.how == "cached" else "every file read"
    if verified.how == "read" and verified.published:
        how += f", {count(verified.published, 'file')} as the Hub publishes"
    if verified.ok:
        return (Said(f"base {verified.name!r} in {verified.path} is what was recorded ({how})", "good"),)
    lines = [Said(f"base {verified.name!r} in {verified.path} is NOT what was recorded ({how})", "bad")]
    lines += [Said(f"  differs: {name}", "bad") for name in verified.mismatched[:most]]
    if len(verified.mismatched) > most:
        lines.append(Said(f"  and {len(verified.mismatched) - most} more", "bad"))
    return tuple(lines)
