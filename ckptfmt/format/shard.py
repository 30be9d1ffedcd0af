"""The shard header: a safetensors header whose `__metadata__` says how each object is stored.

Every tensor is named by an object's digest; tensors named `pad-<n>` cover the bytes that belong to none: those up
to the next multiple of 8, so that any safetensors reader can map what follows. `__metadata__[<digest>]` is that
object's `Stored` as compact JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ckptfmt.digest import CHECKSUM_HEX, FRAME_BYTES, frame_count, is_digest
from ckptfmt.errors import FormatError, UnsupportedVersion
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.safetensors import LENGTH_BYTES, parse_header

ALIGNMENT: Final = 8
MAX_SHARD_BYTES: Final = 4 << 30
MAX_SHARD_OBJECTS: Final = 50_000
MAX_SHARD_HEADER_BYTES: Final = 32 << 20

MAX_DEPENDENCIES: Final = 1024
MAX_REFERENCE_BYTES: Final = 32 << 10
MAX_DEPTH: Final = 8
"""So many objects may depend on one another in a row."""

FORMAT_KEY: Final = "ckptfmt"
_FORMAT_VALUE: Final = f"shard/{FORMAT_VERSION}"


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an object is stored.

    Attributes:
        encoding: name of the encoding, the same for all frames.
        length: decoded bytes.
        sums: XXH3-128 of each frame's stored bytes, 32 hex digits each, joined.
        frames: stored bytes of each frame; left out where each takes as many as it decodes to. A frame whose stored
            length equals its decoded length is stored raw, whatever the encoding.
        head: XXH3-128 of the first *decoded* frame where it is not that of the stored one. Nominates duplicates.
        element: dtype that the encoding works in.
        dependencies: digests of the objects that decoding needs, in the order in which the reference takes them.
        reference: how the basis that frames are stored against is made of them, in the words of the encoding.
    """

    encoding: str
    length: int
    sums: str = ""
    frames: tuple[int, ...] = ()
    head: str | None = None
    element: str | None = None
    dependencies: tuple[str, ...] = ()
    reference: str = ""

    def frame_lengths(self) -> tuple[int, ...]:
        """Stored bytes of each frame."""
        return self.frames or decoded_lengths(self.length)

    def stored_bytes(self) -> int:
        """Bytes the object takes in its shard."""
        return sum(self.frames) if self.frames else self.length

    def sum_of(self, frame: int) -> str:
        """XXH3-128 of the stored bytes of frame `frame`."""
        return self.sums[frame * CHECKSUM_HEX : (frame + 1) * CHECKSUM_HEX]

    def head_sum(self) -> str:
        """XXH3-128 of the first decoded frame, empty for an empty object."""
        return self.head or self.sum_of(0)


@dataclass(frozen=True, slots=True)
class ShardObject:
    """An object of a shard: `begin` is the file offset of its first stored byte; `dtype` and `shape` are a hint."""

    digest: str
    stored: Stored
    begin: int
    dtype: str
    shape: tuple[int, ...]


def decoded_lengths(length: int) -> tuple[int, ...]:
    """Decoded bytes of each frame of an object of `length` bytes."""
    count = frame_count(length)
    return (FRAME_BYTES,) * (count - 1) + (length - FRAME_BYTES * (count - 1),) if count else ()


def header_estimate(length: int, rank: int, dependencies: int = 4) -> int:
    """An upper bound of the header bytes that an object takes.

    Args:
        length: decoded bytes.
        rank: number of dimensions.
        dependencies: how many objects it may be stored against.
    """
    return 768 + 20 * rank + (CHECKSUM_HEX + 9) * frame_count(length) + 72 * dependencies


