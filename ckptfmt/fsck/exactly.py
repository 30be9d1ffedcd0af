"""Damaged files whose very bytes can be found again: a flipped bit is turned back, a document made from originals.

Everything here is proven before it is written: by the digest in the file's name, or by the seal in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.refs import Generation
from ckptfmt.format.safetensors import LENGTH_BYTES
from ckptfmt.format.shard import MAX_SHARD_HEADER_BYTES, parse_shard
from ckptfmt.fsck import bits
from ckptfmt.fsck.look import Found
from ckptfmt.fsck.look_refs import ACKNOWLEDGED, RefState, generation_key
from ckptfmt.fsck.look_shards import ShardState, rotten_objects
from ckptfmt.fsck.made_again import manifests_again
from ckptfmt.fsck.objects_again import aside
from ckptfmt.fsck.problem import Problem, Repair
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.ref_cache import CatalogRefCache
from ckptfmt.store.refs import draft
from ckptfmt.store.shards import read_header_at, shard_key
from ckptfmt.store.store import Store, manifest_key
from ckptfmt.store.trash import trashed
from ckptfmt.wording import few

_MAX_BYTES: Final = 1 << 30
_MANIFESTS: Final = ("manifest-damaged", "manifest-missing")
_DOCUMENTS: Final = (*_MANIFESTS, "record-damaged", "record-missing", "lineage")
_TURNED: Final = "one bit had flipped, and was turned back"


def repair_names(store: Store, found: Found) -> list[Repair]:
    """Turn bits of generations back, tell what this host knew of a newest one, acknowledge what is lost.

    Names come first: they say where the files of documents lay.

    Args:
        store: where.
        found: what a look found; what is known of refs is kept up to date.
    """
    wanting = {problem.path for problem in found.problems if problem.kind in ("generation-damaged", "generation-gone")}
    if not wanting:
        return []
    cached = {each.name: each for each in CatalogRefCache(store.facts(), store.path).load().values()}
    done: list[Repair] = []
    for state in found.states.values():
        for number in sorted(state.damaged):
            if generation_key(state.name, number) in wanting and _turned_back(store.storage, state, number):
                done.append(Repair("generation-damaged", generation_key(state.name, number), _TURNED))
        if (told := _acknowledged(store.storage, state, cached.get(state.name))) is not None:
            done.append(told)
    return done


def repair_files(store: Store, found: Found, places: Sequence[str], others: Sequence[Store]) -> list[Repair]:
    """Give documents and headers of shards the bytes back that they had, where these can be found and proven.

    Args:
        store: where.
        found: what a look found.
        places: directories in which checkpoints may lie that were taken in from elsewhere.
        others: stores that may have the same documents.
    """
    done: list[Repair] = []
    order = sorted(found.problems, key=lambda problem: (problem.path.startswith("manifests/"), problem.path))
    for problem in order:  # Base records first: manifests are made again with them.
        if problem.kind in _DOCUMENTS and (told := _document(store, found, problem, places, others)) is not None:
            done.append(told)
    for state in found.shards.bad.values():
        if (told := _header(store.storage, state)) is not None:
            done.append(told)
    if any(problem.kind == "catalog" for problem in found.problems):
        store.facts().clear()
        done.append(Repair("catalog", "shards/", "this host's index was thrown away: it is made again from the shards"))
    if done:
        store.forget_documents()
    return done


def _put(storage: Storage, key: str, data: bytes) -> bool:
    """Let `data` be at `key`; what is there is set aside."""
    if storage.size(key) is not None and not aside(storage, key):
        return False
    storage.put(key, data)
    return True


def _document(
    store: Store, found: Found, problem: Problem, places: Sequence[str], others: Sequence[Store]
) -> Repair | None:
    """Let a document be what its name says."""
    key = problem.path
    digest = key.rpartition("/")[2].removesuffix(".json")
    try:
        damaged = store.storage.read(key, 0, _MAX_BYTES)
    except CkptfmtError:
        damaged = b""
    if digest_of(damaged) == digest:
        return None  # It breaks a rule, as it was written.
    origins = list(dict.fromkeys([*(origin for _, origin in found.documents.origins.get(digest, ())), *places]))

    def candidates() -> Iterator[tuple[bytes, str]]:
        for value in trashed(store.storage):
            if value.key == key:
                yield store.storage.read(value.at, 0, _MAX_BYTES), "a copy in the trash was sound"
        for other in others:
            try:
                yield other.document_bytes(key), f"taken from {other.path}"
            except CkptfmtError:
                continue
        corrected = bits.by_digest(damaged, digest)
        if corrected is not None:
            yield corrected, _TURNED
        if key == manifest_key(digest):
            yield from manifests_again(store, damaged, origins)

    for data, how in candidates():
        if digest_of(data) == digest and _put(store.storage, key, data):
            return Repair(problem.kind, key, how)
    return None


def _header(storage: Storage, state: ShardState) -> Repair | None:
    """Turn back a bit of a shard's header, or of the length before it; the data behind it never changed.

    Rather than that, a sound copy that gc took out takes its place.
    """
    if state.kind is None or state.key != shard_key(state.shard):
        return None
    for value in trashed(storage):
        if value.key == state.key and _is_sound(storage, value.at, state.shard) and aside(storage, state.key):
            storage.delete(state.key)  # Readers look into the trash meanwhile.
            storage.link(value.at, state.key)
            storage.settle([state.key])
            state.replaced = True
            return Repair(state.kind, state.key, "a copy in the trash was sound")
    if state.kind != "shard-header":
        return None
    head = _head(storage, state)
    if head is None:
        return None
    try:
        parse_shard(head[LENGTH_BYTES:], file_size=state.size, where=state.key)
    except CkptfmtError:
        return None  # It is cut short too.
    if not aside(storage, state.key):
        return None
    upload = storage.upload(len(head))
    try:
        for offset in range(len(head), state.size, 4 << 20):
            upload.write(storage.read(state.key, offset, min(4 << 20, state.size - offset)))
        upload.finish(head, state.key)
    except BaseException:
        upload.abort()
        raise
    state.replaced = True
    return Repair(state.kind, state.key, _TURNED)


def _is_sound(storage: Storage, key: str, shard: str) -> bool:
    try:
        return not rotten_objects(storage, key, read_header_at(storage, key, shard))
    except CkptfmtError:
        return False


def _head(storage: Storage, state: ShardState) -> bytes | None:
    """The first bytes that a shard had."""
    prefix = storage.read(state.key, 0, LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if 0 < length <= min(state.size, MAX_SHARD_HEADER_BYTES):
        corrected = bits.by_digest(storage.read(state.key, LENGTH_BYTES, length), state.shard)
        if corrected is not None:
            return prefix + corrected
    told = bits.header_length_of(prefix, lambda size: storage.read(state.key, LENGTH_BYTES, size), state.shard)
    return None if told is None else told.to_bytes(LENGTH_BYTES, "little") + storage.read(state.key, LENGTH_BYTES, told)


def _turned_back(storage: Storage, state: RefState, number: int) -> bool:
    key = generation_key(state.name, number)
    data = bits.by_seal(storage.read(key, 0, _MAX_BYTES))
    if data is None:
        return False
    try:
        generation = documents.unseal(data, Generation, where=key)
    except CkptfmtError:
        return False
    if (generation.name, generation.number) != (state.name, number) or not _put(storage, key, data):
        return False
    state.sound[number] = generation
    del state.damaged[number]
    return True


def _acknowledged(storage: Storage, state: RefState, cached: Generation | None) -> Repair | None:
    """Append a generation that says what is lost below it: like the newest, or like what this host knew to be it."""
    top = state.top
    lost = [number for number in range(state.told + 1, top + 1) if number not in state.sound]
    newest = state.newest
    if not lost:
        return None
    if newest is None:
        if cached is None or cached.number != top or cached.target is None:
            return None
        same = [each for each in state.sound.values() if each.target == cached.target]
        attributes = max(same, key=lambda each: each.number).attributes if same else ()
        newest = structs.replace(cached, attributes=attributes)
    numbers = few([str(number) for number in lost], 5)
    fresh = draft(newest.target, ACKNOWLEDGED)
    made = structs.replace(
        newest,
        number=top + 1,
        previous=top,
        verb=ACKNOWLEDGED,
        time=fresh.time,
        host=fresh.host if newest.origin is None else newest.host,
        message=f"generation {numbers} cannot be read any more",
    )
    key = generation_key(state.name, top + 1)
    if not storage.put_if_absent(key, documents.seal(made)):
        return None
    state.sound[top + 1] = made
    kind = "generation-damaged" if set(lost) & set(state.damaged) else "generation-gone"
    return Repair(kind, key, f"{state.name}@{top + 1} says: {made.message}")
