"""Checkpoint layouts: what a directory of files means.

`find_checkpoints` tells from names alone which directories are checkpoints; `read_checkpoint` says what each of
their tensors is.
"""

from __future__ import annotations

from typing import Final

from ckptfmt.layouts.discover import find_checkpoints, unclaimed
from ckptfmt.layouts.experts import EXPERTS
from ckptfmt.layouts.hf_full import HF_FULL
from ckptfmt.layouts.listing import stage_of
from ckptfmt.layouts.peft import PEFT, canonical_config
from ckptfmt.layouts.protocol import Found, Layout, ReadAdapter, Reading, ReadTensor, Tree
from ckptfmt.layouts.stages import STAGE
from ckptfmt.layouts.torchtune import TORCHTUNE
from ckptfmt.layouts.trainer import TRAINER
from ckptfmt.layouts.training_pt import TRAINING_PT
from ckptfmt.layouts.universal import UNIVERSAL
from ckptfmt.layouts.unknown import UNKNOWN

__all__ = [
    "LAYOUTS",
    "Found",
    "Layout",
    "ReadAdapter",
    "ReadTensor",
    "Reading",
    "Tree",
    "canonical_config",
    "find_checkpoints",
    "read_checkpoint",
    "stage_of",
    "unclaimed",
]

_ORDER: Final[tuple[Layout, ...]] = (EXPERTS, TORCHTUNE, STAGE, TRAINER, PEFT, HF_FULL, UNIVERSAL, TRAINING_PT, UNKNOWN)

LAYOUTS: Final[dict[str, Layout]] = {layout.name: layout for layout in _ORDER}
"""Every layout by name, the most specific first; the last reads anything."""


def read_checkpoint(tree: Tree) -> Reading:
    """Read `tree` as the first layout that it is.

    Raises:
        FormatError, UnsafeFile: a file in it lies about itself, or an index names a file outside.
    """
    for layout in LAYOUTS.values():
        reading = layout.read(tree)
        if reading is not None:
            return reading
    return UNKNOWN.read(tree)
