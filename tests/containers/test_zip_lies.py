"""Zip files that contradict themselves are refused; those we do not interpret are kept whole; nothing else happens."""

from __future__ import annotations

import io
import random
import struct
import zipfile

import pytest
import torch

from ckptfmt.containers import zip_reader
from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.errors import CkptfmtError, FormatError
from tests.containers.pickles import dictionary, tensor, whole
from tests.containers.reading import cut_bytes, logical, survives
from tests.containers.zips import DESCRIPTOR, Record, build, torch_records, torch_zip

NAME = "model.pt"
PAYLOAD = struct.pack("<4f", 1, 2, 3, 4)
PICKLE = whole(dictionary(w=tensor("0", 4, (2, 2))))
U32 = 0xFFFFFFFF
SATURATED = {"compressed": U32, "size": U32}


def records() -> list[Record]:
    return torch_records(PICKLE, {"0": PAYLOAD})


def changed(name: str, **fields: object) -> list[Record]:
    """The usual records, one of them with fields set."""
    result = records()
    target = next(record for record in result if record.name == f"archive/{name}")
    for key, value in fields.items():
        setattr(target, key, value)
    return result


def assert_sound(data: bytes) -> None:
    cut = cut_bytes(data, NAME)
    assert isinstance(cut, Cut), cut
    assert logical(cut, cut.tensors[0], data) == PAYLOAD


