"""A base that is only referred to, and changes: what was stored against it comes back to the byte, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.errors import BaseMismatch, CkptfmtError
from ckptfmt.progress import Silent
from ckptfmt.store import stat_cache
from tests.exactness import made

ALL = ("step", "both", "lost")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return made.family("BF16", square=(64, 128), embedding=(40, 128), tall=(128, 128)).write(tmp_path / "sources")


class Edited:
    """The base's weights with a bit of each tensor flipped, of the same size and with the same times; and back."""

    def __init__(self, base: Path) -> None:
        self.path = base / made.WEIGHTS
        self.before = self.path.read_bytes()
        header = 8 + int.from_bytes(self.before[:8], "little")
        after = bytearray(self.before)
        for offset in range(header + 100, len(after), 500):
            after[offset] ^= 1
        self.after = bytes(after)
        self.times = self.path.stat()

    def edit(self) -> None:
        self._write(self.after)

    def put_back(self) -> None:
        self._write(self.before)

    def _write(self, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.write(data)
        os.utime(self.path, ns=(self.times.st_atime_ns, self.times.st_mtime_ns))


class At(Silent):
    """Does something at the so-manieth step of a verb."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.left, self.action = step, action

    def advance(self, count: int) -> None:
        if self.left == 0:
            self.action()
        self.left -= 1


def comes_back(store: Store, name: str, places: dict[str, Path], target: Path) -> None:
    store.restore(name, target)
    assert made.sums_of(target) == made.sums_of(places[name])
    shutil.rmtree(target)


def comes_back_or_is_refused(store: Store, name: str, places: dict[str, Path], target: Path) -> bool:
    try:
        comes_back(store, name, places, target)
    except CkptfmtError as error:
        assert error.exit_code == 3
        assert not target.exists()
        return False
    return True


def remembered(patch: pytest.MonkeyPatch) -> None:
    """The stat cache remembers however young a file is, so that edits are made under what it remembers."""
    patch.setattr(stat_cache, "_YOUNG_NS", -(1 << 62))


def blind(patch: pytest.MonkeyPatch) -> None:
    """As on a file system whose stamps do not tell of a change: nothing but bytes can."""
    remembered(patch)
    patch.setattr(stat_cache, "stamp_of", lambda found: f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}")


@pytest.mark.parametrize("name", ALL)
def test_edited_before_the_import(
    store: Store, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Same size, same mtime: the import refuses; without naming the base, it takes the checkpoint in by itself."""
    remembered(monkeypatch)
    edited = Edited(places["base"])
    store.add_base("base", places["base"])
    edited.edit()
    with pytest.raises(BaseMismatch):
        store.import_checkpoint(places[name], name, base="base")
    assert not store.list_refs()
    store.import_checkpoint(places[name], name)
    assert store.show(name).needs_base is None
    comes_back(store, name, places, tmp_path / "out")


@pytest.mark.parametrize("name", ALL)
def test_edited_before_the_import_unseen(
    store: Store, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing is encoded against other bytes than those recorded."""
    blind(monkeypatch)
    edited = Edited(places["base"])
    store.add_base("base", places["base"])
    edited.edit()
    store.import_checkpoint(places[name], name, base="base")
    assert made.used(store, name).isdisjoint({"delta", "lowrank"})
    comes_back_or_is_refused(store, name, places, tmp_path / "out")
    edited.put_back()
    comes_back(store, name, places, tmp_path / "out")
    assert store.verify().damaged == ()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("looks", ["at-stamps", "at-bytes"])
def test_edited_while_an_import_runs(
    store: Store,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    name: str,
    looks: str,
) -> None:
    if looks == "at-stamps":
        remembered(monkeypatch)
    edited = Edited(places["base"])
    store.add_base("base", places["base"])
    try:
        store.import_checkpoint(places[name], name, base="base", progress=At(step, edited.edit))
    except CkptfmtError as error:  # While the base itself was looked at.
        assert error.exit_code == 3 and not store.list_refs()
        edited.put_back()
        store.import_checkpoint(places[name], name, base="base")
    comes_back_or_is_refused(store, name, places, tmp_path / "out")
    edited.put_back()
    comes_back(store, name, places, tmp_path / "out")
    assert store.verify().damaged == ()


def test_edited_between_import_and_restore_and_put_back(store: Store, places: dict[str, Path], tmp_path: Path) -> None:
    edited = Edited(places["base"])
    made.fill(store, places, keep="reference")
    edited.edit()
    for name in ALL:
        assert not comes_back_or_is_refused(store, name, places, tmp_path / "out")
    named = {name for damage in store.verify().damaged for name in damage.checkpoints}
    assert named == set(ALL)
    edited.put_back()
    for name in ALL:
        comes_back(store, name, places, tmp_path / "out")
    assert store.verify().damaged == ()


@pytest.mark.parametrize("step", range(5))
def test_edited_while_a_restore_runs(store: Store, places: dict[str, Path], tmp_path: Path, step: int) -> None:
    edited = Edited(places["base"])
    made.fill(store, places, keep="reference")
    target = tmp_path / "out"
    for name in ALL:
        try:
            store.restore(name, target, progress=At(step, edited.edit))
        except CkptfmtError as error:
            assert error.exit_code == 3 and not target.exists()
        else:
            assert made.sums_of(target) == made.sums_of(places[name])
            shutil.rmtree(target)
        edited.put_back()
        comes_back(store, name, places, target)


def test_moved_and_pointed_to_again(store: Store, places: dict[str, Path], tmp_path: Path) -> None:
    """To another model it is not pointed; to its new place it is."""
    made.fill(store, places, keep="reference")
    moved = tmp_path / "moved"
    places["base"].rename(moved)
    wrong = Edited(Path(shutil.copytree(moved, tmp_path / "wrong")))
    wrong.edit()
    for name in ALL:
        assert not comes_back_or_is_refused(store, name, places, tmp_path / "out")
    assert store.verify_base("base", path=tmp_path / "wrong").mismatched
    for name in ALL:
        assert not comes_back_or_is_refused(store, name, places, tmp_path / "out")
    store.verify_base("base", path=moved)
    for name in ALL:
        comes_back(store, name, places, tmp_path / "out")
    assert store.verify().damaged == ()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_edited_while_optimize_runs(store: Store, places: dict[str, Path], tmp_path: Path, step: int) -> None:
    """Objects of the checkpoint itself that lie in the base cannot be read then; the others are as they were."""
    edited = Edited(places["base"])
    store.add_base("base", places["base"])
    store.import_checkpoint(places["lost"], "lost", base="base", effort="fast")
    try:
        store.optimize(["lost"], progress=At(step, edited.edit))
    except CkptfmtError as error:
        assert error.exit_code == 3
    comes_back_or_is_refused(store, "lost", places, tmp_path / "out")
    edited.put_back()
    comes_back(store, "lost", places, tmp_path / "out")
    store.optimize(["lost"], again=True)
    comes_back(store, "lost", places, tmp_path / "out")
    assert store.verify().damaged == ()
