"""The mutating verbs as the fault tests run them: what stands before, what is done, what stands after.

Every ref must at any time be as it was before or as it is after, and at the end as it is after.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.progress import SILENT
from ckptfmt.storage import durable
from ckptfmt.store.bases import find_base
from ckptfmt.store.retention import Policy
from ckptfmt.store.store import Store as Engine
from ckptfmt.store.store import open_store
from ckptfmt.transfer.bases import keep_base
from ckptfmt.transfer.restoring import file_bytes
from tests.exactness import made
from tests.faults import seam
from tests.store import making
from tests.store.making import content_of, files_of, tree_of

Content = Mapping[str, bytes] | None
"""Files of a ref; None where it does not stand."""


@dataclass(frozen=True)
class Place:
    """`sources` never change; `work` holds the store and what verbs write."""

    sources: Path
    work: Path

    @property
    def store(self) -> Path:
        return self.work / "store"

    @property
    def out(self) -> Path:
        return self.work / "out" / "restored"

    def open(self) -> Store:
        return Store.open(self.store)

    def at(self, work: Path) -> Place:
        return Place(self.sources, work)


@dataclass(frozen=True)
class Verb:
    """A verb in its setting. `before` and `after` name sources by ref; a ref that is not in one does not stand then.

    `said_when_done` are the error codes with which a verb that was already done may answer; `half_done` those of a
    verb of two steps that was stopped between them (nothing is lost, and the answer says so). A verb that `forgets`
    keeps no history: only what stands counts. What one that `drops` dropped before it was killed, and does not see when
    it is run again, may stand again after a power loss.
    """

    name: str
    prepare: Callable[[Place], None]
    act: Callable[[Place], object]
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    restores: str | None = None
    said_when_done: tuple[str, ...] = ()
    half_done: tuple[str, ...] = ()
    forgets: bool = False
    drops: bool = False


def make_sources(sources: Path) -> None:
    """Every checkpoint that the verbs use."""
    first = {"layers.0.weight": 1, "layers.1.weight": 2, "layers.2.weight": 3, "tied.weight": 1}
    making.write_model(sources / "first", first)
    making.write_model(sources / "second", {**first, "layers.2.weight": 4}, extra="two")
    making.write_model(sources / "third", {**first, "layers.0.weight": 5}, extra="three")
    making.write_small(sources / "large", {"embed": 8, "head": 9}, elements=30_000)
    making.write_small(sources / "wide", {f"layers.{seed}": 40 + seed for seed in range(6)}, elements=3000)
    making.write_small(sources / "narrow", {"layers.0": 40}, elements=3000)
    making.write_base(sources / "base")
    making.write_adapter(sources / "adapter", 1)
    making.write_adapter(sources / "bloated", 2)
    shutil.copy2(sources / "base" / "model.safetensors", sources / "bloated" / "model.safetensors")
    making.settle_times(sources / "bloated")
    for index, name in enumerate(("x", "y", "z")):
        making.write_small(sources / "runs" / name, {"a": 20, "b": 30 + index})
    made.family("BF16", square=(64, 64), embedding=(32, 64), tall=(128, 128), rank=2).write(sources / "tuned")
    for path in (sources / "tuned").iterdir():
        making.settle_times(path)


def _nothing(place: Place) -> None:
    Store.init(place.store).close()


def _with_first(place: Place) -> None:
    with Store.init(place.store) as store:
        store.import_path(place.sources / "first", name="runs/first")


def _with_runs(place: Place) -> None:
    _with_first(place)
    with place.open() as store:
        store.import_path(place.sources / "runs", name="many/run-{name}")


def _prune(place: Place) -> None:
    """Two of three in one run go."""
    with place.open() as store:
        store.prune(store.plan_prune(["many"], keep=Policy(last=1)))


def _with_base(place: Place) -> None:
    with Store.init(place.store) as store:
        store.add_base("base", place.sources / "base")
        store.import_path(place.sources / "first", name="runs/first")


def _with_adapter(place: Place) -> None:
    _with_base(place)
    with place.open() as store:
        store.import_path(place.sources / "adapter", name="runs/adapter")


def _with_two_generations(place: Place) -> None:
    _with_first(place)
    with place.open() as store:
        store.import_path(place.sources / "second", name="runs/first")


def _with_bloated(place: Place) -> None:
    _with_base(place)
    with place.open() as store:
        store.import_path(place.sources / "bloated", name="runs/bloated", base="base")


def _with_tuned_base(place: Place) -> None:
    with Store.init(place.store) as store:
        store.add_base("base", place.sources / "tuned" / "base")
        store.import_path(place.sources / "first", name="runs/first")


def _with_lost(place: Place) -> None:
    with Store.init(place.store) as store:
        store.add_base("base", place.sources / "tuned" / "base", keep="copy")
        store.import_path(place.sources / "tuned" / "lost", name="runs/lost", base="base")
    _once(place)


def _with_garbage(place: Place) -> None:
    """Of what was dropped, some is needed by what stands and some by nothing."""
    _with_first(place)
    with place.open() as store:
        store.import_path(place.sources / "second", name="runs/second")
        store.import_path(place.sources / "third", name="runs/third")
        store.drop("runs/second")


def _with_sparse(place: Place) -> None:
    """Of a shard little is needed still."""
    _with_first(place)
    with place.open() as store:
        store.import_path(place.sources / "wide", name="runs/wide")
        store.import_path(place.sources / "narrow", name="runs/narrow")
        store.drop("runs/wide")


class _StoppedBeforeTakingOver:
    """Stops a gc before it takes over a run, by the rename of a directory of the trash."""

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        if call == "rename" and "/trash/" in str(arguments[0]):
            raise seam.Abort

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        return


def _with_trash(place: Place) -> None:
    """A gc was stopped between taking out and unlinking."""
    _with_garbage(place)
    with place.open() as store, suppress(seam.Abort), durable.observed(_StoppedBeforeTakingOver()):
        _gc(store, place)
    assert list((place.store / "trash").rglob("*.safetensors"))


def _with_optimized(place: Place) -> None:
    _with_lost(place)
    _optimize(place)


def _gc(store: Store, place: Place) -> object:
    """Without grace or history: what nothing needs goes at once."""
    report = store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
    assert report.problems == ()
    return report


def _once(place: Place) -> None:
    """Load what takes long to load, and start its threads, before a process is forked."""
    _optimize(place.at(Path(shutil.copytree(place.work, place.work.parent / "loaded"))))
    shutil.rmtree(place.work.parent / "loaded")


def _import_encoded(place: Place) -> None:
    """The adapter's shard first, then one of objects stored against the base, and against both."""
    with place.open() as store:
        store.import_path(place.sources / "tuned" / "both", name="runs/both", base="base")
        assert made.used(store, "runs/both") >= {"delta", "lowrank", "base"}


