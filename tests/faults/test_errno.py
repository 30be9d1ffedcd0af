"""Every mutating call failing with every errno: the right error, nothing left lying about, nothing lost."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError, StorageError
from ckptfmt.storage import durable
from ckptfmt.store import shards
from tests.faults import seam
from tests.faults.figures import Tally, tally
from tests.faults.verbs import BY_NAME, Expected, Place, Verb, check_place, make_sources, run_again
from tests.store import making
from tests.store.making import files_below

ERRNOS: Final = {
    errno.EIO: "io",
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EACCES: "read-only",
    errno.EROFS: "read-only",
    errno.EMFILE: "io",
    errno.ESTALE: "io",
    errno.EINTR: "io",
}
NEEDS_SPACE: Final = ("create", "write", "pwrite", "mkdir", "link", "symlink")
REMOVES: Final = ("unlink", "rmdir")
NAMES: Final = (
    "import-sharing",
    "import-again-changed",
    "import-large",
    "restore",
    "base-add-copy",
    "base-keep",
    "optimize",
    "init",
    "gc",
    "gc-of-sparse",
    "gc-of-trash",
)
SPREAD: Final = 3
"""Errnos a call is failed with in CI, and one from then on; each in both ways in the torture run."""
SHORT: Final = ("import-sharing", "import-large", "restore")


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    parts = [*NAMES, *(f"{name}, short" for name in SHORT)]
    with tally("errno", parts, failures=950, short=50) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    parts = [*BY_NAME, *(f"{name}, short" for name in BY_NAME)]
    with tally("errno, for a release", parts, failures=12_000, short=200) as counting:
        yield counting


def start(quick: Path, name: str) -> tuple[Verb, Place, Expected]:
    verb = BY_NAME[name]
    place = Place(quick / "sources", quick / "before")
    make_sources(place.sources)
    place.work.mkdir()
    verb.prepare(place)
    return verb, place, Expected(place.sources)


@contextmanager
def copy_of(place: Place, work: Path) -> Iterator[Place]:
    shutil.copytree(place.work, work, symlinks=True)
    yield place.at(work)
    shutil.rmtree(work)


def attempt(verb: Verb, place: Place, observer: seam.Failing) -> CkptfmtError | None:
    """Run the verb under an observer; what it raised, or told of one of several parts: always this project's error."""
    try:
        with durable.observed(observer):
            report = verb.act(place)
    except CkptfmtError as error:
        return error
    for part in getattr(report, "failed", ()):
        return StorageError(part.message, code=part.code)
    return None


def assert_tidy(place: Place) -> None:
    """Nothing that was begun and not finished is left."""
    assert files_below(place.store / "tmp") == set()
    assert files_below(place.store / "pins") == set()
    assert list(place.work.rglob("*.ckptfmt-partial")) == []


def calls_of(verb: Verb, place: Place, work: Path) -> list[str]:
    counter = seam.Counter()
    with copy_of(place, work) as copy, durable.observed(counter):
        verb.act(copy)
    return counter.calls


def cases(calls: list[str], spread: int) -> Iterator[tuple[int, int, bool]]:
    """(call, errno, lasting): each errno in turn, so that neighbours differ."""
    numbers = list(ERRNOS)
    for at in range(len(calls)):
        for step in range(spread):
            yield at, numbers[(at + step * 3) % len(numbers)], False
        for step in range(len(numbers) if spread == len(numbers) else 1):
            yield at, numbers[(at + step) % len(numbers)], True


