"""A strict reader of zip directories: what it accepts has one meaning, and every byte of the file is accounted for.

Source: PKWARE APPNOTE 6.3.10; and what miniz, torch's writer, makes of it: always a zip64 end record, flag bit 3 with
zero CRC and sizes in local headers, no flag and no descriptor for empty entries, and beyond 4 GiB a zip64 field in a
local header that may lack the stored size or hold nothing but that header's own offset.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ckptfmt.containers.bounds import MAX_DIRECTORY_BYTES, NotInterpreted
from ckptfmt.containers.protocol import ByteSource
from ckptfmt.errors import FormatError

LOCAL_MAGIC: Final = b"PK\x03\x04"

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<4sHHHHIIH")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")

_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_END_MAGIC: Final = b"PK\x05\x06"
_LOCATOR_MAGIC: Final = b"PK\x06\x07"
_END64_MAGIC: Final = b"PK\x06\x06"
_DESCRIPTOR_MAGIC: Final = b"PK\x07\x08"

_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF
_STORED: Final = 0
_HAS_DESCRIPTOR: Final = 0x0008
_ENCRYPTED: Final = 0x2041
_KNOWN_FLAGS: Final = 0x080E
_ZIP64_FIELD: Final = 1
_MAX_DESCRIPTOR: Final = 24
_SMALL: Final = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive: `length` stored bytes at byte `begin`; `plain` if they are stored as they are.

    `name` is UTF-8 with undecodable bytes as lone surrogates. `crc` may be 0: torch can leave it out.
    """

    name: str
    begin: int
    length: int
    plain: bool
    crc: int


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry as the central directory lists it; `name` in bytes, `header` the offset of its local header."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    header: int


def read_entries(source: ByteSource) -> tuple[Entry, ...]:
    """Read the entries of a zip file, in the central directory's order.

    Local headers, data, descriptors, central directory and end records must tile the file.

    Raises:
        FormatError: two parts of the file contradict each other, overlap, or leave bytes unaccounted for; or it is
            encrypted or spans disks.
        NotInterpreted: the central directory is larger than any that torch writes.
    """
    count, begin, end = _find_directory(source)
    if end - begin > MAX_DIRECTORY_BYTES:
        raise NotInterpreted(f"a zip directory of {end - begin} bytes, over the limit of {MAX_DIRECTORY_BYTES}")
    listed = list(_central_entries(source.read(begin, end - begin), begin, source.where))
    if len(listed) != count:
        raise FormatError(f"{source.where}: byte {begin}: {len(listed)} directory entries, but {count} announced")
    seen: set[bytes] = set()
    for item in listed:
        if item.name in seen:
            raise FormatError(f"{source.where}: zip entry {_show(item.name)} stands twice")
        seen.add(item.name)
    placed = sorted(listed, key=lambda item: item.header)
    limits = [item.header for item in placed[1:]] + [begin]
    if placed and placed[0].header:
        raise FormatError(f"{source.where}: {placed[0].header} bytes before the first zip entry")
    if not placed and begin:
        raise FormatError(f"{source.where}: {begin} bytes that no zip entry holds")
    found = {item.name: _place(source, item, limit) for item, limit in zip(placed, limits, strict=True)}
    return tuple(found[item.name] for item in listed)


