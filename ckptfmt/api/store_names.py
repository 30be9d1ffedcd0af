"""The part of `Store` that moves names and looks after bases."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt.api.results import BaseKept, BaseReport, BaseVerified, Bound, RefChanged
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.store import Store as Engine

if TYPE_CHECKING:
    from ckptfmt.format.refs import Generation
    from ckptfmt.transfer.bases import Keep


class StoreNames:
    """See `Store`."""

    _engine: Engine

    def add_base(
        self,
        name: str,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        keep: Keep = "reference",
        progress: Progress = SILENT,
    ) -> BaseReport:
        """Record a base model from a directory or the local Hub cache; with `keep="copy"` take its bytes in too."""
        from ckptfmt.api import bases

        return bases.add(self._engine, name, os.fspath(source), revision=revision, keep=keep, progress=progress)

    def list_bases(self) -> list[BaseReport]:
        """Every base, by name."""
        from ckptfmt.api import bases

        return bases.listed(self._engine)

    def verify_base(
        self,
        name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        full: bool = False,
        progress: Progress = SILENT,
    ) -> BaseVerified:
        """Compare a base's files with its record; `full` reads them even where nothing speaks for a change."""
        from ckptfmt.api import bases

        return bases.verify(self._engine, name, None if path is None else os.fspath(path), full=full, progress=progress)

    def keep_base(self, name: str, *, progress: Progress = SILENT) -> BaseKept:
        """Copy a referenced base in."""
        from ckptfmt.api import bases

        return bases.keep(self._engine, name, progress)

    def drop_base(self, name: str) -> RefChanged:
        """Drop a base's name; refused while a checkpoint is bound to it."""
        from ckptfmt.api import bases

        return bases.drop(self._engine, name)

    def bind(self, ref: str, base: str) -> Bound:
        """State the base of an adapter."""
        from ckptfmt.api import naming

        return naming.bind_ref(self._engine, ref, base)

    def drop(self, ref: str) -> RefChanged:
        """Drop a ref; `rollback` brings it back."""
        from ckptfmt.api import naming

        return naming.drop(self._engine, ref)

    def rename(self, old: str, new: str) -> RefChanged:
        """Give a ref another name."""
        from ckptfmt.api import naming

        return naming.rename(self._engine, old, new)

    def tag(self, ref: str, labels: tuple[str, ...], *, remove: bool = False) -> RefChanged:
        """Add labels to a ref, or take them away."""
        from ckptfmt.api import naming

        return naming.tag(self._engine, ref, labels, remove=remove)

    def pin(self, ref: str, *, off: bool = False) -> RefChanged:
        """Protect a ref, or stop protecting it."""
        from ckptfmt.api import naming

        return naming.pin(self._engine, ref, off=off)

    def rollback(self, name: str) -> RefChanged:
        """Return a ref to an earlier generation, named as `ref@3`."""
        from ckptfmt.api import naming

        return naming.rollback(self._engine, name)

    def dropped(self) -> list[Generation]:
        """Names of checkpoints that were dropped: of each the last generation that stood, the last dropped first."""
        from ckptfmt.api import naming

        return naming.dropped(self._engine)
