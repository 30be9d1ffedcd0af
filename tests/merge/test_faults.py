"""Merges that are killed, interrupted or refused by the disk: the whole result or none, and the store untouched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ckptfmt.api import Store
from ckptfmt.errors import BaseMismatch, Conflict, StorageError
from ckptfmt.merge import source
from ckptfmt.merge.hf_writer import HfWriter
from ckptfmt.merge.materialize import DIRECTORY
from ckptfmt.progress import SILENT, Progress
from ckptfmt.storage import durable
from tests.faults import seam
from tests.faults.test_errno import ERRNOS, NEEDS_SPACE, mounted
from tests.store import making

SIGKILLED: Final = -9
ROWS: Final = 520
SHARD_BYTES: Final = 150_000
"""Of the results here, so that they have several shards and an index."""


@dataclass(frozen=True)
class Place:
    """A store with a referenced base and an adapter, and what its merge gives."""

    top: Path
    tasks: int

    @property
    def base(self) -> Path:
        return self.top / "base"

    @property
    def store(self) -> Path:
        return self.top / "store"

    @property
    def out(self) -> Path:
        return self.top / "results" / "out"

    def merge(self, progress: Progress = SILENT) -> None:
        with Store.open(self.store) as store:
            store.merge("one", self.out, progress=progress)

    def visible(self) -> list[str]:
        """Names beside the target that a user would see."""
        found = os.listdir(self.out.parent) if self.out.parent.is_dir() else []
        return sorted(name for name in found if not name.startswith("."))

    def left(self) -> list[Path]:
        """What was begun and not finished."""
        return list(self.top.rglob("*.ckptfmt-partial"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    memory = "/dev/shm"
    fast = os.path.isdir(memory) and os.access(memory, os.W_OK)
    top = Path(tempfile.mkdtemp(prefix="ckptfmt-test-", dir=memory if fast else tmp_path))
    monkeypatch.setenv("CKPTFMT_CACHE", str(top / "cache"))
    monkeypatch.setattr(HfWriter.__init__, "__defaults__", (SHARD_BYTES,))
    time.sleep(0.05)
    made = Place(top, tasks())
    _write_sources(made)
    with Store.init(made.store) as store:
        store.add_base("base", made.base)
        store.import_path(top / "adapter", name="one", base="base")
    yield made
    shutil.rmtree(top, ignore_errors=True)


def _write_sources(place: Place) -> None:
    tensors = {
        f"model.layers.{layer}.self_attn.{name}.weight": ("F32", (ROWS, 64), making.noise(layer * 2 + at, ROWS * 256))
        for layer in range(2)
        for at, name in enumerate(("k_proj", "q_proj"))
    }
    tensors["model.norm.weight"] = ("F32", (64,), making.noise(9, 256))
    place.base.mkdir(parents=True)
    (place.base / "model.safetensors").write_bytes(making.safetensors(tensors))
    (place.base / "config.json").write_text('{"model_type":"llama"}')
    directory = place.top / "adapter"
    making.write_adapter(directory, 1)
    factors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.{half}.weight": (
            "F32",
            shape,
            np.random.default_rng(20 + layer).standard_normal(shape, np.float32).tobytes(),
        )
        for layer in range(2)
        for half, shape in (("lora_A", (2, 64)), ("lora_B", (ROWS, 2)))
    }
    (directory / "adapter_model.safetensors").write_bytes(making.safetensors(factors))


@pytest.fixture
def expected(place: Place) -> dict[str, bytes]:
    """The files of the whole result; what made them is gone again."""
    place.merge()
    files = read_files(place.out)
    assert sum(name.endswith(".safetensors") for name in files) > 2
    shutil.rmtree(place.out.parent)
    return files


TASKS: Final = Path("/proc/self/task")


def tasks() -> int:
    return len(os.listdir(TASKS)) if TASKS.is_dir() else 0


def settle(place: Place) -> None:
    """Wait until the threads of earlier merges have really ended, before a fork.

    A thread that Python has joined still gives BLAS its memory back: a fork in that moment copies a list half changed,
    and the child waits for ever.
    """
    end = time.monotonic() + 1
    while tasks() > place.tasks and time.monotonic() < end:
        time.sleep(0.001)


def in_child(place: Place, action: Callable[[], None]) -> int:
    settle(place)
    return seam.in_child(action)


def read_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def calls_of(place: Place) -> list[str]:
    counter = seam.Counter()
    with durable.observed(counter):
        place.merge()
    shutil.rmtree(place.out.parent)
    return counter.calls


def check(place: Place, expected: dict[str, bytes], store: object) -> None:
    """Nothing is there or all of it, the store is as it was, and the same command finishes."""
    assert place.visible() in ([], ["out"])
    if place.out.exists():
        assert read_files(place.out) == expected
        shutil.rmtree(place.out)
    assert making.tree_of(place.store) == store
    place.merge()
    assert read_files(place.out) == expected
    shutil.rmtree(place.out.parent)


def test_killed_anywhere(place: Place, expected: dict[str, bytes]) -> None:
    store = making.tree_of(place.store)
    boundaries = 2 * len(calls_of(place))
    for boundary in range(boundaries):

        def act(at: int = boundary) -> None:
            with durable.observed(seam.Killer(at)):
                place.merge()

        assert in_child(place, act) == SIGKILLED, boundary
        check(place, expected, store)
    assert boundaries > 60


def test_a_call_that_fails(place: Place, expected: dict[str, bytes]) -> None:
    store = making.tree_of(place.store)
    calls = calls_of(place)
    numbers = list(ERRNOS)
    for at, call in enumerate(calls):
        number = numbers[at % len(numbers)]
        with durable.observed(seam.failing_with(number, at)), pytest.raises(StorageError) as caught:
            place.merge()
        assert (caught.value.code, caught.value.exit_code) == (ERRNOS[number], 1), (at, call)
        assert str(place.out) in caught.value.message
        assert place.left() == []
        check(place, expected, store)


def test_a_disk_that_is_full_from_then_on(place: Place, expected: dict[str, bytes]) -> None:
    store = making.tree_of(place.store)
    for at in range(sum(call in NEEDS_SPACE for call in calls_of(place))):
        full = seam.failing_with(errno.ENOSPC, at, lasting=True)
        full.only = lambda call: call in NEEDS_SPACE
        with durable.observed(full), pytest.raises(StorageError) as caught:
            place.merge()
        assert (caught.value.code, caught.value.exit_code) == ("disk-full", 1)
        assert place.visible() == [] and place.left() == []
        check(place, expected, store)


def test_a_really_full_disk(place: Place, expected: dict[str, bytes]) -> None:
    with mounted(place.top / "results", "64m") as resize:
        for size in ("16k", "100k", "256k", "384k", "512k"):
            resize(size)
            with pytest.raises(StorageError) as caught:
                place.merge()
            assert (caught.value.code, caught.value.exit_code) == ("disk-full", 1)
            assert "free some space" in (caught.value.hint or "")
            assert os.listdir(place.out.parent) == []
        resize("64m")
        place.merge()
        assert read_files(place.out) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, seam.Abort])
def test_an_interruption_before_any_call(place: Place, expected: dict[str, bytes], error: type[BaseException]) -> None:
    store = making.tree_of(place.store)
    for at in range(len(calls_of(place))):
        with durable.observed(seam.Failing(at, error)), pytest.raises(error):
            place.merge()
        assert place.left() == []
        check(place, expected, store)


class Stopping:
    """Progress that raises at its call number `at`."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.calls = 0
        self._at = at
        self._error = error

    def _count(self) -> None:
        self.calls += 1
        if self.calls - 1 == self._at:
            raise self._error

    def begin(self, label: str, total_bytes: int | None) -> None:
        self._count()

    def advance(self, done_bytes: int) -> None:
        self._count()

    def end(self) -> None:
        self._count()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_progress_that_raises(place: Place, expected: dict[str, bytes], error: type[BaseException]) -> None:
    store = making.tree_of(place.store)
    counting = Stopping(-1, error)
    place.merge(counting)
    shutil.rmtree(place.out.parent)
    for at in range(counting.calls):
        with pytest.raises(error):
            place.merge(Stopping(at, error))
        assert place.visible() == [] and place.left() == []
        check(place, expected, store)
    assert counting.calls > 6