def _optimize(place: Place) -> None:
    """Factors that are found are durable before what is stored against them."""
    with place.open() as store:
        store.optimize(["runs/lost"])
        assert "lowrank" in made.used(store, "runs/lost")


def _import(source: str, name: str, base: str | None = None) -> Callable[[Place], object]:
    def act(place: Place) -> object:
        with place.open() as store:
            return store.import_path(place.sources / source, name=name, base=base)

    return act


def _keep_base(place: Place) -> object:
    engine = open_store(str(place.store))
    try:
        return keep_base(engine, find_base(engine, "base"), progress=SILENT)
    finally:
        engine.close()


def _calling(change: Callable[[Store, Place], object]) -> Callable[[Place], object]:
    def act(place: Place) -> object:
        with place.open() as store:
            return change(store, place)

    return act


FIRST: Final = {"runs/first": "first"}
GARBAGE: Final = {**FIRST, "runs/third": "third"}
SPARSE: Final = {**FIRST, "runs/narrow": "narrow"}
OPTIMIZED: Final = {"runs/lost": "tuned/lost", "bases/base": "tuned/base"}

VERBS: Final = (
    Verb("init", lambda place: None, lambda place: Store.init(place.store).close(), said_when_done=("store-exists",)),
    Verb("import-fresh", _nothing, _import("first", "runs/first"), {}, FIRST),
    Verb("import-sharing", _with_first, _import("second", "runs/second"), FIRST, {**FIRST, "runs/second": "second"}),
    Verb("import-again-changed", _with_first, _import("third", "runs/first"), FIRST, {"runs/first": "third"}),
    Verb("import-again-same", _with_first, _import("first", "runs/first"), FIRST, FIRST),
    Verb("import-large", _with_first, _import("large", "runs/large"), FIRST, {**FIRST, "runs/large": "large"}),
    Verb(
        "import-on-base",
        _with_base,
        _import("bloated", "runs/bloated", "base"),
        FIRST,
        {**FIRST, "runs/bloated": "bloated"},
    ),
    Verb(
        "import-many",
        _with_first,
        _import("runs", "many/{name}"),
        FIRST,
        {**FIRST, "many/x": "runs/x", "many/y": "runs/y", "many/z": "runs/z"},
    ),
    Verb(
        "restore",
        _with_first,
        _calling(lambda store, place: store.restore("runs/first", place.out)),
        FIRST,
        FIRST,
        restores="first",
        said_when_done=("target-exists",),
    ),
    Verb(
        "restore-on-base",
        _with_bloated,
        _calling(lambda store, place: store.restore("runs/bloated", place.out)),
        {**FIRST, "runs/bloated": "bloated"},
        {**FIRST, "runs/bloated": "bloated"},
        restores="bloated",
        said_when_done=("target-exists",),
    ),
    Verb(
        "base-add-copy",
        _with_first,
        _calling(lambda store, place: store.add_base("base", place.sources / "base", keep="copy")),
        FIRST,
        {**FIRST, "bases/base": "base"},
    ),
    Verb(
        "base-keep",
        _with_bloated,
        _keep_base,
        {**FIRST, "runs/bloated": "bloated", "bases/base": "base"},
        {**FIRST, "runs/bloated": "bloated", "bases/base": "base"},
    ),
    Verb(
        "bind",
        _with_adapter,
        _calling(lambda store, place: store.bind("runs/adapter", "base")),
        {**FIRST, "runs/adapter": "adapter"},
        {**FIRST, "runs/adapter": "adapter"},
    ),
    Verb(
        "rename",
        _with_first,
        _calling(lambda store, place: store.rename("runs/first", "kept/first")),
        FIRST,
        {"kept/first": "first"},
        said_when_done=("not-found",),
        half_done=("target-exists",),
    ),
    Verb(
        "rollback",
        _with_two_generations,
        _calling(lambda store, place: store.rollback("runs/first@1")),
        {"runs/first": "second"},
        {"runs/first": "first"},
    ),
    Verb(
        "rm",
        _with_first,
        _calling(lambda store, place: store.drop("runs/first")),
        FIRST,
        {},
        said_when_done=("not-found",),
    ),
    Verb(
        "prune",
        _with_runs,
        _prune,
        {**FIRST, "many/run-x": "runs/x", "many/run-y": "runs/y", "many/run-z": "runs/z"},
        {**FIRST, "many/run-z": "runs/z"},
        drops=True,
    ),
    Verb("pin", _with_first, _calling(lambda store, place: store.pin("runs/first")), FIRST, FIRST),
    Verb(
        "base-rm",
        _with_base,
        _calling(lambda store, place: store.drop_base("base")),
        {**FIRST, "bases/base": "base"},
        FIRST,
        said_when_done=("not-found",),
    ),
    Verb(
        "import-adapter",
        _with_base,
        _import("adapter", "runs/adapter", "base"),
        FIRST,
        {**FIRST, "runs/adapter": "adapter"},
    ),
    Verb(
        "import-encoded",
        _with_tuned_base,
        _import_encoded,
        FIRST,
        {**FIRST, "runs/both": "tuned/both"},
    ),
    Verb(
        "optimize",
        _with_lost,
        _optimize,
        {"runs/lost": "tuned/lost", "bases/base": "tuned/base"},
        {"runs/lost": "tuned/lost", "bases/base": "tuned/base"},
    ),
    Verb("gc", _with_garbage, _calling(_gc), GARBAGE, GARBAGE, forgets=True),
    Verb("gc-of-sparse", _with_sparse, _calling(_gc), SPARSE, SPARSE, forgets=True),
    Verb("gc-of-trash", _with_trash, _calling(_gc), GARBAGE, GARBAGE, forgets=True),
    Verb("gc-of-copies", _with_optimized, _calling(_gc), OPTIMIZED, OPTIMIZED, forgets=True),
    Verb(
        "import-from-trash",
        _with_trash,
        _import("second", "runs/second"),
        GARBAGE,
        {**GARBAGE, "runs/second": "second"},
        forgets=True,
    ),
    Verb("tag", _with_first, _calling(lambda store, place: store.tag("runs/first", ("best",))), FIRST, FIRST),
)