def _show(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def _find_directory(source: ByteSource) -> tuple[int, int, int]:
    """Number of entries, begin and end of the central directory."""
    where = source.where
    tail_begin = max(0, source.size - _END.size - _MAX16)
    tail = source.read(tail_begin, source.size - tail_begin)
    ends = [
        at
        for at in _occurrences(tail, _END_MAGIC)
        if len(tail) - at >= _END.size and _END.unpack_from(tail, at)[-1] == len(tail) - at - _END.size
    ]
    if len(ends) != 1:
        what = "two end records fit: which one counts is not clear" if ends else "no end record: the file is truncated"
        raise FormatError(f"{where}: a zip file with {what}")
    _, disk, directory_disk, here, count, length, begin, _ = _END.unpack_from(tail, ends[0])
    end = tail_begin + ends[0]
    if end >= _LOCATOR.size:
        locator = source.read(end - _LOCATOR.size, _LOCATOR.size)
        if locator.startswith(_LOCATOR_MAGIC):
            claimed = (disk, directory_disk, here, count, length, begin)
            return _find_directory64(source, locator, end - _LOCATOR.size, claimed)
    if disk or directory_disk or here != count:
        raise FormatError(f"{where}: byte {end}: a zip file over several disks")
    if begin + length != end:
        raise FormatError(f"{where}: byte {end}: the zip directory ends at byte {begin + length}, not where it should")
    return count, begin, end


def _find_directory64(
    source: ByteSource, locator: bytes, locator_at: int, claimed: tuple[int, ...]
) -> tuple[int, int, int]:
    place = f"{source.where}: byte {locator_at}"
    _, end64_disk, end64_at, disks = _LOCATOR.unpack(locator)
    if end64_disk or disks != 1:
        raise FormatError(f"{place}: a zip file over several disks")
    if end64_at + _END64.size > locator_at:
        raise FormatError(f"{place}: the zip64 end record is not before its locator")
    magic, size, _, _, disk, directory_disk, here, count, length, begin = _END64.unpack(
        source.read(end64_at, _END64.size)
    )
    if magic != _END64_MAGIC or end64_at + 12 + size != locator_at:
        raise FormatError(f"{place}: no zip64 end record where its locator says (byte {end64_at})")
    if disk or directory_disk or here != count:
        raise FormatError(f"{place}: a zip file over several disks")
    values = (disk, directory_disk, here, count, length, begin)
    limits = (_MAX16, _MAX16, _MAX16, _MAX16, _MAX32, _MAX32)
    if any(said not in (value, limit) for said, value, limit in zip(claimed, values, limits, strict=True)):
        raise FormatError(f"{place}: the zip and the zip64 end record contradict each other")
    if begin + length != end64_at:
        raise FormatError(f"{place}: the zip directory ends at byte {begin + length}, not where it should")
    return count, begin, end64_at


def _occurrences(data: bytes, part: bytes) -> Iterator[int]:
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + 1)


def _central_entries(directory: bytes, begin: int, where: str) -> Iterator[_Listed]:
    at = 0
    while at < len(directory):
        place = f"{where}: byte {begin + at}"
        if len(directory) - at < _CENTRAL.size:
            raise FormatError(f"{place}: the zip directory ends within an entry")
        fields = _CENTRAL.unpack_from(directory, at)
        magic, _, _, flags, method, _, _, crc, compressed, size = fields[:10]
        name_bytes, extra_bytes, comment_bytes, disk, _, _, header = fields[10:]
        name_at = at + _CENTRAL.size
        extra_at = name_at + name_bytes
        at = extra_at + extra_bytes + comment_bytes
        if magic != _CENTRAL_MAGIC or at > len(directory):
            raise FormatError(f"{place}: no entry of a zip directory")
        name = directory[name_at:extra_at]
        place = f"{where}: zip entry {_show(name)}"
        zip64 = _zip64_field(directory[extra_at : extra_at + extra_bytes], place)
        sizes = [size, compressed, header]
        missing = [index for index, value in enumerate(sizes) if value == _MAX32]
        if missing:
            if zip64 is None or len(zip64) != 8 * len(missing):
                raise FormatError(f"{place}: its zip64 field does not fit its directory entry")
            for index, value in zip(missing, struct.unpack(f"<{len(missing)}Q", zip64), strict=True):
                sizes[index] = value
        if disk:
            raise FormatError(f"{place}: on another disk")
        if flags & _ENCRYPTED:
            raise FormatError(f"{place}: encrypted")
        if flags & ~_KNOWN_FLAGS:
            raise FormatError(f"{place}: unknown flags {flags:#06x}")
        if method == _STORED and sizes[0] != sizes[1]:
            raise FormatError(f"{place}: stored, but its two sizes are {sizes[0]} and {sizes[1]}")
        yield _Listed(name, flags, method, crc, sizes[1], sizes[0], sizes[2])


