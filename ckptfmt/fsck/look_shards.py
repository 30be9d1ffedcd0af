"""Shards: each header against its name and its file's length, and, if wanted, each frame against its sum.

What is found goes into a catalog of its own, which is believed because it was read now.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from ckptfmt.digest import checksum_of, digest_of
from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.format.safetensors import LENGTH_BYTES, header_length
from ckptfmt.format.shard import MAX_SHARD_HEADER_BYTES, ShardObject, parse_shard
from ckptfmt.fsck.problem import Problem
from ckptfmt.progress import SILENT, Progress
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.shards import PREFIX, read_header_at, shard_of
from ckptfmt.store.trash import trashed

_MAX_HEADER: Final = 100_000_000
_DIGEST: Final = re.compile(rb'"([0-9a-f]{64})":')


@dataclass(slots=True)
class ShardState:
    """One shard whose file is not sound.

    Attributes:
        shard: its name.
        key: where it lies.
        size: bytes its file has.
        kind: `shard-header` or `shard-length`; None where only frames are damaged.
        objects: what it holds, as its header says or, where that cannot be read, as this host's catalog knew.
        rotten: those of them of which a frame is not what was stored, or lies beyond the end.
        data_end: where the file should end, if that is known.
        hints: digests that stand in a header that does not hold: enough to say whom it harms, for nothing else.
        replaced: whether a repair has written it anew in its place.
    """

    shard: str
    key: str
    size: int
    kind: str | None = None
    objects: tuple[ShardObject, ...] = ()
    rotten: dict[str, str] = field(default_factory=dict)
    data_end: int | None = None
    hints: frozenset[str] = frozenset()
    replaced: bool = False

    def held(self) -> set[str]:
        """Digests of what it holds, or seems to hold."""
        return {item.digest for item in self.objects} | self.hints


@dataclass(slots=True)
class Shards:
    """All shards of a store.

    Attributes:
        truth: what sound headers say, without copies that are rotten.
        sizes: bytes of each file, by name of the shard.
        bad: those that are not sound.
        only_trashed: those that lie in the trash and nowhere else.
        objects, bytes: how many copies and stored bytes were looked at.
    """

    truth: Catalog
    sizes: dict[str, int] = field(default_factory=dict)
    bad: dict[str, ShardState] = field(default_factory=dict)
    only_trashed: set[str] = field(default_factory=set)
    objects: int = 0
    bytes: int = 0

    def close(self) -> None:
        """Let go of the catalog."""
        self.truth.close()


def look_at_shards(storage: Storage, known: Catalog, *, data: bool, progress: Progress) -> tuple[Shards, list[Problem]]:
    """Read every shard's header, and with `data` every stored byte.

    Args:
        storage: holds the shards.
        known: what this host knew of them before: for what can be read no longer.
        data: whether to read frames.
        progress: told of the bytes read.
    """
    shards = Shards(Catalog(None))
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for listed in storage.list(PREFIX):
        shard = shard_of(listed.key)
        if shard is None:
            problems.append(Problem("stray", listed.key, "no shard: it has another name"))
            continue
        places[shard], shards.sizes[shard] = listed.key, listed.size
    for value in trashed(storage):
        shard = shard_of(value.key)
        if shard is not None and shard not in places:
            places[shard], shards.sizes[shard] = value.at, value.size
            shards.only_trashed.add(shard)
    for listed in storage.list(PREFIX):  # What was brought back meanwhile.
        if (shard := shard_of(listed.key)) in shards.only_trashed:
            places[shard], shards.sizes[shard] = listed.key, listed.size
            shards.only_trashed.discard(shard)
    progress.begin("fsck", sum(shards.sizes.values()) if data else len(places))
    for shard, key in sorted(places.items()):
        try:
            problems += _look(storage, shards, known, shard, key, data=data, progress=progress)
        except NotFound:  # Taken away meanwhile, by a gc that found it needed by nobody.
            shards.sizes.pop(shard)
        if not data:
            progress.advance(1)
    progress.end()
    return shards, problems


def _look(
    storage: Storage, shards: Shards, known: Catalog, shard: str, key: str, *, data: bool, progress: Progress
) -> list[Problem]:
    size = shards.sizes[shard]
    try:
        objects = read_header_at(storage, key, shard)
    except NotFound:
        raise
    except CkptfmtError as error:
        state = _broken(storage, known, ShardState(shard, key, size))
        shards.bad[shard] = state
        what = "the file is cut short, or has bytes at its end" if state.kind == "shard-length" else error.message
        return [Problem(state.kind or "shard-header", key, what)]
    rotten = _rotten(storage, key, objects, progress) if data else {}
    shards.objects += len(objects)
    shards.bytes += sum(item.stored.stored_bytes() for item in objects)
    shards.truth.add_shard(shard, size, [item for item in objects if item.digest not in rotten])
    if not rotten:
        return []
    shards.bad[shard] = ShardState(shard, key, size, None, objects, rotten, size)
    return [
        Problem("object-damaged", key, f"object {digest[:16]}: {why}", object=digest)
        for digest, why in sorted(rotten.items())
    ]


def _broken(storage: Storage, known: Catalog, state: ShardState) -> ShardState:
    """What is known of a shard whose header or length does not hold."""
    prefix = storage.read(state.key, 0, LENGTH_BYTES)
    state.kind = "shard-header"
    try:
        length = header_length(prefix, file_size=_MAX_HEADER + LENGTH_BYTES, where=state.key)
        header = storage.read(state.key, LENGTH_BYTES, length)
        if digest_of(header) == state.shard:
            state.kind = "shard-length"
            state.data_end = _end_told(header, state)
            state.objects = parse_shard(header, file_size=state.data_end, where=state.key)
    except CkptfmtError:
        state.data_end = None
    if not state.objects:
        state.objects = known.objects_in(state.shard)
        state.data_end = known.shards().get(state.shard)
        header = storage.read(state.key, 0, min(state.size, MAX_SHARD_HEADER_BYTES))
        state.hints = frozenset(found[1].decode() for found in _DIGEST.finditer(header))
    return state


def _end_told(header: bytes, state: ShardState) -> int:
    """Where the data of a sound header end."""
    document = json.loads(header)
    ends = [entry["data_offsets"][1] for name, entry in document.items() if name != "__metadata__"]
    return LENGTH_BYTES + len(header) + max(ends, default=0)


def rotten_objects(storage: Storage, key: str, objects: tuple[ShardObject, ...]) -> set[str]:
    """Objects of which a frame is not what was stored, or is not there."""
    return set(_rotten(storage, key, objects, SILENT))


def _rotten(storage: Storage, key: str, objects: tuple[ShardObject, ...], progress: Progress) -> dict[str, str]:
    rotten: dict[str, str] = {}
    for item in objects:
        offset = item.begin
        for index, length in enumerate(item.stored.frame_lengths()):
            try:
                frame = storage.read(key, offset, length)
            except NotFound:
                raise
            except CkptfmtError as error:
                rotten[item.digest] = error.message
                break
            progress.advance(len(frame))
            if len(frame) != length or checksum_of(frame) != item.stored.sum_of(index):
                rotten[item.digest] = f"frame {index} is not what was stored"
                break
            offset += length
    return rotten
