"""Elements of a tensor that is a view with gaps: picked out of the run of bytes that it spans, frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptfmt.digest import Buffer
from ckptfmt.errors import InvalidInput

Bytes = npt.NDArray[np.uint8]


def strided_elements(
    pieces: Iterable[Buffer], shape: tuple[int, ...], strides: tuple[int, ...], width: int, *, most: int
) -> Iterator[Bytes]:
    """The elements of a view, as bytes, in some order, each as often as it stands in the view.

    Args:
        pieces: the bytes from the view's first element to its last one.
        shape: of the view; no dimension is 0.
        strides: of the view, in elements.
        width: bytes an element.
        most: bytes that may be held at once where elements overlap.

    Raises:
        InvalidInput: they overlap, and take more than that.
    """
    times = int(np.prod([size for size, stride in zip(shape, strides, strict=True) if not stride], dtype=np.int64))
    axes = sorted(((stride, size) for size, stride in zip(shape, strides, strict=True) if stride and size > 1))
    reach = 0
    nested = True
    for stride, size in axes:
        nested = nested and stride > reach
        reach += stride * (size - 1)
    if not nested:
        yield _all_at_once(b"".join(map(bytes, pieces)), shape, strides, width, most)
        return
    for elements, first in _whole(pieces, width):
        rest = np.arange(first, first + len(elements))
        wanted = np.ones(len(elements), bool)
        for stride, size in reversed(axes):
            at, rest = np.divmod(rest, stride)
            wanted &= at < size
        wanted &= rest == 0
        found = np.ascontiguousarray(elements[wanted]).reshape(-1)
        for _ in range(times):
            yield found


def _whole(pieces: Iterable[Buffer], width: int) -> Iterator[tuple[Any, int]]:
    """Whole elements, a row of bytes each, and the number of the first one."""
    left, first = b"", 0
    for piece in pieces:
        data = left + bytes(piece) if left else piece
        count = len(data) // width
        left = bytes(data[count * width :])
        yield np.frombuffer(data, np.uint8, count * width).reshape(count, width), first
        first += count


def _all_at_once(data: bytes, shape: tuple[int, ...], strides: tuple[int, ...], width: int, most: int) -> Bytes:
    if int(np.prod(shape, dtype=np.float64)) * width > most:
        raise InvalidInput("this view's elements overlap, and are too many to be read at once")
    rows = np.frombuffer(data, np.dtype((np.void, width)))
    view = np.lib.stride_tricks.as_strided(rows, shape, tuple(stride * width for stride in strides), writeable=False)
    return np.frombuffer(view.tobytes(), np.uint8)
