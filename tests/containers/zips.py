"""Zip files written field by field, so that a test can lie about any one of them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

DESCRIPTOR = 0x8


@dataclass
class Record:
    name: str | bytes
    data: bytes = b""
    flags: int = DESCRIPTOR
    method: int = 0
    signed: bool = True
    wide: bool = False
    crc: int | None = None
    size: int | None = None
    compressed: int | None = None
    local: dict[str, object] = field(default_factory=dict)
    central: dict[str, object] = field(default_factory=dict)
    extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    descriptor: bytes | None = None
    padding: bytes = b""

    def raw_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()


LOCAL = ["version", "flags", "method", "time", "date", "crc", "compressed", "size"]
CENTRAL = ["made", *LOCAL]


def build(
    records: list[Record],
    *,
    zip64: bool = False,
    comment: bytes = b"",
    prefix: bytes = b"",
    gap: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    locator: dict[str, int] | None = None,
    order: list[int] | None = None,
) -> bytes:
    out = bytearray(prefix)
    directory = []
    for record in records:
        header = len(out)
        name = record.raw_name()
        true = {
            "made": 0,
            "version": 0,
            "flags": record.flags,
            "method": record.method,
            "time": 0,
            "date": 0,
            "crc": zlib.crc32(record.data) if record.crc is None else record.crc,
            "compressed": len(record.data) if record.compressed is None else record.compressed,
            "size": len(record.data) if record.size is None else record.size,
        }
        deferred = {"crc": 0, "compressed": 0, "size": 0} if record.flags & DESCRIPTOR else {}
        local = {**true, **deferred, **record.local}
        local_name = record.local.get("name", name)
        out += b"PK\x03\x04" + struct.pack("<HHHHHIII", *(local[key] for key in LOCAL))
        out += struct.pack("<HH", len(local_name), len(record.extra)) + local_name + record.extra
        out += record.data
        if record.descriptor is not None:
            out += record.descriptor
        elif record.flags & DESCRIPTOR:
            out += b"PK\x07\x08" if record.signed else b""
            out += struct.pack("<IQQ" if record.wide else "<III", true["crc"], true["compressed"], true["size"])
        out += record.padding
        central = {**true, "header": header, "disk": 0, **record.central}
        directory.append(
            b"PK\x01\x02"
            + struct.pack("<HHHHHHIII", *(central[key] for key in CENTRAL))
            + struct.pack("<HHHHHII", len(name), len(record.central_extra), len(record.comment), central["disk"], 0, 0,
                          central["header"])
            + name + record.central_extra + record.comment
        )  # fmt: skip
    out += gap
    begin = len(out)
    for index in order if order is not None else range(len(directory)):
        out += directory[index]
    values = {"disk": 0, "directory_disk": 0, "here": len(directory), "count": len(directory),
              "length": len(out) - begin, "begin": begin}  # fmt: skip
    if zip64:
        at = len(out)
        wide = {"size": 44, **values, **(end64 or {})}
        out += b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", wide["size"], 798, 45, *(wide[key] for key in values))
        place = {"disk": 0, "at": at, "disks": 1, **(locator or {})}
        out += b"PK\x06\x07" + struct.pack("<IQI", place["disk"], place["at"], place["disks"])
    narrow = {**values, **(end or {})}
    out += b"PK\x05\x06" + struct.pack("<HHHHII", *(narrow[key] for key in values))
    return bytes(out + struct.pack("<H", len(comment)) + comment)


def torch_records(pickle: bytes, storages: dict[str, bytes], **extra: bytes) -> list[Record]:
    """The records that torch.save writes, without its padding."""
    records = [Record("archive/data.pkl", pickle), Record("archive/byteorder", b"little")]
    records += [Record(f"archive/{name}", data) for name, data in extra.items()]
    records += [Record(f"archive/data/{key}", data) for key, data in storages.items()]
    return [*records, Record("archive/version", b"3\n")]


def torch_zip(pickle: bytes, storages: dict[str, bytes], **extra: bytes) -> bytes:
    return build(torch_records(pickle, storages, **extra))
