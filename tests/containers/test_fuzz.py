"""Random opcode streams, random edits of real pickles and random zips: a cut, an opaque file or our error, soon."""

from __future__ import annotations

import io
import pickletools
import struct
import time
import zipfile

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.containers.pickles import HOOKS, call, dictionary, named, number, numbers, storage, tensor, text
from tests.containers.reading import survives
from tests.containers.zips import Record, build, torch_zip

STORAGES = {"0": bytes(range(16)), "1": bytes(12), "2": b""}
QUICK = settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHORT = st.sampled_from(["", "a", "0", "1", "2", "storage", "cpu", "weight", "é\ud800"])
COUNT = st.one_of(st.integers(-2, 20), st.sampled_from([1 << 31, (1 << 63) - 1, 1 << 63, 1 << 2000, -(1 << 70)]))
MODULES = ["torch", "torch._utils", "torch.storage", "torch._tensor", "collections", "builtins", "os", "x"]
NAMES = [
    "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_from_type_v2",
    "_rebuild_parameter_with_state", "FloatStorage", "UntypedStorage", "IntStorage", "QInt8Storage", "float32",
    "uint16", "Size", "OrderedDict", "defaultdict", "Counter", "set", "system", "Tensor",
]  # fmt: skip

GLOBALS = st.builds(named, st.sampled_from(MODULES), st.sampled_from(NAMES))
KIND = st.sampled_from(["FloatStorage", "IntStorage", "DoubleStorage", "UntypedStorage", "QInt8Storage"])
SHAPE = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SMALL = st.sampled_from([(), (3,), (1, 3), (2, 1), (0,)])
TENSOR = st.one_of(
    st.builds(tensor, st.just("0"), st.just(4), SMALL, st.none(), st.integers(0, 1)),
    st.builds(tensor, st.just("1"), st.just(3), SMALL),
    st.builds(
        tensor, st.sampled_from("0123"), st.sampled_from([0, 3, 4]), SHAPE, SHAPE | st.none(), st.integers(0, 3), KIND
    ),
)
SOUND_TENSOR = st.builds(tensor, st.just("1"), st.just(3), SMALL)
SINGLE = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.arg is None])
INDEX = st.integers(0, 6)
PIECES = st.one_of(
    SINGLE,
    SINGLE,
    st.builds(text, SHORT),
    st.builds(number, COUNT),
    GLOBALS,
    GLOBALS,
    INDEX.map(lambda index: b"q" + bytes([index])),
    INDEX.map(lambda index: b"h" + bytes([index])),
    st.builds(storage, st.sampled_from("0123"), st.sampled_from([0, 3, 4, 16]), KIND),
    TENSOR,
    SHAPE.map(numbers),
    st.just(HOOKS),
    st.just(b"("),
    st.binary(max_size=4),
)


