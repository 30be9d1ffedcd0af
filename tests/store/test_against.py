"""Objects stored against others: read through whatever they depend on, and never against something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ckptfmt.digest import FRAME_BYTES, digest_of
from ckptfmt.errors import CkptfmtError, DigestMismatch, IncompleteStore
from ckptfmt.format.shard import MAX_DEPTH, ShardObject
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.elsewhere import Called
from ckptfmt.store.graph import closure, depth, resolve
from ckptfmt.store.object_writer import Against, Incoming
from ckptfmt.store.objects import Objects
from ckptfmt.store.shards import ShardWriter, shard_key


class Outside:
    """A referenced base, whose bytes may change."""

    name = "base 'outside'"

    def __init__(self, *objects: bytes) -> None:
        self.objects = {digest_of(data): bytearray(data) for data in objects}

    def called(self, digest: str) -> Called:
        return Called(self.name, "look")

    def has(self, digest: str) -> bool:
        return digest in self.objects

    def length(self, digest: str) -> int:
        return len(self.objects[digest])

    def read(self, digest: str, offset: int, length: int) -> bytes:
        return bytes(self.objects[digest][offset : offset + length])


class World:
    """A storage, and a catalog that knows the shards written through it."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.catalog = Catalog(None)
        self.locations: dict[str, list[ShardObject]] = {}

    def objects(self, outside: Outside | None = None) -> Objects:
        return Objects(self.storage, self.catalog, refresh=lambda: None, outside=outside)

    def write(
        self,
        data: bytes,
        on: Sequence[bytes] = (),
        reference: str = "",
        *,
        outside: Outside | None = None,
        reaches: frozenset[str] | None = None,
        beside: bytes = b"",
    ) -> str | None:
        """A shard that holds `data`, stored against `on` where that is given; the digest that the writer gives."""
        digests = tuple(map(digest_of, on))
        against = ()
        if on:
            basis = self.objects(outside).basis(BasisOf("delta", reference, digests, len(data)))
            reached = closure(self.catalog.dependencies, digests) | set(digests) if reaches is None else reaches
            against = (Against("delta", reference, digests, basis, frozenset(reached)),)

        def written(shard: str, size: int, objects: tuple[ShardObject, ...]) -> None:
            self.catalog.add_shard(shard, size, objects)

        with ThreadPoolExecutor(2) as pool:
            writer = ShardWriter(self.storage, effort="balanced", pool=pool, remaining=lambda: 0, written=written)
            results = []
            for item, how in ((data, against), (beside, ())):
                if item:
                    target = writer.begin(Incoming(len(item), "BF16", (len(item) // 2,), against=how))
                    for start in range(0, len(item), FRAME_BYTES):
                        target.append(item[start : start + FRAME_BYTES])
                    results.append(target.finish())
            writer.flush()
        return results[0]

    def read(self, data: bytes, outside: Outside | None = None) -> bytes:
        return b"".join(map(bytes, self.objects(outside).frames(digest_of(data), len(data))))

    def encodings(self, data: bytes) -> list[str]:
        return [copy.stored.encoding for copy in self.catalog.find(digest_of(data))]


def weights(seed: int, count: int = 40_000) -> bytes:
    """Gaussian BF16 weights."""
    values = np.random.default_rng(seed).normal(0, 0.02, count).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def moved(data: bytes, seed: int, share: float = 0.05) -> bytes:
    """`data` with some words changed by a few steps."""
    generator = np.random.default_rng(seed)
    words = np.frombuffer(data, np.uint16).copy()
    places = generator.random(len(words)) < share
    words[places] += generator.integers(1, 4, int(places.sum()), np.uint16)
    return words.tobytes()


def chain(length: int) -> list[bytes]:
    data = [weights(0)]
    for seed in range(length):
        data.append(moved(data[-1], seed))
    return data


@pytest.mark.parametrize("count", [3000, 40_000, FRAME_BYTES // 2 + 7, FRAME_BYTES + 12_345])
@pytest.mark.parametrize("where", ["shard", "outside"])
def test_it_comes_back_through_its_basis(count: int, where: str) -> None:
    world, base = World(), weights(1, count)
    tuned = moved(base, 2)
    outside = Outside(base) if where == "outside" else None
    if outside is None:
        world.write(base)
    assert world.write(tuned, [base], outside=outside) == digest_of(tuned)
    assert world.encodings(tuned) == ["delta"]
    [copy] = world.catalog.find(digest_of(tuned))
    assert copy.stored.stored_bytes() < len(tuned) / 8
    assert world.read(tuned, outside) == tuned
    world.objects(outside).verify(digest_of(tuned), len(tuned))


def test_a_transposed_and_cast_basis_is_read_across_frames() -> None:
    world = World()
    rows, columns = 1500, 1100
    base = weights(3, rows * columns)
    turned = np.frombuffer(base, np.uint16).reshape(rows, columns).T
    wide = (np.ascontiguousarray(turned).astype(np.uint32) << 16).tobytes()
    world.write(base)
    data = bytearray(wide)
    data[4_000_001] ^= 1
    assert world.write(bytes(data), [base], f"transpose:2:{rows}x{columns},cast:BF16:F32")
    assert world.encodings(bytes(data)) == ["delta"]
    assert world.read(bytes(data)) == bytes(data)


def test_a_base_that_changed_is_never_decoded_against() -> None:
    """Not one frame is given: the base is proven before the first."""
    world, base = World(), weights(4, FRAME_BYTES)
    tuned, outside = moved(base, 5), Outside(base)
    world.write(tuned, [base], outside=outside)
    outside.objects[digest_of(base)][-1] ^= 1
    given: Iterator[object] = world.objects(outside).frames(digest_of(tuned), len(tuned))
    with pytest.raises(DigestMismatch, match="base 'outside'"):
        next(given)
    del outside.objects[digest_of(base)]
    with pytest.raises(IncompleteStore):
        next(world.objects(outside).frames(digest_of(tuned), len(tuned)))
    assert world.read(tuned, Outside(base)) == tuned


def test_a_base_that_changes_between_proof_and_use_is_noticed() -> None:
    world, base = World(), weights(4, FRAME_BYTES)
    tuned, outside = moved(base, 5), Outside(base)
    world.write(tuned, [base], outside=outside)
    frames = world.objects(outside).frames(digest_of(tuned), len(tuned))
    next(frames)
    outside.objects[digest_of(base)][-1] ^= 1
    with pytest.raises(DigestMismatch, match="base 'outside'"):
        next(frames)


def test_nothing_is_stored_against_a_base_that_changed() -> None:
    """What lies there now is not what is recorded: the object is stored by itself, and comes back."""
    world, base = World(), weights(6)
    tuned, outside = moved(base, 7), Outside(base)
    outside.objects[digest_of(base)][0] ^= 1
    assert world.write(tuned, [base], outside=outside) == digest_of(tuned)
    assert world.encodings(tuned) != ["delta"]
    assert world.read(tuned) == tuned


def test_chains_end_at_their_depth() -> None:
    world, data = World(), chain(MAX_DEPTH + 1)
    world.write(data[0])
    for index in range(1, MAX_DEPTH + 1):
        world.write(data[index], [data[index - 1]])
        assert depth(world.catalog.dependencies, digest_of(data[index])) == index
        assert world.read(data[index]) == data[index]
    world.write(data[MAX_DEPTH + 1], [data[MAX_DEPTH]])
    assert "delta" not in world.encodings(data[MAX_DEPTH + 1])
    assert world.read(data[MAX_DEPTH + 1]) == data[MAX_DEPTH + 1]


def test_crosswise_copies_are_read_through_the_whole_ones() -> None:
    """Two hosts: one has X whole and Y against X, the other Y whole and X against Y: smaller copies make a circle."""
    world = World()
    first = weights(8)
    second = moved(first, 9)
    world.write(first)
    world.write(second, [first], beside=b"1" * 600)
    world.write(second)
    world.write(first, [second], reaches=frozenset(), beside=b"2" * 600)
    assert world.encodings(first)[0] == world.encodings(second)[0] == "delta"
    assert world.read(first) == first and world.read(second) == second
    resolved = resolve(world.catalog.find_many, [digest_of(first), digest_of(second)], lambda digest: False)
    assert not resolved.missing
    for data in (first, second):
        [whole] = [copy for copy in world.catalog.find(digest_of(data)) if copy.stored.encoding != "delta"]
        world.storage.delete(shard_key(whole.shard))
        world.catalog.forget_shard(whole.shard)
    for data in (first, second):
        with pytest.raises(CkptfmtError):
            world.read(data)
    resolved = resolve(world.catalog.find_many, [digest_of(first)], lambda digest: False)
    assert resolved.missing == {digest_of(first)}


def test_a_writer_makes_no_circle() -> None:
    """An object that its own basis depends on is refused once its digest is known; nothing of it is recorded."""
    world, first = World(), weights(10)
    second = moved(first, 11)
    world.write(first)
    world.write(second, [first])
    before = world.catalog.find(digest_of(first))
    assert world.write(first, [second]) is None
    assert world.catalog.find(digest_of(first)) == before


@pytest.mark.parametrize("reference", ["slice:2:1x40000x1:0+39999", "cast:BF16:F32", "nonsense"])
def test_a_reference_that_does_not_fit_is_refused(reference: str) -> None:
    world, base = World(), weights(12)
    world.write(base)
    with pytest.raises(CkptfmtError):
        world.objects().basis(BasisOf("delta", reference, (digest_of(base),), len(base)))


def test_damage_below_is_an_error_and_another_copy_heals_it() -> None:
    world, base = World(), weights(13)
    tuned = moved(base, 14)
    world.write(base)
    world.write(tuned, [base])
    [below] = world.catalog.find(digest_of(base))
    key = shard_key(below.shard)
    data = bytearray(world.storage.read(key, 0, 1 << 40))
    data[below.begin + 9] ^= 1
    world.storage.put(key, bytes(data))
    with pytest.raises(DigestMismatch, match=digest_of(base)[:16]):
        world.read(tuned)
    assert world.read(tuned, Outside(base)) == tuned
    world.write(base, beside=b"another" * 100)
    assert world.read(tuned) == tuned
    with pytest.raises(DigestMismatch):
        world.objects().verify(digest_of(base), len(base))