def test_two_processes_into_one_target(place: Place, expected: dict[str, bytes]) -> None:
    """Both build; one rename wins, the other says what stands there. Seen from outside, there is one whole result."""
    results = place.top / "said"
    for _ in range(5):
        results.mkdir()
        settle(place)

        def act(number: int) -> None:
            try:
                place.merge()
            except Conflict as error:
                (results / f"{number}").write_text(f"{error.code} {error.exit_code} {error.message}")

        seam.in_processes(2, act)
        said = [path.read_text() for path in results.iterdir()]
        assert len(said) == 1 and said[0].startswith("target-exists 1") and str(place.out) in said[0]
        assert read_files(place.out) == expected
        assert place.left() == []
        shutil.rmtree(place.out.parent)
        shutil.rmtree(results)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def _replace(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    (path.parent / "new").write_bytes(data)
    (path.parent / "new").replace(path)


@pytest.mark.parametrize("change", [_truncate, _replace, Path.unlink], ids=["truncated", "replaced", "removed"])
@pytest.mark.parametrize("read", [0, 1, 3])
def test_a_base_that_changes_while_it_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], read: int
) -> None:
    original = source._read_into
    seen: list[int] = []

    def changing(path: str, offset: int, data: memoryview) -> int:
        seen.append(offset)
        if len(seen) - 1 == read:
            change(Path(path))
        return original(path, offset, data)

    store = making.tree_of(place.store)
    monkeypatch.setattr(source, "_read_into", changing)
    with pytest.raises(BaseMismatch) as caught:
        place.merge()
    assert caught.value.exit_code == 3
    assert place.visible() == [] and place.left() == []
    assert making.tree_of(place.store) == store


