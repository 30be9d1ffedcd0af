"""What can be wrong with a store, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

Level = Literal["damage", "problem", "note"]
"""Damage is content that cannot be trusted or is gone; a note costs nobody anything."""

LEVELS: Final[dict[str, Level]] = {
    # The store's own document
    "store-document": "damage",
    # Shards and objects
    "shard-header": "damage",
    "shard-length": "damage",
    "object-damaged": "damage",
    "objects-missing": "damage",
    "dependencies": "damage",
    "base-files": "damage",
    "trashed": "problem",
    # Documents
    "manifest-damaged": "damage",
    "manifest-missing": "damage",
    "lineage": "damage",
    "record-damaged": "damage",
    "record-missing": "damage",
    "unnamed": "note",
    # Refs, receipts
    "generation-damaged": "damage",
    "generation-gone": "problem",
    "receipt-damaged": "damage",
    "names-fold": "note",
    "history": "note",
    "earlier-incomplete": "note",
    # What writers leave
    "pin-damaged": "problem",
    "pin-left": "note",
    "unfinished": "note",
    "set-aside": "note",
    "stray": "note",
    # Indexes
    "catalog": "problem",
}
"""Every kind of finding, and how bad it is."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        kind: a key of `LEVELS`.
        path: the file it lies in, by its key in the store.
        message: what is wrong, one sentence.
        harms: the checkpoints (and bases, as `bases/NAME`) that it harms.
        hint: what to do about it.
        object: the object it is about, if it is about one.
    """

    kind: str
    path: str
    message: str
    harms: tuple[str, ...] = ()
    hint: str | None = None
    object: str | None = None

    def harming(self, names: Iterable[str], hint: str | None = None) -> Problem:
        """The same, with whom it harms and what to do."""
        return replace(self, harms=tuple(sorted({*self.harms, *names})), hint=hint or self.hint)

    @property
    def level(self) -> Level:
        """How bad it is."""
        return LEVELS[self.kind]


@dataclass(frozen=True, slots=True)
class Repair:
    """Something that was repaired: what kind of problem, which file, and how."""

    kind: str
    path: str
    message: str


REPAIR: Final = "ckptfmt fsck --repair"

REPAIR_FULL: Final = "ckptfmt fsck --full --repair"
