"""Shards: real safetensors files, closed at their limits, aligned, with nothing in them twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import safe_open

from ckptfmt.api import Store
from ckptfmt.digest import FRAME_BYTES, digest_of
from ckptfmt.errors import IntegrityError
from ckptfmt.format.shard import ALIGNMENT, ShardObject
from ckptfmt.storage.local import LocalStorage
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.storage.protocol import Storage
from ckptfmt.store import shards
from ckptfmt.store.object_writer import Incoming
from ckptfmt.store.shards import ShardWriter, read_shard_header, shard_key, shard_of
from tests.store import making


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Writing:
    """A writer that keeps what it reports."""

    def __init__(self, storage: Storage, pool: ThreadPoolExecutor, remaining: int = 0) -> None:
        self.storage = storage
        self.done: list[tuple[str, int, tuple[ShardObject, ...]]] = []
        self.writer = ShardWriter(
            storage,
            effort="balanced",
            pool=pool,
            remaining=lambda: remaining,
            written=lambda *shard: self.done.append(shard),
        )

    def put(self, data: bytes, dtype: str | None = None, shape: tuple[int, ...] = ()) -> str:
        target = self.writer.begin(Incoming(len(data), dtype, shape))
        for start in range(0, len(data), FRAME_BYTES):
            target.append(data[start : start + FRAME_BYTES])
        digest = target.finish()
        assert digest == digest_of(data)
        return digest

    def flush(self) -> list[tuple[ShardObject, ...]]:
        self.writer.flush()
        for shard, size, objects in self.done:
            assert self.storage.size(shard_key(shard)) == size
            assert read_shard_header(self.storage, shard) == objects
        return [objects for _, _, objects in self.done]


def opened(root: Path) -> dict[str, bytes]:
    """The tensors of the only shard, as the safetensors library reads them."""
    (path,) = (root / "shards").rglob("*.safetensors")
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["ckptfmt"] == "shard/1"
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("held", [0, 10, 1000, 1 << 20])
def test_a_shard_is_a_safetensors_file(
    held: int, tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written at once, or with room for the header reserved and padded, wherever it spills."""
    monkeypatch.setattr(shards, "_HELD_BYTES", held)
    writing = Writing(LocalStorage(str(tmp_path)), pool, remaining=60_000)
    raw = {
        writing.put(making.noise(seed, 12 * seed), "F32", (3 * seed,)): making.noise(seed, 12 * seed)
        for seed in range(1, 40)
    }
    odd = writing.put(b"odd length!", None)
    empty = writing.put(b"")
    (objects,) = writing.flush()
    tensors = opened(tmp_path)
    assert {name: data for name, data in tensors.items() if name in raw} == raw
    assert tensors[odd] == b"odd length!"
    assert tensors[empty] == b""
    assert all(name in raw or name in (odd, empty) or name.startswith("pad-") for name in tensors)
    assert all(item.begin % ALIGNMENT == 0 for item in objects)


