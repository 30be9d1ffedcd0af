"""The writer of torch's zip files against torch.load, Python's zipfile and our own strict reader."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt.containers import BytesSource, FileSource, cut_file
from ckptfmt.containers.protocol import Cut
from ckptfmt.containers.torch_zip_writer import ALIGNMENT, StoredTensor, TorchZipWriter
from ckptfmt.errors import InvalidInput

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def written(tree: object, records: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    writer = TorchZipWriter(lambda data: out.write(data), tree)  # noqa: PLW0108 - write returns a count
    assert writer.storages() == tuple(records)
    for key, data in records.items():
        writer.begin(key)
        for begin in range(0, len(data), 7):
            writer.write(data[begin : begin + 7])
    writer.finish()
    return out.getvalue()


def loaded(data: bytes, path: Path) -> Any:
    path.write_bytes(data)
    mapped = torch.load(path, weights_only=True, mmap=True)
    plain = torch.load(path, weights_only=True)
    assert repr(mapped) == repr(plain)
    return plain


def test_every_dtype_as_torch_load_reads_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, (3, 5)).to(dtype) if name != "U64" else torch.arange(15).view(3, 5).to(dtype)
        for name, dtype in DTYPES.items()
    }
    records = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    tree = {"model": {name: StoredTensor(name, name, (3, 5)) for name in DTYPES}}
    data = written(tree, records)
    found = loaded(data, tmp_path / "a.pt")["model"]
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))
    cut = cut_file(BytesSource(data), "a.pt")
    assert isinstance(cut, Cut)
    assert [(each.path, each.dtype, each.shape) for each in cut.tensors] == [
        (("model", name), name, (3, 5)) for name in DTYPES
    ]
    for tensor, span in zip(cut.tensors, cut.extents, strict=True):
        assert data[span.offset : span.offset + span.length] == records[tensor.dtype]
        assert span.offset % ALIGNMENT == 0


def test_plain_values_come_back(tmp_path: Path) -> None:
    tree = {
        "a": [1, -1, 255, 1 << 31, -(1 << 31) - 1, 1 << 200, 0.5, float("inf"), None, True, False],
        "b": OrderedDict([("z", "ä\n'"), ("y", ())]),
        "c": (1, (2, [3, {}])),
        7: "",
        "big": list(range(3000)),
    }
    found = loaded(written(tree, {}), tmp_path / "a.pt")
    assert found == tree
    assert type(found["b"]) is OrderedDict
    assert list(found["b"]) == ["z", "y"]


def test_tied_tensors_share_a_storage_and_strides_transpose(tmp_path: Path) -> None:
    values = torch.arange(6, dtype=torch.float32)
    tree = {
        "plain": StoredTensor("0", "F32", (2, 3)),
        "tied": StoredTensor("0", "F32", (2, 3)),
        "turned": StoredTensor("0", "F32", (3, 2), strides=(1, 3)),
        "scalar": StoredTensor("1", "F32", ()),
        "empty": StoredTensor("2", "F16", (0, 4)),
    }
    data = written(tree, {"0": values.numpy().tobytes(), "1": b"\0\0\x80\x3f", "2": b""})
    found = loaded(data, tmp_path / "a.pt")
    assert torch.equal(found["plain"], values.view(2, 3))
    assert found["plain"].data_ptr() == found["tied"].data_ptr()
    assert torch.equal(found["turned"], values.view(2, 3).T)
    assert found["scalar"].item() == 1.0
    assert found["empty"].shape == (0, 4)
    cut = cut_file(BytesSource(data), "a.pt")
    assert isinstance(cut, Cut)
    assert len(cut.extents) == 3
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_torch_saves_the_same_layout(tmp_path: Path) -> None:
    """Names, flags and alignment of the entries are those of torch's own writer."""
    torch.save({"a": torch.zeros(3), "b": torch.zeros(0)}, tmp_path / "archive.pt")
    theirs = {entry.filename: entry for entry in zipfile.ZipFile(tmp_path / "archive.pt").infolist()}
    data = written(
        {"a": StoredTensor("0", "F32", (3,)), "b": StoredTensor("1", "F32", (0,))}, {"0": bytes(12), "1": b""}
    )
    ours = {entry.filename: entry for entry in zipfile.ZipFile(io.BytesIO(data)).infolist()}
    assert ours.keys() == theirs.keys() - {"archive/.data/serialization_id"}
    for name in ours.keys() - {"archive/data.pkl"}:
        assert ours[name].file_size == theirs[name].file_size
        assert ours[name].compress_type == theirs[name].compress_type
        assert ours[name].CRC == theirs[name].CRC


