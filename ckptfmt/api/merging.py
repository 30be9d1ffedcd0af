"""The verbs that merge."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

from ckptfmt.api.results import MergeReport
from ckptfmt.api.shared import name_lost_files, refuse_inside
from ckptfmt.errors import BaseMismatch, InvalidInput
from ckptfmt.format.manifest import How
from ckptfmt.merge.form import Format
from ckptfmt.merge.materialize import DIRECTORY, key_of, materialized
from ckptfmt.merge.run import Merged, Prepared, Request, merge, prepare
from ckptfmt.progress import Progress
from ckptfmt.store.bases import places_of
from ckptfmt.store.store import Store
from ckptfmt.transfer.lookalike import explain


def merge_ref(
    store: Store,
    name: str,
    target: str,
    *,
    dtype: str | None,
    device: str,
    how: How | None,
    adapters: Mapping[str, float] | None,
    format: Format = "hf",  # noqa: A002 - the word of the command line
    progress: Progress,
) -> MergeReport:
    """Merge a checkpoint into a directory that does not exist or is empty."""
    refuse_inside(store, target)
    prepared = _prepare(store, name, dtype=dtype, device=device, how=how, adapters=adapters, format=format)
    with _explained(store, prepared, progress):
        return _report(prepared, merge(prepared, target, progress=progress))


@contextmanager
def _explained(store: Store, prepared: Prepared, progress: Progress) -> Iterator[None]:
    """A base that is not the recorded one: name every tensor that differs, and the base that it is instead."""
    try:
        yield
    except BaseMismatch as error:
        link = prepared.recipe.base
        for place in places_of(store, link.record):
            explained = explain(store, link.name, store.record(link.record), place, progress)
            if explained is not None:
                raise explained from error
        raise


def _prepare(
    store: Store,
    name: str,
    *,
    dtype: str | None,
    device: str,
    how: How | None,
    adapters: Mapping[str, float] | None,
    format: Format = "hf",  # noqa: A002
) -> Prepared:
    if format not in get_args(Format):
        raise InvalidInput(f"--format: {format!r} is none of {', '.join(get_args(Format))}")
    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"--device: {device!r} is neither cpu nor cuda")
    for chosen, weight in (adapters or {}).items():
        if not math.isfinite(weight):
            raise InvalidInput(f"--adapter {chosen}={weight}: the weight is a finite number", hint="as in style=0.7")
    kept = None if dtype in (None, "keep") else dtype
    try:
        return prepare(store, Request(name, kept, device, how, adapters, format))
    except BaseMismatch as error:
        raise name_lost_files(store, name, error) from error


def _report(prepared: Prepared, merged: Merged) -> MergeReport:
    record = merged.record
    return MergeReport(
        out=merged.path,
        root=record["root"],
        base=prepared.recipe.base.name,
        base_root=prepared.recipe.base.root,
        binding=prepared.recipe.base.binding,
        evidence=prepared.recipe.base.evidence,
        trained_on=prepared.recipe.trained_on,
        stages=prepared.recipe.stages,
        adapters=tuple(f"{item.manifest}:{item.adapter.name}" for item in prepared.recipe.ingredients),
        tensors_changed=len(prepared.plan.changed),
        bytes=merged.bytes,
        seconds=merged.seconds,
        notes=(*prepared.plan.notes, *prepared.form.notes),
    )


@contextmanager
def materialize(
    store: Store,
    name: str,
    *,
    dtype: str | None,
    device: str,
    how: How | None,
    adapters: Mapping[str, float] | None,
    progress: Progress,
) -> Iterator[str]:
    """A merged model for as long as the block runs."""
    prepared = _prepare(store, name, dtype=dtype, device=device, how=how, adapters=adapters)
    recipe = prepared.recipe
    key = key_of(
        [
            recipe.base.root,
            [[item.adapter.digest, item.weight, item.dtype] for item in recipe.ingredients],
            [dtype, device, prepared.own.layout],
            sorted((file.path, file.sha256) for file in prepared.own.files),
        ]
    )
    top = os.path.join(store.path or "", DIRECTORY)

    def make(path: str) -> None:
        with _explained(store, prepared, progress):
            merge(prepared, path, progress=progress)

    with materialized(top, key, make) as model:
        yield model
