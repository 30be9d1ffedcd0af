"""The inert pickle reader: what it refuses, what it bounds, and that it runs nothing."""

from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest

from ckptfmt.containers import pickle_reader, torch_zip, tree
from ckptfmt.containers.protocol import Cut, CutTensor, Inert, Opaque, TensorAt
from ckptfmt.errors import FormatError
from tests.containers.bombs import BOMBS, laughs
from tests.containers.payloads import CANARY, payloads
from tests.containers.pickles import (
    HOOKS,
    call,
    dictionary,
    group,
    named,
    number,
    numbers,
    storage,
    tensor,
    text,
    whole,
)  # fmt: skip
from tests.containers.reading import cut_bytes, survives
from tests.containers.zips import build, torch_records
from tests.containers.zips import torch_zip as zipped

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
NAME = "model.pt"
FOUR = {"0": bytes(range(16))}


def cut(value: bytes, storages: dict[str, bytes] = FOUR) -> Cut | Opaque:
    return cut_bytes(zipped(whole(value), storages), NAME)


def canary(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.containers.canary", *options],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_no_payload_imports_or_runs_anything():
    assert len(payloads()) >= 1_000
    done = canary()
    assert done.returncode == 0, done.stderr
    count, cuts, opaque, errors, new = done.stdout.split(maxsplit=4)
    assert int(count) == int(cuts) + int(opaque) + int(errors) >= 1_000
    assert int(cuts) > 1_000 and new.strip() == "[]"
    assert not os.path.exists(CANARY)


def test_the_canary_would_have_sung():
    done = canary("--prove")
    assert done.returncode == 66 and "CANARY" in done.stderr
    assert not os.path.exists(CANARY)


def test_the_folder_imports_no_machine():
    code = "import sys, ckptfmt.containers as c; print({'torch', 'numpy', 'zipfile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_inert_names_are_kept_beside_tensors():
    result = cut(dictionary(w=tensor("0", 4, (2, 2)), bad=call(named("os", "system"), text("x"))))
    assert result.tree == {"w": TensorAt(0), "bad": Inert("os.system")}


BAD_TENSORS = {
    "past the end": tensor("0", 4, (2, 3)),
    "one byte past the end": tensor("0", 16, (17,), kind="ByteStorage"),
    "offset past the end": tensor("0", 4, (2, 2), offset=1),
    "stride past the end": tensor("0", 4, (2, 2), (3, 1)),
    "far past the end": tensor("0", 4, (1 << 40, 1 << 20)),
    "negative stride": tensor("0", 4, (2, 2), (-2, 1)),
    "negative offset": tensor("0", 4, (2, 2), offset=-1),
    "negative size": tensor("0", 4, (-2, -2)),
    "size beyond 64 bits": tensor("0", 4, (1 << 63,), (0,)),
    "offset beyond 64 bits": tensor("0", 4, (0,), offset=1 << 63),
    "more sizes than strides": tensor("0", 4, (2, 2), (1,)),
    "too many dimensions": tensor("0", 4, (1,) * 65),
    "record missing": tensor("1", 4, (2, 2)),
    "record longer": tensor("0", 3, (3,)),
    "record shorter": tensor("0", 5, (2,)),
    "count overflows": tensor("0", (1 << 62) + 4, (2,)),
    "negative count": tensor("0", -4, (0,)),
    "another element width": tensor("0", 4, (2,), kind="DoubleStorage"),
    "one storage, two types": group(tensor("0", 4, (4,)), tensor("0", 4, (4,), kind="IntStorage")),
    "one storage, two lengths": group(tensor("0", 4, (4,)), tensor("0", 5, (1,))),
    "key no string": call(
        named("torch._utils", "_rebuild_tensor_v2"),
        group(text("storage"), named("torch", "FloatStorage"), number(0), text("cpu"), number(4)) + b"Q",
        number(0), numbers((4,)), numbers((1,)), b"\x89", HOOKS,
    ),
    "key very long": tensor("0" * 5000, 4, (4,)),
    "storage of four parts": group(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu")) + b"Q",
    "storage without class": group(text("storage"), text("FloatStorage"), text("0"), text("cpu"), number(4)) + b"Q",
    "count a bool": group(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), b"\x88") + b"Q",
    "shape a list": call(
        named("torch._utils", "_rebuild_tensor_v2"), storage("0", 4), number(0), b"]", b")", b"\x89", HOOKS
    ),
    "size a bool": call(
        named("torch._utils", "_rebuild_tensor_v2"), storage("0", 4), number(0), group(b"\x88"), numbers((1,)),
        b"\x89", HOOKS,
    ),
    "no storage": call(named("torch._utils", "_rebuild_tensor_v2"), b"N", number(0), b")", b")", b"\x89", HOOKS),
    "too few arguments": call(named("torch._utils", "_rebuild_tensor_v2"), storage("0", 4), number(0)),
    "too many arguments": call(named("torch._utils", "_rebuild_tensor"), storage("0", 4), *[number(0)] * 4),
    "dtype against storage": call(
        named("torch._utils", "_rebuild_tensor_v3"), storage("0", 4), number(0), numbers((4,)), numbers((1,)), b"\x89",
        HOOKS, named("torch", "int32"),
    ),
    "untyped past the end": call(
        named("torch._utils", "_rebuild_tensor_v3"), storage("0", 16, "UntypedStorage", "torch.storage"), number(0),
        numbers((9,)), numbers((1,)), b"\x89", HOOKS, named("torch", "uint16"),
    ),
    "unused storage without record": group(storage("7", 1), tensor("0", 4, (4,))),
    "lie inside an inert object": call(named("argparse", "Namespace")) + dictionary(w=tensor("0", 4, (5,))) + b"b",
}  # fmt: skip


@pytest.mark.parametrize("value", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_lying_tensors_are_refused(value):
    with pytest.raises(FormatError, match=r"^model\.pt: data\.pkl: (byte \d+|tensor|storage)"):
        cut(dictionary(outer=b"](" + value + b"e"))


def test_the_error_names_the_tensor():
    with pytest.raises(FormatError, match=r"tensor 'model\.layers\.1'.*F32\[2, 3\].*byte 24 of its record of 16"):
        cut(dictionary(model=dictionary(layers=b"](N" + tensor("0", 4, (2, 3)) + b"e")))


BAD_STREAMS = {
    "nothing": b"",
    "no STOP": b"\x80\x02N",
    "unknown opcode": b"\x80\x02\xff.",
    "bytes after STOP": b"\x80\x02N.N",
    "two values": b"\x80\x02NN.",
    "no value": b"\x80\x02.",
    "open mark": b"\x80\x02(N.",
    "mark missing": b"\x80\x02Nt.",
    "tuple of too few": b"\x80\x02N\x87.",
    "memo missing": b"\x80\x02h\x09.",
    "memo of nothing": b"\x80\x02q\x09.",
    "reduce of nothing": b"\x80\x02R.",
    "key without value": b"\x80\x02}(Nu.",
    "keys on a list": b"\x80\x02](NNu.",
    "items on None": b"\x80\x02N(Ne.",
    "items on a dict": b"\x80\x02}Na.",
    "OBJ of nothing": b"\x80\x02(o.",
    "cut string": b"\x80\x02X\xff\0\0\0abc.",
    "string of everything": b"\x80\x02\x8d" + b"\xff" * 8 + b"abc.",
    "string of half of everything": b"\x80\x02\x8d" + b"\xff" * 7 + b"\x7fabc.",
    "bytes of everything": b"\x80\x02\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "negative length": b"\x80\x02T\xff\xff\xff\xffabc.",
    "not UTF-8": b"\x80\x02X\x01\0\0\0\xff.",
    "half a global": b"\x80\x02cos\n",
    "global of numbers": b"\x80\x02NN\x93.",
    "number of letters": b"Iabc\n.",
    "number of many digits": b"I" + b"1" * 5000 + b"\n.",
    "float of many digits": b"F" + b"1" * 5000 + b"\n.",
    "memo of many digits": b"Np" + b"1" * 5000 + b"\n.",
    "string without quotes": b"Sabc\n.",
    "string without end": b"S'abc",
}


@pytest.mark.parametrize("stream", BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_what_is_no_pickle_is_refused_with_its_byte(stream):
    with pytest.raises(FormatError, match=r"^model\.pt: data\.pkl: byte \d+: "):
        cut_bytes(zipped(stream, {}), NAME)


def test_old_and_rare_opcodes():
    stream = b"(I01\nI00\nI7\nL8L\nF1.5\nS'a\\d'\nVb\\u00e9\np0\ng0\nU\x02\xc3\xa9T\x01\0\0\0\xff(dNl."
    assert cut_bytes(zipped(stream, {}), NAME).tree == [
        True, False, 7, 8, 1.5, "a\\d", "bé", "bé", "é", Inert("builtins.bytes"), {}, None
    ]  # fmt: skip
    stream = b"\x80\x05\x95" + struct.pack("<Q", 9) + b"(C\x01a\x96" + struct.pack("<Q", 1) + b"b\x97\x98(K\x01\x91t."
    assert cut_bytes(zipped(stream, {}), NAME).tree == [
        Inert("builtins.bytes"), Inert("builtins.bytearray"), Inert("out-of-band buffer"), [1]
    ]  # fmt: skip


def test_backslashes_in_names_mean_themselves():
    value = named("torch._utils", "\\x5frebuild_tensor_v2") + b"(" + named("a\\d", "ü") + b"oP\\d\n\x86"
    result = cut(b"(" + value + b"t")
    assert result.tree == [Inert("torch._utils.\\x5frebuild_tensor_v2"), [Inert("a\\d.ü"), Inert("persistent id")]]


def test_surrogates_and_huge_integers_become_harmless():
    result = cut(dictionary(**{"a\ud800": text("x\udfff"), "n": number(1 << 2000), "m": number(1 << 1000)}))
    assert result.tree == {"a\\ud800": "x\\udfff", "n": Inert("builtins.int"), "m": 1 << 1000}


def test_a_state_set_on_a_tensor_makes_it_inert():
    result = cut(
        dictionary(w=tensor("0", 4, (4,)) + group(storage("0", 4), number(0), numbers((2,)), numbers((1,))) + b"b")
    )
    assert result.tree == {"w": Inert("torch.Tensor")} and result.extents[0].length == 16 and result.tensors == ()


def test_the_last_of_equal_keys_counts():
    result = cut(b"}(" + text("a") + number(1) + text("a") + tensor("0", 4, (4,)) + b"u")
    assert result.tree == {"a": TensorAt(0)}


def test_old_rebuild_functions_and_modules():
    old = call(named("torch._utils", "_rebuild_tensor"), storage("0", 4), number(0), numbers((4,)), numbers((1,)))
    cuda = tensor("0", 4, (4,)).replace(b"torch\nFloat", b"torch.cuda\nFloat")
    for value in (old, cuda):
        assert cut(dictionary(w=value)).tensors == (CutTensor("w", ("w",), "F32", (4,), 0),)


def test_a_view_that_blows_up_is_inert():
    wide = tensor("0", 4, (1 << 40, 4), (0, 1))
    result = cut(dictionary(wide=wide, modest=tensor("0", 4, (1000, 4), (0, 1))))
    assert result.tree == {"wide": Inert("torch.Tensor"), "modest": TensorAt(0)}


def test_two_parts_of_one_object_under_one_name():
    value = call(named("a", "B")) + dictionary(x=tensor("0", 4, (4,))) + b"b" + text("x") + tensor("0", 4, (2,)) + b"s"
    result = cut(dictionary(o=value))
    assert [tensor.key for tensor in result.tensors] == ["o.x"]


def test_bombs_are_kept_whole_in_bounded_time_and_memory():
    done = subprocess.run(
        [sys.executable, "-m", "tests.containers.bombs"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == len(BOMBS)
    for name, (reason, seconds) in outcomes.items():
        assert reason and "more than" in reason, name
        assert seconds < 30, name


def test_what_inert_objects_hide_is_bounded(monkeypatch):
    monkeypatch.setattr(tree, "MAX_NODES", 100_000)
    assert "more than" in cut(laughs(9, call(named("a", "B"), b"]"))).reason
    monkeypatch.setattr(tree, "MAX_NODES", 2_000_000)
    monkeypatch.setattr(tree, "MAX_TEXT", 100_000)
    assert "characters" in cut(call(named("a", "B")) + laughs(9, tensor("0", 4, (4,))) + b"b").reason


def test_bounds_of_bytes_and_opcodes(monkeypatch):
    monkeypatch.setattr(torch_zip, "MAX_PICKLE_BYTES", 100)
    assert "over the limit" in cut(text("x" * 200)).reason
    monkeypatch.setattr(pickle_reader, "MAX_OPCODES", 50)
    assert "opcodes" in cut(b"N0" * 30 + b"N").reason
    assert cut_bytes(zipped(b"\x80\x06N.", {}), NAME) == Opaque("a pickle of protocol 6")


def test_the_bound_of_what_a_pickle_makes(monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_CONTAINERS", 50)
    assert isinstance(cut(b"]0" * 40 + b"N"), Cut)
    assert "lists, tuples, dicts" in cut(b"]0" * 60 + b"N").reason
    assert "lists, tuples, dicts" in cut(b"](" + b"]" * 60 + b"e").reason


def test_what_the_bounds_must_let_pass(monkeypatch):
    deep = b"]" * 90 + b"a" * 89
    assert isinstance(cut(deep), Cut)
    assert isinstance(cut(b"](" + b"N" * 300_000 + b"e"), Cut)
    many = b"}(" + b"".join(text(f"layer.{i}") + tensor("0", 4, (4,)) for i in range(5000)) + b"u"
    assert len(cut(many).tensors) == 5000
    assert tree.MAX_NODES >= 2_000_000


def test_recursion_is_safe_far_down_the_callers_stack():
    def down(levels: int) -> object:
        return down(levels - 1) if levels else cut(b"]" * 99 + b"a" * 98)

    assert isinstance(down(400), Cut)


def test_every_truncation_and_flip_of_a_pickle():
    stream = whole(
        dictionary(w=tensor("0", 4, (2, 2), (1, 2)), n=call(named("a", "B"), b"]") + dictionary(x=b"N") + b"b")
    )
    for length in range(len(stream)):
        with pytest.raises(FormatError):
            cut_bytes(zipped(stream[:length], FOUR), NAME)
    for at in range(len(stream)):
        for bit in range(8):
            survives(zipped(stream[:at] + bytes([stream[at] ^ 1 << bit]) + stream[at + 1 :], FOUR), NAME)


def test_the_skeleton_holds_the_pickle():
    records = torch_records(whole(dictionary(w=tensor("0", 4, (4,)))), FOUR)
    data = build(records)
    result = cut_bytes(data, NAME)
    assert data[result.extents[0].offset :].startswith(FOUR["0"])
