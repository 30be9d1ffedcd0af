"""`Store`: the Python face of a store, with one method a verb. Both front ends call these and nothing below.

Each verb loads what it needs when it is called: what only looks starts in a tenth of a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, Unpack

from ckptfmt.api.finding import DEFAULT_NAME, find_store
from ckptfmt.api.options import ImportOptions
from ckptfmt.api.results import (
    CheckpointReport,
    ConvertReport,
    ImportPlan,
    ImportReport,
    Log,
    MergeReport,
    RefRow,
    RestoreReport,
    Shown,
    Stats,
)
from ckptfmt.api.store_diff import StoreDiff
from ckptfmt.api.store_names import StoreNames
from ckptfmt.api.store_upkeep import StoreUpkeep
from ckptfmt.format.manifest import How
from ckptfmt.format.refs import BASES
from ckptfmt.merge.materialize import DIRECTORY, sweep
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.refs import Damaged
from ckptfmt.store.store import DOCUMENT, init_store, open_store
from ckptfmt.store.store import Store as Engine

if TYPE_CHECKING:
    from ckptfmt.api.contents import Contents, Kept
    from ckptfmt.api.overview import Overview
    from ckptfmt.api.recipes import RecipeReport
    from ckptfmt.api.results_tensor import TensorLook
    from ckptfmt.api.sharing import Sharing
    from ckptfmt.convert.checkpoint import Checkpoint


class Store(StoreDiff, StoreNames, StoreUpkeep):
    """An open store.

    Paths are strings or path-likes; a checkpoint is named by ref (`runs/exp1`), by ref and generation
    (`runs/exp1@3`) or by a prefix of its manifest id.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def init(cls, path: str | os.PathLike[str] = DEFAULT_NAME) -> Self:
        """Make a store in a directory that does not exist or is empty.

        Raises:
            Conflict: there is something already.
        """
        return cls(init_store(os.fspath(path)))

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """Open a store; without a path, the one that `find_store` finds. Writes nothing.

        Raises:
            NotFound: there is none.
            UnsupportedVersion: a newer ckptfmt made it.
        """
        return cls(open_store(find_store(os.fspath(path) if path is not None else None)))

    @property
    def path(self) -> str:
        """Absolute path of the store's directory."""
        return self._engine.path or ""

    @property
    def engine(self) -> Engine:
        """The store below, for verbs of the api that are no method."""
        return self._engine

    def is_there(self) -> bool:
        """Whether `store.json` still lies where it was opened: of a store that was moved away, reads find no refs."""
        return os.path.exists(os.path.join(self.path, DOCUMENT))

    def close(self) -> None:
        """Let go of the catalog."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def plan_import(
        self, path: str | os.PathLike[str], *, name: str, parent: str | None = None, stage: int | None = None
    ) -> ImportPlan:
        """What `import_path` would take in, and under which names. Reads names only.

        Raises:
            InvalidInput: many checkpoints and no `{name}`, or two would have one name.
        """
        from ckptfmt.api import importing

        return importing.describe_plan(importing.plan(os.fspath(path), name, parent, stage), parent, stage)

    def import_path(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        planned: Callable[[ImportPlan], None] | None = None,
        saved: Callable[[CheckpointReport], None] | None = None,
        progress: Progress = SILENT,
        **options: Unpack[ImportOptions],
    ) -> ImportReport:
        """Take in the checkpoint at `path`, or all below it.

        Args:
            path: a file, a checkpoint's directory, or a directory of many.
            name: the ref; for many it holds `{name}`, for which each one's path below `path` stands.
            planned: told of the plan before any work; may raise to cancel.
            saved: told of each checkpoint as soon as it is saved: what happens to the others does not take it back.
            progress: told of the bytes read; may raise to cancel.
            options: base, parent, stage and more, as `ImportOptions` says.

        Raises:
            CkptfmtError: the only checkpoint failed; of several, failures are in the report.
        """
        from ckptfmt.api import importing

        self._sweep()
        parent, stage = options.get("parent"), options.get("stage")
        plan = importing.plan(os.fspath(path), name, parent, stage)
        if planned is not None:
            planned(importing.describe_plan(plan, parent, stage))
        return importing.execute_plan(self._engine, plan, options, progress, saved)

    def import_checkpoint(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        progress: Progress = SILENT,
        **options: Unpack[ImportOptions],
    ) -> CheckpointReport:
        """Take in one checkpoint. See `import_path`.

        Raises:
            InvalidInput: there are many at `path`.
        """
        return self.import_path(path, name=name, progress=progress, **options).checkpoints[0]

    def list_refs(self, pattern: str | None = None, *, damaged: Damaged | None = None) -> list[RefRow]:
        """Every checkpoint ref that stands and fits `pattern`, by name.

        Args:
            pattern: a shell pattern, or what names begin with up to a '/'; None for all.
            damaged: told the name of each ref that cannot be read, and why; None: the first of them is raised.
        """
        from ckptfmt.api import listing

        return listing.list_refs(self._engine, pattern, damaged)

    def show(self, name: str) -> Shown:
        """One checkpoint in full."""
        from ckptfmt.api import listing

        return listing.show(self._engine, name)

    def log(self, name: str) -> Log:
        """A checkpoint's lineage, and the generations of its ref, dropped ones too."""
        from ckptfmt.api import listing

        return listing.log(self._engine, name)

    def overview(self) -> Overview:
        """The whole of the store at a glance; what cannot be read is left out."""
        from ckptfmt.api import overview

        return overview.overview(self._engine)

    def contents(self, name: str) -> Contents:
        """What a checkpoint holds, as quickly as it can be read: its manifest, and what its name says."""
        from ckptfmt.api import contents

        return contents.contents(self._engine, name)

    def kept(self, held: Contents) -> Kept:
        """How a checkpoint is stored: sizes, and the encoding of each tensor."""
        from ckptfmt.api import contents

        return contents.kept(self._engine, held)

    def sharing(self, name: str, *, seconds: float = 0.5) -> Sharing:
        """With which other refs a checkpoint shares stored bytes; looks no longer than `seconds`."""
        from ckptfmt.api import sharing

        return sharing.sharing(self._engine, name, seconds=seconds)

    def look_at(self, name: str, tensor: int, *, progress: Progress = SILENT) -> TensorLook:
        """One tensor, by its place in the manifest: figures of its elements, and where its bytes live."""
        from ckptfmt.api import tensors

        return tensors.look_at(self._engine, name, tensor, progress=progress)

    def stats(self, *, damaged: Damaged | None = None) -> Stats:
        """The store as a whole; `damaged` as in `list_refs`."""
        from ckptfmt.api import listing

        return listing.stats(self._engine, damaged)

    def complete(self, prefix: str) -> list[str]:
        """Names of refs that begin with `prefix`, for shells."""
        return [name for name, _ in self._engine.refs.names(prefix) if not name.startswith(BASES)]

    def restore(self, name: str, target: str | os.PathLike[str], *, progress: Progress = SILENT) -> RestoreReport:
        """Write the imported files of a checkpoint, to the byte, into a directory that does not exist or is empty.

        Raises:
            Conflict: `target` is not empty.
            IntegrityError: something came out other than it went in; nothing appears.
            BaseMismatch: the base that it needs is gone or changed.
        """
        from ckptfmt.api import restoring

        return restoring.restore_ref(self._engine, name, os.fspath(target), progress)

    def merge(
        self,
        name: str,
        out: str | os.PathLike[str],
        *,
        format: Literal["hf", "universal"] = "hf",  # noqa: A002 - the word of the command line
        dtype: str | None = None,
        device: str = "cpu",
        how: How | None = None,
        adapters: Mapping[str, float] | None = None,
        progress: Progress = SILENT,
    ) -> MergeReport:
        """Materialize base and adapters along the lineage of `name` into a directory `out`.

        Args:
            name: the checkpoint.
            out: a directory that does not exist or is empty; it appears whole, once every base tensor was proven.
            format: "hf" for a Hugging Face directory, "universal" for one with a `ckpt.pt`.
            dtype: bf16, fp16 or fp32: what the base is cast to before it is merged; None keeps its own.
            device: "cpu" or "cuda".
            how: how stages go on from each other, where their manifests do not say.
            adapters: which of the checkpoint's adapters, with weights; None for its only one, or `default`.
            progress: told of the bytes written; may raise to cancel.

        Raises:
            MergeError: it cannot be merged; said before any work.
            IntegrityError: no binding, or a gap in the chain of stages.
            BaseMismatch: the base is not the recorded one; nothing appears.
        """
        from ckptfmt.api import merging

        self._sweep()
        return merging.merge_ref(
            self._engine,
            name,
            os.fspath(out),
            format=format,
            dtype=dtype,
            device=device,
            how=how,
            adapters=adapters,
            progress=progress,
        )

    def recipe(self, name: str, *, how: How | None = None) -> RecipeReport:
        """What a merge of `name` would merge onto what, in order. Reads manifests alone.

        Args:
            name: the checkpoint.
            how: how stages go on from each other, where their manifests do not say.

        Raises:
            MergeError: it has no adapter to merge, or several that cannot be chosen between.
            IntegrityError: no binding (`no-binding`), or a gap in the chain of stages.
        """
        from ckptfmt.api import recipes

        return recipes.recipe(self._engine, name, how)

    def refusals(self) -> dict[str, str]:
        """Why each checkpoint that cannot be merged cannot, by its ref, as far as manifests tell.

        Those that are not in it may still be refused later: for a base that changed, or is not there.
        """
        from ckptfmt.api import recipes

        return recipes.refusals(self._engine)

    def _sweep(self) -> None:
        """Remove temporary merged models that a killed process left; verbs that only look never do."""
        top = os.path.join(self.path, DIRECTORY)
        if os.path.isdir(top):
            sweep(top)

    def export(
        self,
        name: str,
        out: str | os.PathLike[str],
        *,
        format: Literal["hf", "peft", "universal"],  # noqa: A002 - the word of the command line
        base: str | None = None,
        adapter: str | None = None,
        tolerance: float | str | None = None,
        progress: Progress = SILENT,
    ) -> ConvertReport:
        """Convert a checkpoint into another format. Of an adapter to "hf" or "universal" it is `merge`.

        Args:
            name: the checkpoint.
            out: a directory that does not exist or is empty; it appears whole.
            format: "hf", "peft" or "universal".
            base: the base to factor a full model against, where it is bound to none.
            adapter: which of several adapters.
            tolerance: of a factorization: the largest relative Frobenius error of an update beyond the rounding of
                its dtype (None: 1e-3), or "exact" for an adapter that merges back to the same bits.
            progress: told of bytes; may raise to cancel.

        Raises:
            MergeError: there is no way from one to the other, with the reason.
            IntegrityError: it is bound to no base, and needs one (`no-binding`).
            BaseMismatch: the base is not the recorded one; nothing appears.
        """
        from ckptfmt.api import converting

        return converting.export_ref(
            self._engine,
            name,
            os.fspath(out),
            format=format,
            base=base,
            adapter=adapter,
            tolerance=tolerance,
            progress=progress,
        )

    def __getitem__(self, name: str) -> Checkpoint:
        """A checkpoint to read from, as `ckptfmt.load_into` takes it. Nothing is read yet but its manifest.

        Raises:
            NotFound, InvalidInput: there is no such checkpoint.
        """
        from ckptfmt.convert.checkpoint import stored_checkpoint

        return stored_checkpoint(self._engine, name)

    @contextmanager
    def materialized(
        self,
        name: str,
        *,
        dtype: str | None = None,
        device: str = "cpu",
        how: How | None = None,
        adapters: Mapping[str, float] | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[str]:
        """A merged Hugging Face directory for as long as the block runs, shared by all who ask for the same.

        It is gone afterwards: at the end of the last block that uses it, or, after a kill, with the next command.
        """
        from ckptfmt.api import merging

        with merging.materialize(
            self._engine, name, dtype=dtype, device=device, how=how, adapters=adapters, progress=progress
        ) as path:
            yield path
