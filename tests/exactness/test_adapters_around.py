"""Adapters that lie about: whatever they are, a checkpoint that nobody merged them into is taken in as ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptfmt import Store
from ckptfmt.store.shards import shard_key
from ckptfmt.store.store import open_store
from tests.exactness import made


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return made.family("BF16").write(tmp_path)


def comes_back(store: Store, places: dict[str, Path], target: Path) -> None:
    store.import_checkpoint(places["step"], "step", base="base")
    store.restore("step", target)
    assert made.sums_of(target) == made.sums_of(places["step"])


def damage(store_path: str, digest: str) -> None:
    """Flip a bit in the middle of every copy of an object."""
    engine = open_store(store_path)
    for copy in engine.catalog().find(digest):
        path = Path(store_path) / shard_key(copy.shard)
        data = bytearray(path.read_bytes())
        data[len(data) - _after(copy, len(data))] ^= 4
        path.write_bytes(data)
    engine.close()


def _after(copy: Any, size: int) -> int:
    return size - copy.begin - copy.stored.stored_bytes() // 2


def test_a_damaged_adapter_in_the_store(store: Store, places: dict[str, Path], tmp_path: Path) -> None:
    store.add_base("base", places["base"])
    store.import_checkpoint(places["adapter"], "adapter", base="base")
    engine = open_store(store.path)
    manifest = engine.manifest(engine.resolve("adapter")[0])
    [file] = [file for file in manifest.files if file.extents]
    engine.close()
    for extent in file.extents:
        damage(store.path, extent.digest)
    comes_back(store, places, tmp_path / "back")
    assert len(store.verify().damaged) == len(file.extents)


@pytest.mark.parametrize("alpha", [10**400, -(10**400), 1e400, float("nan"), 0, "8", None, True, [1]])
def test_an_alpha_that_is_no_number_to_scale_by(
    store: Store, places: dict[str, Path], tmp_path: Path, alpha: object
) -> None:
    path = places["both"] / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "lora_alpha": alpha}))
    store.add_base("base", places["base"])
    store.import_checkpoint(places["both"], "both", base="base")
    store.restore("both", tmp_path / "back")
    assert made.sums_of(tmp_path / "back") == made.sums_of(places["both"])


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x00000001, 0])
@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_an_adapter_of_numbers_that_nothing_is_predicted_from(
    store: Store, places: dict[str, Path], tmp_path: Path, bits: int, half: str
) -> None:
    """A signalling NaN, a quiet one, infinities, what overflows, what vanishes."""
    family = made.family("BF16")
    adapter = {
        name: np.full(each.shape, bits, "<u4").view("<f4") if half in name else each
        for name, each in family.adapter.items()
    }
    made.write_adapter(places["both"], adapter)
    store.add_base("base", places["base"])
    store.import_checkpoint(places["both"], "both", base="base")
    store.restore("both", tmp_path / "back")
    assert made.sums_of(tmp_path / "back") == made.sums_of(places["both"])
