"""What may be said of an import, once for all who pass it on."""

from __future__ import annotations

import os
from typing import TypedDict

from ckptfmt.encodings.protocol import Effort
from ckptfmt.format.manifest import How


class ImportOptions(TypedDict, total=False):
    """Keyword arguments of an import; what is left out, or None, is at its default.

    Attributes:
        base: name of the base the checkpoints were made from.
        parent: the checkpoint this one was trained from.
        stage: its number in a chain of stages.
        how: what it was trained on: `continue` (the merged parent), `stack` (the parent with its adapter beside),
            `resume` (the parent's adapter itself), `parent-only` (the base merged with the parent's own adapter).
        stage_dtype: dtype that was held between the stages: bf16, fp16 or fp32.
        adapter: path of an adapter that was merged into it; a merged checkpoint then takes next to nothing.
        effort: `fast` stores tensors as they are, `balanced` (the default) encodes what is quick, `max` all.
        jobs: threads that encode; by default one a core.
        damaged_as_opaque: keep structurally lying files whole instead of refusing their checkpoint.
        message: a note in the ref's history.
    """

    base: str | None
    parent: str | None
    stage: int | None
    how: How | None
    stage_dtype: str | None
    adapter: str | os.PathLike[str] | None
    effort: Effort
    jobs: int | None
    damaged_as_opaque: bool
    message: str | None
