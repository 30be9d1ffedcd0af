"""The verb that compares two checkpoints."""

from __future__ import annotations

import os
from typing import Final

from ckptfmt.api.results_diff import DiffReport
from ckptfmt.convert.checkpoint import base_checkpoint, read_checkpoint, stored_checkpoint
from ckptfmt.diff.adapters import compare_adapters, plan_adapters
from ckptfmt.diff.comparing import compare_tensors, read_bytes, workers
from ckptfmt.diff.pairing import pair_adapters, pair_files, pair_tensors
from ckptfmt.diff.reading import Side
from ckptfmt.errors import NotFound
from ckptfmt.format.refs import BASES
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.store import Store

Name = str | os.PathLike[str]

_PATHS: Final = ("/", "./", "../")


def is_path(name: Name) -> bool:
    """Whether a name means a path and no checkpoint of a store: a path-like, or what begins as only paths do."""
    return not isinstance(name, str) or name.startswith(_PATHS) or name in {".", ".."}


def diff(store: Store | None, a: Name, b: Name, *, ranks: bool = True, progress: Progress = SILENT) -> DiffReport:
    """Compare two checkpoints; without a store, two paths. See `Store.diff`."""
    from ckptfmt.api.diff_report import make_report  # noqa: PLC0415

    sides = _side(store, "A", a, progress), _side(store, "B", b, progress)
    mine, theirs = (side.checkpoint.manifest for side in sides)
    adapters = pair_adapters(mine, theirs)
    tensors = pair_tensors(mine, theirs, adapters)
    plans = plan_adapters(mine, theirs, adapters)
    size = read_bytes(*sides, tensors.differing) + sum(plan.read_bytes for plan in plans)
    progress.begin("compare", size)
    with workers() as pool:
        compared = compare_tensors(*sides, tensors.differing, progress.advance, pool, ranks=ranks)
    updates = [compare_adapters(*sides, plan, progress.advance) for plan in plans]
    progress.end()
    return make_report(
        store,
        sides,
        files=pair_files(mine, theirs),
        tensors=tensors,
        compared=compared,
        adapters=list(zip(plans, updates, strict=True)),
        read_bytes=size,
        notes=[note for side, name in zip(sides, (a, b), strict=True) for note in _also_a_path(side, name)],
    )


def _side(store: Store | None, label: str, name: Name, progress: Progress) -> Side:
    text = os.fspath(name)
    if is_path(name):
        return Side(label, text, read_checkpoint(text, progress), is_path=True)
    if store is None:
        raise NotFound(f"there is no store to look for {text!r} in", code="no-store", hint=_hint(text, "ckptfmt init"))
    try:
        if text.startswith(BASES):
            base = text.partition("@")[0].removeprefix(BASES)
            return Side(label, text, base_checkpoint(store, store.resolve(text)[0], base), is_base=True)
        return Side(label, text, stored_checkpoint(store, text))
    except NotFound as error:
        raise NotFound(error.message, code=error.code, hint=_hint(text, error.hint)) from error


def _hint(text: str, otherwise: str | None) -> str | None:
    """What to try where a name means nothing: a path of that name is likelier than anything else."""
    return f"if the path is meant: ./{text}" if os.path.lexists(text) else otherwise


def _also_a_path(side: Side, name: Name) -> list[str]:
    text = os.fspath(name)
    if side.is_path or not os.path.lexists(text):
        return []
    return [f"{side.label} is the store's; the path of that name is ./{text}"]
