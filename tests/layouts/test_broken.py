"""Nothing that stands in a JSON file, and no file that is missing, makes a reading fail but an unsafe name."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.errors import UnsafeFile
from ckptfmt.layouts import find_checkpoints, read_checkpoint
from tests.fixtures import experts, hf, peft_adapters, stages, torchtune_outputs, trainer
from tests.fixtures.tree import DirectoryTree, files_below
from tests.layouts.conftest import Made
from tests.layouts.reading import check

pytestmark = pytest.mark.fixtures

MAKERS = {
    "hf": (hf.make, {"sharded": True}),
    "peft": (peft_adapters.make_several, {}),
    "trainer": (trainer.make_bloated, {"merged": False, "pickled": False}),
    "experts": (experts.make, {"weights": "merged"}),
    "stages": (stages.make, {}),
    "torchtune": (torchtune_outputs.make, {}),
}
VALUES: list[Any] = [None, True, -1, 1 << 80, 1.5, float("nan"), "", "x", "../x", "\ud800", [], [1, [2]], [{}], {}, 0]


class Broken(DirectoryTree):
    """A tree whose JSON values are swapped at random, and some of whose files are gone."""

    def __init__(self, root: Path, files: Iterable[str] | None, seed: int) -> None:
        self._random = random.Random(seed)
        every = files_below(root) if files is None else files
        kept = [path for path in every if self._random.random() < 0.9]
        super().__init__(root, kept)
        self._rate = self._random.choice([0.02, 0.1, 0.4])

    def json(self, path: str) -> Any:
        return self._swapped(super().json(path))

    def _swapped(self, value: Any) -> Any:
        if self._random.random() < self._rate:
            return self._random.choice(VALUES)
        if isinstance(value, dict):
            return {key: self._swapped(item) for key, item in value.items()}
        return [self._swapped(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", MAKERS)
def test_broken_in_any_way_it_still_reads(made: Made, name: str) -> None:
    maker, variant = MAKERS[name]
    directory, _ = made(maker, **variant)
    read = 0
    for seed in range(60):
        for found in find_checkpoints(files_below(directory)):
            tree = Broken(directory / found.root, found.files, seed)
            try:
                reading = read_checkpoint(tree)
            except UnsafeFile as error:
                assert "weight_map" in error.message
                continue
            check(tree, reading)
            read += 1
    assert read > 30
