"""Where to cut the bytes of one storage: at its tensors' borders if they tile it, else nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from ckptfmt.containers.rebuild import UNTYPED
from ckptfmt.containers.tree import Placed
from ckptfmt.containers.values import StorageValue
from ckptfmt.format.dtypes import BITS


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes at byte `begin` of the record; `dtype` and `shape` as in `Span`."""

    begin: int
    length: int
    dtype: str | None
    shape: tuple[int, ...]


def cut_storage(length: int, storage: StorageValue | None, views: list[Placed]) -> list[Piece]:
    """Cut a record of `length` bytes.

    The views tile it if each is in C order and, taken once each, they follow one another from its first byte to its
    last (tied tensors and reshaped views are one place). Otherwise it stays whole, with the dtype and shape of a
    view that fills it, or else the element type that is known of it and the number of elements.

    Args:
        length: bytes of the record.
        storage: what the pickle says of it, None where it names no such storage.
        views: the tensors on it; each lies inside.
    """
    filled = [view for view in views if view.size_bytes] if length else views
    places: dict[tuple[int, int], list[Placed]] = {}
    for view in filled:
        if view.strides is None:
            places.setdefault((view.offset, view.size_bytes), []).append(view)
    order = sorted(places)
    ends = [begin + size for begin, size in order]
    tiled = [0, *ends] == [*(begin for begin, _ in order), length]
    if order and tiled and all(view.strides is None for view in filled):
        return [_piece(begin, size, storage, places[begin, size]) for begin, size in order]
    whole = places.get((0, length))
    return [_piece(0, length, storage, whole or filled, shaped=whole is not None)]


def _piece(begin: int, length: int, storage: StorageValue | None, views: list[Placed], *, shaped: bool = True) -> Piece:
    kinds = {view.dtype for view in views}
    dtype: str | None = None
    if len(kinds) == 1:
        dtype = views[0].dtype
    elif storage is not None and storage.kind != UNTYPED:
        dtype = storage.dtype
    if dtype is None:
        return Piece(begin, length, None, ())
    if views and shaped:
        return Piece(begin, length, dtype, views[0].shape)
    count, left = divmod(length * 8, BITS[dtype])
    return Piece(begin, length, None, ()) if left else Piece(begin, length, dtype, (count,))
