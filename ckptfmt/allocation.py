"""The memory of frames, kept for the frames that come."""

from __future__ import annotations

import functools
from typing import Final

_KEPT_BYTES: Final = 31 << 20


@functools.cache
def keep_freed_memory() -> None:
    """Let the allocator keep the memory of frames that are freed, up to 64 MiB, for those that come.

    glibc raises what it keeps to twice the largest block that it mapped and took back, up to 32 MiB (mallopt(3),
    `M_MMAP_THRESHOLD`). Otherwise every frame of 4 MiB is a new mapping whose pages the kernel must clear, which costs
    as much as the arithmetic on it. Once in a process is enough; elsewhere this does nothing.
    """
    bytearray(_KEPT_BYTES)