def build_header(objects: Sequence[ShardObject], data_bytes: int, data_begin: int | None) -> bytes:
    """Write the length prefix and the header of a shard.

    Args:
        objects: sorted by `begin`, which counts from the start of the shard's *data*.
        data_bytes: length of the data; what no object covers becomes `pad-<n>`.
        data_begin: file offset where the data begins; the header is padded with spaces up to it. None: as short
            as alignment allows.

    Returns:
        The first `data_begin` bytes of the shard.

    Raises:
        ValueError: the header does not fit below `data_begin`.
    """
    metadata = {FORMAT_KEY: _FORMAT_VALUE}
    document: dict[str, object] = {"__metadata__": metadata}
    position = pads = 0
    for item in objects:
        if item.begin > position:
            document[f"pad-{pads}"] = _entry("U8", (item.begin - position,), position, item.begin)
            pads += 1
        position = item.begin + item.stored.stored_bytes()
        document[item.digest] = _entry(item.dtype, item.shape, item.begin, position)
        metadata[item.digest] = msgspec.json.encode(item.stored).decode()
    if data_bytes > position:
        document[f"pad-{pads}"] = _entry("U8", (data_bytes - position,), position, data_bytes)
    text = json.dumps(document, separators=(",", ":")).encode()
    if data_begin is None:
        data_begin = LENGTH_BYTES + len(text) + -len(text) % ALIGNMENT
    length = data_begin - LENGTH_BYTES
    if len(text) > length:
        raise ValueError(f"a shard header of {len(text)} bytes does not fit into {length}")
    return length.to_bytes(LENGTH_BYTES, "little") + text.ljust(length)


def parse_shard(data: bytes, *, file_size: int, where: str) -> tuple[ShardObject, ...]:
    """Read the N header bytes of a shard (without the length prefix); objects come sorted by `begin`, a file offset.

    Raises:
        FormatError: it is not a shard, or its parts contradict each other.
        UnsupportedVersion: a newer ckptfmt wrote it.
    """
    header = parse_header(data, file_size=file_size, where=where)
    version = header.metadata.get(FORMAT_KEY, "")
    if version != _FORMAT_VALUE:
        if version.startswith("shard/"):
            raise UnsupportedVersion(f"{where}: shard format {version!r} is newer than {_FORMAT_VALUE!r}")
        raise FormatError(f"{where}: not a shard: __metadata__ lacks {FORMAT_KEY}={_FORMAT_VALUE!r}")
    objects = []
    for tensor in header.tensors:
        if tensor.name.startswith("pad-"):
            continue
        place = f"{where}: object {tensor.name[:16]}"
        text = header.metadata.get(tensor.name)
        if not is_digest(tensor.name) or text is None:
            raise FormatError(f"{place}: no digest, or no description in __metadata__")
        try:
            stored = msgspec.json.decode(text, type=Stored)
        except msgspec.DecodeError as error:
            raise FormatError(f"{place}: {error}", code="malformed-document") from None
        _check_stored(stored, tensor.end - tensor.begin, place)
        objects.append(ShardObject(tensor.name, stored, tensor.begin, tensor.dtype, tensor.shape))
    if len(header.metadata) != len(objects) + 1:
        raise FormatError(f"{where}: __metadata__ describes objects that the shard does not hold")
    return tuple(objects)


def raw_hint(dtype: str | None, shape: Sequence[int], stored: Stored) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape a header gives for an object: the tensor's own where its bytes lie there as they are."""
    if dtype in BITS and dtype != "C128" and stored.encoding == "raw" and stored.length:
        bits = BITS[dtype] * math.prod(shape)
        if bits == stored.length * 8:
            return dtype, tuple(shape)
    return "U8", (stored.stored_bytes(),)


def _entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _check_stored(stored: Stored, span: int, place: str) -> None:
    # The checksums come first: they stand in the header, so they bound the count before anything is made of it.
    count = frame_count(stored.length) if stored.length >= 0 else -1
    sound = (
        len(stored.sums) == CHECKSUM_HEX * count
        and len(lengths := stored.frame_lengths()) == count
        and all(0 < length <= limit for length, limit in zip(lengths, decoded_lengths(stored.length), strict=True))
        and all(map(is_digest, stored.dependencies))
        and len(stored.dependencies) <= MAX_DEPENDENCIES
        and len(stored.reference) <= MAX_REFERENCE_BYTES
    )
    if not sound:
        raise FormatError(f"{place}: its frame table does not fit its length of {stored.length} bytes")
    if stored.stored_bytes() != span:
        raise FormatError(f"{place}: its frames take {stored.stored_bytes()} bytes, its place in the shard {span}")