def _zip64_field(extra: bytes, place: str) -> bytes | None:
    found = None
    at = 0
    while at < len(extra):
        kind, length = struct.unpack_from("<HH", extra, at) if len(extra) - at >= 4 else (0, _MAX32)
        at += 4 + length
        if at > len(extra):
            raise FormatError(f"{place}: its extra fields do not fit their length")
        if kind == _ZIP64_FIELD:
            if found is not None:
                raise FormatError(f"{place}: two zip64 fields")
            found = extra[at - length : at]
    return found


def _place(source: ByteSource, item: _Listed, limit: int) -> Entry:
    """Check the local header of `item`, whose record must end exactly at byte `limit`; find its data."""
    place = f"{source.where}: zip entry {_show(item.name)} at byte {item.header}"
    around = limit - item.header - item.compressed
    if around < _LOCAL.size + len(item.name):
        raise FormatError(f"{place}: overlaps what follows it at byte {limit}")
    if around > _LOCAL.size + 2 * _MAX16 + _MAX_DESCRIPTOR:
        raise FormatError(f"{place}: leaves a hole before byte {limit}")
    # `around` is header and descriptor together, so it holds the whole header; small entries come in one read.
    head = source.read(item.header, min(limit - item.header, max(around, _SMALL)))
    magic, _, flags, method, _, _, crc, compressed, size, name_bytes, extra_bytes = _LOCAL.unpack_from(head)
    begin = _LOCAL.size + name_bytes + extra_bytes
    if magic != LOCAL_MAGIC or begin > around:
        raise FormatError(f"{place}: no local header there, or it overlaps what follows")
    name = head[_LOCAL.size : _LOCAL.size + name_bytes]
    if (name, method, flags) != (item.name, item.method, item.flags):
        raise FormatError(f"{place}: local header and directory differ in name, method or flags")
    zip64 = _zip64_field(head[_LOCAL.size + name_bytes : begin], place)
    _check_sizes(item, (crc, size, compressed), zip64, place)
    data_end = begin + item.compressed
    rest = around - begin
    if item.flags & _HAS_DESCRIPTOR:
        in_head = head[data_end : data_end + rest] if data_end + rest <= len(head) else None
        _check_descriptor(item, in_head or source.read(limit - rest, min(rest, _SMALL)), place)
    elif rest:
        raise FormatError(f"{place}: leaves a hole of {rest} bytes before byte {limit}")
    text = item.name.decode("utf-8", "surrogateescape")
    return Entry(text, item.header + begin, item.compressed, item.method == _STORED, item.crc)


def _check_sizes(item: _Listed, local: tuple[int, int, int], zip64: bytes | None, place: str) -> None:
    """Local CRC, size and stored size agree with the directory, or are zero where a descriptor follows."""
    crc, size, compressed = local
    deferred = bool(item.flags & _HAS_DESCRIPTOR)
    allowed = [(item.size, item.compressed)] + [(0, 0)] * deferred
    if size == compressed == _MAX32:
        sound = zip64 is not None and len(zip64) == 16 and struct.unpack("<QQ", zip64) in allowed
    else:
        # miniz writes this field before it knows the stored size, and leaves the 32-bit fields 0 beside it.
        forms = [struct.pack("<Q", item.header)]
        for stored in (item.compressed, 0)[: 1 + deferred]:
            forms += [struct.pack("<QQ", item.size, stored), struct.pack("<QQQ", item.size, stored, item.header)]
        sound = (size, compressed) in allowed and (zip64 is None or zip64 in forms)
    if not sound or not (crc == item.crc or (deferred and crc == 0)):
        raise FormatError(f"{place}: local header and directory differ in size or CRC")


def _check_descriptor(item: _Listed, descriptor: bytes, place: str) -> None:
    body = descriptor[4:] if len(descriptor) in (16, 24) else descriptor
    form = {12: "<III", 20: "<IQQ"}.get(len(body))
    signed = len(body) == len(descriptor) or descriptor.startswith(_DESCRIPTOR_MAGIC)
    if form is None or not signed:
        raise FormatError(f"{place}: {len(descriptor)} bytes after its data are no data descriptor")
    if struct.unpack(form, body) != (item.crc, item.compressed, item.size):
        raise FormatError(f"{place}: data descriptor and directory differ in size or CRC")
