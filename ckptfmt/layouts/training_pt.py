"""Training checkpoints in one `.pt`: `model_state_dict`, `optimizer_state_dict`, `hyperparameters`, sizes, `step`.

The file's name says the rest: `checkpoint_{model}_{source}_step{N}_{timestamp}.pt`, where the source may hold
underscores. `state_dict` with `global_step` (Lightning) and their like are read the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.containers.protocol import TensorAt
from ckptfmt.layouts.compose import Facts, compose
from ckptfmt.layouts.listing import split
from ckptfmt.layouts.pickled import Pickled, pickled_of, read_sections
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.universal import lora_settings
from ckptfmt.layouts.values import clean, count_or_none, flatten, number_or_none, plain, plain_object, scalar

FILE_NAME: Final = re.compile(
    r"checkpoint_(?P<model>[^_]+)_(?:(?P<source>.+)_)?step(?P<step>\d+)(?:_(?P<timestamp>.+?))?\.(?:pt|pth|ckpt)"
)

_STEPS: Final = ("step", "global_step", "iter_num", "iteration")
_HYPERPARAMETERS: Final = ("hyperparameters", "hyper_parameters", "hparams", "config", "args")
_FIGURE: Final = re.compile(r"loss|acc|perplexity|ppl|score|f1|bleu|reward|metric|success", re.IGNORECASE)
_MODEL_TYPES: Final = ("model_type", "model", "MODEL_TYPE")


@dataclass(frozen=True, slots=True)
class FileName:
    """What a checkpoint's file name says."""

    model: str
    source: str | None
    step: int
    timestamp: str | None


@dataclass(frozen=True, slots=True)
class TrainingPtLayout:
    """One training checkpoint, with the tokenizer beside it."""

    name: str = "training-pt"

    def claims(self, listing: Listing) -> bool:
        """A file named as a training checkpoint: a claim on that file, not on the directory."""
        return any(map(FILE_NAME.fullmatch, listing.files))

    def read(self, tree: Tree) -> Reading | None:
        """Read a pickled checkpoint that has a model's state dict beside training state."""
        found = pickled_of(tree)
        if found is None or (found.model_key == "model" and len(found.document) == 1):
            return None
        notes: list[str] = []
        hyperparameters = _hyperparameters(found)
        name = read_file_name(split(found.path)[1], hyperparameters)
        figures = {clean(str(key)): scalar(tree, found.path, found.cut, value) for key, value in found.document.items()}
        step = next(filter(lambda each: each is not None, (count_or_none(figures.get(key)) for key in _STEPS)), None)
        if name and step is not None and step != name.step:
            notes.append(f"{found.path}: the file says step {step}, its name step {name.step}")
        facts = Facts(
            step=name.step if step is None and name else step,
            settings={**hyperparameters, **_sizes(figures), **_said(name)},
            metrics=_metrics(figures),
            notes=tuple(notes),
        )
        part = read_sections(found.cut, found.path, model_key=found.model_key, config=lora_settings(found.document))
        return compose(tree, self.name, (part,), facts)


def read_file_name(name: str, hyperparameters: Mapping[str, Any] | None = None) -> FileName | None:
    """Take a checkpoint's file name apart; a model type in `hyperparameters` says where the model's name ends."""
    match = FILE_NAME.fullmatch(name)
    if not match:
        return None
    model, source = match["model"], match["source"]
    for key in _MODEL_TYPES:
        known = (hyperparameters or {}).get(key)
        if isinstance(known, str) and known and f"{model}_{source or ''}_".startswith(f"{known}_"):
            model, source = known, f"{model}_{source or ''}"[len(known) + 1 :] or None
    return FileName(model, source, int(match["step"]), match["timestamp"])


def _hyperparameters(found: Pickled) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key in _HYPERPARAMETERS:
        merged |= plain_object(found.document.get(key))
    return merged


def _sizes(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Single values at the top level that are no figures of merit: `vocab_size`, `block_size`, `epoch`."""
    return {
        key: plain(value)
        for key, value in figures.items()
        if isinstance(value, str | int | float | bool) and key not in _STEPS and not _FIGURE.search(key)
    }


def _metrics(figures: Mapping[str, Any]) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    for key, value in figures.items():
        if isinstance(value, TensorAt) or not _FIGURE.search(key):
            continue
        number = number_or_none(value)
        found |= {key: number} if number is not None else flatten(value, "" if key == "metrics" else key)
    return found


def _said(name: FileName | None) -> dict[str, Any]:
    if name is None:
        return {}
    said = {"model": name.model, "source": name.source, "timestamp": name.timestamp}
    return {key: value for key, value in said.items() if value}


TRAINING_PT: Final = TrainingPtLayout()
