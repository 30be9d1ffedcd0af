"""Files that real torch wrote, against what torch itself reads from them."""

from __future__ import annotations

import argparse
import collections
import io
import pathlib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut, CutTensor, Inert, Opaque, TensorAt
from tests.containers.reading import Spy, by_path, cut_bytes, logical

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64", torch.complex128: "C128",
}  # fmt: skip


def saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def raw(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def noise(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    width = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (*shape[:-1], shape[-1] * width), dtype=torch.uint8).view(dtype)


def compare(tree: object, value: object, path: tuple[str | int, ...], cut: Cut, data: bytes) -> int:
    """The tree mirrors the value that torch loads, and its tensors have torch's bits. Returns how many those are."""
    if isinstance(value, torch.Tensor):
        assert isinstance(tree, TensorAt), (path, tree)
        found = cut.tensors[tree.index]
        assert (found.path, found.dtype, found.shape) == (path, DTYPES[value.dtype], tuple(value.shape))
        assert logical(cut, found, data) == raw(value)
        return 1
    if isinstance(value, dict):
        assert isinstance(tree, dict) and list(tree) == list(value)
        return sum(compare(tree[key], value[key], (*path, key), cut, data) for key in value)
    if isinstance(value, list | tuple):
        assert isinstance(tree, list) and len(tree) == len(value)
        return sum(compare(tree[i], value[i], (*path, i), cut, data) for i in range(len(value)))
    assert type(tree) is type(value) and (tree == value or value != value), (path, tree, value)
    return 0


def round_trip(value: object, **options: object) -> tuple[Cut, bytes]:
    """Save, cut, and compare with what torch loads; every tensor of the cut stands in the tree."""
    data = saved(value, **options)
    cut = cut_bytes(data, "model.pt")
    assert isinstance(cut, Cut) and cut.container == "torch-zip", cut
    loaded = torch.load(io.BytesIO(data), weights_only=False)
    assert compare(cut.tree, loaded, (), cut, data) == len(cut.tensors)
    return cut, data


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: DTYPES[dtype])
def test_every_dtype(dtype):
    tensor = noise(dtype, 6, 4)
    cut, _ = round_trip({"a": tensor, "b": tensor.clone().t(), "c": tensor[1:3].clone(), "slice": tensor[2:, 1:3]})
    assert {span.dtype for span in cut.extents} == {DTYPES[dtype]}


def test_a_state_dict_with_its_metadata_and_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Embedding(5, 2))
    cut, _ = round_trip(model.state_dict())
    assert cut.tensors[0].key == "0.weight" and cut.tensors[0].path == ("0.weight",)
    assert [span.shape for span in cut.extents] == [tensor.shape for tensor in cut.tensors]
    parameters, _ = round_trip({"p": torch.nn.Parameter(torch.ones(2, 2)), "q": torch.ones(1, requires_grad=True)})
    assert len(parameters.tensors) == 2


