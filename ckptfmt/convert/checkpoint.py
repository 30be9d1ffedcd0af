"""A checkpoint with its bytes: of a store, or of a directory that no store knows. Reading it loads no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ckptfmt.containers import FileSource
from ckptfmt.digest import digest_of
from ckptfmt.errors import InvalidInput
from ckptfmt.format import documents
from ckptfmt.format.manifest import Adapter, BaseLink, Manifest
from ckptfmt.merge.pickled import PickledDocument, WithSkeletons, pickled_document
from ckptfmt.merge.source import TensorSource
from ckptfmt.progress import Progress
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store.bases import outside_files
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.elsewhere import Called, OutsideObjects
from ckptfmt.store.objects import Objects
from ckptfmt.store.outside import Bases, Joined
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import build_manifest
from ckptfmt.transfer.planning import PLACEHOLDER, plan_import
from ckptfmt.transfer.reading import hash_content, read_walked
from ckptfmt.wording import few


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be read.

    Attributes:
        name: what it is called in errors: a ref, or a path.
        digest: id of its manifest.
        manifest: what it holds.
        objects: its bytes, each proven by its digest as it is read.
        outside: the same bytes where no store holds them; None for a checkpoint of a store.
    """

    name: str
    digest: str
    manifest: Manifest
    objects: Objects
    outside: OutsideObjects | None = None

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name} ({self.manifest.layout}, {self.digest[:12]})>"

    @cached_property
    def model(self) -> TensorSource:
        """The tensors of its model."""
        return TensorSource(self.name, self.manifest, self.objects)

    @cached_property
    def pickled(self) -> PickledDocument | None:
        """The `.pt` that its model lies in, if it does."""
        return pickled_document(self.manifest, self.objects)

    @property
    def has_model(self) -> bool:
        """Whether it holds full weights."""
        return any(tensor.role == "model" for tensor in self.manifest.tensors)

    def adapter(self, name: str | None) -> Adapter:
        """One of its adapters: the one named, its only one, or `default`.

        Raises:
            InvalidInput: there is none of that name, or several to choose between.
        """
        known = {adapter.name: adapter for adapter in self.manifest.adapters}
        listed = ", ".join(known) or "none"
        if name is not None and name not in known:
            raise InvalidInput(f"{self.name} has no adapter {name!r} (it has: {listed})")
        chosen = name or ("default" if "default" in known else next(iter(known)) if len(known) == 1 else None)
        if chosen is None:
            raise InvalidInput(
                f"{self.name} has {len(known)} adapters: {listed}", hint="say which: --adapter " + next(iter(known), "")
            )
        return known[chosen]


def stored_checkpoint(store: Store, name: str) -> Checkpoint:
    """A checkpoint of a store, as users name it.

    Raises:
        NotFound, InvalidInput: there is no such checkpoint.
    """
    digest, _ = store.resolve(name)
    manifest = store.manifest(digest)
    link = manifest.base
    own = [WithSkeletons(outside_files(store, link), store.record(link.record))] if link else []
    return Checkpoint(name, digest, manifest, store.objects(Joined([*own, Bases(store)])))


def base_checkpoint(store: Store, record: str, name: str) -> Checkpoint:
    """A base of a store as a checkpoint: a full model without adapters."""
    found = store.record(record)
    link = BaseLink(name=name, record=record, root=found.root, binding="stated", evidence="")
    outside = Joined([WithSkeletons(outside_files(store, link), found), Bases(store)])
    manifest = Manifest(
        version=found.version, layout="hf-full", files=found.files, tensors=found.tensors, root=found.root
    )
    return Checkpoint(f"base {name!r}", record, manifest, store.objects(outside))


def read_checkpoint(path: str, progress: Progress) -> Checkpoint:
    """A checkpoint in a directory or file that no store knows: every byte is read once and hashed.

    Raises:
        InvalidInput: there are several.
        FormatError, UnsafeFile, IntegrityError, NotFound, StorageError: as for an import.
    """
    plan = plan_import(path, f"x/{PLACEHOLDER}")
    if len(plan.checkpoints) != 1:
        places = few([each.source for each in plan.checkpoints])
        raise InvalidInput(f"{path} holds {len(plan.checkpoints)} checkpoints: name one of them ({places})")
    walked = plan.checkpoints[0].walked
    checkpoint = read_walked(walked, os.path.basename(walked.root))
    progress.begin(f"read {os.path.basename(path)}", sum(entry.size for entry in walked.of_kind("file")))
    content = hash_content(checkpoint, progress)
    progress.end()
    manifest = build_manifest(checkpoint.reading, content, base=None, lineage=None)
    files = WithSkeletons(Files(path, walked.root, manifest), manifest)
    digest = digest_of(documents.encode(manifest))
    return Checkpoint(path, digest, manifest, objects_of([files]), files)


class Files:
    """The objects of a checkpoint that lie in its files (`merge.pickled.PlacedFiles`).

    Args:
        name: what to call the checkpoint in errors.
        directory: where its files are.
        manifest: what lies where.
    """

    def __init__(self, name: str, directory: str, manifest: Manifest) -> None:
        self.name = name
        self.directory = directory
        self._index: dict[str, tuple[str, int, int]] = {}
        for file in manifest.files:
            if file.content is not None:
                self._index[file.content] = (file.path, 0, file.size)
            self._index.update((each.digest, (file.path, each.offset, each.length)) for each in file.extents)

    def called(self, digest: str) -> Called:
        """See `OutsideObjects.called`."""
        return Called(self.name, "was it written to meanwhile? run the same command again")

    def has(self, digest: str) -> bool:
        """See `OutsideObjects.has`."""
        return digest in self._index

    def length(self, digest: str) -> int:
        """See `OutsideObjects.length`."""
        return self._index[digest][2]

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See `OutsideObjects.read`."""
        path, begin, _ = self._index[digest]
        with FileSource(f"{self.directory}/{path}") as source:
            return source.read(begin + offset, length)


def objects_of(parts: Sequence[OutsideObjects]) -> Objects:
    """Objects that lie in files alone."""
    return Objects(MemoryStorage(), Catalog(None), refresh=lambda: None, outside=Joined(parts))
