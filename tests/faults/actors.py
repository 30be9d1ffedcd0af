"""What actors do to one store at the same time, and what must hold whatever they meet.

A new actor is one entry of `ACTORS`; a new meeting is one entry of `MEETINGS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.storage import durable
from ckptfmt.store.store import Store as Engine
from ckptfmt.store.store import open_store
from tests.exactness import made
from tests.faults import seam
from tests.store import making
from tests.store.making import content_of, files_of, tree_of

Files = Mapping[str, bytes]
_TARGET: Final = re.compile(rb'"target":(?:"([0-9a-f]{64})"|null)')
_UNIQUE: Final = re.compile(r"\d+-[0-9a-f]{32}")


@dataclass(frozen=True)
class Scene:
    """`sources` never change; `store` is the store they all use; `out` is for what one actor writes."""

    sources: Path
    store: Path
    out: Path


@dataclass(frozen=True)
class Actor:
    """One who uses the store.

    Attributes:
        act: what they do, from opening the store on.
        adds: the ref, and the source that is in its history once they are done; None: any.
        removes: the ref that does not stand once they are done, unless somebody gave it anew.
        may: codes of errors they may end with when others were there before them.
        forgets: what is no longer named may be gone once they came.
    """

    act: Callable[[Scene], object]
    adds: tuple[str, str | None] | None = None
    removes: str | None = None
    may: tuple[str, ...] = ()
    forgets: bool = False


def make_sources(sources: Path) -> None:
    making.write_small(sources / "first", {"a": 1, "b": 2})
    making.write_small(sources / "second", {"a": 1, "c": 3})
    making.write_small(sources / "third", {"b": 2, "d": 4})
    making.write_base(sources / "base")
    making.write_adapter(sources / "adapter", 1)
    family = made.family("BF16", square=(64, 64), embedding=(32, 64), tall=(32, 64), rank=2)
    for name in ("base", "step", "both"):
        made.write_model(sources / f"tuned-{name}", getattr(family, name), "BF16")
        making.settle_times(sources / f"tuned-{name}")


SOURCES: Final = ("first", "second", "third", "base", "adapter", "tuned-base", "tuned-step", "tuned-both")


def prepare(scene: Scene) -> None:
    """What stands before anyone comes: a checkpoint of two generations, two bases; and what imports left that failed.

    Nothing reaches that: whoever imports the same relies on it, and gc takes it away.
    """
    with Store.init(scene.store) as store:
        store.import_path(scene.sources / "third", name="runs/first")
        store.import_path(scene.sources / "first", name="runs/first")
        store.add_base("base", scene.sources / "base")
        store.add_base("tuned", scene.sources / "tuned-base", keep="copy")
        for source, base in (("second", None), ("tuned-step", "tuned")):
            nameless = seam.Failing(0, seam.Abort, only=lambda call: call == "link")
            with suppress(seam.Abort), durable.observed(nameless):
                store.import_path(scene.sources / source, name="never", base=base)
        store.import_path(scene.sources / "adapter", name="runs/unbound")
    assert making.files_below(scene.store / "pins") == set()


STANDING: Final = {"runs/first": "first", "runs/unbound": "adapter"}


def _using(change: Callable[[Store, Scene], object]) -> Callable[[Scene], object]:
    def act(scene: Scene) -> object:
        with Store.open(scene.store) as store:
            return change(store, scene)

    return act


def _import(
    source: str, name: str, base: str | None = None, parent: str | None = None, may: tuple[str, ...] = ()
) -> Actor:
    return Actor(
        _using(lambda store, scene: store.import_path(scene.sources / source, name=name, base=base, parent=parent)),
        adds=(name, source),
        may=may,
    )


def _read(store: Store, scene: Scene) -> None:
    """Whatever a restore gives is one of what the ref ever named."""
    store.restore("runs/first", scene.out / "read")
    found = files_of(tree_of(scene.out / "read"))
    assert any(found == files_of(tree_of(scene.sources / name)) for name in SOURCES)


def _gc(store: Store, scene: Scene) -> None:
    """Without grace: whatever nothing reaches goes at once."""
    assert store.gc(store.plan_gc(grace_hours=0, apply=True)).problems == ()


def _gc_without_history(store: Store, scene: Scene) -> None:
    """What no name stands for goes as well. It plans at once, and may come to do it when all has changed."""
    assert store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True)).problems == ()


def _bind(store: Store, scene: Scene) -> None:
    store.bind("runs/unbound", "base")


def _verify(store: Store, scene: Scene) -> None:
    assert store.verify().damaged == ()


ACTORS: Final[dict[str, Actor]] = {
    "import": _import("second", "runs/second"),
    "import of the same": _import("second", "runs/second"),
    "import under another name": _import("second", "runs/other"),
    "import of what stands": _import("first", "runs/again"),
    "import over": _import("second", "runs/first"),
    "import over by another": _import("third", "runs/first"),
    "import of an adapter": _import("adapter", "runs/adapter", "base"),
    "import against a base": _import("tuned-step", "runs/step", "tuned"),
    "import against a base too": _import("tuned-both", "runs/both", "tuned"),
    "import of a child": _import("second", "runs/child", parent="runs/first", may=("not-found", "incomplete")),
    "rm": Actor(_using(lambda store, _: store.drop("runs/first")), removes="runs/first", may=("not-found", "moved-on")),
    "rename": Actor(
        _using(lambda store, _: store.rename("runs/first", "runs/moved")),
        adds=("runs/moved", None),
        removes="runs/first",
        may=("not-found", "moved-on", "target-exists"),
    ),
    "rollback": Actor(
        _using(lambda store, _: store.rollback("runs/first@1")),
        adds=("runs/first", "third"),
        may=("moved-on", "not-found", "incomplete"),
    ),
    "bind": Actor(_using(_bind), adds=("runs/unbound", "adapter")),
    "base add": Actor(_using(lambda store, scene: store.add_base("base", scene.sources / "tuned-base"))),
    "tag": Actor(_using(lambda store, _: store.tag("runs/first", ("best",))), may=("not-found", "moved-on")),
    "base keep": Actor(_using(lambda store, _: store.keep_base("base")), may=("moved-on",)),
    "gc": Actor(_using(_gc), may=("lost-race",)),
    "another gc": Actor(_using(_gc), may=("lost-race",)),
    "gc without history": Actor(_using(_gc_without_history), may=("lost-race",), forgets=True),
    "another gc without history": Actor(_using(_gc_without_history), may=("lost-race",), forgets=True),
    "read": Actor(_using(_read), may=("not-found",)),
    "verify": Actor(_using(_verify)),
}

MEETINGS: Final[tuple[tuple[str, ...], ...]] = (
    ("import", "import of the same"),
    ("import", "import under another name"),
    ("import over", "import over by another"),
    ("import over", "rm"),
    ("import of what stands", "rm"),
    ("import over", "rename"),
    ("import over", "rollback"),
    ("import over", "tag"),
    ("import of an adapter", "base keep"),
    ("import against a base", "import against a base too"),
    ("import over", "read"),
    ("import", "verify"),
    ("import", "import of the same", "rm"),
    ("import over", "import over by another", "rm"),
    ("import over", "rename", "rollback"),
    ("import", "import of the same", "read"),
    ("import", "gc"),
    ("import against a base", "gc"),
    ("import over", "gc"),
    ("rm", "gc"),
    ("rollback", "gc"),
    ("base keep", "gc"),
    ("gc", "another gc"),
    ("gc", "read"),
    ("import", "import under another name", "gc"),
    ("import", "gc", "another gc"),
    ("import against a base", "import against a base too", "gc"),
    ("import over", "rename", "gc"),
    ("rm", "gc without history"),
    ("import over", "gc without history"),
    ("import of what stands", "rm", "gc without history"),
    ("rename", "gc without history"),
    ("rename", "rm", "gc without history"),
    ("rollback", "gc without history"),
    ("rollback", "import over", "gc without history"),
    ("import of a child", "rm", "gc without history"),
    ("bind", "gc without history"),
    ("bind", "base keep", "gc without history"),
    ("base add", "import against a base", "gc without history"),
    ("import against a base", "gc without history", "another gc without history"),
    ("import over by another", "gc without history", "another gc without history"),
)


class Sight:
    """Looks at a store while nobody changes it. What was looked at once, under the same names, is sound."""

    def __init__(self, sources: Path, cache: Path, *, forgets: bool = False) -> None:
        self._forgets = forgets
        self.files: dict[str, Files] = {name: files_of(tree_of(sources / name)) for name in SOURCES}
        self._sound: set[frozenset[str]] = set()
        self._cache = cache
        self.looked = self.asked = 0

    def check(self, store: Path) -> None:
        """Every ref that stands gives back one of the sources, and so do its generations unless they are forgotten."""
        self.asked += 1
        key = names_below(store)
        if key in self._sound:
            return
        self.looked += 1
        outer = os.environ.get("CKPTFMT_CACHE")
        os.environ["CKPTFMT_CACHE"] = str(self._cache)
        try:
            engine = open_store(str(store))
            try:
                for manifest in self._manifests(engine):
                    found = content_of(engine, manifest)
                    assert found in self.files.values(), f"{manifest} gives back none of the sources"
                assert Store(engine).verify().damaged == ()
            finally:
                engine.close()
        finally:
            if outer is not None:
                os.environ["CKPTFMT_CACHE"] = outer
        self._sound.add(key)

    def _manifests(self, engine: Engine) -> set[str]:
        if self._forgets:
            return {item.target or "" for item in engine.refs.manifests()}
        found = set()
        for name, _ in engine.refs.names():
            if not name.startswith("bases/"):
                found.update(item.target for item in engine.refs.history(name) if item.target is not None)
        return found

    def source_of(self, engine: Engine, manifest: str) -> str | None:
        """The source that a manifest gives back; None where it may be gone, and is."""
        try:
            found = content_of(engine, manifest)
        except CkptfmtError:
            if not self._forgets:
                raise
            return None
        return next(name for name, files in self.files.items() if files == found)


def names_below(store: Path) -> frozenset[str]:
    """What tells two states of a store apart to a reader: names are contents, but those of generations."""
    found = []
    prefix = len(str(store)) + 1
    pending = [str(store)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                name = entry.path[prefix:]
                if name in ("tmp", "pins"):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                found.append(f"{_UNIQUE.sub('*', name)} {_shown(entry.path) if name.startswith('refs/') else ''}")
    return frozenset(found)


def _shown(path: str) -> str:
    with open(path, "rb") as file:
        match = _TARGET.search(file.read())
    assert match is not None
    return (match[1] or b"dropped").decode()


def check_outcomes(meeting: tuple[str, ...], codes: list[str | None], scene: Scene, sight: Sight) -> None:
    """Who ended well has what they asked for: in the history, whoever came after."""
    for directory in ("tmp", "pins"):
        assert making.files_below(scene.store / directory) == set()
    engine = open_store(str(scene.store))
    try:
        for name, code in zip(meeting, codes, strict=True):
            actor = ACTORS[name]
            if code is not None:
                continue
            if actor.adds is not None:
                ref, source = actor.adds
                history = [item.target for item in engine.refs.history(ref) if item.target is not None]
                given = [sight.source_of(engine, target) for target in history]
                assert any(source is None or each in (None, source) for each in given), f"{name} is lost"
            if actor.removes is not None:
                assert any(item.target is None for item in engine.refs.history(actor.removes))
        for ref, source in STANDING.items():
            others = [ACTORS[name] for name, code in zip(meeting, codes, strict=True) if code is None]
            if not any(actor.removes == ref or (actor.adds and actor.adds[0] == ref) for actor in others):
                assert sight.source_of(engine, engine.refs.current(ref).target or "") == source
    except CkptfmtError as error:
        unreadable = {shard: problem.message for shard, problem in engine.unreadable_shards.items()}
        raise AssertionError(f"{meeting} {codes}: {error.message}; shards that cannot be read: {unreadable}") from error
    finally:
        engine.close()


@dataclass
class Stage:
    """A scene that is set again for each schedule."""

    root: Path
    forgets: bool = False
    before: Scene = field(init=False)
    sight: Sight = field(init=False)

    def __post_init__(self) -> None:
        self.before = Scene(self.root / "sources", self.root / "before", self.root / "out")
        make_sources(self.before.sources)
        prepare(self.before)
        self.sight = Sight(self.before.sources, self.root / "sight", forgets=self.forgets)
