"""What of a checkpoint is its model, and which of several equal ones is to stay. Pure."""

from __future__ import annotations

import os
import re
from typing import Final

from ckptfmt.layouts.listing import natural, split
from ckptfmt.layouts.trainer import STATE
from ckptfmt.layouts.weights import has_weights
from ckptfmt.reclaim.found import CheckpointSeen, FileSeen, TensorSeen

ONE_FILE: Final = frozenset({"universal", "training-pt"})
"""Layouts of checkpoints that are one file: model, optimizer and all."""

_BASE_NAMES: Final = re.compile(r"base|pretrained|pre-trained|original|foundation", re.IGNORECASE)
_MADE_NAMES: Final = re.compile(
    r"\d|merged|stage|run|epoch|step|tuned|sft|dpo|final|best|export|hf_model|copy|backup", re.IGNORECASE
)


def full_weights(seen: CheckpointSeen) -> tuple[FileSeen, ...]:
    """The files that hold a checkpoint's model and nothing else: shards, their index, a second set in another form."""
    roles: dict[str, set[str]] = {}
    for tensor in seen.tensors:
        roles.setdefault(tensor.path, set()).add(tensor.role)
    models = {path for path, found in roles.items() if "model" in found and not found & {"adapter", "optimizer"}}
    places = {split(path)[0] for path in models if has_weights([split(path)[1]])}
    return tuple(
        file
        for file in seen.files
        for directory, name in [split(file.path)]
        if directory in places
        and has_weights([name])
        and (name.endswith(".json") or (file.path in roles and not roles[file.path] & {"adapter", "optimizer"}))
    )


def main_file(seen: CheckpointSeen) -> FileSeen | None:
    """The file of a checkpoint that is one file."""
    if seen.layout not in ONE_FILE:
        return None
    holding = {tensor.path for tensor in seen.tensors if tensor.role == "model"}
    found = [file for file in seen.files if file.path in holding]
    return found[0] if len(found) == 1 else None


def weight_files(seen: CheckpointSeen) -> tuple[FileSeen, ...]:
    """The file that a checkpoint is, or the files of its model."""
    one = main_file(seen)
    return (one,) if one is not None else full_weights(seen)


def resumes(seen: CheckpointSeen) -> bool:
    """Whether a Trainer resumes from this directory."""
    prefix = f"{seen.root}/" if seen.root else ""
    return any(file.path == f"{prefix}{STATE}" for file in seen.files)


def model_of(seen: CheckpointSeen) -> tuple[TensorSeen, ...]:
    """The tensors of its model."""
    return tuple(tensor for tensor in seen.tensors if tensor.role == "model")


def matrices(seen: CheckpointSeen) -> list[TensorSeen]:
    """Those of two dimensions and more that fill their bytes in C order."""
    return [tensor for tensor in model_of(seen) if len(tensor.shape) > 1 and tensor.plain]


def staying_order(seen: CheckpointSeen, *, base: bool) -> tuple[object, ...]:
    """The order in which checkpoints of equal content stay: bases, what resumes, what is called a base, the first."""
    return (not base, not resumes(seen), _likeness(seen), natural(seen.shown))


def _likeness(seen: CheckpointSeen) -> int:
    """How little a checkpoint is called as a base would be."""
    parts = seen.name.split("/") if seen.name else [os.path.basename(seen.top)]
    if _BASE_NAMES.search(parts[-1]) and not re.search(r"copy|backup|merged", parts[-1], re.IGNORECASE):
        return 0
    return 2 if any(_MADE_NAMES.search(part) for part in parts[-2:]) else 1
