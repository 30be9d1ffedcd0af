"""A directory of transformers' Trainer (and TRL's): weights or adapters, optimizer, scheduler, `trainer_state.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from ckptfmt.layouts.compose import Facts, compose, json_object
from ckptfmt.layouts.hf_full import read_config
from ckptfmt.layouts.listing import join, listing_of
from ckptfmt.layouts.peft import named, read_adapters
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.values import count_or_none, latest, number_or_none, plain
from ckptfmt.layouts.weights import read_weights

STATE: Final = "trainer_state.json"
INCOMPLETE: Final = "checkpoint-is-incomplete.txt"
"""The Trainer's mark on a directory that is still being written, or never was finished."""
CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)")

_MARKS: Final = frozenset({STATE, "training_args.bin"})
_PAIR: Final = frozenset({"optimizer.pt", "scheduler.pt"})
_HYPERPARAMETERS: Final = (
    "max_steps",
    "num_train_epochs",
    "train_batch_size",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "trial_name",
    "trial_params",
)
_NO_FIGURES: Final = frozenset({"step", "epoch"})


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What `trainer_state.json` says."""

    step: int | None = None
    metrics: dict[str, float | int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def is_trainer(listing: Listing) -> bool:
    """Tell whether the Trainer wrote this directory."""
    return not listing.files.isdisjoint(_MARKS) or listing.files >= _PAIR


@dataclass(frozen=True, slots=True)
class TrainerLayout:
    """One `checkpoint-N/`, or the top of a Trainer's output."""

    name: str = "trainer"

    def claims(self, listing: Listing) -> bool:
        """The Trainer's state or arguments, or an optimizer with its scheduler."""
        return is_trainer(listing)

    def read(self, tree: Tree) -> Reading | None:
        """Read weights, adapters and training state."""
        if not self.claims(listing_of(tree.paths())):
            return None
        notes: list[str] = []
        state = read_state(tree, "", notes)
        settings, hint = read_config(tree, "config.json", notes)
        if INCOMPLETE in tree.paths():
            notes.append(f"{INCOMPLETE} is here: the Trainer did not finish writing this checkpoint")
        adapters = read_adapters(tree, "")
        weights = read_weights(tree, "", named(adapters))
        facts = Facts(hint, state.step, {**settings, **state.settings}, state.metrics, tuple(notes))
        return compose(tree, self.name, (adapters, weights), facts)


def read_state(tree: Tree, directory: str, notes: list[str]) -> TrainerState:
    """Read `trainer_state.json` of `directory`: the step, the last figure of each name, the best one, the epoch."""
    path = join(directory, STATE)
    document = json_object(tree, path, notes)
    match = CHECKPOINT.fullmatch(tree.name)
    said = int(match[1]) if match else None
    step = count_or_none(document.get("global_step"))
    if step is not None and said is not None and step != said:
        notes.append(f"{path} says step {step}, the directory's name step {said}")
    history = document.get("log_history")
    metrics = latest(history if isinstance(history, list) else (), skip=_NO_FIGURES)
    for key in ("best_metric", "epoch"):
        number = number_or_none(document.get(key))
        if number is not None:
            metrics[key] = number
    known = {key: plain(document[key]) for key in _HYPERPARAMETERS if document.get(key) is not None}
    return TrainerState(said if step is None else step, metrics, {"training": known} if known else {})


TRAINER: Final = TrainerLayout()
