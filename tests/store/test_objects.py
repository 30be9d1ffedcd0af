"""Objects: every byte checked, every copy tried, nothing wrong ever given."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptfmt.digest import FRAME_BYTES, checksum_of, digest_of
from ckptfmt.errors import CkptfmtError, DigestMismatch, IncompleteStore, NotFound, StorageError
from ckptfmt.format.shard import ShardObject, Stored, build_header
from ckptfmt.storage.local import LocalStorage
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.elsewhere import Called
from ckptfmt.store.object_writer import Incoming
from ckptfmt.store.objects import Objects
from ckptfmt.store.shards import ShardWriter, read_shard_header, shard_key
from tests.store import making

LONG = making.noise(1, 3 * FRAME_BYTES + 5)
SHORT = making.noise(2, 100)


class Outside:
    """A referenced base whose bytes may be wrong or unreadable."""

    name = "base 'outside'"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def called(self, digest: str) -> Called:
        return Called(self.name, "ckptfmt base verify outside --full")

    def has(self, digest: str) -> bool:
        return digest in self.objects

    def length(self, digest: str) -> int:
        return len(self.objects[digest])

    def read(self, digest: str, offset: int, length: int) -> bytes:
        return self.objects[digest][offset : offset + length]


class World:
    """A storage with shards of one object each, and the catalog that knows them."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.storage = storage or MemoryStorage()
        self.catalog = Catalog(None)
        self.refreshed = 0

    def write(self, data: bytes, effort: str = "fast", beside: bytes = b"") -> str:
        """A shard that holds `data`; another `beside` makes another shard of it."""
        with ThreadPoolExecutor(1) as pool:
            writer = ShardWriter(
                self.storage,
                effort=effort,
                pool=pool,
                remaining=lambda: 0,
                written=self.catalog.add_shard,  # type: ignore[arg-type]
            )
            for item in (data, beside):
                if item:
                    target = writer.begin(Incoming(len(item)))
                    for start in range(0, len(item), FRAME_BYTES):
                        target.append(item[start : start + FRAME_BYTES])
                    target.finish()
            writer.flush()
        return digest_of(data)

    def refresh(self) -> None:
        self.refreshed += 1
        for listed in self.storage.list("shards/"):
            shard = listed.key[-76:-12]
            if shard not in self.catalog.shards():
                self.catalog.add_shard(shard, listed.size, read_shard_header(self.storage, shard))

    def objects(self, outside: Outside | None = None) -> Objects:
        return Objects(self.storage, self.catalog, refresh=self.refresh, outside=outside)

    def damage(self, digest: str, copy: int, offset: int = 0) -> None:
        location = self.catalog.find(digest)[copy]
        key = shard_key(location.shard)
        data = bytearray(self.storage.read(key, 0, 1 << 40))
        data[location.begin + offset] ^= 1
        self.storage.put(key, data)


@pytest.fixture(params=[False, True], ids=["alone", "pool"])
def pool(request: pytest.FixtureRequest) -> Iterator[ThreadPoolExecutor | None]:
    if not request.param:
        yield None
        return
    with ThreadPoolExecutor(2) as pool:
        yield pool


def whole(objects: Objects, data: bytes, pool: ThreadPoolExecutor | None = None) -> bytes:
    return b"".join(map(bytes, objects.frames(digest_of(data), len(data), pool)))


@pytest.mark.parametrize("data", [LONG, SHORT, b"", b"text " * 2_000_000], ids=["long", "short", "empty", "encoded"])
def test_an_object_comes_back(data: bytes, pool: ThreadPoolExecutor | None) -> None:
    world = World()
    digest = world.write(data, beside=b"x")
    objects = world.objects()
    if data:
        assert whole(objects, data, pool) == data
        assert objects.read(digest, len(data)) == data
        objects.verify(digest, len(data))


@pytest.mark.parametrize("rotten", [0, 1, 2])
def test_the_sound_copy_of_three_is_used(rotten: int, pool: ThreadPoolExecutor | None) -> None:
    world = World()
    for beside in (b"1", b"2", b"3"):
        digest = world.write(LONG, beside=beside)
    assert len(world.catalog.find(digest)) == 3
    for copy in range(3):
        if copy != rotten:
            world.damage(digest, copy, offset=FRAME_BYTES + 7)
    assert whole(world.objects(), LONG, pool) == LONG


def test_each_frame_may_come_from_another_copy() -> None:
    world = World()
    for beside in (b"1", b"2"):
        digest = world.write(LONG, beside=beside)
    world.damage(digest, 0, offset=0)
    world.damage(digest, 1, offset=2 * FRAME_BYTES)
    assert whole(world.objects(), LONG) == LONG
    world.damage(digest, 1, offset=0)
    with pytest.raises(DigestMismatch) as caught:
        whole(world.objects(), LONG)
    assert caught.value.digest == digest