def test_a_training_checkpoint():
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(3, 8)).square().sum().backward()
        optimizer.step()
    state = {
        "model": {f"_orig_mod.{key}": value for key, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "iter_num": 12,
        "best_val_loss": 1.5,
        "config": {"lr": 1e-3, "name": "näme", "flags": [True, None, False, -(1 << 40), 1 << 90], "nan": float("nan")},
        "rng": [torch.get_rng_state(), (1, 2, (3.5,))],
    }
    cut, _ = round_trip(state)
    assert cut.tree["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.999]
    assert "optimizer.state.0.exp_avg" in {tensor.key for tensor in cut.tensors}
    assert ("optimizer", "state", 0, "exp_avg") in by_path(cut)


def test_tied_weights_are_two_names_of_one_extent():
    weight = torch.randn(5, 3)
    cut, _ = round_trip({"wte": weight, "lm_head": weight, "view": weight.view(15)})
    assert {tensor.extent for tensor in cut.tensors} == {0} and len(cut.extents) == 1
    assert (cut.extents[0].dtype, cut.extents[0].shape) == ("F32", (5, 3))


def test_transposes_and_slices_share_a_whole_record():
    base = torch.arange(24.0).reshape(4, 6)
    cut, _ = round_trip({"t": base.t(), "base": base, "s": base[1:3, ::2], "e": base[0].expand(3, 6)})
    assert len(cut.extents) == 1 and (cut.extents[0].dtype, cut.extents[0].shape) == ("F32", (4, 6))
    found = by_path(cut)
    assert found["base",].strides is None
    assert found["t",].strides == (1, 6)
    assert (found["s",].offset, found["s",].strides) == (24, (6, 2))
    alone, _ = round_trip({"part": base[1:3]})
    assert alone.extents[0].length == 96 and alone.extents[0].shape == (24,)
    assert alone.tensors[0].strides is None and alone.tensors[0].offset == 24


def test_a_flat_buffer_is_cut_where_its_views_tile_it():
    flat = torch.randn(30)
    views = {"c": flat[20:].view(5, 2), "a": flat[:12].view(3, 4), "b": flat[12:20], "b2": flat[12:20].view(2, 4)}
    cut, _ = round_trip(views)
    assert [span.length for span in cut.extents] == [48, 32, 40]
    assert [span.shape for span in cut.extents] == [(3, 4), (8,), (5, 2)]
    assert all(tensor.offset == 0 and tensor.strides is None for tensor in cut.tensors)
    padded, _ = round_trip({"a": flat[:12].view(3, 4), "b": flat[12:29]})
    assert len(padded.extents) == 1 and padded.extents[0].shape == (30,)
    overlapping, _ = round_trip({"all": flat, "tail": flat[15:]})
    assert len(overlapping.extents) == 1
    shifted, _ = round_trip({"a": flat[:15], "b": flat[7:22]})
    assert len(shifted.extents) == 1
    stepped, _ = round_trip({"a": flat[:12], "b": flat[12:], "odd": flat[13::2]})
    assert len(stepped.extents) == 1
    with_empty, _ = round_trip({"a": flat[:12], "b": flat[12:], "none": flat[30:]})
    assert len(with_empty.extents) == 2
    twisted, _ = round_trip({"a": flat[:12].view(3, 4).t(), "b": flat[12:]})
    assert len(twisted.extents) == 1


def test_empty_and_scalar_tensors():
    base = torch.ones(4)
    values = {"none": torch.zeros(0), "none3": torch.zeros(2, 0, 3), "scalar": torch.tensor(7), "part": base[4:],
              "base": base, "one": torch.ones(3, 1).t()}  # fmt: skip
    cut, _ = round_trip(values)
    assert len(cut.tensors) == len(values)
    assert cut.extents[by_path(cut)["none",].extent].length == 0
    assert by_path(cut)["one",].strides is None
    assert by_path(cut)["part",].offset == 0


def test_plain_containers_and_odd_keys():
    value = {
        1: torch.ones(1), "1": 2, "nested": [{"x": (torch.zeros(2), [torch.zeros(1)])}],
        "ordered": collections.OrderedDict(a=1), "default": collections.defaultdict(list, k=[1]), "empty": {}, "t": (),
    }  # fmt: skip
    round_trip(value)
    cut = cut_bytes(saved({(1, 2): 1, (3,): 2, None: 3, True: 4, 2.5: 5, b"x": 6, "<None>": 7}), "a.bin")
    assert list(cut.tree) == [
        "<None>", "<builtins.tuple>", "<builtins.tuple>#2", "<True>", "<2.5>", "<_codecs.encode>"
    ]  # fmt: skip
    assert cut.tree["<None>"] == 7
    cut = cut_bytes(saved({"set": {1}, "size": torch.Size([2, 3]), "count": collections.Counter("aab")}), "a.bin")
    assert cut.tree == {"set": [1], "size": [2, 3], "count": {"a": 2, "b": 1}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch(protocol):
    value = {"w": torch.randn(2, 3), "n": [1, -1, 1 << 70, 0.5, "é" * 300], "s": {1}, "d": {"a": (1, 2, 3, 4)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = saved(value, pickle_protocol=protocol)
    cut = cut_bytes(data, "a.pt")
    tree = {**cut.tree, "s": {1}}
    assert compare({**tree, "s": None}, {**value, "s": None}, (), cut, data) == 1 and cut.tree["s"] == [1]


def test_what_is_not_interpreted_costs_no_tensor():
    class Sub(torch.Tensor):
        pass

    attributed = torch.ones(3)
    attributed.note = "x"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(6), 0.1, 0, torch.qint8)
        half_complex = torch.zeros(2, dtype=torch.complex32)
    inert = {
        "args": argparse.Namespace(lr=1e-3, start=torch.ones(2)),
        "loss": np.float64(0.5),
        "array": np.arange(3),
        "path": pathlib.PurePosixPath("/tmp/x"),
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "bytes": b"abc",
        "sparse": torch.eye(3).to_sparse(),
        "quantized": quantized,
        "sub": torch.ones(5).as_subclass(Sub),
        "half complex": half_complex,
        "meta": torch.ones(2, device="meta"),
        "storage": torch.ones(7).untyped_storage(),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
    }
    globals()["Sub"] = Sub
    Sub.__qualname__ = "Sub"
    weight = torch.randn(4, 4)
    data = saved({"model": {"w": weight, "attributed": attributed}, **inert})
    cut = cut_bytes(data, "ckpt.pt")
    assert isinstance(cut, Cut)
    assert {key for key in inert if not isinstance(cut.tree[key], Inert)} == set()
    assert cut.tree["args"] == Inert("argparse.Namespace")
    assert cut.tree["dtype"] == Inert("torch.bfloat16")
    found = by_path(cut)
    assert logical(cut, found["model", "w"], data) == raw(weight)
    assert found["model", "attributed"].shape == (3,)
    assert found["args", "start"].dtype == "F32"
    assert "sparse.args.1.1" in {tensor.key for tensor in cut.tensors}
    for key in ("quantized", "sub", "half complex", "conjugate"):
        assert not any(tensor.path[0] == key for tensor in cut.tensors)
    assert sorted(span.length for span in cut.extents) == sorted([64, 12, 8, 48, 12, 6, 20, 8, 28, 16])
    assert {(span.length, span.dtype) for span in cut.extents} >= {(6, None), (20, "F32"), (28, None), (16, "C64")}


def test_a_whole_module():
    cut = cut_bytes(saved(torch.nn.Sequential(torch.nn.Linear(2, 3))), "model.pth")
    assert cut.tree == Inert("torch.nn.modules.container.Sequential")
    assert {tensor.key for tensor in cut.tensors} == {"_modules.0._parameters.weight", "_modules.0._parameters.bias"}


def test_a_value_within_itself_ends():
    loop: dict[str, object] = {"w": torch.ones(2)}
    loop["self"] = loop
    row: list[object] = [loop]
    row.append(row)
    cut = cut_bytes(saved({"loop": loop, "row": row}), "x.pt")
    assert cut.tree["loop"]["self"] == Inert("a value within itself")
    assert [tensor.key for tensor in cut.tensors] == ["loop.w", "row.0.w"]


def test_a_bare_tensor_and_bare_scalars():
    cut, _ = round_trip(torch.arange(3))
    assert cut.tensors == (CutTensor("", (), "I64", (3,), 0),)
    for value in (1, None, "x", [], {}):
        assert cut_bytes(saved(value), "a.ckpt") == Cut("torch-zip", (), (), tree=value)


def test_what_is_kept_whole(tmp_path):
    value = {"w": torch.ones(2)}
    assert "before 1.6" in cut_bytes(saved(value, _use_new_zipfile_serialization=False), "a.bin").reason
    script = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), script)
    assert cut_bytes(script.read_bytes(), "script.pt") == Opaque("a TorchScript archive")
    assert cut_bytes(b"\x80\x04N.", "training_args.bin") == Opaque("a bare pickle")
    assert cut_bytes(b"", "a.pt").reason and cut_bytes(b"GGUF" * 9, "a.bin").reason
    assert "tar" in cut_bytes(b"sys_info".ljust(257, b"\0") + b"ustar\0" + bytes(300), "a.pth").reason
    assert "Git LFS" in cut_bytes(b"version https://git-lfs.github.com/spec/v1\n", "a.pt").reason
    for name in ("a.zip", "a.docx", "a.npz", "a", "a.pt.json"):
        assert cut_bytes(saved(value), name) == Opaque(None)
    assert isinstance(cut_bytes(saved(value), "A.PT"), Cut)


def test_torch_without_crc_and_with_another_alignment():
    from torch.utils.serialization import config

    value = {"a": torch.randn(5), "b": torch.zeros(0), "c": torch.randn(100)}
    torch.serialization.set_crc32_options(False)
    try:
        round_trip(value)
        config.save.storage_alignment = 4096
        cut, _ = round_trip(value)
    finally:
        torch.serialization.set_crc32_options(True)
        config.save.storage_alignment = 64
    assert all(span.offset % 4096 == 0 for span in cut.extents)
    round_trip(value, _disable_byteorder_record=True)


def test_a_file_of_more_than_4_gib(tmp_path):
    size = (1 << 32) + 100
    path = tmp_path / "big.pt"
    with torch.serialization.skip_data():  # writes the records as holes
        torch.save({"a": torch.empty(10), "big": torch.empty(size, dtype=torch.uint8), "c": torch.empty(7)}, path)
    payload = np.arange(7, dtype="<f4").tobytes()
    with FileSource(path) as source:
        spied = Spy(source)
        cut = cut_file(spied, str(path))
        assert isinstance(cut, Cut)
        assert [(span.length, span.dtype, span.shape) for span in cut.extents] == [
            (40, "F32", (10,)), (size, "U8", (size,)), (28, "F32", (7,))
        ]  # fmt: skip
        assert spied.read_bytes < 200_000
    last = cut.extents[2]
    with path.open("r+b") as file:
        file.seek(last.offset)
        file.write(payload)
    assert torch.load(path, weights_only=True, mmap=True)["c"].tolist() == list(range(7))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_views_of_any_storages(draw):
    value, total = {}, 0
    for number in range(draw.draw(st.integers(1, 3))):
        dtype = draw.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.uint16, torch.complex128, torch.bool]))
        base = noise(dtype, draw.draw(st.integers(1, 24)))
        for view in range(draw.draw(st.integers(1, 5))):
            shape = tuple(draw.draw(st.lists(st.integers(0, 4), max_size=3)))
            strides = tuple(draw.draw(st.integers(0, 6)) for _ in shape)
            if draw.draw(st.booleans()):
                strides = torch.empty(shape).stride()
            reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if size)
            if reach >= base.numel():
                continue
            offset = draw.draw(st.integers(0, base.numel() - 1 - reach))
            value[f"{number}.{view}"] = base.as_strided(shape, strides, offset)
            total += 1
    cut, _ = round_trip(value)
    assert len(cut.tensors) == total
