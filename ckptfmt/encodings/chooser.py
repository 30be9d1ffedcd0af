"""Which encoding an object gets, decided from a sample of its first frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import zstandard

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.protocol import Effort, Encoding
from ckptfmt.encodings.raw import RAW
from ckptfmt.encodings.table import ENCODINGS, RELATIVE
from ckptfmt.encodings.zstd import ZSTD
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.dtypes import FLOATS

SMALLEST_BYTES: Final = 512
"""Below this an encoded object's longer place in the shard header costs about what encoding saves."""

SMALLEST_RELATIVE_BYTES: Final = 2048
"""Below this, naming what an object is stored against costs about what that saves."""

_RELATIVE_MUST_SAVE: Final = 0.90
_NAMING_BYTES: Final = 160
"""What a shard's header takes to name a basis; it counts where the object is small."""

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


@dataclass(frozen=True, slots=True)
class Choice:
    """The name of an encoding, and the index of the basis it takes, if it takes one."""

    encoding: str
    basis: int | None = None


def choose(
    head: Buffer,
    element: str | None,
    effort: Effort,
    bases: Sequence[tuple[str, Callable[[int, int], Basis]]] = (),
) -> Choice:
    """Choose the encoding of an object.

    Floats and integers become `planes` (integers `zstd` where that is smaller), what is not numbers becomes `zstd`,
    and what would save too little stays `raw`, so that any safetensors reader can map it. What can be stored against
    other objects is, where that is smaller by a tenth: it cannot be read without them.

    Args:
        head: the object's first frame, 4 MiB or the whole object.
        element: dtype name of what the object holds, or None where it is not numbers.
        effort: under `fast`, large objects stay raw unless encoding saves so much that it costs no time, and bases are
            not looked at.
        bases: name of a relative encoding, and what gives the basis of a range of bytes; the first of two that are much
            alike is taken.
    """
    plain = _choose_plain(head, element, effort)
    if effort == "fast" or not bases or len(head) < SMALLEST_RELATIVE_BYTES:
        return Choice(plain)
    pieces = _pieces(head)
    sample = _joined(head, pieces)
    smallest, chosen = _plain_size(plain, sample, element), Choice(plain)
    for index, (name, basis_of) in enumerate(bases):
        size = _relative_size(name, basis_of, head, pieces, element)
        named = _NAMING_BYTES if len(head) == len(sample) else 0
        if size is not None and size + named <= _RELATIVE_MUST_SAVE * smallest:
            smallest, chosen = size, Choice(name, index)
    return chosen


def compare(
    head: Buffer, element: str | None, bases: Sequence[tuple[str, Callable[[int, int], Basis]]]
) -> tuple[int, list[int]]:
    """What a sample of an object takes by itself, and against each of `bases`, in bytes.

    Against one that cannot be read it takes as much as by itself.
    """
    pieces = _pieces(head)
    plain = _plain_size(_choose_plain(head, element, "balanced"), _joined(head, pieces), element)
    sizes = (_relative_size(name, basis_of, head, pieces, element) for name, basis_of in bases)
    return plain, [plain if size is None else size for size in sizes]


def _plain_size(name: str, sample: Buffer, element: str | None) -> int:
    encoding = ENCODINGS[name]
    return len(encoding.encode(sample, element) or sample)


def _relative_size(
    name: str, basis_of: Callable[[int, int], Basis], head: Buffer, pieces: list[slice], element: str | None
) -> int | None:
    """Bytes that the sample takes against a basis; None where that cannot be read."""
    try:
        basis = basis_of(0, len(head))
        classes = basis.classes
        words = _joined(basis.words, pieces)
        if classes is not None:
            width = len(basis.words) // max(1, len(classes))
            classes = _joined(classes, [slice(piece.start // width, piece.stop // width) for piece in pieces])
        sample = _joined(head, pieces)
        return len(RELATIVE[name].encode(sample, element, Basis(words, classes)) or sample)
    except CkptfmtError:
        return None


def _choose_plain(head: Buffer, element: str | None, effort: Effort) -> str:
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
    return _joined(head, _pieces(head))


def _pieces(head: Buffer) -> list[slice]:
    if len(head) <= SAMPLE_BYTES:
        return [slice(0, len(head))]
    step = (len(head) - _PIECE_BYTES) // (_SAMPLE_PIECES - 1) // 16 * 16
    return [slice(piece * step, piece * step + _PIECE_BYTES) for piece in range(_SAMPLE_PIECES)]


def _joined(data: Buffer, pieces: list[slice]) -> Buffer:
    view = memoryview(data).cast("B")
    return view[pieces[0]] if len(pieces) == 1 else b"".join(view[piece] for piece in pieces)
