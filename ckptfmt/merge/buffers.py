"""Memory for blocks of tensors that is used again: fresh pages cost more than what is done with them."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_ALIGNMENT: Final = 64
_STEP: Final = 256 << 10
_KEPT_BYTES: Final = 24 << 20

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of a tensor.

    Attributes:
        begin: index of the first row.
        data: their bytes, shape (size,), at an address that is a multiple of 64.
        whole: the memory that `data` is the beginning of.
    """

    begin: int
    data: Bytes
    whole: Bytes

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self.data.data


class Buffers:
    """Gives memory for blocks and takes it back; at most 24 MiB wait to be used again. Safe from several threads.

    Args:
        usual_bytes: size of a block where nothing asks for another.
    """

    def __init__(self, usual_bytes: int) -> None:
        self.usual_bytes = usual_bytes
        self._free: dict[int, list[Bytes]] = {}
        self._free_bytes = 0
        self._lock = threading.Lock()

    def take(self, begin: int, size: int) -> Block:
        """Memory for `size` bytes from row `begin`; what is in it is not defined."""
        room = -(-size // _STEP) * _STEP
        with self._lock:
            free = self._free.get(room)
            whole = free.pop() if free else None
            if whole is not None:
                self._free_bytes -= room
        if whole is None:
            raw = np.empty(room + _ALIGNMENT, np.uint8)
            shift = -raw.ctypes.data % _ALIGNMENT
            whole = raw[shift : shift + room]
        return Block(begin, whole[:size], whole)

    def give(self, block: Block) -> None:
        """Take a block back: nobody looks at it any more."""
        room = len(block.whole)
        with self._lock:
            if self._free_bytes + room <= _KEPT_BYTES:
                self._free.setdefault(room, []).append(block.whole)
                self._free_bytes += room


def give_back_freed_memory() -> None:
    """Let the system have the memory that was freed; elsewhere than on glibc this does nothing.

    Its allocator keeps what lies between living blocks: 100 MB after some modules of 20 MB (malloc_trim(3)).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
