"""The verb that gives checkpoints back."""

from __future__ import annotations

import os

from ckptfmt.api.results import RestoreReport
from ckptfmt.api.shared import refuse_inside
from ckptfmt.progress import Progress
from ckptfmt.store.outside import all_outside
from ckptfmt.store.store import Store
from ckptfmt.transfer.restoring import restore


def restore_ref(store: Store, name: str, target: str, progress: Progress) -> RestoreReport:
    """Write the imported files of a checkpoint, to the byte, into a directory that does not exist or is empty."""
    refuse_inside(store, target)
    digest, generation = store.resolve(name)
    manifest = store.manifest(digest)
    done = restore(
        manifest,
        store.objects(all_outside(store, manifest.base)),
        target,
        attributes=generation.attributes if generation else (),
        progress=progress,
    )
    return RestoreReport(
        files=done.files, bytes=done.bytes, verified=True, path=os.path.abspath(target), manifest=digest
    )