def value_of(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Streams that leave one value: so the reader gets past its first opcodes."""
    many = st.lists(children, max_size=4)
    return st.one_of(
        many.map(lambda items: b"(" + b"".join(items) + b"t"),
        many.map(lambda items: b"](" + b"".join(items) + b"e"),
        st.dictionaries(SHORT, children, max_size=4).map(lambda items: dictionary(**items)),
        st.builds(lambda function, items: call(function, *items), GLOBALS, many),
        st.builds(lambda function, state: call(function) + state + b"b", GLOBALS, children),
        st.builds(lambda item, index: item + b"q" + bytes([index]), children, INDEX),
        children.map(lambda item: item + b"Q"),
    )


VALUES = st.recursive(
    st.one_of(
        TENSOR, SOUND_TENSOR, SOUND_TENSOR, st.builds(text, SHORT), st.builds(number, COUNT), GLOBALS,
        SHAPE.map(numbers), st.just(b"N"), INDEX.map(lambda index: b"h" + bytes([index])),
    ),
    value_of,
    max_leaves=12,
)  # fmt: skip


def soon(data: bytes) -> None:
    begin = time.monotonic()
    survives(data, "fuzz.pt")
    assert time.monotonic() - begin < 5


@QUICK
@given(st.lists(PIECES, max_size=40))
def test_random_opcodes(pieces):
    soon(torch_zip(b"\x80\x02" + b"".join(pieces) + b".", STORAGES))


@QUICK
@given(VALUES)
def test_random_values(value):
    soon(torch_zip(b"\x80\x02" + value + b".", STORAGES))


def real_pickle() -> bytes:
    buffer = io.BytesIO()
    base = torch.arange(4.0)
    value = {"a": base, "b": base.view(2, 2).t(), "p": torch.nn.Parameter(torch.ones(3)), "n": [1, "x", None, (2.5,)]}
    torch.save(value, buffer)
    return zipfile.ZipFile(buffer).read("archive/data.pkl")


REAL = real_pickle()


@QUICK
@given(st.lists(st.tuples(st.integers(0, len(REAL)), st.integers(0, 6), st.binary(max_size=6) | PIECES), max_size=4))
def test_edited_real_pickles(edits):
    stream = REAL
    for at, removed, added in edits:
        stream = stream[:at] + added + stream[at + removed :]
    soon(torch_zip(stream, STORAGES))


NUMBERS = st.sampled_from([0, 1, 7, 8, 30, 64, 0xFFFF, 0xFFFFFFFF])
FIELDS = st.dictionaries(st.sampled_from(["flags", "method", "crc", "size", "compressed"]), NUMBERS, max_size=2).map(
    lambda fields: {key: value & 0xFFFF if key in ("flags", "method") else value for key, value in fields.items()}
)
EXTRAS = st.one_of(
    st.just(b""), st.binary(max_size=30), st.lists(NUMBERS, max_size=3).map(
        lambda values: struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)
    )
)  # fmt: skip


def rarely(strategy: st.SearchStrategy[object], usual: object) -> st.SearchStrategy[object]:
    """`usual`, and one time in sixteen what `strategy` draws."""
    return st.integers(0, 15).flatmap(lambda draw: strategy if draw == 7 else st.just(usual))


def record(name: str) -> st.SearchStrategy[Record]:
    data = {"archive/data.pkl": b"\x80\x02N.", "archive/byteorder": b"little", "archive/data/0": bytes(16)}
    return st.builds(
        Record,
        name=st.just(name),
        data=rarely(st.sampled_from([b"", b"big", bytes(16)]), data.get(name, b"")),
        flags=st.sampled_from([0, 8, 0x800, 0x808]),
        method=rarely(st.just(8), 0),
        signed=st.booleans(),
        wide=st.booleans(),
        local=rarely(FIELDS, {}),
        central=rarely(FIELDS | NUMBERS.map(lambda value: {"header": value}), {}),
        extra=rarely(EXTRAS, b"FB\1\0Z"),
        central_extra=rarely(EXTRAS, b""),
        comment=rarely(st.just(b"PK\5\6"), b""),
        padding=rarely(st.binary(min_size=1, max_size=3), b""),
    )


MEMBERS = ["archive/data.pkl", "archive/data/0", "archive/byteorder", "archive/", "archive/data/1", "x"]
ARCHIVES = st.lists(st.sampled_from(MEMBERS[1:]), max_size=3, unique=True).flatmap(
    lambda names: st.tuples(*map(record, [MEMBERS[0], *names]))
)
PLACES = rarely(
    st.dictionaries(st.sampled_from(["disk", "here", "count", "length", "begin"]), NUMBERS, min_size=1, max_size=1), {}
)


@QUICK
@given(ARCHIVES.map(list), st.booleans(), PLACES, PLACES, st.binary(max_size=4))
def test_random_zips(records, zip64, end, end64, comment):
    narrow = {key: value & 0xFFFF if key in ("disk", "here", "count") else value for key, value in end.items()}
    soon(build(records, zip64=zip64, end=narrow, end64=end64, comment=comment))
