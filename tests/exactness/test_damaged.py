"""A flipped bit in what a checkpoint is stored as, or stored against: an error that names it, and nothing restored."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Final

import pytest

from ckptfmt import Store
from ckptfmt.cli.app import run
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import objects_of
from ckptfmt.store.catalog import Location
from ckptfmt.store.shards import shard_key
from ckptfmt.store.store import open_store
from tests.exactness import made

WHERE: Final = ("delta frame", "base frame", "known factor", "recovered factor", "lowrank frame")


class Setting:
    """A store of which every object has one copy, and which object is which."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "store"
        self.places = made.family("BF16", square=(64, 128)).write(directory / "sources")
        with Store.init(self.directory) as store:
            made.fill(store, self.places)
        shutil.rmtree(self.places["base"])  # It would heal what is damaged in the store.
        engine = open_store(str(self.directory))
        catalog = engine.catalog()
        self.copies: dict[str, list[Location]] = {}
        self.below: dict[str, set[str]] = {}
        for name in made.NAMES:
            waiting = set(objects_of(engine.manifest(engine.resolve(name)[0])))
            self.below[name] = set()
            while waiting:
                found = catalog.find_many(waiting)
                self.copies.update(found)
                self.below[name] |= waiting
                waiting = {each for copies in found.values() for copy in copies for each in copy.stored.dependencies}
                waiting -= self.below[name]
        self.objects = {
            "delta frame": self.find("step", "delta"),
            "known factor": self.dependencies(self.find("both", "lowrank"))[1],
            "lowrank frame": self.find("both", "lowrank"),
            "recovered factor": self.dependencies(self.find("lost", "lowrank"))[2],
        }
        self.objects["base frame"] = self.dependencies(self.objects["delta frame"])[0]
        engine.close()

    def find(self, name: str, encoding: str) -> str:
        return min(digest for digest in self.below[name] if self.copies[digest][0].stored.encoding == encoding)

    def dependencies(self, digest: str) -> tuple[str, ...]:
        return self.copies[digest][0].stored.dependencies

    def harmed(self, digest: str) -> set[str]:
        """Checkpoints that need an object by the smallest copy of each; in `lost`, a larger copy needs no factors."""
        return {name for name in made.NAMES if digest in self.below[name]}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def work(setting: Setting, tmp_path: Path) -> Path:
    """A copy of the store."""
    shutil.copytree(setting.directory, tmp_path / "store")
    return tmp_path / "store"


def flip(store: Path, copies: list[Location], place: float, bit: int) -> None:
    """Flip a bit of each copy, `place` from its first byte (0) to its last (1)."""
    for copy in copies:
        path = store / shard_key(copy.shard)
        data = bytearray(path.read_bytes())
        data[copy.begin + int(place * (copy.stored.stored_bytes() - 1))] ^= 1 << bit
        path.write_bytes(data)


def refused(store: Path, name: str, digest: str, target: Path) -> None:
    with Store.open(store) as opened, pytest.raises(CkptfmtError, match=digest[:16]) as caught:
        opened.restore(name, target / "out")
    assert caught.value.exit_code == 3
    assert os.listdir(target) == []


@pytest.mark.parametrize("place", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("where", WHERE)
def test_a_flipped_bit_is_named(setting: Setting, work: Path, tmp_path: Path, where: str, place: float) -> None:
    digest = setting.objects[where]
    harmed = setting.harmed(digest)
    target = tmp_path / "target"
    target.mkdir()
    flip(work, setting.copies[digest], place, 3)
    if where == "recovered factor":
        # The larger copy that optimize left behind needs no factors.
        with Store.open(work) as store:
            store.restore("lost", tmp_path / "healed")
            assert made.sums_of(tmp_path / "healed") == made.sums_of(setting.places["lost"])
        [merged] = [each for each in setting.below["lost"] if digest in setting.dependencies(each)]
        assert len(setting.copies[merged]) == 2
        flip(work, setting.copies[merged][1:], 0.5, 0)
    assert harmed
    for name in made.NAMES:
        if name in harmed:
            refused(work, name, digest, target)
        else:
            with Store.open(work) as store:
                store.restore(name, tmp_path / name)
                assert made.sums_of(tmp_path / name) == made.sums_of(setting.places[name])
    with Store.open(work) as store:
        report = store.verify()
    named = {name for damage in report.damaged for name in damage.checkpoints}
    assert named - {"bases/base"} == harmed
    assert any(digest[:16] in damage.problem or damage.object == digest for damage in report.damaged)
    again = {name for name in made.NAMES if _verify(work, name)}
    assert again == harmed


def _verify(store: Path, name: str) -> bool:
    with Store.open(store) as opened:
        return bool(opened.verify((name,)).damaged)


def test_the_command_line_says_so_and_exits_with_3(
    setting: Setting, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = setting.objects["base frame"]
    flip(work, setting.copies[digest], 0.5, 7)
    for command in (["restore", "step", str(tmp_path / "out")], ["verify", "step"]):
        assert run([*command, "--store", str(work)]) == 3
        output = capsys.readouterr()
        assert digest[:16] in output.out + output.err
    assert not (tmp_path / "out").exists()


@pytest.mark.torture
@pytest.mark.parametrize("where", WHERE)
def test_any_flipped_bit_is_named(setting: Setting, work: Path, tmp_path: Path, where: str) -> None:
    """Torture: hundreds of restores."""
    digest, generator = setting.objects[where], random.Random(where)
    name = min(setting.harmed(digest))
    target = tmp_path / "target"
    target.mkdir()
    if where == "recovered factor":
        [merged] = [each for each in setting.below["lost"] if digest in setting.dependencies(each)]
        flip(work, setting.copies[merged][1:], 0.5, 0)
    for _ in range(200):
        place, bit = generator.random(), generator.randrange(8)
        flip(work, setting.copies[digest], place, bit)
        refused(work, name, digest, target)
        flip(work, setting.copies[digest], place, bit)