def check_case(verb: Verb, place: Place, expected: Expected, *, call: str, case: tuple[int, int, bool]) -> None:
    at, number, lasting = case
    observer = seam.failing_with(number, at, lasting=lasting)
    error = attempt(verb, place, observer)
    assert observer.hit
    if error is not None:
        assert isinstance(error, StorageError)
        assert (error.code, error.exit_code) == (ERRNOS[number], 1)
        assert str(place.work) in error.message
    if not lasting and call not in REMOVES:
        assert_tidy(place)
    check_place(verb, place, expected, done=error is None)
    run_again(verb, place, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_fails(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted: Tally) -> None:
    spread = SPREAD if name not in ("base-keep", "optimize", "gc", "gc-of-sparse", "gc-of-trash") else 1
    counted.add(name, failures=fail_everywhere(name, quick, monkeypatch, spread))


@pytest.mark.torture
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_call_fails_in_every_way(
    name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted_for_a_release: Tally
) -> None:
    counted_for_a_release.add(name, failures=fail_everywhere(name, quick, monkeypatch, len(ERRNOS)))


def fail_everywhere(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, spread: int) -> int:
    """Each case of a verb; how many."""
    if name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)
    verb, before, expected = start(quick, name)
    calls = calls_of(verb, before, quick / "work")
    tried = list(cases(calls, spread))
    for case in tried:
        with copy_of(before, quick / "work") as place:
            check_case(verb, place, expected, call=calls[case[0]], case=case)
    return len(tried)


FULL: Final = (
    "import-sharing",
    "import-large",
    "import-encoded",
    "optimize",
    "restore",
    "base-add-copy",
    "gc",
    "gc-of-sparse",
    "gc-of-trash",
    "gc-of-copies",
)


@pytest.mark.parametrize("name", FULL)
def test_a_disk_that_is_full_from_then_on(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs space fails, what gives space back works: so nothing unfinished is left, wherever it began."""
    if name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)
    verb, before, expected = start(quick, name)
    calls = [call for call in calls_of(verb, before, quick / "work") if call in NEEDS_SPACE]
    for at in range(len(calls)):
        observer = seam.failing_with(errno.ENOSPC, at, lasting=True)
        observer.only = lambda call: call in NEEDS_SPACE
        with copy_of(before, quick / "work") as place:
            error = attempt(verb, place, observer)
            assert error is not None
            assert error.code == "disk-full"
            assert_tidy(place)
            check_place(verb, place, expected, done=False)
            run_again(verb, place, expected)


@pytest.mark.parametrize("name", SHORT)
def test_short_writes_are_finished(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted: Tally) -> None:
    counted.add(f"{name}, short", short=write_short_everywhere(name, quick, monkeypatch))


@pytest.mark.torture
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_short_writes_of_every_verb_are_finished(
    name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted_for_a_release: Tally
) -> None:
    counted_for_a_release.add(f"{name}, short", short=write_short_everywhere(name, quick, monkeypatch))


def write_short_everywhere(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Each write takes half of what it is given, once and from then on; how many."""
    if name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)
    verb, before, expected = start(quick, name)
    tried = 0
    for lasting in (False, True):
        for at in itertools.count():
            with (
                copy_of(before, quick / "work") as place,
                seam.short_writes(monkeypatch, at, lasting=lasting) as seen,
            ):
                verb.act(place)
                check_place(verb, place, expected, done=True)
                if len(seen) <= at:
                    break
            tried += 1
    return tried


@pytest.mark.parametrize("name", ["import-sharing", "restore"])
def test_an_interruption_leaves_nothing(name: str, quick: Path) -> None:
    """Ctrl-C before any call: it travels on, nothing unfinished is left."""
    verb, before, expected = start(quick, name)
    calls = calls_of(verb, before, quick / "work")
    for at in range(len(calls)):
        with copy_of(before, quick / "work") as place:
            with pytest.raises(seam.Abort), durable.observed(seam.Failing(at, seam.Abort)):
                verb.act(place)
            if calls[at] not in REMOVES:
                assert_tidy(place)
            check_place(verb, place, expected, done=False)
            run_again(verb, place, expected)


