"""What every storage must do. Subclasses give `storage` and `raw`, which looks at and damages it behind the API."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import pytest

from ckptfmt.errors import NotFound
from ckptfmt.storage.protocol import Storage


class Raw(Protocol):
    """The same bytes, without the storage's own code."""

    def get(self, key: str) -> bytes | None: ...

    def set(self, key: str, data: bytes) -> None: ...

    def keys(self) -> set[str]: ...


class StorageConformance:
    """The contract. Keys that hold unfinished writes are told by `unfinished`."""

    def unfinished(self, raw: Raw) -> set[str]:
        return {key for key in sorted(raw.keys()) if key.startswith("tmp/")}

    # Reading

    def test_a_range_is_read(self, storage: Storage, raw: Raw) -> None:
        raw.set("shards/ab/x", bytes(range(100)))
        assert storage.read("shards/ab/x", 0, 100) == bytes(range(100))
        assert storage.read("shards/ab/x", 10, 5) == bytes(range(10, 15))
        assert storage.read("shards/ab/x", 99, 1) == b"\x63"

    def test_fewer_bytes_only_at_the_end(self, storage: Storage, raw: Raw) -> None:
        raw.set("a/x", b"12345")
        assert storage.read("a/x", 3, 10) == b"45"
        assert storage.read("a/x", 5, 1) == b""
        assert storage.read("a/x", 500, 10) == b""
        assert storage.read("a/x", 0, 0) == b""
        assert storage.read("a/x", 0, 1 << 50) == b"12345"

    def test_what_is_not_there(self, storage: Storage) -> None:
        with pytest.raises(NotFound, match="missing"):
            storage.read("a/missing", 0, 1)
        assert storage.size("a/missing") is None
        assert list(storage.list("a/")) == []
        assert list(storage.directories("a/")) == []
        storage.delete("a/missing")

    def test_what_lies_below_a_value_is_not_there(self, storage: Storage, raw: Raw) -> None:
        raw.set("a/x", b"1")
        assert storage.size("a/x/below") is None
        assert list(storage.list("a/x/")) == []

    def test_size(self, storage: Storage, raw: Raw) -> None:
        raw.set("a/x", b"12345")
        raw.set("a/empty", b"")
        assert (storage.size("a/x"), storage.size("a/empty")) == (5, 0)

    def test_damage_is_seen(self, storage: Storage, raw: Raw) -> None:
        """A storage gives what is there now: nothing is remembered."""
        storage.put("a/x", b"sound")
        assert storage.read("a/x", 0, 5) == b"sound"
        raw.set("a/x", b"wrong!")
        assert storage.read("a/x", 0, 9) == b"wrong!"
        assert storage.size("a/x") == 6

    # Writing

    def test_put(self, storage: Storage, raw: Raw) -> None:
        storage.put("manifests/ab/x.json", b"{}")
        assert raw.get("manifests/ab/x.json") == b"{}"
        assert self.unfinished(raw) == set()

    @pytest.mark.parametrize("data", [b"", b"1", bytearray(b"12"), memoryview(b"0123")[1:3]])
    def test_any_buffer_is_put(self, data: bytes, storage: Storage, raw: Raw) -> None:
        storage.put("a/x", data)
        assert storage.put_if_absent("a/y", data)
        assert raw.get("a/x") == raw.get("a/y") == bytes(data)

    def test_put_again(self, storage: Storage, raw: Raw) -> None:
        storage.put("a/x", b"same")
        storage.put("a/x", b"same")
        assert raw.get("a/x") == b"same"
        assert self.unfinished(raw) == set()

    def test_put_mends_what_is_damaged(self, storage: Storage, raw: Raw) -> None:
        raw.set("a/x", b"damaged")
        storage.put("a/x", b"sound")
        assert raw.get("a/x") == b"sound"

    def test_put_if_absent(self, storage: Storage, raw: Raw) -> None:
        assert storage.put_if_absent("refs/a/1.json", b"first")
        assert not storage.put_if_absent("refs/a/1.json", b"second")
        assert raw.get("refs/a/1.json") == b"first"
        assert self.unfinished(raw) == set()

    def test_put_if_absent_where_the_same_is_there(self, storage: Storage) -> None:
        assert storage.put_if_absent("refs/a/1.json", b"same")
        assert not storage.put_if_absent("refs/a/1.json", b"same")

    def test_one_of_many_threads_wins(self, storage: Storage, raw: Raw) -> None:
        for number in range(20):
            won = in_threads(8, lambda writer, n=number: storage.put_if_absent(f"refs/a/{n}.json", b"%d" % writer))
            assert sorted(won) == [False] * 7 + [True]
            assert raw.get(f"refs/a/{number}.json") == b"%d" % won.index(True)
        assert self.unfinished(raw) == set()

    def test_threads_put_the_same(self, storage: Storage, raw: Raw) -> None:
        in_threads(8, lambda _: storage.put("deep/er/x", b"same"))
        assert raw.get("deep/er/x") == b"same"
        assert self.unfinished(raw) == set()

    def test_settle_changes_nothing(self, storage: Storage, raw: Raw) -> None:
        raw.set("shards/ab/x", b"1")
        raw.set("shards/cd/y", b"2")
        before = raw.keys()
        storage.settle(["shards/ab/x", "shards/cd/y"])
        storage.settle([])
        assert raw.keys() == before

    # Uploads

    def test_an_upload(self, storage: Storage, raw: Raw) -> None:
        upload = storage.upload(4)
        upload.write(b"first ")
        upload.write(memoryview(b"second"))
        assert storage.size("shards/ab/x") is None
        upload.finish(b"HEAD", "shards/ab/x")
        assert raw.get("shards/ab/x") == b"HEADfirst second"
        assert self.unfinished(raw) == set()
        upload.abort()
        assert raw.get("shards/ab/x") == b"HEADfirst second"

    def test_an_upload_without_head(self, storage: Storage, raw: Raw) -> None:
        upload = storage.upload(0)
        upload.finish(b"", "shards/ab/empty")
        assert raw.get("shards/ab/empty") == b""

    def test_an_upload_given_up(self, storage: Storage, raw: Raw) -> None:
        before = raw.keys()
        upload = storage.upload(8)
        upload.write(b"never")
        upload.abort()
        upload.abort()
        assert raw.keys() == before

    def test_a_head_of_the_wrong_length(self, storage: Storage, raw: Raw) -> None:
        upload = storage.upload(8)
        with pytest.raises(ValueError, match="reserved"):
            upload.finish(b"short", "shards/ab/x")
        upload.abort()
        assert raw.get("shards/ab/x") is None
        assert self.unfinished(raw) == set()

    def test_uploads_side_by_side(self, storage: Storage, raw: Raw) -> None:
        def one(writer: int) -> None:
            upload = storage.upload(1)
            for _ in range(50):
                upload.write(b"%d" % writer)
            upload.finish(b"h", f"shards/{writer}/x")

        in_threads(6, one)
        assert all(raw.get(f"shards/{writer}/x") == b"h" + b"%d" % writer * 50 for writer in range(6))

    # Listing and deleting

    def test_list(self, storage: Storage, raw: Raw) -> None:
        for key in ("refs/a/1.json", "refs/a/2.json", "refs/b/1.json", "refsx/c", "shards/ab/cd"):
            raw.set(key, key.encode())
        assert {(listed.key, listed.size) for listed in storage.list("refs/")} == {
            ("refs/a/1.json", 13),
            ("refs/a/2.json", 13),
            ("refs/b/1.json", 13),
        }
        assert [listed.key for listed in storage.list("refs/b/")] == ["refs/b/1.json"]
        assert [listed.key for listed in storage.list("shards/")] == ["shards/ab/cd"]

    def test_directories(self, storage: Storage, raw: Raw) -> None:
        for key in ("refs/a/1.json", "refs/a/2.json", "refs/b,c/1.json", "refs/stray", "other/x/y"):
            raw.set(key, b"1")
        assert {(listed.key, listed.size) for listed in storage.directories("refs/")} == {
            ("refs/a", 0),
            ("refs/b,c", 0),
        }

    def test_a_change_is_seen_in_the_times(self, storage: Storage) -> None:
        storage.put("refs/a/1.json", b"1")
        (before,) = storage.directories("refs/")
        storage.put("refs/a/2.json", b"1")
        (after,) = storage.directories("refs/")
        assert after.modified_ns >= before.modified_ns > 0

    def test_delete(self, storage: Storage, raw: Raw) -> None:
        storage.put("pins/x", b"1")
        storage.put("pins/y", b"1")
        storage.delete("pins/x")
        storage.delete("pins/x")
        assert raw.get("pins/x") is None
        assert [listed.key for listed in storage.list("pins/")] == ["pins/y"]
        assert storage.put_if_absent("pins/x", b"2")

    # Moving and taking away

    def test_move(self, storage: Storage, raw: Raw) -> None:
        storage.put("shards/ab/x", b"value")
        storage.put("trash/run/marker", b"")
        assert storage.move("shards/ab/x", "trash/run/x")
        assert (raw.get("shards/ab/x"), raw.get("trash/run/x")) == (None, b"value")
        assert not storage.move("shards/ab/x", "trash/run/x")
        assert raw.get("trash/run/x") == b"value"

    def test_nothing_is_moved_beside_what_is_gone(self, storage: Storage, raw: Raw) -> None:
        storage.put("shards/ab/x", b"value")
        storage.put("trash/run/marker", b"")
        assert storage.take_over("trash/run/", "trash/later/")
        assert not storage.move("shards/ab/x", "trash/run/x")
        assert raw.keys() == {"shards/ab/x", "trash/later/marker"}

    def test_a_moved_value_keeps_its_time(self, storage: Storage) -> None:
        storage.put("shards/ab/x", b"value")
        storage.put("trash/run/marker", b"")
        (before,) = storage.list("shards/")
        storage.move("shards/ab/x", "trash/run/x")
        assert before.modified_ns in {listed.modified_ns for listed in storage.list("trash/")}

    def test_link(self, storage: Storage, raw: Raw) -> None:
        storage.put("trash/run/x", b"value")
        assert storage.link("trash/run/x", "shards/ab/x")
        assert storage.link("trash/run/x", "shards/ab/x")
        assert raw.get("shards/ab/x") == b"value"
        storage.discard(["trash/run/x"])
        assert raw.keys() == {"shards/ab/x"}
        assert storage.read("shards/ab/x", 0, 9) == b"value"

    def test_a_link_replaces_nothing(self, storage: Storage, raw: Raw) -> None:
        storage.put("trash/run/x", b"old")
        storage.put("shards/ab/x", b"new")
        assert storage.link("trash/run/x", "shards/ab/x")
        assert raw.get("shards/ab/x") == b"new"

    def test_a_link_to_what_is_gone(self, storage: Storage, raw: Raw) -> None:
        assert not storage.link("trash/run/x", "shards/ab/x")
        assert raw.get("shards/ab/x") is None
        storage.put("shards/ab/x", b"value")
        assert storage.link("trash/run/x", "shards/ab/x")

    def test_one_of_many_takes_over(self, storage: Storage, raw: Raw) -> None:
        for number in range(10):
            storage.put(f"trash/run-{number}/marker", b"m")
            storage.put(f"trash/run-{number}/x", b"x")
            won = in_threads(6, lambda each, n=number: storage.take_over(f"trash/run-{n}/", f"trash/by-{n}-{each}/"))
            assert sorted(won) == [False] * 5 + [True]
            below = f"trash/by-{number}-{won.index(True)}/"
            assert raw.keys() == {below + "marker", below + "x"}
            storage.discard([below + "marker", below + "x"])

    def test_discard(self, storage: Storage, raw: Raw) -> None:
        for name in ("x", "y", "z"):
            storage.put(f"trash/run/{name}", b"1")
        storage.discard(["trash/run/x", "trash/run/absent", "trash/run/y"])
        assert raw.keys() == {"trash/run/z"}
        storage.discard(["trash/run/z"])
        assert list(storage.directories("trash/")) == []
        storage.put("trash/run/again", b"1")
        assert raw.get("trash/run/again") == b"1"

    def test_the_clock_is_that_of_the_values(self, storage: Storage, raw: Raw) -> None:
        before = storage.now_ns()
        storage.put("a/x", b"1")
        (listed,) = storage.list("a/")
        assert before <= listed.modified_ns <= storage.now_ns()
        assert self.unfinished(raw) == set()


def in_threads(count: int, action: Callable[[int], object]) -> list[object]:
    """Run `action(0)` … `action(count - 1)` at once; what each returned, in order."""
    results: list[object] = [None] * count
    failures: list[BaseException] = []
    gate = threading.Barrier(count)

    def run(number: int) -> None:
        gate.wait()
        try:
            results[number] = action(number)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return results
