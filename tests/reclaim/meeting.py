"""Who clean up, undo, purge and repair beside others that use the same store and tree, and what must hold afterwards.

A new actor is one entry of `ACTORS`; a new meeting is one entry of `MEETINGS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.api.repairing import FsckReport
from ckptfmt.api.results_reclaim import CleanupReport
from ckptfmt.api.store import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.receipt import HOLDING
from ckptfmt.store.receipts import Receipts, held_manifests
from ckptfmt.store.store import Store as Engine
from ckptfmt.store.store import open_store
from tests.faults import seam
from tests.faults.actors import names_below
from tests.fsck.damaging import flip, looked
from tests.reclaim.test_kill import Setting, clean, make, purge, undo
from tests.store.making import content_of, files_below, files_of, tree_of

ONE: Final = "tree/runs/one"
TWO: Final = "tree/runs/two"
Contents = Mapping[str, bytes]


@dataclass(frozen=True)
class Actor:
    """One who uses the store or the tree.

    Attributes:
        act: what they do, from opening the store on; what it gives may be a report.
        adds: a ref that gives back what was taken in, once they are done.
        whole: whether that is all of the source, which nobody changes.
        removes: the ref that does not stand once they are done.
        forgets: what is no longer named may be gone once they came.
        may: codes of errors they may end with when others were there before them.
    """

    act: Callable[[Setting], object]
    adds: str | None = None
    whole: bool = True
    removes: str | None = None
    forgets: bool = False
    may: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meeting:
    """Who meet, and where: is the tree taken in already, held already, is the store damaged?"""

    actors: tuple[str, ...]
    known: bool = True
    held: bool = False
    damaged: bool = False

    def may(self) -> dict[int, tuple[str, ...]]:
        """Codes of errors that each may end with; gc frees nothing of a store in which a manifest is damaged."""
        damaged = ("damaged",) if self.damaged else ()
        return {
            number: (*ACTORS[name].may, *(damaged if name.startswith("gc") else ()))
            for number, name in enumerate(self.actors)
        }

    @property
    def name(self) -> str:
        """As a test is called."""
        where = "damaged" if self.damaged else "held" if self.held else "known" if self.known else "new"
        return f"{where}: {' + '.join(self.actors)}"


def _using(change: Callable[[Store, Setting], object]) -> Callable[[Setting], object]:
    def act(setting: Setting) -> object:
        with setting.open() as store:
            return change(store, setting)

    return act


def _gc(keep_history_days: float) -> Callable[[Store, Setting], object]:
    def change(store: Store, _setting: Setting) -> object:
        return store.gc(store.plan_gc(grace_hours=0, keep_history_days=keep_history_days, apply=True))

    return change


def elsewhere(setting: Setting) -> Path:
    """A copy of the first checkpoint that nobody changes."""
    return setting.work / "elsewhere" / "one"


def repair(setting: Setting) -> object:
    return looked(setting.work / "store", repair=True)


ACTORS: Final[dict[str, Actor]] = {
    "cleanup": Actor(clean(7)),
    "another cleanup": Actor(clean(7)),
    "cleanup at once": Actor(clean(0)),
    "another cleanup at once": Actor(clean(0)),
    "undo": Actor(undo),
    "another undo": Actor(undo),
    "purge": Actor(purge),
    "import": Actor(_using(lambda store, where: store.import_path(elsewhere(where), name="other/one")), "other/one"),
    "import of the tree": Actor(
        _using(lambda store, where: store.import_path(where.tree / "runs" / "one", name="mine/one")),
        "mine/one",
        whole=False,
        may=("changed-while-read",),
    ),
    "rm": Actor(_using(lambda store, _: store.drop(ONE)), removes=ONE),
    "gc": Actor(_using(_gc(30)), may=("lost-race",)),
    "gc without history": Actor(_using(_gc(0)), forgets=True, may=("lost-race",)),
    "repair": Actor(repair),
    "another repair": Actor(repair),
}

MEETINGS: Final = (
    Meeting(("cleanup", "another cleanup"), known=False),
    Meeting(("cleanup", "cleanup at once"), known=False),
    Meeting(("cleanup", "import"), known=False),
    Meeting(("cleanup", "gc"), known=False),
    Meeting(("cleanup at once", "gc without history"), known=False),
    Meeting(("cleanup", "repair"), known=False),
    Meeting(("cleanup", "another cleanup")),
    Meeting(("cleanup", "cleanup at once")),
    Meeting(("cleanup at once", "another cleanup at once")),
    Meeting(("cleanup", "undo")),
    Meeting(("cleanup", "purge")),
    Meeting(("cleanup", "import of the tree")),
    Meeting(("cleanup at once", "import of the tree", "gc")),
    Meeting(("cleanup", "rm")),
    Meeting(("cleanup", "rm", "gc")),
    Meeting(("cleanup", "rm", "gc without history")),
    Meeting(("cleanup at once", "rm", "gc")),
    Meeting(("cleanup at once", "rm", "gc without history")),
    Meeting(("cleanup", "import", "gc")),
    Meeting(("cleanup at once", "repair")),
    Meeting(("undo", "another undo"), held=True),
    Meeting(("undo", "cleanup"), held=True),
    Meeting(("undo", "cleanup at once"), held=True),
    Meeting(("undo", "purge"), held=True),
    Meeting(("undo", "import of the tree"), held=True),
    Meeting(("undo", "rm", "gc without history"), held=True),
    Meeting(("undo", "repair"), held=True),
    Meeting(("purge", "cleanup"), held=True),
    Meeting(("purge", "rm", "gc without history"), held=True),
    Meeting(("repair", "import")),
    Meeting(("repair", "gc", "import")),
    Meeting(("repair", "rm", "gc without history")),
    Meeting(("repair", "another repair"), damaged=True),
    Meeting(("repair", "import"), damaged=True),
    Meeting(("repair", "gc"), damaged=True),
    Meeting(("repair", "rm"), damaged=True),
    Meeting(("repair", "cleanup"), damaged=True),
    Meeting(("repair", "cleanup at once"), damaged=True),
    Meeting(("repair", "import", "gc without history"), damaged=True),
    Meeting(("repair", "another repair", "gc"), damaged=True),
    Meeting(("repair", "rm", "gc without history"), damaged=True),
)


def make_setting(root: Path) -> Setting:
    """What `make` gives, and a copy of a checkpoint elsewhere."""
    setting = make(root / "work")
    shutil.copytree(setting.tree / "runs" / "one", setting.work / "elsewhere" / "one")
    return setting


def _take_in(setting: Setting) -> None:
    with setting.open() as store:
        for name in (ONE, TWO):
            store.import_path(setting.work / name, name=name)


def damage(setting: Setting) -> None:
    """No shard is sound to its end, and one manifest is not either."""
    with setting.open() as store:
        digest = store.show(TWO).id
    flip(setting.work / "store" / "manifests" / digest[:2] / f"{digest}.json", 100)
    for shard in (setting.work / "store" / "shards").rglob("*.safetensors"):
        flip(shard, -1)


@dataclass
class Calls:
    """What is called, by whom; it stands beside the stepper.

    Attributes:
        dies: who makes no call any more from their call number `at` on, as if they were killed.
        taken: the stepper's.
        made: `(step, actor, call, path, other path)`.
    """

    dies: int | None = None
    at: int = 0
    taken: list[int] = field(default_factory=list)
    made: list[tuple[int, int, str, str, str]] = field(default_factory=list)

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        if self.taken[-1] == self.dies and sum(who == self.dies for _, who, *_ in self.made) >= self.at:
            raise seam.Abort

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        paths = [each for each in arguments if isinstance(each, str)]
        first, second = (*paths, "", "")[:2]
        self.made.append((len(self.taken), self.taken[-1], call, first, second))

    def dropped_after_it_was_named(self, file: str) -> bool:
        """Whether the name of the first checkpoint was dropped only after whoever deleted a file saw that it stood.

        It looks between its last two entries in the receipt, `held` and `purging`, or between its beginning and
        the only one.
        """
        deleted = next(
            (step, who) for step, who, call, path, _ in self.made if call == "unlink" and path.endswith(file)
        )
        step, who = deleted
        entries = [
            at for at, actor, call, _, new in self.made if (actor, call) == (who, "link") and "/receipts/" in new
        ]
        before = [at for at in entries if at < step]
        looked = before[-2] if len(before) > 1 else self.taken.index(who)
        drops = [at for at, _, call, _, new in self.made if call == "link" and "/refs/tree,runs,one/" in new]
        return bool(drops) and max(drops) > looked


@dataclass
class Stage:
    """A setting that is made again, at the same place, for each schedule of a meeting."""

    root: Path
    meeting: Meeting
    setting: Setting = field(init=False)
    calls: Calls = field(default_factory=Calls)
    sound: set[object] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.setting = make_setting(self.root)
        if self.meeting.known:
            _take_in(self.setting)
        if self.meeting.damaged:
            damage(self.setting)
        shutil.copytree(self.setting.work, self.root / "saved")

    def set(self) -> None:
        """Where a tree is held, the hold is made anew: receipts tell of inodes."""
        shutil.rmtree(self.setting.work)
        shutil.copytree(self.root / "saved", self.setting.work)
        if self.meeting.held:
            clean(7)(self.setting)

    @property
    def store(self) -> Path:
        return self.setting.work / "store"

    def files(self) -> Contents:
        return files_of(self.setting.before)

    def gone(self) -> list[str]:
        """Files of the tree that are neither in their place nor held; all others are what they were."""
        gone = []
        for path, content in self.files().items():
            own = self.setting.tree / path
            held = list((self.setting.tree / ".ckptfmt-hold").glob(f"*/{path}"))
            places = [own, *held] if own.exists() else held
            if not places:
                gone.append(path)
            assert all(place.stat().st_size == len(content) for place in places), path
        return gone

    def look(self) -> None:
        """While nobody moves: what is neither in its place nor held comes back from a ref."""
        gone = self.gone()
        if not gone or any(ACTORS[each].forgets for each in self.meeting.actors):
            return
        key = (tuple(gone), names_below(self.store))
        if key not in self.sound:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CKPTFMT_CACHE", str(self.root / "sight"))
                engine = open_store(str(self.store))
            try:
                stored = stored_in(engine)
                assert all(self.files()[path] in stored for path in gone), gone
            finally:
                engine.close()
            self.sound.add(key)

    def check(self, codes: list[str | None], given: list[object], calls: Calls) -> int:
        """What must hold in the end; how many problems were left for one more repair."""
        actors = [ACTORS[name] for name in self.meeting.actors]
        done = [actor for actor, code in zip(actors, codes, strict=True) if code is None]
        for directory in ("tmp", "pins"):
            assert calls.dies is not None or files_below(self.store / directory) == set()
        if not self.meeting.damaged:  # What gc takes out while a repair looks, it may bring back.
            told = [each for each in given if isinstance(each, FsckReport)]
            assert all(each.problems == () for each in told), "it is sound"
            assert all(each.repaired == () for each in told) or any(actor.forgets for actor in actors)
        came = [actor for actor, code in zip(actors, codes, strict=True) if code in (None, "killed")]
        removed, forgotten = any(actor.removes for actor in came), any(actor.forgets for actor in came)
        report = looked(self.store)
        if report.problems:
            # A gc that was killed leaves in the trash what it was about to bring back.
            trashed = calls.dies is not None and {each.kind for each in report.problems} == {"trashed"}
            assert self.meeting.damaged or (removed and forgotten) or trashed, report.problems
            left = looked(self.store, repair=True).problems
            # A receipt of what was dropped before it was written: the files lie in the hold until the undo below.
            assert not left or ((removed and forgotten) and {each.kind for each in left} == {"manifest-missing"}), left
        with self.setting.open() as store:
            assert store.verify().damaged == ()
            engine = store.engine
            self._check_refs(engine, done, given, {actor.removes for actor in came})
            self._check_tree(engine, calls, may_be_forgotten=removed and forgotten)
        gone = self.gone()
        undo(self.setting)
        undo(self.setting)  # Where two receipts claim a file, the first may have been in the way of the second.
        left = {path: data for path, data in self.files().items() if path not in gone}
        assert files_of(tree_of(self.setting.tree)) == left, "an undo gives back all that is held"
        assert looked(self.store).problems == ()
        return len(report.problems)

    def _check_refs(self, engine: Engine, done: list[Actor], given: list[object], removed: set[str | None]) -> None:
        said = [each for report in given if isinstance(report, CleanupReport) for each in report.refs]
        known = [ONE, TWO] if self.meeting.known else []
        for ref in [*known, *said]:
            if ref in removed:
                continue
            found = content_of(engine, engine.refs.current(ref).target or "")
            names = {Path(path).name: data for path, data in self.files().items() if Path(path).parent.name in ref}
            assert found.items() <= names.items() if ref in said else found == names, ref
        whole = files_of(tree_of(elsewhere(self.setting)))
        for actor in done:
            if actor.adds is not None:
                found = content_of(engine, engine.refs.current(actor.adds).target or "")
                assert found == whole if actor.whole else found and found.items() <= whole.items(), actor.adds

    def _check_tree(self, engine: Engine, calls: Calls, *, may_be_forgotten: bool) -> None:
        stored = stored_in(engine)
        receipts = Receipts(engine.storage)
        held = [part for each in receipts.ids() for part in receipts.parts(each) if part.state in HOLDING]
        assert {part.manifest for part in held} <= held_manifests(engine)
        told = {file.path for part in held for file in part.files}
        gone = self.gone()
        for path, content in self.files().items():
            places = [self.setting.tree / path, *(self.setting.tree / ".ckptfmt-hold").glob(f"*/{path}")]
            there = [place for place in places if place.exists()]
            assert all(place.read_bytes() == content for place in there), path
            assert len(there) <= 1 or calls.dies is not None, there
            told_of = path in told or calls.dies is not None  # Then the undo that follows has to find it.
            assert not there or there[0] == places[0] or told_of, f"{there[0]} is in no receipt"
            if path in gone and content not in stored:
                assert may_be_forgotten, f"{path} is lost"
                assert "one" in Path(path).parts, f"{path} is lost, and its name stands"
                assert calls.dropped_after_it_was_named(path), f"{path} was deleted for a name that did not stand"


def stored_in(engine: Engine) -> set[bytes]:
    """All files that some generation of some ref gives back."""
    found: set[bytes] = set()
    targets = {each.target for name, _ in engine.refs.names() for each in engine.refs.history(name)}
    bases = {each.target for name, _ in engine.refs.names("bases/") for each in engine.refs.history(name)}
    for target in targets - bases - {None}:
        try:
            found.update(content_of(engine, target or "").values())
        except CkptfmtError:
            continue  # Of what no name stands for any more, or of what is damaged: nobody can count on it.
    return found
