"""Restoring: a manifest becomes a directory again, to the byte, or nothing appears at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.digest import Buffer
from ckptfmt.errors import IntegrityError
from ckptfmt.format.manifest import BaseRecord, File, Manifest, logical_bytes
from ckptfmt.format.refs import Attributes
from ckptfmt.progress import Progress
from ckptfmt.storage import durable
from ckptfmt.storage.appearing import appearing
from ckptfmt.store.objects import Objects
from ckptfmt.transfer.stream import Sha256
from ckptfmt.transfer.walk import check_path


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore wrote: number of files and their bytes."""

    files: int
    bytes: int


def file_bytes(objects: Objects, file: File, pool: Executor | None = None) -> Iterator[Buffer]:
    """The bytes of a file, in order and in parts, from its objects.

    Raises:
        IncompleteStore, DigestMismatch: as `Objects.frames`.
    """
    if file.content is not None:
        yield from objects.frames(file.content, file.size, pool)
        return
    cut = sum(extent.length for extent in file.extents)
    skeleton = memoryview(objects.read(file.skeleton, file.size - cut) if file.skeleton else b"")
    position = taken = 0
    for extent in file.extents:
        gap = extent.offset - position
        yield skeleton[taken : taken + gap]
        taken += gap
        yield from objects.frames(extent.digest, extent.length, pool)
        position = extent.offset + extent.length
    yield skeleton[taken:]


def restore(
    document: Manifest | BaseRecord,
    objects: Objects,
    target: str,
    *,
    attributes: tuple[Attributes, ...] = (),
    progress: Progress,
) -> Restored:
    """Write the files of a manifest into `target`, which appears whole and at once.

    Args:
        document: what to restore.
        objects: where its bytes are.
        target: a directory that does not exist or is empty.
        attributes: modes and mtimes to set.
        progress: told of each byte written.

    Raises:
        Conflict: `target` exists and is not empty.
        IntegrityError: a file came out other than it went in; nothing appears.
        StorageError: the disk is full, or refuses; nothing is left behind.
    """
    target = os.path.abspath(target)
    keep_freed_memory()
    progress.begin(os.path.basename(target), logical_bytes(document))
    with appearing(target) as building:
        known = {item.path: item for item in attributes}
        with ThreadPoolExecutor(1, "sha256") as sha_pool, ThreadPoolExecutor(2, "decode") as pool:
            for file in document.files:
                _write_file(file, building, objects, sha_pool=sha_pool, pool=pool, known=known, progress=progress)
        for path in document.directories:
            check_path(path, target)
            durable.make_directories(f"{building}/{path}")
        for link in document.links:
            check_path(link.path, target)
            durable.make_directories(os.path.dirname(f"{building}/{link.path}"))
            durable.symlink(link.target, f"{building}/{link.path}")
        _finish_directories(building, known)
    progress.end()
    return Restored(len(document.files), logical_bytes(document))


def _write_file(
    file: File,
    building: str,
    objects: Objects,
    *,
    sha_pool: Executor,
    pool: Executor,
    known: Mapping[str, Attributes],
    progress: Progress,
) -> None:
    check_path(file.path, building)
    path = f"{building}/{file.path}"
    durable.make_directories(os.path.dirname(path))
    sha = Sha256(sha_pool)
    out = durable.WriteFile(path)
    try:
        for part in file_bytes(objects, file, pool):
            sha.update(part)
            out.write(part)
            progress.advance(len(part))
        if out.length != file.size or sha.hexdigest() != file.sha256:
            raise IntegrityError(
                f"{file.path}: came out of the store other than it went in (SHA-256 differs from {file.sha256[:16]})",
                code="digest-mismatch",
                hint="ckptfmt verify --all",
            )
        attributes = known.get(file.path)
        if attributes is not None:
            durable.chmod(path, attributes.mode)
            durable.set_mtime(path, attributes.mtime_ns)
        out.sync()
    finally:
        out.close()


def _finish_directories(building: str, known: Mapping[str, Attributes]) -> None:
    """Deepest first: setting a mtime above would be undone by anything written below."""
    for directory, _, _ in os.walk(building, topdown=False):
        path = os.path.relpath(directory, building)
        attributes = known.get(path)
        if attributes is not None:
            durable.set_mtime(directory, attributes.mtime_ns)
        durable.fsync_directory(directory)
        if attributes is not None:
            durable.chmod(directory, attributes.mode)