@pytest.mark.torture
def test_a_shard_that_really_spills(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    writing = Writing(LocalStorage(str(tmp_path)), pool, remaining=100_000)
    data = [making.noise(seed, 15 << 20) for seed in range(3)]
    digests = [writing.put(item, "U8", (15 << 20,)) for item in data]
    writing.flush()
    tensors = opened(tmp_path)
    assert [tensors[digest] for digest in digests] == data


def test_encoded_objects_are_bytes_to_others(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    writing = Writing(LocalStorage(str(tmp_path)), pool)
    digest = writing.put(b"text " * 1000)
    ((item,),) = writing.flush()
    assert (item.stored.encoding, item.dtype) == ("zstd", "U8")
    assert len(opened(tmp_path)[digest]) == item.stored.stored_bytes() < 5000


def test_the_limit_of_objects(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_SHARD_OBJECTS", 10)
    writing = Writing(MemoryStorage(), pool)
    digests = [writing.put(making.noise(seed, 8)) for seed in range(35)]
    found = writing.flush()
    assert [len(objects) for objects in found] == [10, 10, 10, 5]
    assert [item.digest for objects in found for item in objects] == digests


def test_the_limit_of_bytes(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 1000)
    writing = Writing(MemoryStorage(), pool)
    for seed in range(6):
        writing.put(making.noise(seed, 400), "U8", (400,))
    huge = writing.put(making.noise(99, 5000), "U8", (5000,))
    last = writing.put(making.noise(100, 400), "U8", (400,))
    found = writing.flush()
    assert [len(objects) for objects in found] == [2, 2, 2, 1, 1]
    assert [found[3][0].digest, found[4][0].digest] == [huge, last]


@pytest.mark.parametrize("held", [100, 1 << 20])
def test_the_limit_of_the_header(held: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_HELD_BYTES", held)
    monkeypatch.setattr(shards, "MAX_SHARD_HEADER_BYTES", 8000)
    writing = Writing(MemoryStorage(), pool, remaining=1 << 20)
    digests = [writing.put(making.noise(seed, 24)) for seed in range(60)]
    found = writing.flush()
    assert len(found) > 3
    assert [item.digest for objects in found for item in objects] == digests


@pytest.mark.parametrize("held", [0, 1 << 20])
@pytest.mark.parametrize("remaining", [0, 100, 5000])
def test_room_that_was_reckoned_too_small_makes_another_shard(
    held: int, remaining: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_HELD_BYTES", held)
    writing = Writing(MemoryStorage(), pool, remaining=remaining)
    digests = [writing.put(making.noise(seed, 40), "F32", (1,) * 9 + (10,)) for seed in range(50)]
    assert [item.digest for objects in writing.flush() for item in objects] == digests


def test_an_object_that_is_written_twice_becomes_padding(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    writing = Writing(LocalStorage(str(tmp_path)), pool)
    one, two = making.noise(1, 20), making.noise(2, 21)
    first = writing.put(one)
    assert writing.put(one) == first
    second = writing.put(two)
    assert writing.put(one) == first
    (objects,) = writing.flush()
    assert [item.digest for item in objects] == [first, second]
    tensors = opened(tmp_path)
    assert (tensors[first], tensors[second]) == (one, two)


def test_nothing_but_what_is_there_already_makes_no_shard(pool: ThreadPoolExecutor) -> None:
    storage = MemoryStorage()
    writing = Writing(storage, pool)
    writing.put(b"same bytes")
    writing.flush()
    writing.put(b"same bytes")
    assert len(writing.flush()) == 1
    assert len(list(storage.list("shards/"))) == 1


def test_an_object_of_the_wrong_length_is_refused(pool: ThreadPoolExecutor) -> None:
    writing = Writing(MemoryStorage(), pool)
    target = writing.writer.begin(Incoming(10))
    target.append(b"short")
    with pytest.raises(ValueError, match="5 bytes"):
        target.finish()


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_giving_up_leaves_nothing(
    held: int, tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_HELD_BYTES", held)
    writing = Writing(LocalStorage(str(tmp_path)), pool)
    writing.put(making.noise(1, 100))
    writing.writer.abort()
    writing.writer.abort()
    assert making.files_below(tmp_path) == set()


def test_duplicates_within_one_import(quick: Path) -> None:
    """Tensors of many frames, of one and of none, twice in a file and in two files; a file twice."""
    large = ("U8", (FRAME_BYTES + 9,), making.noise(1, FRAME_BYTES + 9))
    small, empty = ("F32", (4,), making.noise(2, 16)), ("F32", (0,), b"")
    tensors = {"a": large, "b": small, "c": empty, "d": large, "e": small, "f": empty}
    for name in ("one", "two"):
        (quick / "source" / name).mkdir(parents=True)
        (quick / "source" / name / "model.safetensors").write_bytes(making.safetensors(tensors))
        (quick / "source" / name / "notes.txt").write_text("the same text " * 100)
    (quick / "source" / "two" / "extra.safetensors").write_bytes(making.safetensors({"x": large, "y": small}))
    making.settle_times(quick / "source")
    with Store.init(quick / "store") as store:
        report = store.import_path(quick / "source", name="all/{name}")
        assert report.new_bytes < 1.02 * (FRAME_BYTES + 20_000)
        seen = [
            item.digest
            for path in (quick / "store" / "shards").rglob("*.safetensors")
            for item in read_shard_header(LocalStorage(str(quick / "store")), path.stem)
        ]
        assert len(seen) == len(set(seen))
        for row in store.list_refs():
            part = row.ref.removeprefix("all/")
            assert making.restored(store, row.ref, quick / "out" / part) == making.tree_of(quick / "source" / part)


def test_keys_of_shards() -> None:
    digest = "ab" * 32
    assert shard_of(shard_key(digest)) == digest
    for key in (f"shards/{digest}.safetensors", f"shards/cd/{digest}.safetensors", "shards/ab/x", f"tmp/ab/{digest}"):
        assert shard_of(key) is None


def test_a_header_that_is_not_the_one_that_gave_the_name(pool: ThreadPoolExecutor) -> None:
    storage = MemoryStorage()
    writing = Writing(storage, pool)
    writing.put(b"some data")
    writing.flush()
    shard = writing.done[0][0]
    data = storage.read(shard_key(shard), 0, 9999)
    storage.put(shard_key("cd" * 32), data)
    with pytest.raises(IntegrityError):
        read_shard_header(storage, "cd" * 32)
    for damaged in (b"", data[:4], data[:-1], data + b"\0", b"\xff" * 8 + data[8:]):
        storage.put(shard_key(shard), damaged)
        with pytest.raises(Exception, match="shard"):
            read_shard_header(storage, shard)