@contextmanager
def mounted(path: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A tmpfs of `size` at `path`; gives a function that changes its size."""
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,size={new}", str(path)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_really_full_disk_while_importing(quick: Path) -> None:
    first = making.write_small(quick / "first", {"a": 1})
    large = making.write_small(quick / "large", {"b": 2, "c": 3}, elements=200_000)
    with mounted(quick / "disk", "512k") as resize:
        place = quick / "disk" / "store"
        with Store.init(place) as store:
            store.import_path(first, name="first")
        for free in range(0, 8):  # Pages that are left: the disk fills up at another step each time.
            resize("64m")
            filler = quick / "disk" / "filler"
            filler.write_bytes(b"x")
            resize("512k")
            room = os.statvfs(quick / "disk").f_bavail * os.statvfs(quick / "disk").f_frsize
            filler.write_bytes(b"x" * max(room - free * 4096, 1))
            with Store.open(place) as store, pytest.raises(StorageError) as caught:
                store.import_path(large, name="large")
            assert (caught.value.code, caught.value.exit_code) == ("disk-full", 1)
            assert files_below(place / "tmp") == set()
            with Store.open(place) as store:
                assert making.standing(store) == {"first"}
                assert store.verify().damaged == ()
            filler.unlink()
        resize("64m")
        with Store.open(place) as store:
            store.import_path(large, name="large")
            assert making.restored(store, "large", quick / "out") == making.tree_of(large)
            assert making.restored(store, "first", quick / "out1") == making.tree_of(first)


def test_gc_frees_a_disk_that_is_full_to_the_last_byte(quick: Path) -> None:
    """A shard that is mostly dead cannot be written anew; what is wholly dead needs no room to go."""
    dropped = making.write_small(quick / "dropped", {"a": 1, "b": 2}, elements=50_000)
    wide = making.write_small(quick / "wide", {name: seed for seed, name in enumerate("cdefgh", 3)}, elements=20_000)
    narrow = making.write_small(quick / "narrow", {"c": 3}, elements=20_000)
    with mounted(quick / "disk", "64m") as resize, Store.init(quick / "disk" / "store") as store:
        for name, source in (("wide", wide), ("narrow", narrow), ("dropped", dropped)):
            store.import_path(source, name=name)
        for name in ("dropped", "wide"):
            store.drop(name)
        found = os.statvfs(quick / "disk")
        resize(str((found.f_blocks - found.f_bfree) * found.f_frsize))
        with pytest.raises(OSError, match="No space left"):
            (quick / "disk" / "other").write_bytes(b"x")
        before = allocated(store)
        plan = store.plan_gc(grace_hours=0, keep_history_days=0, apply=True)
        assert plan.written_bytes
        with pytest.raises(StorageError) as caught:
            store.gc(plan)
        assert caught.value.code == "disk-full"
        assert before - allocated(store) > 400_000
        assert store.verify().damaged == ()
        resize("64m")
        store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
        assert allocated(store) < 200_000
        assert making.restored(store, "narrow", quick / "out") == making.tree_of(narrow)


def allocated(store: Store) -> int:
    return sum(path.lstat().st_size for path in Path(store.path).rglob("*") if path.is_file())


def test_a_really_full_disk_while_restoring(quick: Path) -> None:
    large = making.write_small(quick / "large", {"b": 2, "c": 3}, elements=200_000)
    with Store.init(quick / "store") as store, mounted(quick / "disk", "256k") as resize:
        store.import_path(large, name="large")
        with pytest.raises(StorageError) as caught:
            store.restore("large", quick / "disk" / "out")
        assert caught.value.code == "disk-full"
        assert os.listdir(quick / "disk") == []
        resize("64m")
        assert making.restored(store, "large", quick / "disk" / "out") == making.tree_of(large)


@pytest.mark.parametrize("size", ["16k", "64k", "128k", "160k", "192k", "256k", "320k"])
def test_a_full_disk_under_the_catalog_costs_nothing(size: str, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache directory fills up: the catalog is no part of the store, so the import goes through."""
    source = making.write_small(quick / "many", {f"layer.{index}": index for index in range(400)})
    with mounted(quick / "small", size):
        monkeypatch.setenv("CKPTFMT_CACHE", str(quick / "small" / "cache"))
        with Store.init(quick / "store") as store:
            store.import_path(source, name="many")
            assert making.restored(store, "many", quick / "out") == making.tree_of(source)
