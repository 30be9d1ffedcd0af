"""Storage in a directory keeps the contract, and what only a file system can break holds too."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from ckptfmt.errors import NotFound, StorageError
from ckptfmt.storage import durable
from ckptfmt.storage.local import LocalStorage
from tests.faults import seam
from tests.faults.disk import Disk
from tests.storage.conformance import StorageConformance


class LocalRaw:
    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.exists() else None

    def set(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def keys(self) -> set[str]:
        return {path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file()}


class TestLocalStorage(StorageConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(str(tmp_path))

    @pytest.fixture
    def raw(self, tmp_path: Path) -> LocalRaw:
        return LocalRaw(tmp_path)


class WithoutLinks:
    """A file system on which `link` is not permitted."""

    def __init__(self, number: int = errno.EPERM) -> None:
        self.number = number

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        if call == "link":
            raise OSError(self.number, os.strerror(self.number))

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        return


class TestWithoutHardLinks(TestLocalStorage):
    @pytest.fixture(autouse=True)
    def no_links(self) -> object:
        with durable.observed(WithoutLinks()):
            yield


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK])
def test_each_way_to_say_that_there_are_no_hard_links(number: int, tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    with durable.observed(WithoutLinks(number)):
        assert storage.put_if_absent("refs/a/1.json", b"first")
        assert not storage.put_if_absent("refs/a/1.json", b"second")
    assert storage.read("refs/a/1.json", 0, 99) == b"first"


def test_without_hard_links_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    """So that the same can be tried again."""
    storage = LocalStorage(str(tmp_path))
    with durable.observed(WithoutLinks()):
        storage.put_if_absent("refs/a/1.json", b"0")
    seen = 0
    while True:
        fault = seam.failing_with(errno.EIO, seen)

        class Both(WithoutLinks):
            def before(self, call: str, arguments: tuple[object, ...], fault: seam.Failing = fault) -> None:
                fault.before(call, arguments)
                super().before(call, arguments)

        key = f"refs/a/{seen + 2}.json"
        with durable.observed(Both()):
            try:
                assert storage.put_if_absent(key, b"whole")
            except StorageError:
                assert storage.size(key) in (None, 5)
        if not fault.hit:
            break
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_processes_wins(links: bool, tmp_path: Path) -> None:
    keys, root = 40, tmp_path / "store"
    root.mkdir()

    def claim(writer: int) -> None:
        storage = LocalStorage(str(root))
        won = [n for n in range(keys) if storage.put_if_absent(f"refs/a/{n}.json", str(writer).encode() * 50)]
        (tmp_path / f"won-{writer}").write_text(" ".join(map(str, won)))

    def claim_without_links(writer: int) -> None:
        with durable.observed(WithoutLinks()):
            claim(writer)

    seam.in_processes(6, claim if links else claim_without_links)
    won = [(int(n), writer) for writer in range(6) for n in (tmp_path / f"won-{writer}").read_text().split()]
    assert sorted(number for number, _ in won) == list(range(keys))
    storage = LocalStorage(str(root))
    assert all(storage.read(f"refs/a/{number}.json", 0, 9999) == str(writer).encode() * 50 for number, writer in won)
    assert list(storage.list("tmp/")) == []


def test_a_lost_answer_to_link_is_looked_into(tmp_path: Path) -> None:
    """Over NFS a link may be made and its answer lost; the repeated call then says that the name exists."""
    storage = LocalStorage(str(tmp_path))
    link = os.link

    def made_and_lost(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", made_and_lost)
        assert storage.put_if_absent("refs/a/1.json", b"mine")
        assert not storage.put_if_absent("refs/a/1.json", b"theirs")
    assert storage.read("refs/a/1.json", 0, 9) == b"mine"


def test_a_stale_handle_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("a/x", b"data")
    opened, left = os.open, [2]

    def stale(path: str, *arguments: int) -> int:
        if path.endswith("a/x") and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", stale)
    assert storage.read("a/x", 0, 9) == b"data"
    left[0] = 99
    with pytest.raises(StorageError) as caught:
        storage.read("a/x", 0, 9)
    assert caught.value.code == "io"


def test_short_reads_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("a/x", bytes(range(200)))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: pread(descriptor, min(length, 7), offset))
    assert storage.read("a/x", 3, 100) == bytes(range(3, 103))
    assert storage.read("a/x", 150, 999) == bytes(range(150, 200))


def test_an_error_of_the_disk_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("a/x", b"data")

    def bad(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", bad)
    with pytest.raises(StorageError, match="a/x") as caught:
        storage.read("a/x", 0, 4)
    assert caught.value.code == "io"


def test_asking_for_much_takes_no_more_memory_than_there_is_to_read(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("a/x", b"small")

    def read_with_little_memory() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
        if storage.read("a/x", 0, 1 << 30) != b"small":
            os.kill(os.getpid(), signal.SIGABRT)

    assert seam.in_child(read_with_little_memory) == 0


def test_reading_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x").write_bytes(b"data")
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    counter = seam.Counter()
    with durable.observed(counter):
        storage = LocalStorage(str(root))
        storage.read("a/x", 0, 9)
        storage.size("a/x")
        list(storage.list("a/"))
        list(storage.directories("a/"))
        with pytest.raises(NotFound):
            storage.read("b/y", 0, 1)
    assert counter.calls == []
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_directory_that_may_only_be_read(tmp_path: Path) -> None:
    root = tmp_path / "store"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x").write_bytes(b"data")
    for path in [root, *root.parents]:
        if path.stat().st_uid == os.getuid() and str(path).startswith("/tmp"):
            path.chmod(0o755)

    def as_nobody() -> None:
        os.setuid(65534)
        storage = LocalStorage(str(root))
        sound = storage.read("a/x", 0, 9) == b"data" and [item.key for item in storage.list("a/")] == ["a/x"]
        try:
            storage.put("a/y", b"1")
        except StorageError as error:
            sound = sound and error.code == "read-only" and error.exit_code == 1
        else:
            sound = False
        if not sound:
            os.kill(os.getpid(), signal.SIGABRT)

    assert seam.in_child(as_nobody) == 0


@pytest.mark.parametrize("reserve", [0, 8])
def test_an_upload_that_fails_anywhere_leaves_nothing(reserve: int, tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("tmp/made", b"")
    storage.delete("tmp/made")

    def run() -> None:
        upload = storage.upload(reserve)
        try:
            upload.write(b"data" * 100)
            upload.finish(b"h" * reserve, "shards/ab/x")
        finally:
            upload.abort()

    at = 0
    while True:
        fault = seam.failing_with(errno.ENOSPC, at)
        with durable.observed(fault):
            try:
                run()
            except StorageError as error:
                assert error.code == "disk-full"
        assert list(storage.list("tmp/")) == []
        if not fault.hit:
            break
        at += 1
    assert at > 5
    assert storage.size("shards/ab/x") == 400 + reserve


@pytest.mark.parametrize("call", ["put", "put_if_absent"])
def test_a_put_that_fails_anywhere_leaves_nothing_unfinished(call: str, tmp_path: Path) -> None:
    at = 0
    while True:
        storage = LocalStorage(str(tmp_path))
        fault = seam.failing_with(errno.EIO, at)
        with durable.observed(fault):
            try:
                getattr(storage, call)(f"refs/{at}/x", b"data")
            except StorageError as error:
                assert error.code == "io"
        assert storage.size(f"refs/{at}/x") in (None, 4)
        assert [item.key for item in storage.list("tmp/")] == [] or fault.hit
        for item in list(storage.list("tmp/")):  # Only where taking the temporary away was what failed.
            assert storage.size(f"refs/{at}/x") == 4
            storage.delete(item.key)
        if not fault.hit:
            break
        at += 1
    assert at > 5


def test_a_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("refs/a/1.json", b"1")
    storage.delete("refs/a/1.json")
    (tmp_path / "refs" / "a").rmdir()
    storage.put("refs/a/1.json", b"2")
    assert storage.read("refs/a/1.json", 0, 9) == b"2"


def test_names_that_somebody_else_made_are_made_durable(tmp_path: Path) -> None:
    """A directory or value that is seen may have been made just before its maker was stopped."""
    (tmp_path / "shards" / "ab").mkdir(parents=True)
    (tmp_path / "shards" / "ab" / "x").write_bytes(b"1")
    recorder = seam.Recorder()
    with durable.observed(recorder):
        LocalStorage(str(tmp_path)).settle(["shards/ab/x"])
    synced = {event.path for event in recorder.events}
    assert synced == {str(tmp_path), f"{tmp_path}/shards", f"{tmp_path}/shards/ab"}


@pytest.mark.parametrize("call", ["put", "put_if_absent", "upload"])
def test_a_disk_that_lies_about_what_it_wrote(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length is looked at before anything gets its name."""
    storage = LocalStorage(str(tmp_path))
    write = os.write

    def swallowing(descriptor: int, data: memoryview) -> int:
        write(descriptor, data[:-1])
        return len(data)

    monkeypatch.setattr(os, "write", swallowing)
    with pytest.raises(StorageError) as caught:
        if call == "upload":
            upload = storage.upload(0)
            try:
                upload.write(b"data")
                upload.finish(b"", "a/x")
            finally:
                upload.abort()
        else:
            getattr(storage, call)("a/x", b"data")
    assert caught.value.code == "io"
    assert storage.size("a/x") is None
    assert list(storage.list("tmp/")) == []


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("call", ["put", "put_if_absent", "upload"])
def test_what_is_there_is_whole_and_what_was_done_stays(call: str, links: bool, tmp_path: Path) -> None:
    """Power lost at any moment: the value is whole or not there, and there for good once the call returned."""
    storage, recorder, disk = LocalStorage(str(tmp_path)), seam.Recorder(), Disk(tmp_path)
    outer = recorder if links else Chain(recorder, WithoutLinks())
    with durable.observed(outer):
        if call == "upload":
            upload = storage.upload(4)
            upload.write(b"content")
            upload.finish(b"head", "a/b/x")
        else:
            getattr(storage, call)("a/b/x", b"headcontent")
    for event in recorder.events:
        if links or call != "put_if_absent":  # Without links the name is there before its bytes are.
            assert all(state.get("a/b/x", b"headcontent") == b"headcontent" for state in disk.states())
        disk.play(event)
    states = list(disk.states())
    assert all(state.get("a/b/x") == b"headcontent" for state in states)


