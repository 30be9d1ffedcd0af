"""Repacking: the objects of mostly dead shards that stay, moved as they are stored into new shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ckptfmt.digest import checksum_of, digest_of
from ckptfmt.errors import DigestMismatch
from ckptfmt.format.safetensors import LENGTH_BYTES
from ckptfmt.format.shard import (
    ALIGNMENT,
    MAX_SHARD_BYTES,
    MAX_SHARD_HEADER_BYTES,
    MAX_SHARD_OBJECTS,
    ShardObject,
    build_header,
    header_estimate,
    parse_shard,
)
from ckptfmt.progress import Progress
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.shards import shard_key


@dataclass(frozen=True, slots=True)
class NewShard:
    """A shard to be written.

    Attributes:
        digest: its name.
        head: its first bytes: length and header.
        objects: what it will hold; `begin` counts from the start of its data.
        sources: for each object, the shard it lies in now and the file offset there.
        data_bytes: length of what comes after the head.
    """

    digest: str
    head: bytes
    objects: tuple[ShardObject, ...]
    sources: tuple[tuple[str, int], ...]
    data_bytes: int

    @property
    def size(self) -> int:
        """Bytes it will take."""
        return len(self.head) + self.data_bytes


def plan_new_shards(moving: Iterable[tuple[str, ShardObject]]) -> list[NewShard]:
    """Lay objects out in new shards, in the order given.

    Args:
        moving: the shard that each lies in, and the object as that shard describes it.
    """
    planned: list[NewShard] = []
    objects: list[ShardObject] = []
    sources: list[tuple[str, int]] = []
    position, room = 0, 1024

    def close() -> None:
        nonlocal position, room
        if objects:
            head = build_header(objects, position, None)
            name = digest_of(memoryview(head)[LENGTH_BYTES:])
            planned.append(NewShard(name, head, tuple(objects), tuple(sources), position))
        objects.clear()
        sources.clear()
        position, room = 0, 1024

    for shard, item in moving:
        size = item.stored.stored_bytes()
        estimate = header_estimate(item.stored.length, len(item.shape), len(item.stored.dependencies))
        estimate += len(item.stored.reference)
        if objects and (
            position + size > MAX_SHARD_BYTES
            or len(objects) >= MAX_SHARD_OBJECTS
            or room + estimate > MAX_SHARD_HEADER_BYTES
        ):
            close()
        position += -position % ALIGNMENT
        objects.append(replace(item, begin=position))
        sources.append((shard, item.begin))
        position += size
        room += estimate
    close()
    return planned


def write_new_shard(storage: Storage, new: NewShard, progress: Progress) -> tuple[ShardObject, ...]:
    """Write a planned shard, durably; each frame is checked by its sum as it is read.

    Returns:
        Its objects, as its own header describes them.

    Raises:
        DigestMismatch: a frame is not what was stored; nothing is written then.
        CkptfmtError: a shard cannot be read; likewise.
    """
    upload = storage.upload(len(new.head))
    try:
        position = 0
        for item, (shard, begin) in zip(new.objects, new.sources, strict=True):
            upload.write(bytes(item.begin - position))
            offset = begin
            for frame, length in enumerate(item.stored.frame_lengths()):
                data = storage.read(shard_key(shard), offset, length)
                if len(data) != length or checksum_of(data) != item.stored.sum_of(frame):
                    raise DigestMismatch(
                        f"object {item.digest[:16]}: frame {frame} in {shard_key(shard)} is not what was stored",
                        digest=item.digest,
                        hint="ckptfmt verify --all",
                    )
                upload.write(data)
                progress.advance(length)
                offset += length
            position = item.begin + item.stored.stored_bytes()
        upload.finish(new.head, shard_key(new.digest))
    except BaseException:
        upload.abort()
        raise
    return parse_shard(new.head[LENGTH_BYTES:], file_size=new.size, where=shard_key(new.digest))
