"""Files that `torch.save` writes since torch 1.6: a zip of a pickle and one record of bytes for each storage."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from ckptfmt.containers.bounds import MAX_PICKLE_BYTES, NotInterpreted
from ckptfmt.containers.pickle_reader import read_pickle
from ckptfmt.containers.protocol import ByteSource, Container, Cut, CutTensor, Opaque, Span
from ckptfmt.containers.storages import Piece, cut_storage
from ckptfmt.containers.tree import Placed, grow
from ckptfmt.containers.values import StorageValue, TensorValue
from ckptfmt.containers.zip_reader import LOCAL_MAGIC, Entry, read_entries
from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS

SUFFIXES: Final = (".pt", ".pth", ".bin", ".ckpt")

_PICKLE: Final = "data.pkl"
_RECORDS: Final = "data/"
_BYTE_ORDER: Final = "byteorder"
_LITTLE: Final = b"little"
_TORCHSCRIPT: Final = ("constants.pkl", "code/")


class TorchZip:
    """The container for torch's zip files.

    Every record `data/<key>` is an extent, or several where the tensors on it tile it, whatever the pickle says of
    it; so tensors that nobody lists (quantized ones, those of subclasses) are still stored by content. A record of
    no bytes is an extent of length 0. All other bytes, the pickle among them, are the skeleton.
    """

    name = "torch-zip"

    def claims(self, source: ByteSource, path: str) -> bool:
        """Tell by a weight suffix and a zip's first bytes together: neither a `.zip` nor a bare pickle is meant."""
        named = path.lower().endswith(SUFFIXES)
        return named and source.size >= len(LOCAL_MAGIC) and source.read(0, len(LOCAL_MAGIC)) == LOCAL_MAGIC

    def cut(self, source: ByteSource) -> Cut | Opaque:
        """Cut the file; zip headers, the zip directory and the pickle are read, tensor data is not.

        Returns:
            The cut, or Opaque for compressed archives, TorchScript, other archives without `data.pkl`, big-endian
            files and pickles beyond the bounds of `containers.bounds`.

        Raises:
            FormatError: zip, pickle and records contradict each other; the message names entry, byte or tensor.
        """
        try:
            return _cut(source, self.name)
        except NotInterpreted as reason:
            return Opaque(reason.reason)


def _cut(source: ByteSource, name: str) -> Cut:
    entries = _torch_entries(read_entries(source))
    where = f"{source.where}: {_PICKLE}"
    _check_byte_order(source, entries.get(_BYTE_ORDER))
    data = _pickle_bytes(source, entries[_PICKLE], where)
    records = {entry[len(_RECORDS) :]: found for entry, found in entries.items() if entry.startswith(_RECORDS)}
    value, storages = read_pickle(data, where=where)
    check = _checker(records, where)
    tree, placed = grow(value, check)
    for storage in storages:
        _check_storage(storage, records, where)
    extents, tensors = _lay_out(records, {storage.key: storage for storage in storages}, placed)
    return Cut(name, extents, tensors, tree=tree)


def _torch_entries(entries: tuple[Entry, ...]) -> Mapping[str, Entry]:
    """The entries of the archive's directory, by their names in it.

    Raises:
        NotInterpreted: they are not those of a file that `torch.save` wrote on a little-endian machine.
    """
    prefix, slash, _ = entries[0].name.partition("/") if entries else ("", "", "")
    inside = {entry.name[len(prefix) + 1 :]: entry for entry in entries if entry.name.startswith(f"{prefix}/")}
    if not slash or _PICKLE not in inside:
        raise NotInterpreted(f"a zip file without {_PICKLE}")
    if any(name.startswith(_TORCHSCRIPT) for name in inside):
        raise NotInterpreted("a TorchScript archive")
    if not all(entry.plain for entry in entries):
        raise NotInterpreted("a zip file with compressed entries")
    return inside


def _check_byte_order(source: ByteSource, record: Entry | None) -> None:
    """Older versions of torch write no such record: the bytes then are little-endian, as torch itself takes them."""
    if record is None:
        return
    order = source.read(record.begin, min(record.length, len(_LITTLE) + 1))
    if order != _LITTLE:
        raise NotInterpreted(f"a file whose byte order is not little-endian but {order.decode('ascii', 'replace')!r}")


def _pickle_bytes(source: ByteSource, entry: Entry, where: str) -> bytes:
    if entry.length > MAX_PICKLE_BYTES:
        raise NotInterpreted(f"a pickle of {entry.length} bytes, over the limit of {MAX_PICKLE_BYTES}")
    data = source.read(entry.begin, entry.length)
    if entry.crc and zlib.crc32(data) != entry.crc:
        raise FormatError(f"{where}: its CRC is not the one that the zip directory states")
    return data


def _check_storage(storage: StorageValue, records: Mapping[str, Entry], where: str) -> None:
    record = records.get(storage.key)
    if record is None:
        raise FormatError(f"{where}: storage {storage.key!r} has no record in the file")
    if record.length != storage.size_bytes:
        raise FormatError(
            f"{where}: storage {storage.key!r} of {storage.count} elements of {storage.kind} takes "
            f"{storage.size_bytes} bytes, its record has {record.length}"
        )


def _checker(records: Mapping[str, Entry], where: str) -> Callable[[TensorValue, str], None]:
    def check(tensor: TensorValue, key: str) -> None:
        place = f"{where}: tensor {key[:200]!r}"
        _check_storage(tensor.storage, records, place)
        if not math.prod(tensor.shape):
            return
        last = tensor.offset + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        end = (last + 1) * BITS[tensor.dtype] // 8
        if end > tensor.storage.size_bytes:
            raise FormatError(
                f"{place}: {tensor.dtype}{list(tensor.shape)} at element {tensor.offset} with strides "
                f"{list(tensor.strides)} reaches to byte {end} of its record of {tensor.storage.size_bytes}"
            )

    return check


def _lay_out(
    records: Mapping[str, Entry], storages: Mapping[str, StorageValue], placed: list[Placed]
) -> tuple[tuple[Span, ...], tuple[CutTensor, ...]]:
    """Cut each record and give each tensor its extent."""
    views: dict[str, list[int]] = {}
    for index, tensor in enumerate(placed):
        views.setdefault(tensor.storage, []).append(index)
    extents: list[Span] = []
    tensors: dict[int, CutTensor] = {}
    for key, record in sorted(records.items(), key=lambda item: (item[1].begin, item[1].length)):
        mine = views.get(key, [])
        pieces = cut_storage(record.length, storages.get(key), [placed[index] for index in mine])
        starts = {piece.begin: len(extents) + number for number, piece in enumerate(pieces)}
        extents += [Span(record.begin + piece.begin, piece.length, piece.dtype, piece.shape) for piece in pieces]
        for index in mine:
            tensors[index] = _cut_tensor(placed[index], pieces, starts)
    return tuple(extents), tuple(tensors[index] for index in range(len(placed)))


def _cut_tensor(tensor: Placed, pieces: list[Piece], starts: Mapping[int, int]) -> CutTensor:
    # A storage in several pieces has its views at their begins (empty ones at 0); one in a single piece anywhere.
    if len(pieces) > 1:
        extent, offset = starts[tensor.offset], 0
    else:
        extent, offset = starts[0], tensor.offset
    return CutTensor(tensor.key, tensor.path, tensor.dtype, tensor.shape, extent, offset=offset, strides=tensor.strides)


TORCH_ZIP: Final[Container] = TorchZip()