class Chain:
    """Two observers, one after the other."""

    def __init__(self, *observers: durable.Observer) -> None:
        self._observers = observers

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        for observer in self._observers:
            observer.before(call, arguments)

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        for observer in self._observers:
            observer.after(call, arguments, result)


def upload(storage: LocalStorage) -> None:
    begun = storage.upload(4)
    begun.write(b"data")
    begun.finish(b"head", "deep/er/key")


CHANGES = {
    "put": lambda storage: storage.put("deep/er/key", b"x"),
    "put over": lambda storage: storage.put("there/old", b"y"),
    "put if absent": lambda storage: storage.put_if_absent("deep/er/key", b"x"),
    "put if absent, where something is": lambda storage: storage.put_if_absent("there/old", b"x"),
    "upload": upload,
    "delete": lambda storage: storage.delete("there/old"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_done_is_certain(name: str, tmp_path: Path) -> None:
    """Each change by itself: whoever makes it need not make it durable in turn."""
    storage = LocalStorage(str(tmp_path))
    storage.put("there/old", b"x")
    disk = Disk(tmp_path)
    recorder = seam.Recorder()
    with durable.observed(recorder):
        CHANGES[name](storage)
    for event in recorder.events:
        disk.play(event)
    assert recorder.events
    assert {path for path in disk.uncertain(str(tmp_path)) if "/tmp/" not in path.removeprefix(str(tmp_path))} == set()
