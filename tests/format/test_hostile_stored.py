"""What a shard claims of its objects is never believed: lies are errors, soon, and within bounded memory."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES, checksum_of, digest_of
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.errors import CkptfmtError, FormatError
from ckptfmt.format.shard import (
    ALIGNMENT,
    MAX_DEPENDENCIES,
    MAX_DEPTH,
    ShardObject,
    Stored,
    build_header,
    decoded_lengths,
    parse_shard,
)
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.elsewhere import Called
from ckptfmt.store.objects import Objects
from ckptfmt.store.shards import shard_key

SAME = b"\0"
"""A delta frame that is its reference."""

SECONDS = 10
"""Of CPU time: a hundred times what it takes."""

Made = tuple[str, Stored, bytes]
"""A digest, what is claimed of it, and its stored bytes."""


class World:
    """A store in memory, of shards whose objects are what somebody says they are."""

    def __init__(self, *outside: bytes) -> None:
        self.storage = Counting()
        self.catalog = Catalog(None)
        self.objects = Objects(self.storage, self.catalog, refresh=lambda: None, outside=Outside(*outside))

    def add(self, *made: Made) -> None:
        """Write one shard.

        Raises:
            FormatError: no reader takes it.
        """
        items, data = [], b""
        for digest, stored, content in made:
            data += bytes(-len(data) % ALIGNMENT)
            items.append(ShardObject(digest, stored, len(data), "U8", (len(content),)))
            data += content
        head = build_header(items, len(data), None)
        name = digest_of(head[8:])
        parsed = parse_shard(head[8:], file_size=len(head) + len(data), where="shard")
        self.storage.put(shard_key(name), head + data)
        self.catalog.add_shard(name, len(head) + len(data), parsed)


class Outside:
    """The files of a base."""

    def __init__(self, *objects: bytes) -> None:
        self._objects = {digest_of(content): content for content in objects}

    def called(self, digest: str) -> Called:
        return Called("base 'outside'", "look")

    def has(self, digest: str) -> bool:
        return digest in self._objects

    def length(self, digest: str) -> int:
        return len(self._objects[digest])

    def read(self, digest: str, offset: int, length: int) -> bytes:
        assert 0 <= length <= FRAME_BYTES
        return self._objects[digest][offset : offset + length]


class Counting(MemoryStorage):
    """Counts what is read."""

    reads = 0

    def read(self, key: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return super().read(key, offset, length)


def stored(content: bytes, length: int, encoding: str, **fields: object) -> Stored:
    """A sound frame table over any stored bytes; the first frames are one byte each."""
    count = len(decoded_lengths(length))
    sizes = [1] * (count - 1) + [len(content) - count + 1] if count else []
    parts = [content[sum(sizes[:at]) : sum(sizes[: at + 1])] for at in range(count)]
    sums = "".join(map(checksum_of, parts))
    return Stored(encoding, length, sums, tuple(sizes), None, "BF16", **fields)  # type: ignore[arg-type]


def against(digest: str, length: int, dependencies: Sequence[str], reference: str = "", content: bytes = b"") -> Made:
    """An object that is a reference, as `delta` says it."""
    content = content or SAME * len(decoded_lengths(length))
    return digest, stored(content, length, "delta", dependencies=tuple(dependencies), reference=reference), content


def plain(content: bytes) -> Made:
    """An object that is stored raw."""
    sums = "".join(checksum_of(content[at : at + FRAME_BYTES]) for at in range(0, len(content), FRAME_BYTES))
    return digest_of(content), Stored("raw", len(content), sums), content


def within_bounds(work: Callable[[], object], *, mebibytes: int = 64) -> None:
    """Do something in bounded time and memory."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < SECONDS
    assert peak < mebibytes << 20


def refused(world: World, digest: str, length: int) -> None:
    """No verb gives anything of the object."""
    with pytest.raises(CkptfmtError):
        list(world.objects.frames(digest, length))
    with pytest.raises(CkptfmtError):
        world.objects.verify(digest, length)


CONTENTS = [bytes(range(256)) * 8, bytes(range(255, -1, -1)) * 8, b"\x80\x3f" * 1000, b"12345678", b""]
DIGESTS = [*map(digest_of, CONTENTS), digest_of(b"nowhere")]
LENGTHS = [*map(len, CONTENTS), 1, 4096, FRAME_BYTES + 8]