def zip64(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def sizes_in_zip64() -> list[Record]:
    return changed(
        "data/0", flags=0, local=SATURATED, central=SATURATED, extra=zip64(16, 16), central_extra=zip64(16, 16)
    )


def at_offset(header: int) -> list[Record]:
    return changed("data/0", extra=zip64(header), central={"header": U32}, central_extra=zip64(header))


HEADER = build(records()).index(b"archive/data/0") - 30

SOUND = {
    "as torch writes": build(records(), zip64=True),
    "without zip64": build(records()),
    "no descriptors": build([Record(record.name, record.data, flags=0) for record in records()]),
    "descriptor without signature": build(changed("data/0", signed=False)),
    "wide descriptor": build(changed("data/0", wide=True)),
    "wide descriptor without signature": build(changed("data/0", wide=True, signed=False)),
    "sizes beside a descriptor": build(changed("data/0", local={"size": 16, "compressed": 16})),
    "UTF-8 flag": build(changed("data/0", flags=0x800 | DESCRIPTOR)),
    "no CRC": build([Record(record.name, record.data, crc=0) for record in records()]),
    "padding": build(changed("data/0", extra=b"FB" + struct.pack("<H", 40) + b"Z" * 40)),
    "directory in another order": build([*records(), Record("archive/x")], order=[0, 3, 1, 4, 2]),
    "another archive's entry first in the file": build([Record("other/x"), *records()], order=[1, 2, 3, 4, 0]),
    "comments": build(changed("data/0", comment=b"hello"), comment=b"world"),
    "entries outside the archive's directory": build([*records(), Record("other/data/0", b"xx")]),
    "another name": build([Record(record.name.replace("archive", "é x"), record.data) for record in records()]),
    "sizes in a zip64 field": build(sizes_in_zip64(), zip64=True),
    "offset in a zip64 field": build(at_offset(HEADER), zip64=True),
    "saturated end record": build(
        records(), zip64=True, end={"count": 0xFFFF, "here": 0xFFFF, "begin": U32, "length": U32}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "data"), SOUND.items(), ids=SOUND)
def test_sound_zips_are_cut(name, data):
    assert_sound(data)
    if name != "no CRC":
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_what_other_tools_write():
    for force in (False, True):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for record in records():
                with archive.open(record.name, "w", force_zip64=force) as file:
                    file.write(record.data)
        assert_sound(buffer.getvalue())

    class Stream(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError

    for force in (False, True):
        stream = Stream()
        with zipfile.ZipFile(stream, "w") as archive:
            for record in records():
                with archive.open(record.name, "w", force_zip64=force) as file:
                    file.write(record.data)
        assert_sound(stream.getvalue())


NESTED = build([Record("archive/data.pkl", PICKLE)])

LIES = {
    "encrypted": build(changed("data/0", flags=1 | DESCRIPTOR)),
    "strong encryption": build(changed("data/0", flags=0x41 | DESCRIPTOR)),
    "hidden headers": build(changed("data/0", flags=0x2000 | DESCRIPTOR)),
    "patched data": build(changed("data/0", flags=0x20 | DESCRIPTOR)),
    "encrypted only locally": build(changed("data/0", local={"flags": 9})),
    "encrypted only in the directory": build(changed("data/0", central={"flags": 9})),
    "descriptor flag only locally": build(changed("data/0", central={"flags": 0})),
    "names differ": build(changed("data/0", local={"name": b"archive/data/1"})),
    "names differ in length": build(changed("data/0", local={"name": b"archive/data/00"})),
    "methods differ": build(changed("data/0", local={"method": 8})),
    "method differs in the directory": build(changed("data/0", central={"method": 8})),
    "duplicate": build([*records(), Record("archive/data/0", PAYLOAD)]),
    "duplicate pickle": build([*records(), Record("archive/data.pkl", b"N.")]),
    "sizes differ": build(changed("data/0", local={"size": 15, "compressed": 15})),
    "sizes differ without a descriptor": build(changed("data/0", flags=0, local={"size": 15})),
    "no sizes and no descriptor": build(changed("data/0", flags=0, local={"size": 0, "compressed": 0, "crc": 0})),
    "CRC differs": build(changed("data/0", flags=0, local={"crc": 1})),
    "CRC differs beside a descriptor": build(changed("data/0", local={"crc": 1})),
    "stored in two sizes": build(changed("data/0", size=17)),
    "stored in other sizes": build(changed("data/0", central={"size": 17})),
    "directory states less": build(changed("data/0", central={"size": 15, "compressed": 15})),
    "directory states more": build(changed("data/0", central={"size": 17, "compressed": 17})),
    "directory states much more": build(changed("data/0", central={"size": 1 << 30, "compressed": 1 << 30})),
    "descriptor CRC": build(changed("data/0", descriptor=b"PK\7\x08" + struct.pack("<III", 1, 16, 16))),
    "descriptor size": build(changed("data/0", crc=1, descriptor=b"PK\7\x08" + struct.pack("<III", 1, 16, 15))),
    "descriptor signature": build(changed("data/0", crc=1, descriptor=b"PK\7\x07" + struct.pack("<III", 1, 16, 16))),
    "no descriptor": build(changed("data/0", descriptor=b"")),
    "half a descriptor": build(changed("data/0", descriptor=b"PK\7\x08")),
    "hole after an entry": build(changed("data/0", padding=b"\0")),
    "hole after an entry without descriptor": build(changed("data/0", flags=0, padding=b"\0")),
    "large hole": build(changed("data/0", padding=bytes(200_000))),
    "hole before the directory": build(records(), gap=b"secret"),
    "prefix": build(records(), prefix=b"PK\3\4 and more"),
    "prefix that is an entry": build(records(), prefix=build([Record("a", b"b")])[:40]),
    "bytes at the end": build(records()) + b"\0",
    "a zip after a zip": build(records()) + build(records()),
    "overlap": build(changed("data/0", central={"header": 0})),
    "offset in the data": build(changed("data/0", central={"header": HEADER + 1})),
    "offset past the end": build(changed("data/0", central={"header": 1 << 30})),
    "extra field past its end": build(changed("data/0", extra=b"FB\xff\xff")),
    "half an extra field": build(changed("data/0", extra=b"FBx")),
    "two zip64 fields": build(changed("data/0", extra=zip64(HEADER) * 2)),
    "local zip64 field says otherwise": build(changed("data/0", extra=zip64(17, 17))),
    "local zip64 field says another offset": build(changed("data/0", extra=zip64(HEADER + 1))),
    "zip64 sizes differ": build(changed("data/0", extra=zip64(17, 17), local=SATURATED)),
    "zip64 sizes differ by one": build(changed("data/0", extra=zip64(16, 17), local=SATURATED)),
    "zip64 field missing": build(changed("data/0", central=SATURATED)),
    "zip64 field too short": build(changed("data/0", central=SATURATED, central_extra=zip64(16))),
    "zip64 field too long": build(changed("data/0", central={"header": U32}, central_extra=zip64(HEADER, 1))),
    "another disk": build(changed("data/0", central={"disk": 1})),
    "two disks": build(records(), end={"disk": 1}),
    "directory on another disk": build(records(), end={"directory_disk": 1}),
    "fewer entries here": build(records(), end={"here": 3}),
    "fewer entries": build(records(), end={"here": 3, "count": 3}),
    "more entries": build(records(), end={"here": 5, "count": 5}),
    "directory longer": build(records(), end={"length": 1000}),
    "directory elsewhere": build(records(), end={"begin": 7}),
    "saturated without zip64": build(records(), end={"begin": U32}),
    "zip64 disks": build(records(), zip64=True, locator={"disks": 2}),
    "zip64 locator disk": build(records(), zip64=True, locator={"disk": 1}),
    "zip64 record elsewhere": build(records(), zip64=True, locator={"at": 3}),
    "zip64 record after its locator": build(records(), zip64=True, locator={"at": 1 << 60}),
    "zip64 disk": build(records(), zip64=True, end64={"disk": 1}, end={"disk": 0xFFFF}),
    "zip64 record longer": build(records(), zip64=True, end64={"size": 45}),
    "zip64 count": build(records(), zip64=True, end64={"count": 5, "here": 5}),
    "zip64 here": build(records(), zip64=True, end64={"here": 5}),
    "zip64 begin": build(records(), zip64=True, end64={"begin": 5}, end={"begin": U32}),
    "zip64 length": build(records(), zip64=True, end64={"length": 5}, end={"length": U32}),
    "end records disagree": build(records(), zip64=True, end={"begin": 5}),
    "end record in the comment": build(records(), comment=b"PK\5\6" + bytes(18)),
    "zip in the comment": build(records(), comment=NESTED),
    "comment shorter than stated": build(records(), comment=b"hello")[:-1],
    "nothing but a magic": b"PK\3\4",
    "magic and an end": b"PK\3\4" + build([]),
    "no end record": build(records())[: -22],
}  # fmt: skip


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_lies_are_refused(data):
    with pytest.raises(FormatError, match=rf"^{NAME}"):
        cut_bytes(data, NAME)


def test_encryption_is_named():
    for name in ("encrypted", "strong encryption", "hidden headers"):
        with pytest.raises(FormatError, match="encrypted"):
            cut_bytes(LIES[name], NAME)


OPAQUE = {
    "compressed pickle": (build(changed("data.pkl", method=8)), "compressed"),
    "compressed record": (build(changed("data/0", method=8, size=999)), "compressed"),
    "TorchScript": (torch_zip(PICKLE, {"0": PAYLOAD}, **{"constants.pkl": b"N."}), "TorchScript"),
    "TorchScript code": (torch_zip(PICKLE, {"0": PAYLOAD}, **{"code/__torch__.py": b"x"}), "TorchScript"),
    "no pickle": (build(records()[1:]), "data.pkl"),
    "pickle not in a directory": (build([Record("data.pkl", PICKLE), *records()]), "data.pkl"),
    "big endian": (build(changed("byteorder", data=b"big")), "byte order"),
    "unknown byte order": (build(changed("byteorder", data=b"x" * 99)), "byte order"),
}


@pytest.mark.parametrize(("data", "reason"), OPAQUE.values(), ids=OPAQUE)
def test_well_formed_zips_that_are_not_interpreted(data, reason):
    result = cut_bytes(data, NAME)
    assert isinstance(result, Opaque) and reason in result.reason


def test_a_damaged_pickle_is_found_by_its_crc():
    data = build(records())
    at = data.index(PICKLE) + PICKLE.index(b"w\x63")
    damaged = data[:at] + b"v" + data[at + 1 :]
    with pytest.raises(FormatError, match=r"data\.pkl.*CRC"):
        cut_bytes(damaged, NAME)


def test_bounds_of_the_directory(monkeypatch):
    monkeypatch.setattr(zip_reader, "MAX_DIRECTORY_BYTES", 100)
    assert "directory" in cut_bytes(build(records()), NAME).reason


def test_records_that_the_pickle_does_not_name_are_extents():
    data = torch_zip(whole(dictionary(w=tensor("0", 4, (2, 2)))), {"0": PAYLOAD, "stray": b"abc", "empty": b""})
    cut = cut_bytes(data, NAME)
    assert [(span.length, span.dtype) for span in cut.extents] == [(16, "F32"), (3, None), (0, None)]


def small_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(3.0), "t": torch.ones(2, 2).t(), "n": 1, "e": torch.zeros(0)}, buffer)
    return buffer.getvalue()


