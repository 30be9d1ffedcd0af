"""What the demonstration makes, as data: sizes to make it in, and the list of what was made."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Final

from ckptfmt.errors import InvalidInput

Say = Callable[[str], None]
"""Told in one line what is being made."""

_NEEDED: Final = ("transformers", "accelerate")

_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin while they wait make training three times slower on a machine that does something else too.
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large the models are and how long they are trained.

    Attributes:
        hidden: width of the model.
        layers: number of its blocks.
        intermediate: width of the feed-forward part.
        vocabulary: most tokens of the tokenizer.
        context: tokens a training sequence.
        batch: sequences a training step.
        base_steps: optimizer steps of the base.
        tune_steps: optimizer steps of each fine-tuning.
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    context: int
    batch: int
    base_steps: int
    tune_steps: int


DEMO: Final = Size(
    hidden=256, layers=5, intermediate=768, vocabulary=1024, context=48, batch=8, base_steps=44, tune_steps=10
)
"""About 4.5 million parameters, 9 MB in bf16: making it all takes a quarter of a minute on two idle cores."""

TINY: Final = Size(
    hidden=32, layers=2, intermediate=64, vocabulary=384, context=32, batch=4, base_steps=8, tune_steps=4
)
"""For tests: the same files with 200 times fewer parameters."""


@dataclass(frozen=True, slots=True)
class MadeCheckpoint:
    """One checkpoint that was saved.

    Attributes:
        path: its directory or file.
        kind: what it is, in words for people.
        name: the ref to import it under.
        stage: number of its stage in a lineage.
        parent: `name` of the checkpoint it was trained from.
        of_base: whether the base is what it goes back to; a model trained from nothing has none.
        merged: whether it is a model into which an adapter was merged that is a checkpoint before it.
    """

    path: Path
    kind: str
    name: str
    stage: int | None = None
    parent: str | None = None
    of_base: bool = True
    merged: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """All that was made.

    Attributes:
        root: directory that holds it.
        base: directory of the base model.
        base_name: the name to add it under.
        base_loss: loss of the base's first and last training step.
        checkpoints: in the order they were trained, parents before children.
        seconds: how long the making took.
    """

    root: Path
    base: Path
    base_name: str
    base_loss: tuple[float, float]
    checkpoints: tuple[MadeCheckpoint, ...]
    seconds: float


def check_installed() -> None:
    """Make sure that what trains the models is there.

    Raises:
        InvalidInput: it is not; the hint says how to install it.
    """
    missing = [name for name in _NEEDED if util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"the demonstration trains a model and needs {' and '.join(missing)}", hint="pip install 'ckptfmt[demo]'"
        )


def set_environment() -> None:
    """Set what torch and transformers read when they are first imported: no network, no threads that spin.

    What the user has set stays.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