numbers = st.sampled_from(["0", "1", "2", "4", "8", "16", "32", "64", "1000", "1024", "2048", "9" * 18, "1" * 30, "02"])
parts = st.one_of(
    st.builds("cast:{}:{}".format, *[st.sampled_from(["BF16", "F16", "F32", "F64"])] * 2),
    st.builds("transpose:{}:{}x{}".format, numbers, numbers, numbers),
    st.builds("slice:{}:{}x{}x{}:{}+{}".format, *[numbers] * 6),
    st.builds(
        "fuse:{}:{}x{}x{}".format,
        numbers,
        numbers,
        st.lists(numbers, max_size=4).map("+".join) | st.sampled_from(["2048+2048", "+".join(["8"] * 1024)]),
        numbers,
    ),
    st.text(max_size=20),
)
references = st.just("") | st.lists(parts, max_size=6).map(",".join)
dependencies = st.one_of(
    st.lists(st.sampled_from(DIGESTS), max_size=4),
    st.sampled_from(DIGESTS).map(lambda digest: [digest] * MAX_DEPENDENCIES),
    st.just([*DIGESTS, "../../etc/passwd"]),
    st.sampled_from(DIGESTS).map(lambda digest: [digest] * (MAX_DEPENDENCIES + 1)),
)


def _delta(pair: tuple[int, int]) -> bytes:
    frame, reference = CONTENTS[pair[0]], CONTENTS[pair[1]]
    return bytes(DELTA.encode(frame, "BF16", Basis(reference)) or frame) if len(frame) == len(reference) else SAME


contents = st.one_of(
    st.just(SAME),
    st.tuples(st.integers(0, 2), st.integers(0, 2)).map(_delta),
    st.sampled_from(CONTENTS).map(zstandard.ZstdCompressor().compress),
    st.binary(max_size=40),
)


@st.composite
def claims(draw: st.DrawFn) -> Made:
    """A digest, and whatever is claimed of it; half of the lengths are right."""
    index = draw(st.integers(0, len(CONTENTS) - 1))
    content = draw(contents)
    length = draw(st.just(len(CONTENTS[index])) | st.sampled_from(LENGTHS))
    encoding = draw(st.sampled_from(["delta", "delta", "delta", "planes", "zstd", "raw", "newer", ""]))
    said = stored(content, length, encoding, dependencies=tuple(draw(dependencies)), reference=draw(references))
    return DIGESTS[index], said, content


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(claims(), min_size=1, max_size=8), st.sets(st.integers(0, len(CONTENTS) - 1)))
def test_whatever_is_claimed(claimed: list[Made], whole: set[int]) -> None:
    """It is the object, or an error that says what is wrong."""
    world = World()
    for made in [*claimed, *(plain(CONTENTS[index]) for index in sorted(whole))]:
        try:
            world.add(made)
        except FormatError:
            continue

    def look() -> None:
        for digest, content in zip(DIGESTS, [*CONTENTS, b"nowhere"], strict=True):
            try:
                assert world.objects.read(digest, len(content)) == content
                world.objects.verify(digest, len(content))
            except CkptfmtError:
                pass
        for _, said, _ in claimed:
            what = BasisOf("delta", said.reference, said.dependencies, said.length)
            try:
                basis = world.objects.basis(what)
                assert len(basis(0, min(said.length, FRAME_BYTES)).words) == min(said.length, FRAME_BYTES)
            except CkptfmtError:
                pass

    within_bounds(look)


def test_what_was_read_before_makes_no_chain_shorter() -> None:
    """What a fresh reader refuses is refused by one that read the object below just now."""
    world = World()
    row = [DIGESTS[0], *(digest_of(b"%d" % index) for index in range(MAX_DEPTH + 1))]
    world.add(plain(CONTENTS[0]))
    world.add(*(against(each, 2048, [below]) for below, each in pairwise(row)))
    for digest in row[:-1]:
        assert b"".join(map(bytes, world.objects.frames(digest, 2048))) == CONTENTS[0]
    refused(world, row[-1], 2048)


@pytest.mark.parametrize("broken", ["circle", "bottom"])
def test_many_copies_of_many_do_not_fail_in_every_combination(broken: str) -> None:
    world = World()
    row = [digest_of(b"%d" % index) for index in range(MAX_DEPTH)]
    for tail in range(6):
        text = ",".join(["slice:1:1x2048x1:0+2048"] * (tail % 4))
        below = [*row[1:], row[0] if broken == "circle" else "0" * 64]
        world.add(*(against(each, 2048, [under], text) for each, under in zip(row, below, strict=True)))
    within_bounds(lambda: refused(world, row[0], 2048))


