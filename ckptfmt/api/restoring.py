"""The verb that gives checkpoints back."""

from __future__ import annotations

import os

from ckptfmt.api.results import RestoreReport
from ckptfmt.progress import Progress
from ckptfmt.store.bases import outside_files
from ckptfmt.store.store import Store
from ckptfmt.transfer.restoring import restore


def restore_ref(store: Store, name: str, target: str, progress: Progress) -> RestoreReport:
    """Write the imported files of a checkpoint, to the byte, into a directory that does not exist or is empty."""
    digest, generation = store.resolve(name)
    manifest = store.manifest(digest)
    outside = outside_files(store, manifest.base) if manifest.base else None
    done = restore(
        manifest,
        store.objects(outside),
        target,
        attributes=generation.attributes if generation else (),
        progress=progress,
    )
    return RestoreReport(
        files=done.files, bytes=done.bytes, verified=True, path=os.path.abspath(target), manifest=digest
    )