class SparseFile:
    """Takes a file's bytes and makes holes of long runs of zeros."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.at = 0

    def write(self, data: Any) -> None:
        if len(data) < 1 << 20:
            self.file.seek(self.at)
            self.file.write(data)
        self.at += len(data)
        self.file.truncate(self.at)


@pytest.fixture
def quick_crc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of CRC over zeros are not what is tested: torch does not look at them either."""
    real = __import__("zlib").crc32
    monkeypatch.setattr(
        "ckptfmt.containers.torch_zip_writer.zlib.crc32",
        lambda data, start=0: real(data, start) if len(data) < 1 << 20 else 0,
    )


@pytest.mark.usefixtures("quick_crc")
def test_records_and_offsets_beyond_4_gib(tmp_path: Path) -> None:
    """A record of more than 4 GiB, and records behind it, in a sparse file that takes a few kilobytes of disk."""
    large = (1 << 32) + (1 << 20)
    tree = {
        "model": {
            "first": StoredTensor("0", "U8", (8,)),
            "large": StoredTensor("1", "BF16", (large // 2,)),
            "edge": StoredTensor("2", "U8", ((1 << 32) - 1,)),
            "last": StoredTensor("3", "F32", (2,)),
        }
    }
    path = tmp_path / "large.pt"
    sink = SparseFile(path)
    writer = TorchZipWriter(sink.write, tree)
    zeros = memoryview(bytes(64 << 20))
    for key, length in (("0", 8), ("1", large), ("2", (1 << 32) - 1), ("3", 8)):
        writer.begin(key)
        if length == 8:
            writer.write(b"\x01\x02\x03\x04\x05\x06\x07\x08")
            continue
        for begin in range(0, length, len(zeros)):
            writer.write(zeros[: min(len(zeros), length - begin)])
    writer.finish()
    sink.file.close()
    with FileSource(path) as source:
        cut = cut_file(source, "large.pt")
        assert isinstance(cut, Cut)
        assert [span.length for span in cut.extents] == [8, large, (1 << 32) - 1, 8]
        last = cut.extents[-1]
        assert last.offset > 1 << 33
        assert source.read(last.offset, 8) == b"\x01\x02\x03\x04\x05\x06\x07\x08"
    found = torch.load(path, weights_only=True, mmap=True)["model"]
    assert found["large"].numel() == large // 2
    assert found["last"].view(torch.uint8).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("archive/data/1").file_size == large
        assert archive.getinfo("archive/data/2").file_size == (1 << 32) - 1


def test_misuse_is_refused() -> None:
    writer = TorchZipWriter(lambda data: None, {"a": StoredTensor("0", "U8", (4,))})
    with pytest.raises(ValueError, match="without a storage"):
        writer.write(b"x")
    with pytest.raises(ValueError, match="not in the tree"):
        writer.begin("1")
    with pytest.raises(ValueError, match="was not written"):
        writer.finish()
    writer.begin("0")
    writer.write(b"abc")
    with pytest.raises(ValueError, match="3 bytes came, 4 are due"):
        writer.finish()
    with pytest.raises(InvalidInput, match="no dtype F4"):
        TorchZipWriter(lambda data: None, [StoredTensor("0", "F4", (4,))])
    with pytest.raises(TypeError, match="has no place"):
        TorchZipWriter(lambda data: None, {"a": object()})
    with pytest.raises(ValueError, match="two lengths"):
        TorchZipWriter(lambda data: None, [StoredTensor("0", "U8", (4,)), StoredTensor("0", "U8", (5,))])