def test_a_kept_base_with_a_flipped_bit(place: Place) -> None:
    with Store.open(place.store) as store:
        before = set((place.store / "shards").rglob("*.safetensors"))
        store.keep_base("base")
    shutil.rmtree(place.base)
    kept = next(iter(set((place.store / "shards").rglob("*.safetensors")) - before))
    data = bytearray(kept.read_bytes())
    data[-(ROWS * 256)] ^= 16
    kept.chmod(0o644)
    kept.write_bytes(data)
    with pytest.raises(BaseMismatch) as caught:
        place.merge()
    assert caught.value.exit_code == 3
    assert caught.value.tensors and all(name in caught.value.message for name in caught.value.tensors)
    assert place.visible() == [] and place.left() == []


# Temporary models ---------------------------------------------------------------------------------------------------


def use(place: Place, expected: dict[str, bytes]) -> None:
    with Store.open(place.store) as store, store.materialized("one") as path:
        assert read_files(Path(path)) == expected


def models(place: Place) -> list[str]:
    top = place.store / DIRECTORY
    return sorted(os.listdir(top)) if top.is_dir() else []


def test_a_temporary_model_killed_anywhere(place: Place, expected: dict[str, bytes]) -> None:
    counter = seam.Counter()
    with durable.observed(counter):
        use(place, expected)
    for boundary in range(2 * len(counter.calls)):

        def act(at: int = boundary) -> None:
            with durable.observed(seam.Killer(at)):
                use(place, expected)

        assert in_child(place, act) in (SIGKILLED, 0), boundary
        use(place, expected)
        assert models(place) == []


def test_an_interrupted_temporary_model_is_gone(place: Place, expected: dict[str, bytes]) -> None:
    """At once, but where its removal was what was interrupted: then with the next command."""
    counter = seam.Counter()
    with durable.observed(counter):
        use(place, expected)
    appears = counter.calls.index("rename")
    for at, call in enumerate(counter.calls):
        removes = at > appears and call in ("unlink", "rmdir", "rename")

        def act(at: int = at, removes: bool = removes) -> None:
            with durable.observed(seam.Failing(at, seam.Abort)), pytest.raises(seam.Abort):
                use(place, expected)
            assert removes or models(place) == []

        shutil.rmtree(place.store / DIRECTORY)
        assert in_child(place, act) == 0, (at, call)
        use(place, expected)
        assert models(place) == []


def test_many_processes_share_one_temporary_model(place: Place, expected: dict[str, bytes]) -> None:
    count = 8
    entered, made = place.top / "entered", place.top / "made"
    entered.mkdir()
    made.mkdir()

    class Seeing:
        def __init__(self, number: int) -> None:
            self._number = number

        def before(self, call: str, arguments: tuple[object, ...]) -> None:
            if call == "mkdir" and str(arguments[0]).endswith(".ckptfmt-partial"):
                (made / f"{self._number}").touch()

        def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
            return

    def act(number: int) -> None:
        with (
            durable.observed(Seeing(number)),
            Store.open(place.store) as store,
            store.materialized("one") as path,
        ):
            (entered / f"{number}").touch()
            while len(os.listdir(entered)) < count:
                time.sleep(0.01)
            assert read_files(Path(path)) == expected

    settle(place)
    seam.in_processes(count, act)
    assert len(os.listdir(made)) == 1
    assert models(place) == []


def test_a_maker_that_was_killed_is_followed_by_another(place: Place, expected: dict[str, bytes]) -> None:
    """Who waits for a maker goes on when it dies."""
    program = (
        "import os, signal, sys\n"
        "from ckptfmt.api import Store\n"
        "class Stuck:\n"
        "    def begin(self, label, total_bytes):\n"
        "        print('making', flush=True)\n"
        "        signal.pause()\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    with store.materialized('one', progress=Stuck()):\n"
        "        pass\n"
    )
    words = [sys.executable, "-c", program, str(place.store)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "making"
        settle(place)
        waiting = seam._forked(lambda: use_other(place, expected))
        time.sleep(0.5)
        assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
        child.kill()
        child.wait()
        assert os.waitstatus_to_exitcode(os.waitpid(waiting, 0)[1]) == 0
    assert models(place) == []


def use_other(place: Place, expected: dict[str, bytes]) -> None:
    with Store.open(place.store) as store, store.materialized("one") as path:
        found = read_files(Path(path))
        assert {name for name in found if name.endswith(".safetensors")} <= set(expected)


def test_a_temporary_model_on_a_full_disk(place: Place, expected: dict[str, bytes]) -> None:
    counter = seam.Counter()
    with durable.observed(counter):
        use(place, expected)
    calls = [call for call in counter.calls if call in NEEDS_SPACE]
    for at in range(0, len(calls), 2):
        full = seam.failing_with(errno.ENOSPC, at, lasting=True)
        full.only = lambda call: call in NEEDS_SPACE
        shutil.rmtree(place.store / DIRECTORY)
        with durable.observed(full), pytest.raises(StorageError) as caught:
            use(place, expected)
        assert caught.value.code == "disk-full"
        assert models(place) == []
        use(place, expected)
        assert models(place) == []
