"""Saying what a base is that is not the recorded one: which tensors differ, and which known base it is instead."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ckptfmt.errors import BaseMismatch, CkptfmtError
from ckptfmt.format.keymaps import Leaf, compare_models, leaves_of
from ckptfmt.format.manifest import BaseRecord
from ckptfmt.progress import Progress
from ckptfmt.store.bases import all_bases
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import build_record, root_of
from ckptfmt.transfer.reading import hash_content, read_walked
from ckptfmt.transfer.walk import walk
from ckptfmt.wording import few

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Likeness:
    """What lies in a directory, compared with a base's record.

    Attributes:
        differing: names of the tensors that differ.
        total: number of the record's tensors.
        known_as: name of the known base that it is instead, with the key maps it is it by.
    """

    differing: tuple[str, ...]
    total: int
    known_as: str | None


def likeness(store: Store, record: BaseRecord, place: str, progress: Progress) -> Likeness:
    """Read what lies in `place` and compare it with a record and with all known bases.

    Raises:
        CkptfmtError: it cannot be read as a model.
    """
    content = hash_content(read_walked(walk(place), os.path.basename(place)), progress)
    found = leaves_of(build_record(content, root_of(content) or "", None, None))
    recorded = leaves_of(record)
    return Likeness(compare_models(recorded, found).differing, len(recorded), _known_as(store, record, found))


def _known_as(store: Store, record: BaseRecord, found: Mapping[str, Leaf]) -> str | None:
    for base in all_bases(store):
        sameness = compare_models(leaves_of(base.record), found)
        if sameness.same and base.record.root != record.root:
            return base.name + (f" (by {', '.join(sameness.maps)})" if sameness.maps else "")
    return None


def explain(store: Store, name: str, record: BaseRecord, place: str, progress: Progress) -> BaseMismatch | None:
    """The error that says how the base in `place` differs from its record; None where it does not, or is unreadable."""
    try:
        like = likeness(store, record, place, progress)
    except CkptfmtError:
        return None
    if not like.differing:
        return None
    instead = f"; what lies there is base {like.known_as}" if like.known_as else ""
    return BaseMismatch(
        f"base {name!r} in {place} is not what was recorded: {len(like.differing)} of {like.total} tensors differ "
        f"({few(like.differing, _SHOWN)}){instead}",
        tensors=like.differing,
        hint=f"ckptfmt base verify {name} --path DIR  (where the recorded base lies)",
    )