def test_every_truncation():
    data = small_file()
    for length in range(4, len(data)):
        assert isinstance(survives(data[:length], NAME), CkptfmtError)
    data = build(records())
    for length in range(4, len(data)):
        assert isinstance(survives(data[:length], NAME), CkptfmtError)


def test_single_flips_and_splices():
    generator = random.Random(11)
    data = small_file()
    outcomes = set()
    positions = [(at, bit) for at in range(4, len(data)) for bit in range(8) if data[at] != ord("Z")]
    for at, bit in generator.sample(positions, 4000):
        outcomes.add(type(survives(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], NAME)))
    assert outcomes >= {Cut, FormatError}
    for _ in range(1500):
        begin, end, at = (generator.randrange(4, len(data)) for _ in range(3))
        survives(data[:at] + data[begin:end] + data[at:], NAME)
        survives(data[:begin] + data[end:], NAME)


def test_flips_in_a_small_hand_made_file_change_no_tensor_unseen():
    data = build(records())
    sound = cut_bytes(data, NAME)
    begin = sound.extents[0].offset
    for at in range(4, len(data)):
        if begin <= at < begin + len(PAYLOAD):
            continue
        for bit in range(8):
            flipped = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            result = survives(flipped, NAME)
            if isinstance(result, Cut):
                assert result.tensors == sound.tensors and result.extents == sound.extents
