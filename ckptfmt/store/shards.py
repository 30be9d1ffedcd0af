"""Shards: objects appended one after another into a file that any safetensors reader can open."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final

from ckptfmt.digest import Buffer, digest_of, is_digest
from ckptfmt.errors import FormatError, IntegrityError, NotFound
from ckptfmt.format.safetensors import LENGTH_BYTES, header_length
from ckptfmt.format.shard import (
    ALIGNMENT,
    FORMAT_KEY,
    MAX_SHARD_BYTES,
    MAX_SHARD_HEADER_BYTES,
    MAX_SHARD_OBJECTS,
    ShardObject,
    Stored,
    build_header,
    header_estimate,
    parse_shard,
    raw_hint,
)
from ckptfmt.storage.protocol import Readable, Storage, Upload
from ckptfmt.store.object_writer import Incoming, ObjectWriter

if TYPE_CHECKING:
    from ckptfmt.encodings.protocol import Effort

PREFIX: Final = "shards/"
_SUFFIX: Final = ".safetensors"

_HELD_BYTES: Final = 32 << 20
"""A shard below this is written with a header of the exact length; above, room is reserved and padded."""

_PROBE_BYTES: Final = 64 << 10


def shard_key(digest: str) -> str:
    """The storage key of a shard."""
    return f"{PREFIX}{digest[:2]}/{digest}{_SUFFIX}"


def shard_of(key: str) -> str | None:
    """The digest in a shard's key; None for a file that is none."""
    name = key.rpartition("/")[2].removesuffix(_SUFFIX)
    return name if is_digest(name) and key == shard_key(name) else None


def read_shard_header(storage: Readable, shard: str) -> tuple[ShardObject, ...]:
    """The objects of a shard, from its own header, checked against the shard's name.

    Raises:
        NotFound: there is no such shard.
        IntegrityError: the header is not the one that gave the shard its name.
        FormatError: it is no shard.
    """
    return read_header_at(storage, shard_key(shard), shard)


def read_header_at(storage: Readable, key: str, shard: str) -> tuple[ShardObject, ...]:
    """As `read_shard_header`, wherever the shard's file lies."""
    prefix = storage.read(key, 0, _PROBE_BYTES)
    size = storage.size(key)
    if size is None:
        raise NotFound(f"{key}: no such shard any more")
    try:
        length = header_length(prefix, file_size=size, where=key)
    except FormatError as error:
        raise IntegrityError(f"{error.message} (a damaged shard)", hint="ckptfmt fsck") from None
    data = prefix[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(data) < length:
        data += storage.read(key, LENGTH_BYTES + len(data), length - len(data))
    if digest_of(data) != shard:
        raise IntegrityError(f"{key}: the header is damaged (its digest is not the shard's name)", hint="ckptfmt fsck")
    return parse_shard(data, file_size=size, where=key)


class ShardWriter:
    """Appends objects, and closes a shard whenever one is full.

    Args:
        storage: where the shards go.
        effort: how much to spend on smaller objects.
        pool: encodes frames beside the caller.
        remaining: an upper bound, in bytes, of the header that objects still to come may take; asked when room for
            the header has to be reserved.
        written: told of each shard that is durable: its digest, size in bytes and objects.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        effort: Effort,
        pool: Executor,
        remaining: Callable[[], int],
        written: Callable[[str, int, tuple[ShardObject, ...]], None],
    ) -> None:
        self._storage = storage
        self._effort = effort
        self._pool = pool
        self._remaining = remaining
        self._written = written
        self._reset()
        self._digests: dict[str, Stored] = {}
        self._nominations: set[tuple[int, str]] = set()
        self.failed = False
        """Whether something that was taken was not written: nothing can be made durable any more."""

    def _reset(self) -> None:
        self._upload: Upload | None = None
        self._held: list[Buffer] = []
        self.position = 0
        self._reserve = 0
        self._header_bytes = 1024
        self._objects: list[ShardObject] = []

    def has(self, digest: str) -> bool:
        """Tell whether this writer holds the object already."""
        return digest in self._digests

    def stored(self, digest: str) -> Stored:
        """How an object of this writer is stored."""
        return self._digests[digest]

    def nominates(self, length: int, head: str) -> bool:
        """Tell whether an object of this writer has that length and that first frame's XXH3-128."""
        return (length, head) in self._nominations

    def begin(self, incoming: Incoming) -> ObjectWriter:
        """Begin an object."""
        most = max((len(each.dependencies) for each in incoming.against), default=0)
        estimate = header_estimate(incoming.length, len(incoming.shape), most)
        full = self._objects and (
            self.position + incoming.length > MAX_SHARD_BYTES
            or len(self._objects) >= MAX_SHARD_OBJECTS
            or self._header_bytes + estimate > (self._reserve or MAX_SHARD_HEADER_BYTES)
        )
        if full:
            self.flush()
        self._header_bytes += estimate
        self.append(bytes(-self.position % ALIGNMENT))
        return ObjectWriter(self, incoming, effort=self._effort, pool=self._pool)

    def append(self, data: Buffer) -> None:
        """Append stored bytes of the object that is being written."""
        # Stopped anywhere in here, the shard's file is not as long as `position` says.
        failed, self.failed = self.failed, True
        self.position += len(data)
        if self._upload is not None:
            self._upload.write(data)
        else:
            if data:
                self._held.append(data)
            if self.position > _HELD_BYTES:
                self._spill()
        self.failed = failed

    def _spill(self) -> None:
        reserve = min(self._header_bytes + max(self._remaining(), 0), MAX_SHARD_HEADER_BYTES)
        self._reserve = reserve + -reserve % ALIGNMENT
        self._upload = self._storage.upload(self._reserve)
        held, self._held = self._held, []
        for data in held:
            self._upload.write(data)

    def record(self, digest: str, begin: int, stored: Stored, dtype: str | None, shape: tuple[int, ...]) -> None:
        """Take an object whose bytes were appended from `begin` on into the shard's header."""
        if self.has(digest):
            return  # Nothing nominated it, so it was written again: its bytes become padding.
        hint_dtype, hint_shape = raw_hint(dtype, shape, stored)
        self._objects.append(ShardObject(digest, stored, begin, hint_dtype, hint_shape))
        self._digests[digest] = stored
        self._nominations.add((stored.length, stored.head_sum()))

    def flush(self) -> None:
        """Make what was appended durable as a shard; nothing where nothing was, or where this writer has failed."""
        if not self._objects or self.failed:
            self.abort()
            return
        self.failed = True
        if self._upload is None:
            head = build_header(self._objects, self.position, None)
            key = digest_of(memoryview(head)[LENGTH_BYTES:])
            self._upload = self._storage.upload(len(head))
            for data in self._held:
                self._upload.write(data)
        else:
            head = build_header(self._objects, self.position, self._reserve)
            key = digest_of(memoryview(head)[LENGTH_BYTES:])
        self._upload.finish(head, shard_key(key))
        size = len(head) + self.position
        self._written(key, size, parse_shard(head[LENGTH_BYTES:], file_size=size, where=shard_key(key)))
        self._reset()
        self.failed = False

    def abort(self) -> None:
        """Leave nothing of the shard that is not yet durable."""
        if self._upload is not None:
            self._upload.abort()
        self._reset()


def is_shard_metadata(metadata: dict[str, str]) -> bool:
    """Tell whether a safetensors file's metadata are those of a shard."""
    return metadata.get(FORMAT_KEY, "").startswith("shard/")
