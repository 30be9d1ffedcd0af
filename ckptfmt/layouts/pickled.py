"""Training checkpoints in one pickled file: sections by top-level key, each with its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.containers.protocol import Cut, CutTensor, TensorAt
from ckptfmt.layouts.compose import Part
from ckptfmt.layouts.listing import split
from ckptfmt.layouts.protocol import ReadTensor, Tree
from ckptfmt.layouts.statedict import MODEL_KEYS, key_of, read_state_dict, section_of
from ckptfmt.layouts.values import clean

SUFFIXES: Final = (".pt", ".pth", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True, slots=True)
class Pickled:
    """A pickled training checkpoint: `document` is its top-level dict, `model_key` where the model lies."""

    path: str
    cut: Cut
    document: Mapping[Any, Any]
    model_key: str


def pickled_of(tree: Tree) -> Pickled | None:
    """The one training checkpoint among the files at the top of `tree`; None where there is none, or several."""
    found = []
    for path in tree.paths():
        if split(path)[0] or not path.endswith(SUFFIXES):
            continue
        cut = tree.cut(path)
        if isinstance(cut, Cut) and isinstance(cut.tree, Mapping):
            key = next((key for key in MODEL_KEYS if is_state_dict(cut.tree.get(key))), None)
            if key is not None:
                found.append(Pickled(path, cut, cut.tree, key))
    return found[0] if len(found) == 1 else None


def is_state_dict(value: Any) -> bool:
    """Tell whether a pickled value maps names to tensors."""
    return (
        isinstance(value, Mapping)
        and any(isinstance(item, TensorAt) for item in value.values())
        and all(isinstance(key, str) for key in value)
    )


def read_sections(cut: Cut, path: str, *, model_key: str | None, config: Mapping[str, Any] | None = None) -> Part:
    """Read every tensor of a pickled checkpoint.

    Below `model_key` lie the model and the adapters in it, below `optim…` the optimizer's; all others are state
    under their section's name.

    Args:
        cut: the file.
        path: where it lies in the checkpoint.
        model_key: the top-level key of the model's state dict; None where there is none.
        config: settings of the adapters that lie inside the model.
    """
    entries = section_of(path, cut, model_key) if model_key is not None else []
    inside = {entry.index for entry in entries}
    model = read_state_dict(entries, config=config)
    others = [_other(path, index, tensor) for index, tensor in enumerate(cut.tensors) if index not in inside]
    return Part((*model.tensors, *others), model.adapters, model.notes)


def _other(path: str, index: int, tensor: CutTensor) -> ReadTensor:
    section = clean(str(tensor.path[0])) if tensor.path else ""
    name = clean(key_of(tensor.path[1:]) or tensor.key)
    if section.startswith("optim"):
        return ReadTensor(path, index, name, "optimizer")
    return ReadTensor(path, index, name, "state", section)
