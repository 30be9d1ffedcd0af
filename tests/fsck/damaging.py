"""Stores to damage, the damage, and what must hold of a store whatever was done to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from ckptfmt.api import Store
from ckptfmt.api.repairing import FsckProblem, FsckReport, fsck_path
from ckptfmt.format.safetensors import LENGTH_BYTES
from ckptfmt.progress import SILENT
from tests.store import making
from tests.store.making import Tree, files_of, tree_of


def flip(path: Path, offset: int, bit: int = 0x10) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    path.write_bytes(data)


def looked(store: Path, *, repair: bool = False, data: bool = True, places: tuple[Path, ...] = ()) -> FsckReport:
    return fsck_path(str(store), repair=repair, full=data, places=[str(each) for each in places], progress=SILENT)


def kinds(findings: tuple[FsckProblem, ...]) -> dict[str, set[str]]:
    """What kinds of problems there are, and whom each harms."""
    found: dict[str, set[str]] = {}
    for each in findings:
        found.setdefault(each.kind, set()).update(each.harms)
    return found


@dataclass
class World:
    """A store with a base that it refers to, two stages on it, a full model with two generations, and the originals."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    def source(self, name: str) -> Path:
        return self.root / "sources" / name

    def make(self) -> World:
        base = making.write_base(self.source("base"))
        making.write_adapter(self.source("stage-1"), 1)
        making.write_adapter(self.source("stage-2"), 2)
        shutil.copy2(base / "model.safetensors", self.source("stage-2"))
        making.settle_times(self.source("stage-2"))
        seeds = {"layers.0.weight": 1, "layers.1.weight": 2, "layers.2.weight": 3}
        making.write_model(self.source("first"), seeds)
        making.write_model(self.source("second"), {**seeds, "layers.2.weight": 4}, extra="two")
        with Store.init(self.store) as store:
            store.add_base("tiny", base)
            store.import_path(self.source("stage-1"), name="runs/stage-1", base="tiny", stage=1)
            store.import_path(
                self.source("stage-2"), name="runs/stage-2", base="tiny", stage=2, parent="runs/stage-1", how="continue"
            )
            store.import_path(self.source("first"), name="full/model")
            store.import_path(self.source("second"), name="full/model")
            store.tag("full/model", ("best",))
            store.list_refs()
        return self

    NAMES: ClassVar = {"runs/stage-1": "stage-1", "runs/stage-2": "stage-2", "full/model": "second"}

    def without_originals(self) -> None:
        """Nothing but the store and the base is left."""
        for name in ("stage-1", "stage-2", "first", "second"):
            (self.root / "away").mkdir(exist_ok=True)
            shutil.move(self.source(name), self.root / "away" / name)

    def manifest(self, name: str) -> Path:
        with Store.open(self.store) as store:
            digest = store.show(name).id
        return self.store / "manifests" / digest[:2] / f"{digest}.json"

    def record(self) -> Path:
        (path,) = (self.store / "bases").glob("*.json")
        return path

    def shards(self) -> list[Path]:
        return sorted((self.store / "shards").rglob("*.safetensors"))

    def shard_of(self, name: str) -> Path:
        """The shard that holds the largest object that `name` was the first to bring."""
        with Store.open(self.store) as store:
            engine = store._engine
            manifest = engine.manifest(store.show(name).id)
            extents = [each.digest for file in manifest.files for each in file.extents]
            copies = engine.catalog().find_many(extents)
            shard = next(copies[each][0].shard for each in reversed(extents) if each in copies)
        return self.store / "shards" / shard[:2] / f"{shard}.safetensors"

    def generation(self, name: str, number: int) -> Path:
        return self.store / "refs" / name.replace("/", ",") / f"{number}.json"

    def forget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another host: its catalog knows nothing."""
        monkeypatch.setenv("CKPTFMT_CACHE", str(self.root / "other-cache"))

    def expected(self, name: str) -> Tree:
        source = self.source(self.NAMES[name])
        return tree_of(source if source.exists() else self.root / "away" / self.NAMES[name])

    def check_restores(self, *but: str, attributes: bool = True) -> None:
        """Everything comes back to the byte, with modes and times unless these are gone, but for those named."""
        with Store.open(self.store) as store:
            for name in self.NAMES:
                if name not in but:
                    target = self.root / "back" / name.replace("/", "-")
                    back, expected = making.restored(store, name, target), self.expected(name)
                    same = back == expected if attributes else files_of(back) == files_of(expected)
                    assert same, name
            shutil.rmtree(self.root / "back", ignore_errors=True)

    def check_sound(self) -> None:
        """Nothing is wrong, for a host that knows the store and for a reader."""
        report = looked(self.store)
        assert report.problems == ()
        self.check_restores()
        with Store.open(self.store) as store:
            assert store.verify().damaged == ()


def header_end(shard: Path) -> int:
    return LENGTH_BYTES + int.from_bytes(shard.read_bytes()[:LENGTH_BYTES], "little")


def aside(store: Path) -> dict[str, bytes]:
    """What repairs set aside."""
    directory = store / "damaged"
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.is_dir() else {}


def everything(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
