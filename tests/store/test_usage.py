"""What documents take and what only they need, against counting it all again."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ckptfmt.errors import NotFound
from ckptfmt.format.manifest import File, Manifest, objects_of
from ckptfmt.format.shard import ShardObject, Stored
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.usage import Used, follow

OBJECTS = 12


def digest(number: int) -> str:
    return f"{number:064x}"


def document(objects: frozenset[int]) -> Manifest:
    """A manifest whose files are exactly these objects."""
    files = tuple(
        File(path=f"f{number}", size=10 + number, sha256=digest(0), content=digest(1000 + number))
        for number in sorted(objects)
    )
    return Manifest(version=1, layout="unknown", files=files)


@dataclass
class World:
    catalog: Catalog = field(default_factory=lambda: Catalog(None))
    sizes: dict[int, int] = field(default_factory=dict)
    shards: int = 0
    live: set[frozenset[int]] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def key(self, objects: frozenset[int]) -> str:
        return digest(sum(1 << number for number in objects) + 5000)

    def add_shard(self, objects: dict[int, int]) -> None:
        self.shards += 1
        items = [
            ShardObject(digest(1000 + number), Stored("zstd", 10 + number, "0" * 32, (size,)), 0, "U8", (size,))
            for number, size in objects.items()
        ]
        self.catalog.add_shard(digest(self.shards), 1, items)
        for number, size in objects.items():
            self.sizes[number] = min(size, self.sizes.get(number, size))

    def load(self, key: str) -> Manifest:
        if key in self.gone:
            raise NotFound(key)
        number = int(key, 16) - 5000
        return document(frozenset(index for index in range(OBJECTS) if number >> index & 1))

    def followed(self) -> dict[str, Used]:
        return follow(self.catalog, [self.key(objects) for objects in self.live], self.load)

    def check(self) -> None:
        users = collections.Counter(number for objects in self.live for number in objects)
        expected = {
            self.key(objects): (
                sum(self.sizes.get(number, 0) for number in objects),
                sum(self.sizes.get(number, 0) for number in objects if users[number] == 1),
                sum(number not in self.sizes for number in objects),
            )
            for objects in self.live
        }
        found = {key: (used.stored_bytes, used.exclusive_bytes, used.missing) for key, used in self.followed().items()}
        assert found == expected


DOCUMENTS = st.frozensets(st.integers(0, OBJECTS - 1), max_size=6)
SHARDS = st.dictionaries(st.integers(0, OBJECTS - 1), st.integers(1, 9), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.lists(DOCUMENTS, min_size=1, max_size=4)),
        st.tuples(st.just("go"), st.lists(st.integers(0, 20), min_size=1, max_size=3)),
        st.tuples(st.just("shard"), SHARDS),
        st.tuples(st.just("unreadable"), st.integers(0, 20)),
        st.tuples(st.just("lost"), st.just(None)),
    ),
    max_size=14,
)


@settings(max_examples=250, deadline=None)
@given(STEPS)
def test_usage_is_what_counting_again_gives(steps: list[tuple[str, object]]) -> None:
    world = World()
    world.add_shard({number: number % 7 + 1 for number in range(0, OBJECTS, 2)})
    for what, value in steps:
        if what == "come":
            world.live |= set(value)  # type: ignore[call-overload]
        elif what == "go":
            for index in value:  # type: ignore[attr-defined]
                if world.live:
                    world.live.discard(sorted(world.live, key=sorted)[index % len(world.live)])
        elif what == "shard":
            world.add_shard(value)  # type: ignore[arg-type]
        elif what == "unreadable" and world.live:
            left = sorted(world.live, key=sorted)[value % len(world.live)]  # type: ignore[operator]
            world.live.discard(left)
            world.gone.add(world.key(left))
            world.check()
            world.gone.clear()
        elif what == "lost":
            world.catalog.clear()
            world.sizes.clear()
        world.check()


def test_a_smaller_copy_counts_at_once() -> None:
    """Somebody stored an object smaller: another host, or a re-encoding."""
    world = World()
    world.add_shard({1: 9, 2: 9})
    world.live = {frozenset({1, 2})}
    world.check()
    world.add_shard({1: 4})
    world.check()


def test_a_document_that_cannot_be_read_any_more_is_forgotten() -> None:
    world = World()
    world.add_shard({1: 5, 2: 6, 3: 7})
    world.live = {frozenset({1, 2}), frozenset({2, 3})}
    world.check()
    world.live.discard(frozenset({1, 2}))
    world.gone.add(world.key(frozenset({1, 2})))
    world.check()


def test_nothing_is_counted_after_an_error() -> None:
    world = World()
    world.add_shard({1: 5, 2: 6})
    world.live = {frozenset({1})}
    world.check()
    world.live.add(frozenset({2}))
    world.gone.add(world.key(frozenset({2})))
    with pytest.raises(NotFound):
        world.followed()
    world.gone.clear()
    world.check()


def test_objects_are_those_of_the_manifest() -> None:
    assert objects_of(document(frozenset({1, 3}))) == {digest(1001): 11, digest(1003): 13}