SINGLE: Final = ("first", "second", "third", "large", "wide", "narrow", "base", "bloated", "adapter")
BELOW: Final = ("runs/x", "runs/y", "runs/z", "tuned/base", "tuned/both", "tuned/lost")
BY_NAME: Final = {verb.name: verb for verb in VERBS}


class Expected:
    """What the sources hold, read once."""

    def __init__(self, sources: Path) -> None:
        self.trees = {name: tree_of(sources / name) for name in (*SINGLE, *BELOW)}
        self.files = {name: files_of(tree) for name, tree in self.trees.items()}


def refs_of(engine: Engine) -> dict[str, dict[str, bytes]]:
    """Every ref that stands, with its files as a restore would write them; of bases those that are kept."""
    found: dict[str, dict[str, bytes]] = {}
    for generation in engine.refs.standing():
        target = generation.target or ""
        if not generation.name.startswith("bases/"):
            found[generation.name] = content_of(engine, target)
        elif generation.keep == "copy":
            found[generation.name] = base_content(engine, target)
    return found


def base_content(engine: Engine, record: str) -> dict[str, bytes]:
    """The files of a kept base, from the store alone."""
    objects = engine.objects()
    return {file.path: b"".join(map(bytes, file_bytes(objects, file))) for file in engine.record(record).files}


