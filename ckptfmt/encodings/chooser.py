"""Which encoding an object gets, decided from a sample of its first frame."""

from __future__ import annotations

from typing import Final

import zstandard

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.protocol import Effort, Encoding
from ckptfmt.encodings.raw import RAW
from ckptfmt.encodings.zstd import ZSTD
from ckptfmt.format.dtypes import FLOATS

SMALLEST_BYTES: Final = 512
"""Below this an encoded object's longer place in the shard header costs about what encoding saves."""

SAMPLE_BYTES: Final = 64 << 10
_SAMPLE_PIECES: Final = 4
_PIECE_BYTES: Final = SAMPLE_BYTES // _SAMPLE_PIECES

FAST_TENSOR_BYTES: Final = 1 << 20
"""Tensors from this size on are stored raw under `fast`, unless encoding them is nearly free."""

_FLOATS_SAVE: Final = 0.03
_OTHERS_SAVE: Final = 0.02
_FAST_TENSORS_SAVE: Final = 0.60
"""Where so much is saved, writing less makes up for the time that encoding takes."""
_FAST_FILES_SAVE: Final = 0.20

_GLANCE_BYTES: Final = 8 << 10
_GLANCE_SHARE: Final = 0.75

_FLOATS: Final = FLOATS | {"C64", "C128"}


def choose(head: Buffer, element: str | None, effort: Effort) -> str:
    """Choose the encoding of an object.

    Floats and integers become `planes` (integers `zstd` where that is smaller), what is not numbers becomes `zstd`,
    and what would save too little stays `raw`, so that any safetensors reader can map it.

    Args:
        head: the object's first frame, 4 MiB or the whole object.
        element: dtype name of what the object holds, or None where it is not numbers.
        effort: under `fast`, large objects stay raw unless encoding saves so much that it costs no time.

    Returns:
        The name of an encoding.
    """
    if len(head) < SMALLEST_BYTES:
        return RAW.name
    candidates: tuple[Encoding, ...] = (ZSTD,)
    if element is not None:
        candidates = (PLANES,) if element in _FLOATS else (PLANES, ZSTD)
    must_save = _must_save(len(head), element, effort)
    if len(head) <= SAMPLE_BYTES and len(candidates) == 1:
        return candidates[0].name
    if must_save == _FAST_TENSORS_SAVE and not _may_save_much(head):
        return RAW.name
    sample = _sample(head)
    sizes = {encoding.name: len(encoding.encode(sample, element) or sample) for encoding in candidates}
    best = min(sizes, key=lambda name: sizes[name])
    return best if sizes[best] <= (1 - must_save) * len(sample) else RAW.name


def _may_save_much(head: Buffer) -> bool:
    """Tell from 8 KiB whether a closer look is worth its time: weights hardly shrink, zeros and copies do."""
    middle = len(head) // 2 // 16 * 16
    glance = memoryview(head)[middle : middle + _GLANCE_BYTES]
    return len(zstandard.ZstdCompressor(level=1).compress(glance)) <= _GLANCE_SHARE * len(glance)


def _must_save(head_bytes: int, element: str | None, effort: Effort) -> float:
    if effort == "fast":
        if element is not None and head_bytes >= FAST_TENSOR_BYTES:
            return _FAST_TENSORS_SAVE
        if element is None and head_bytes >= FRAME_BYTES:
            return _FAST_FILES_SAVE
    return _FLOATS_SAVE if element in _FLOATS else _OTHERS_SAVE


def _sample(head: Buffer) -> Buffer:
    """64 KiB in four pieces spread evenly over `head`, each beginning at a multiple of 16 bytes."""
    if len(head) <= SAMPLE_BYTES:
        return head
    step = (len(head) - _PIECE_BYTES) // (_SAMPLE_PIECES - 1) // 16 * 16
    view = memoryview(head)
    return b"".join(view[piece * step : piece * step + _PIECE_BYTES] for piece in range(_SAMPLE_PIECES))
