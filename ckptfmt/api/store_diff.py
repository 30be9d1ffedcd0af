"""The part of `Store` that compares."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.store import Store as Engine

if TYPE_CHECKING:
    from ckptfmt.api.results_diff import DiffReport


class StoreDiff:
    """See `Store`."""

    _engine: Engine

    def diff(
        self,
        a: str | os.PathLike[str],
        b: str | os.PathLike[str],
        *,
        ranks: bool = True,
        progress: Progress = SILENT,
    ) -> DiffReport:
        """Compare two checkpoints: files, tensors, adapters, settings, metrics. Writes nothing.

        Args:
            a: a ref, `ref@3`, the beginning of a manifest id or `bases/NAME`; or a path, which is a path-like or begins
                with `/`, `./` or `../`.
            b: the other one.
            ranks: find the effective rank of each change too.
            progress: told of the bytes read; may raise to cancel.

        Raises:
            NotFound, InvalidInput: one of them is not there, or no single checkpoint.
            IntegrityError: what is read is not what was recorded, or not there.
        """
        from ckptfmt.api import diffing

        return diffing.diff(self._engine, a, b, ranks=ranks, progress=progress)
