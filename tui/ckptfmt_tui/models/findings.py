"""What verify and fsck found, and names that cannot be read: whom each harms, what to try. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.api.repairing import FsckProblem, FsckReport
from ckptfmt.api.results import Damage, RefRow, VerifyReport
from ckptfmt.wording import count, duration, short, size
from ckptfmt_tui.models import filters
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Said, Tone, some

FOUND_COLUMNS: Final = (
    Column("level", "", 7, 0),
    Column("what", "WHAT", 22, 0, grows=True),
    Column("problem", "PROBLEM", 24, 1, grows=True),
    Column("harms", "HARMS", 20, 0, grows=True),
)
CHECKPOINT_COLUMNS: Final = (
    Column("name", "CHECKPOINT", 30, 0, grows=True),
    Column("state", "LAST LOOK", 14, 0),
    Column("logical", "DECODED", 9, 1, "right"),
    Column("base", "BASE", 16, 2),
)
BASES: Final = "bases/"
REPAIR: Final = ("fsck", "--full", "--repair")
"""The words of the command line that repairs what can be known for sure."""
_EVERYTHING: Final = (
    "Decoded: what checkpoints need and what is stored of bases. Not looked at: earlier generations, the structure (f)."
)
_SOME: Final = "Decoded: all of {}. Not looked at: all others (a), the structure (f)."
_STRUCTURE: Final = (
    "Read: names, documents, headers of shards, and whether what is needed is there. Not decoded: stored bytes (F, a)."
)
_FULL: Final = "Read: names, documents, every stored byte, and what is needed of files of bases. Nothing was repaired."
_TONES: Final[dict[str, Tone]] = {"damage": "bad", "problem": "warn", "note": "dim"}
_DIGEST_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is damaged, missing, or worth a note.

    Attributes:
        level: `damage`, `problem` or `note`.
        what: the object, the file or the name, shortened where it is a digest.
        whole: the same in full.
        problem: what is wrong with it.
        harms: checkpoints, and bases as `bases/NAME`.
        hint: what to try.
    """

    level: str
    what: str
    whole: str
    problem: str
    harms: tuple[str, ...]
    hint: str | None

    @property
    def tone(self) -> Tone:
        """How bad it is."""
        return _TONES[self.level]

    def cells(self) -> dict[str, str]:
        """What stands under each of `FOUND_COLUMNS`."""
        harms = ", ".join(self.harms) or "nobody"
        return {"level": self.level, "what": self.what, "problem": self.problem, "harms": harms}

    def details(self) -> tuple[Said, ...]:
        """All there is to say about it, whom it harms a line each."""
        checkpoints = [name for name in self.harms if not name.startswith(BASES)]
        bases = [name.removeprefix(BASES) for name in self.harms if name.startswith(BASES)]
        lines = [Said(self.whole, self.tone), Said(self.problem)]
        if not self.harms:
            lines.append(Said("harms nobody", "dim"))
        lines += [Said(f"harms checkpoint {name}") for name in checkpoints]
        lines += [Said(f"harms base {name}") for name in bases]
        if self.hint:
            lines.append(Said(f"hint: {self.hint}", "warn"))
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look came to: a few lines, its findings, and what is said where it found nothing."""

    lines: tuple[Said, ...]
    findings: tuple[Finding, ...] = ()
    empty: str = "nothing is damaged"


def verified(report: VerifyReport, seconds: float, *, refs: int = 0) -> Checked:
    """What was decoded and compared, and what was not: of so many checkpoints; 0: of all, and of bases."""
    looked = f"{count(report.objects, 'object')}, {size(report.bytes)} decoded in {duration(seconds)}"
    scope = Said(_SOME.format(count(refs, "checkpoint")) if refs else _EVERYTHING, "dim")
    if not report.damaged:
        empty = "nothing is damaged in what was decoded" if refs else "nothing is damaged"
        return Checked((Said(f"{looked}: all sound", "good"), scope), empty=empty)
    findings = tuple(map(_damaged, report.damaged))
    lines = Said(f"{looked}: {len(findings)} damaged", "bad"), Said(_harmed(findings), "warn"), scope
    return Checked(lines, findings)


def checked(report: FsckReport, seconds: float) -> Checked:
    """What a look at the structure found, the worst first, and what it did not look at."""
    scope = Said(_FULL if report.full else _STRUCTURE, "dim")
    empty = "nothing is damaged" if report.full else "nothing is wrong with the structure"
    looked = (
        f"{count(report.refs, 'name')}, {count(report.documents, 'document')}, {count(report.shards, 'shard')}, "
        f"{count(report.objects, 'object')} in {duration(seconds)}"
    )
    findings = tuple(map(_problem, (*report.problems, *report.notes)))
    notes = count(len(report.notes), "note")
    if not report.problems:
        said = f"{looked}: no problems" + (f", {notes}" if report.notes else "")
        return Checked((Said(said, "good"), scope), findings, empty)
    told = count(len(report.problems), "problem") + (f", {notes}" if report.notes else "")
    return Checked((Said(f"{looked}: {told}", "bad"), Said(_harmed(findings), "warn"), scope), findings)


def unreadable(damaged: Iterable[tuple[str, str]], rows: Sequence[RefRow]) -> tuple[Finding, ...]:
    """Names that cannot be read: a base harms those that are bound to it, too."""
    findings = []
    for name, why in damaged:
        base = name.removeprefix(BASES) if name.startswith(BASES) else None
        bound = tuple(row.ref for row in rows if base is not None and row.base == base)
        hint = f"ckptfmt {shlex.join(REPAIR)}"
        findings.append(Finding("damage", name, f"{name} cannot be read", why, (name, *bound), hint))
    return tuple(findings)


def _damaged(damage: Damage) -> Finding:
    is_digest = len(damage.object) == _DIGEST_LENGTH
    what = f"object {short(damage.object)}" if is_digest else damage.object
    whole = f"object {damage.object}" if is_digest else damage.object
    return Finding("damage", what, whole, damage.problem, damage.checkpoints, f"ckptfmt {shlex.join(REPAIR)}")


def _problem(each: FsckProblem) -> Finding:
    whole = f"{each.kind}: {each.path}"
    return Finding(each.level, whole, whole, each.message, each.harms, each.hint)


def _harmed(findings: Sequence[Finding]) -> str:
    harmed = sorted({name for finding in findings if finding.level != "note" for name in finding.harms})
    bases = sum(name.startswith(BASES) for name in harmed)
    if not harmed:
        return "harms nobody"
    counted = [count(len(harmed) - bases, "checkpoint")] if len(harmed) > bases else []
    counted += [count(bases, "base")] if bases else []
    return f"{' and '.join(counted)} harmed: {some(harmed, 2)}"


def fitting(findings: Sequence[Finding], words: str) -> Sequence[Finding]:
    """Findings in which every word of `words` stands, small letters as capitals."""
    return filters.fitting(
        findings, words, lambda each: " ".join((*each.cells().values(), each.whole, each.hint or ""))
    )


def command_of_hint(hint: str | None) -> tuple[str, ...]:
    """The words of the command line that a hint is, without `ckptfmt`; of one that says more than that, none."""
    if hint is None or not hint.startswith("ckptfmt "):
        return ()
    try:
        words = tuple(shlex.split(hint)[1:])
    except ValueError:  # An apostrophe of a sentence.
        return ()
    return () if any(word.endswith((";", ",")) for word in words) else words


def states_after(before: Mapping[str, str], names: Iterable[str], report: VerifyReport) -> dict[str, str]:
    """What the last look at each checkpoint came to, after one more look at `names`."""
    harmed = {name for damage in report.damaged for name in damage.checkpoints}
    return {**before, **{name: "damaged" if name in harmed else "sound" for name in names}}
