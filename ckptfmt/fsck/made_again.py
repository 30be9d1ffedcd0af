"""Manifests made again: the same files, read in the same way, give the same bytes, which their digest proves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.manifest import BaseLink, Lineage
from ckptfmt.progress import SILENT
from ckptfmt.store.bases import all_bases
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import EVIDENCE, Content, bind, build_manifest
from ckptfmt.transfer.planning import PLACEHOLDER, plan_import
from ckptfmt.transfer.reading import ReadCheckpoint, hash_content, read_walked

_MOST_CHECKPOINTS: Final = 4
"""So many checkpoints of one directory are read to find the one whose manifest is lost."""

Part = TypeVar("Part", BaseLink, Lineage)


def manifests_again(store: Store, left: bytes, origins: Sequence[str]) -> Iterator[tuple[bytes, str]]:
    """Manifests of what lies where a checkpoint was taken in from, and where each was made from.

    Args:
        store: its bases are tried.
        left: what is there of the damaged manifest: its base and lineage are taken from it where they can be read.
        origins: directories or files.
    """
    for origin in origins:
        for checkpoint, stage in _read_again(origin):
            try:
                content = hash_content(checkpoint, SILENT)
            except CkptfmtError:
                continue
            stages = {checkpoint.reading.stage, stage}
            lineages = [
                _part(left, "lineage", Lineage),
                None,
                *(Lineage(stage=each) for each in stages if each is not None),
            ]
            for base in (_part(left, "base", BaseLink), None, *_bindings(store, content)):
                for lineage in lineages:
                    made = build_manifest(checkpoint.reading, content, base=base, lineage=lineage)
                    yield documents.encode(made), f"made again from {origin}"


def _read_again(origin: str) -> Iterator[tuple[ReadCheckpoint, int | None]]:
    try:
        plan = plan_import(origin, f"again/{PLACEHOLDER}")
    except CkptfmtError:
        return
    for planned in plan.checkpoints[:_MOST_CHECKPOINTS]:
        for damaged_as_opaque in (False, True):
            try:
                yield (
                    read_walked(planned.walked, os.path.basename(planned.source), damaged_as_opaque=damaged_as_opaque),
                    planned.stage,
                )
                break
            except CkptfmtError:
                continue


def _bindings(store: Store, content: Content) -> Iterator[BaseLink]:
    for base in all_bases(store, pass_over):
        for evidence in EVIDENCE:
            try:
                yield bind(base.name, base.digest, base.record, content, evidence=evidence.format(base=base.name))
            except CkptfmtError:
                continue


def _part(left: bytes, field: str, kind: type[Part]) -> Part | None:
    """A part of a damaged document, where the damage lies elsewhere."""
    text = left.decode("utf-8", "replace")
    for found in re.finditer(f'"{field}":{{', text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, found.end() - 1)
            return msgspec.convert(value, kind)
        except (ValueError, RecursionError, msgspec.ValidationError):
            continue
    return None