def test_a_copy_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector is an error of the disk, no wrong bytes: the other copy serves."""
    world = World(LocalStorage(str(tmp_path)))
    for beside in (b"1", b"2"):
        digest = world.write(SHORT, beside=beside)
    bad = tmp_path / shard_key(world.catalog.find(digest)[0].shard)
    opened = os.open

    def refusing(path: str, *arguments: int) -> int:
        if path == str(bad):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", refusing)
    assert whole(world.objects(), SHORT) == SHORT
    world.storage.delete(shard_key(world.catalog.find(digest)[1].shard))
    with pytest.raises(StorageError):
        whole(world.objects(), SHORT)


def test_a_rotten_copy_and_one_that_was_moved() -> None:
    """The catalog knows a rotten copy and one that is gone; a third, which it does not know, is sound."""
    world = World()
    for beside in (b"1", b"2"):
        digest = world.write(SHORT, beside=beside)
    gone, kept = (copy.shard for copy in world.catalog.find(digest))
    world.damage(digest, 1)
    world.storage.delete(shard_key(gone))
    assert kept != gone
    other = World(world.storage)
    other.write(SHORT, beside=b"3")
    assert whole(world.objects(), SHORT) == SHORT
    assert world.refreshed


def test_an_object_that_is_not_known_is_looked_for_once_more() -> None:
    world = World()
    other = World(world.storage)
    digest = other.write(SHORT)
    assert world.objects().read(digest, len(SHORT)) == SHORT


def test_an_object_that_is_nowhere() -> None:
    world = World()
    world.write(LONG)
    with pytest.raises(IncompleteStore) as caught:
        whole(world.objects(), SHORT)
    assert (caught.value.digest, caught.value.exit_code) == (digest_of(SHORT), 3)


def test_a_shard_that_is_gone() -> None:
    world = World()
    digest = world.write(SHORT)
    world.storage.delete(shard_key(world.catalog.find(digest)[0].shard))
    with pytest.raises(IncompleteStore):
        whole(world.objects(), SHORT)


def test_another_length_than_is_recorded() -> None:
    world = World()
    digest = world.write(SHORT)
    for length in (99, 101, 0, FRAME_BYTES * 2):
        with pytest.raises(CkptfmtError) as caught:
            list(world.objects().frames(digest, length))
        assert caught.value.exit_code == 3


def test_a_copy_of_another_length_is_no_copy() -> None:
    """A header may lie: what claims the digest with another length is passed over for the one that fits."""
    world = World()
    digest = world.write(SHORT)
    lie = Stored("raw", 3, checksum_of(b"lie"))
    head = build_header([ShardObject(digest, lie, 0, "U8", (3,))], 3, None)
    world.storage.put(shard_key(digest_of(head[8:])), head + b"lie")
    world.refresh()
    assert len(world.catalog.find(digest)) == 2
    assert whole(world.objects(), SHORT) == SHORT


def test_bytes_whose_checksums_hold_and_whose_digest_does_not() -> None:
    """A shard that was built wrong: its frames are what was stored, and not what the name says."""
    world = World()
    digest = digest_of(SHORT)
    wrong = making.noise(3, 100)
    head = build_header([ShardObject(digest, Stored("raw", 100, checksum_of(wrong)), 0, "U8", (100,))], 100, None)
    world.storage.put(shard_key(digest_of(head[8:])), head + wrong)
    world.refresh()
    objects = world.objects()
    for use in (objects.read, objects.verify):
        with pytest.raises(DigestMismatch):
            use(digest, 100)


@pytest.mark.parametrize("encoding", ["zstd", "planes", "no-such-encoding"])
def test_frames_that_do_not_decode(encoding: str) -> None:
    world = World()
    junk = making.noise(4, 50)
    digest = digest_of(SHORT)
    stored = Stored(encoding, 100, checksum_of(junk), (50,), None, "F32" if encoding == "planes" else None)
    head = build_header([ShardObject(digest, stored, 0, "U8", (50,))], 50, None)
    world.storage.put(shard_key(digest_of(head[8:])), head + junk)
    world.refresh()
    with pytest.raises(CkptfmtError) as caught:
        whole(world.objects(), SHORT)
    assert caught.value.exit_code in (1, 3, 5)
    world.write(SHORT)
    assert whole(world.objects(), SHORT) == SHORT


def test_a_base_outside(pool: ThreadPoolExecutor | None) -> None:
    world = World()
    outside = Outside({digest_of(LONG): LONG})
    objects = world.objects(outside)
    assert objects.has(digest_of(LONG))
    assert not objects.has(digest_of(SHORT))
    assert whole(objects, LONG, pool) == LONG
    assert world.refreshed == 0
    outside.objects[digest_of(LONG)] = LONG[:-1] + b"\0"
    with pytest.raises(DigestMismatch, match="outside"):
        whole(objects, LONG, pool)
    with pytest.raises(IncompleteStore):
        whole(objects, SHORT, pool)


def test_reading_ahead_ends_with_the_reader() -> None:
    world = World()
    digest = world.write(LONG)
    with ThreadPoolExecutor(2) as pool:
        frames = world.objects().frames(digest, len(LONG), pool)
        assert next(frames) == LONG[:FRAME_BYTES]
        frames.close()  # type: ignore[attr-defined]
        world.damage(digest, 0, offset=3 * FRAME_BYTES)
        with pytest.raises(DigestMismatch):
            whole(world.objects(), LONG, pool)


def test_not_found_is_never_the_answer() -> None:
    """Missing bytes are a damaged store (3), not something that was misnamed (1)."""
    world = World()
    digest = world.write(SHORT)
    world.storage.delete(shard_key(world.catalog.find(digest)[0].shard))
    try:
        whole(world.objects(), SHORT)
    except NotFound:
        pytest.fail("an object that is gone was reported as a name that is not known")
    except CkptfmtError as error:
        assert error.exit_code == 3