def check_refs(verb: Verb, found: Mapping[str, Mapping[str, bytes]], expected: Expected, *, done: bool) -> None:
    """Every ref is as before or as after; `done`: as after."""
    for name in found.keys() | verb.before.keys() | verb.after.keys():
        before, after = verb.before.get(name), verb.after.get(name)
        if name.startswith("bases/") and before == after and name not in found:
            assert not done, f"{name} is not kept"
            continue  # Referenced still.
        there = found.get(name)
        allowed = {after} if done and not (verb.drops and after is None) else {before, after}
        assert any(there == (None if source is None else expected.files[source]) for source in allowed), (
            f"{verb.name}: ref {name!r} is neither as before nor as after"
        )


def check_place(verb: Verb, place: Place, expected: Expected, *, done: bool) -> None:
    """Open the store afresh and look at everything."""
    if not os.path.exists(place.store / "store.json"):
        assert verb.name == "init"
        assert not done
        return
    engine = open_store(str(place.store))
    try:
        check_refs(verb, refs_of(engine), expected, done=done)
    finally:
        engine.close()
    if done:
        with place.open() as store:
            assert store.verify().damaged == ()
    out = place.out.parent
    if verb.restores is not None:
        names = sorted(os.listdir(out)) if out.is_dir() else []
        hidden = [name for name in names if name.startswith(".") and name.endswith(".ckptfmt-partial")]
        if place.out.exists():
            assert tree_of(place.out) == expected.trees[verb.restores]
        assert set(names) - set(hidden) <= {place.out.name}
        assert not done or place.out.exists()


def run_again(verb: Verb, place: Place, expected: Expected) -> None:
    """The same command once more, to its end; or it says that all is done."""
    try:
        verb.act(place)
    except CkptfmtError as error:
        if error.code in verb.half_done:
            check_place(verb, place, expected, done=False)
            return
        assert error.code in verb.said_when_done, f"{verb.name} again: {error.message}"
    check_place(verb, place, expected, done=True)