def test_it_names_itself() -> None:
    world = World()
    world.add(against(DIGESTS[0], 2048, [DIGESTS[0]]))
    within_bounds(lambda: refused(world, DIGESTS[0], 2048))
    world.add(plain(CONTENTS[0]))
    assert world.objects.read(DIGESTS[0], 2048) == CONTENTS[0]


def test_two_name_each_other() -> None:
    """Every copy of each needs the other."""
    world = World()
    for tail in range(2):
        text = "" if not tail else "slice:1:1x2048x1:0+2048"
        world.add(against(DIGESTS[0], 2048, [DIGESTS[1]], text))
        world.add(against(DIGESTS[1], 2048, [DIGESTS[0]], text))
    within_bounds(lambda: refused(world, DIGESTS[0], 2048))


def test_a_thousand_in_a_row() -> None:
    world = World()
    row = [digest_of(f"{index}".encode()) for index in range(1000)]
    world.add(*(against(each, 2048, [below]) for each, below in zip(row, [*row[1:], DIGESTS[0]], strict=True)))
    world.add(plain(CONTENTS[0]))
    within_bounds(lambda: refused(world, row[0], 2048))
    assert b"".join(map(bytes, world.objects.frames(row[-MAX_DEPTH], 2048))) == CONTENTS[0]


@pytest.mark.parametrize("distinct", [1, MAX_DEPENDENCIES])
def test_so_many_dependencies(distinct: int) -> None:
    world = World()
    below = [b"%08d" % index for index in range(distinct)]
    world.add(*map(plain, below))
    digests = [digest_of(each) for each in below] * (MAX_DEPENDENCIES // distinct)
    content = b"".join(below * (MAX_DEPENDENCIES // distinct))
    fuse = "fuse:8:1x" + "+".join(["1"] * MAX_DEPENDENCIES) + "x1"
    world.add(against(digest_of(content), len(content), digests, fuse))
    within_bounds(lambda: world.objects.verify(digest_of(content), len(content)))
    with pytest.raises(FormatError):
        world.add(against(DIGESTS[0], 2048, [*digests, digests[0]], fuse))


def test_each_needs_many_that_need_many() -> None:
    """The reads do not multiply: a frame is decoded once."""
    world = World()
    lowest = bytes(range(64))
    world.add(plain(lowest))
    fuse = "fuse:1:1x" + "+".join(["64"] * 256) + "x1"
    row = [digest_of(lowest), *(digest_of(f"{index}".encode()) for index in range(MAX_DEPTH))]
    for number, (below, each) in enumerate(itertools.pairwise(row)):
        text = f"{fuse},transpose:1:128x128,slice:1:1x16384x1:{number}+64"
        world.add(against(each, 64, [below] * 256, text))
    within_bounds(lambda: list(world.objects.frames(row[-1], 64)))
    assert world.storage.reads <= 2 * len(row)


@pytest.mark.parametrize("smaller_first", [True, False])
def test_copies_of_another_length_lack_frames(smaller_first: bool) -> None:
    """One copy of a dependency has two frames and cannot be read, the other has one; either may be found first."""
    world = World()
    below, top = digest_of(b"below"), digest_of(b"top")
    world.add(against(below, FRAME_BYTES + 8, [digest_of(b"nowhere")], content=bytes(2 if smaller_first else 9)))
    world.add((below, Stored("raw", 8, checksum_of(CONTENTS[3])), CONTENTS[3]))
    world.add(against(top, 8, [below], f"slice:1:1x{FRAME_BYTES + 8}x1:{FRAME_BYTES}+8"))
    within_bounds(lambda: refused(world, top, 8))


@pytest.mark.parametrize("text", ["slice:1:1x{0}x1:{1}+8", "transpose:2:2x{2},slice:1:1x{0}x1:0+8"])
def test_a_copy_is_longer_than_the_object_in_a_base(text: str) -> None:
    """What a shard says of its length is believed first, and not found there."""
    world = World(CONTENTS[3])
    length = FRAME_BYTES + 8
    world.add(against(DIGESTS[3], length, [digest_of(b"nowhere")]))
    world.add(against(digest_of(b"top"), 8, [DIGESTS[3]], text.format(length, FRAME_BYTES, length // 4)))
    within_bounds(lambda: refused(world, digest_of(b"top"), 8))
