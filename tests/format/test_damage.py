"""What the page on damage says is so: each corruption costs what stands there, and no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from ckptfmt.errors import CkptfmtError
from ckptfmt.progress import SILENT
from ckptfmt.store.store import open_store
from ckptfmt.transfer.restoring import restore
from tests import independent_reader
from tests.format.golden.make import digests_below
from tests.format.test_golden_store import GOLDEN, objects_for
from tests.format.test_spec import examples

STORE, RELATIVE = (json.loads(text) for text in examples("damage.md"))


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(GOLDEN / "v1", tmp_path / "store"))


@pytest.fixture
def relative(tmp_path: Path) -> Path:
    """The golden store of objects stored against others; the files of its base lie beside it, in `base`."""
    shutil.copytree(GOLDEN / "v1-delta-base", tmp_path / "base")
    return Path(shutil.copytree(GOLDEN / "v1-delta", tmp_path / "store"))


def _restored(store: Path, name: str, target: Path, version: str = "v1") -> str | None:
    """The code of the error that restoring raises; None where every file came back."""
    expected = json.loads((GOLDEN / f"{version}.json").read_text())
    try:
        opened = open_store(str(store))
        try:
            identity, _ = opened.resolve(name)
            document = opened.manifest(identity)
            objects = objects_for(opened, document, store.parent / "base")
            restore(document, objects, str(target), progress=SILENT)
        finally:
            opened.close()
    except CkptfmtError as error:
        assert not target.exists()
        return error.code
    assert digests_below(target) == expected["manifests"][identity]
    return None


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def _objects_of_shard(path: Path) -> tuple[dict[str, Any], int]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), 8 + length


def _damages(store: Path) -> dict[str, Callable[[], object]]:
    """What the page's changes do. `own` is the shard that holds what only the newest `runs/exp1` has."""
    target = independent_reader.newest_generation(store, "runs/exp1")["target"]
    manifest = independent_reader.manifest_of(store, "runs/exp1")
    needed = {extent["digest"] for file in manifest["files"] for extent in file.get("extents", [])}
    other = independent_reader.manifest_of(store, "runs/exp-2/stage_1")
    needed_by_other = {extent["digest"] for file in other["files"] for extent in file.get("extents", [])}
    places = independent_reader.all_objects(store)

    def place(digests: set[str]) -> tuple[Path, int]:
        path, begin, _ = max(
            (places[digest][0] for digest in digests),
            key=lambda found: sum(found[2].get("frames", [found[2]["length"]])),
        )
        return path, begin

    own, own_byte = place(needed - needed_by_other)
    shared, shared_byte = place(needed & needed_by_other)
    header, begin = _objects_of_shard(own)
    pad = next(entry for name, entry in header.items() if name.startswith("pad-"))
    return {
        "nothing": lambda: None,
        "bit in a frame of its own": lambda: _flip(own, own_byte),
        "bit in a shared frame": lambda: _flip(shared, shared_byte),
        "bit in a pad": lambda: _flip(own, begin + pad["data_offsets"][0]),
        "bit in the header of its own shard": lambda: _flip(own, 100),
        "own shard cut short": lambda: own.write_bytes(own.read_bytes()[:-1]),
        "own shard with a byte more": lambda: own.write_bytes(own.read_bytes() + b"\0"),
        "own shard gone": own.unlink,
        "bit in its manifest": lambda: _flip(store / "manifests" / target[:2] / f"{target}.json", 50),
        "bit in its current generation": lambda: _flip(store / "refs" / "runs,exp1" / "3.json", 50),
        "bit in store.json": lambda: _flip(store / "store.json", 50),
        "store.json gone": (store / "store.json").unlink,
    }


@pytest.mark.parametrize("case", STORE, ids=lambda case: case["change"])
def test_damage(case: dict[str, Any], golden: Path, tmp_path: Path) -> None:
    _damages(golden)[case["change"]]()
    assert _restored(golden, "runs/exp1", tmp_path / "a") == case["exp1"]
    assert (_restored(golden, "runs/exp-2/stage_1", tmp_path / "b") is None) == case["stage_1"]
    for name, comes_back in (("runs/exp1", case["exp1"] is None), ("runs/exp-2/stage_1", case["stage_1"])):
        if "shard" in case["change"] and "own" in case["change"]:
            continue  # The independent reader refuses a store with a damaged shard as a whole.
        try:
            independent_reader.restore(golden, name, tmp_path / f"independent-{name.replace('/', ',')}")
        except (independent_reader.DamagedError, ValueError, FileNotFoundError):
            assert not comes_back
        else:
            assert comes_back


def _relative_damages(store: Path) -> dict[str, Callable[[], object]]:
    """What the page's second list of changes does."""
    places = independent_reader.all_objects(store)

    def own(number: int) -> tuple[Path, int]:
        """The shard and place of the largest object that this step was the first to have."""
        manifests = [independent_reader.manifest_of(store, f"run/checkpoint-{each}") for each in range(1, number + 1)]
        held = [{each["digest"] for file in one["files"] for each in file.get("extents", [])} for one in manifests]
        digests = held[-1] - set().union(*held[:-1])
        path, begin, _ = max(
            (places[digest][0] for digest in digests),
            key=lambda found: sum(found[2].get("frames", [found[2]["length"]])),
        )
        return path, begin

    def copied() -> None:
        """The shard of the first step once more, under another name, for its header has other spaces."""
        path, _ = own(1)
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little") + 8
        header = data[8:length].ljust(length)
        name = blake3(header).hexdigest()
        other = store / "shards" / name[:2] / f"{name}.safetensors"
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(length.to_bytes(8, "little") + header + data[length:])
        _flip(*own(1))

    files = store.parent / "base"
    weights = files / "model.safetensors"
    record = independent_reader.manifest_of(store, "runs/far")["base"]["record"]
    return {
        "nothing": lambda: None,
        **{f"bit in checkpoint-{number}": lambda number=number: _flip(*own(number)) for number in (1, 2, 3)},
        "shard of checkpoint-1 gone": own(1)[0].unlink,
        "bit in checkpoint-1, and a sound copy": copied,
        "bit in the base's file": lambda: _flip(weights, weights.stat().st_size // 2),
        "base's file cut to half": lambda: weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2]),
        "base's files gone": lambda: shutil.rmtree(files),
        "bit in the base's record": lambda: _flip(store / "bases" / f"{record}.json", 50),
    }


@pytest.mark.parametrize("case", RELATIVE, ids=lambda case: case["change"])
def test_damage_below(case: dict[str, Any], relative: Path, tmp_path: Path) -> None:
    _relative_damages(relative)[case["change"]]()
    names = {**{number: f"run/checkpoint-{number}" for number in "123"}, "far": "runs/far"}
    found = {key: _restored(relative, name, tmp_path / "back" / key, "v1-delta") for key, name in names.items()}
    assert found == {key: case[key] for key in names}
    if case["change"] == "bit in the base's record":
        return  # The independent reader refuses a store with a damaged record as a whole.
    for key, name in names.items():
        try:
            independent_reader.restore(relative, name, tmp_path / "independent" / key, [tmp_path / "base"])
        except independent_reader.DamagedError:
            assert case[key] is not None
        else:
            assert case[key] is None
