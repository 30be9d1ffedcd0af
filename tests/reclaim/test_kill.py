"""cleanup, undo and purge killed around every mutating call: every file is somewhere, and the next run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.format.receipt import HOLDING
from ckptfmt.reclaim.proving import prove
from ckptfmt.storage import durable
from ckptfmt.store.receipts import Receipts, held_manifests
from tests.faults import seam
from tests.reclaim.making import Place, purge_of
from tests.store.making import Tree, content_of, tree_of

SIGKILLED = -9


@dataclass(frozen=True)
class Setting:
    """`work` holds a store and a tree; the tree was `before` when it was made."""

    work: Path
    before: Tree

    @property
    def tree(self) -> Path:
        return self.work / "tree"

    def open(self) -> Store:
        return Store.open(self.work / "store")


def clean(days: float) -> Callable[[Setting], object]:
    def act(setting: Setting) -> object:
        with setting.open() as store:
            return cleaning.execute(store, cleaning.plan(store, [setting.tree], hold_days=days), prover=prove)

    return act


def undo(setting: Setting) -> object:
    with setting.open() as store:
        return [cleaning.undo_cleanup(store, row.receipt) for row in reversed(cleaning.list_receipts(store))]


def purge(setting: Setting) -> object:
    with setting.open() as store:
        return [purge_of(store, row.receipt) for row in cleaning.list_receipts(store)]


@dataclass(frozen=True)
class Act:
    """What is done; whether it stands in the store already, and is held already; what the tree is like afterwards."""

    name: str
    act: Callable[[Setting], object]
    known: bool = True
    held: bool = False
    gone: bool = False
    stride: int = 1


ACTS = (
    Act("cleanup, taking in", clean(7), known=False, gone=True, stride=7),
    Act("cleanup", clean(7), gone=True),
    Act("cleanup at once", clean(0), gone=True),
    Act("undo", undo, held=True),
    Act("purge", purge, held=True, gone=True),
)


@pytest.fixture
def setting(quick: Path) -> Iterator[Setting]:
    yield make(quick / "before")


def make(work: Path) -> Setting:
    """A tree of two checkpoints with their base's weights beside adapters, and an empty store."""
    (work / "tree").mkdir(parents=True)
    with Store.init(work / "store") as store:
        place = Place(work, store)
        place.bloated("runs/one", seed=1)
        place.bloated("runs/two", seed=2)
        shutil.rmtree(work / "made-runs", ignore_errors=True)
    return Setting(work, tree_of(work / "tree"))


def prepared(setting: Setting, act: Act, quick: Path) -> Setting:
    ready = Setting(quick / "ready", setting.before)
    copy(setting, ready.work)
    with ready.open() as store:
        if act.known:
            store.import_path(ready.tree / "runs" / "one", name="tree/runs/one")
            store.import_path(ready.tree / "runs" / "two", name="tree/runs/two")
    if act.held:
        clean(7)(ready)
    return ready


def copy(setting: Setting, work: Path) -> Setting:
    """A copy whose receipts speak of it: its tree has other inodes, so what is held is held anew by its own names."""
    shutil.copytree(setting.work, work, symlinks=True)
    return Setting(work, setting.before)


def check(setting: Setting, *, whole: bool) -> None:
    """Every file is in its place, in the hold, or in the store; and what is not in its place is a root for gc."""
    with setting.open() as store:
        engine = store.engine
        contents: dict[str, dict[str, bytes]] = {}
        for generation in engine.refs.manifests():
            target = generation.target or ""
            contents[target] = content_of(engine, target)
        receipts = Receipts(engine.storage)
        held = [part for each in receipts.ids() for part in receipts.parts(each) if part.state in HOLDING]
        roots = held_manifests(engine)
        assert {part.manifest for part in held} <= roots
        for path, node in setting.before.items():
            own = setting.tree / path
            if node.kind != "file" or own.exists():
                assert node.kind != "file" or own.read_bytes() == node.content, path
                continue
            places = [place for place in (setting.tree / ".ckptfmt-hold").glob(f"*/{path}") if place.is_file()]
            assert all(place.read_bytes() == node.content for place in places), path
            assert len(places) <= 1
            name = Path(path).name
            assert node.content in [files[name] for files in contents.values() if name in files], path
            assert not places or roots, path
        assert store.verify().damaged == ()
        if whole:
            assert {path for path, node in setting.before.items() if node.kind == "file"} == {
                path for path, node in tree_of(setting.tree).items() if node.kind == "file"
            }


def kill_everywhere(setting: Setting, act: Act, quick: Path, stride: int) -> int:
    """Kill at each boundary; then look, do it again, and undo what can be undone. The number of boundaries."""
    boundary = 0
    while True:
        if (quick / "ready").exists():
            shutil.rmtree(quick / "ready")
        ready = prepared(setting, act, quick)

        def run(at: int = boundary, where: Setting = ready) -> None:
            with durable.observed(seam.Killer(at)):
                act.act(where)

        status = seam.in_child(run)
        assert status in (0, SIGKILLED), f"{act.name}, boundary {boundary}: {status}"
        check(ready, whole=False)
        act.act(ready)
        check(ready, whole=act is BY_NAME["undo"])
        weights = [ready.tree / "runs" / each / "model.safetensors" for each in ("one", "two")]
        assert [path.exists() for path in weights] == [not act.gone] * 2, f"{act.name}, boundary {boundary}"
        if act.act is not purge and act.name != "cleanup at once":
            undo(ready)
            assert tree_of(ready.tree) == setting.before, f"{act.name}, boundary {boundary}"
        if status == 0:
            return boundary
        boundary += stride


BY_NAME = {act.name: act for act in ACTS}


@pytest.mark.parametrize("name", BY_NAME)
def test_killed_anywhere(setting: Setting, quick: Path, name: str) -> None:
    act = BY_NAME[name]
    assert kill_everywhere(setting, act, quick, max(act.stride, 3)) > 20


@pytest.mark.torture
@pytest.mark.parametrize("name", BY_NAME)
def test_killed_at_every_boundary(setting: Setting, quick: Path, name: str) -> None:
    assert kill_everywhere(setting, BY_NAME[name], quick, 1) > 20
