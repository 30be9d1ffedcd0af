"""Taking one file in: one pass, cut into skeleton and extents on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor

import blake3

from ckptfmt.containers.protocol import Cut, CutTensor, Opaque, Span
from ckptfmt.digest import FRAME_BYTES
from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.format.manifest import Extent, File
from ckptfmt.progress import Progress
from ckptfmt.transfer.sinks import Holds, Place, Sink
from ckptfmt.transfer.stream import FileStream
from ckptfmt.transfer.walk import Entry

_GATHER_BYTES = 64 << 20


def take_file(
    entry: Entry, cut: Cut | Opaque, views: list[int], sink: Sink, *, pool: Executor, progress: Progress
) -> tuple[File, dict[int, str]]:
    """Read a file once and put what it is made of into `sink`.

    Args:
        entry: the file as it was walked.
        cut: where its extents lie.
        views: tensors of the cut whose digest in C order is wanted and is not that of an extent.
        sink: takes the objects.
        pool: one thread for SHA-256.
        progress: told of each byte.

    Returns:
        The file as it stands in a manifest, and the digests of `views`.

    Raises:
        IntegrityError: the file changed meanwhile.
    """
    stream = FileStream(entry.real, entry.stamp, pool, progress)
    try:
        if isinstance(cut, Opaque):
            return _whole(entry, cut, stream, sink), {}
        skeleton: list[bytes] = []
        extents: list[Extent] = []
        for span in cut.extents:
            skeleton.extend(stream.frames(span.offset - stream.position))
            place = (entry.path, len(extents))
            extents.append(Extent(span.offset, span.length, _put_span(span, place, stream, sink)))
        skeleton.extend(stream.frames(stream.size - stream.position))
        digests = {index: view_digest(stream, cut, cut.tensors[index]) for index in views}
        sha256 = stream.finish()
        frames = _reframed(b"".join(skeleton))
        length = sum(map(len, frames))
        return (
            File(
                path=entry.path,
                size=stream.size,
                sha256=sha256,
                container="safetensors" if cut.container == "safetensors" else "torch-zip",
                skeleton=sink.put(frames, length, lambda: frames),
                extents=tuple(extents),
            ),
            digests,
        )
    finally:
        stream.close()


def _whole(entry: Entry, cut: Opaque, stream: FileStream, sink: Sink) -> File:
    content = sink.put(stream.frames(stream.size), stream.size, lambda: stream.frames_again(0, stream.size))
    return File(path=entry.path, size=stream.size, sha256=stream.finish(), content=content, reason=cut.reason)


def _put_span(span: Span, place: Place, stream: FileStream, sink: Sink) -> str:
    return sink.put(
        stream.frames(span.length),
        span.length,
        lambda: stream.frames_again(span.offset, span.length),
        Holds(span.dtype, span.shape, place),
    )


def _reframed(data: bytes) -> list[memoryview]:
    view = memoryview(data)
    return [view[start : start + FRAME_BYTES] for start in range(0, len(view), FRAME_BYTES)]


def fills_extent(cut: Cut, tensor: CutTensor) -> bool:
    """Tell whether a tensor's bytes in C order are exactly its extent's."""
    span = cut.extents[tensor.extent]
    return tensor.strides is None and not tensor.offset and size_bytes(tensor.dtype, tensor.shape) == span.length


def view_digest(stream: FileStream, cut: Cut, tensor: CutTensor) -> str:
    """BLAKE3-256 of a tensor's bytes in logical C order, gathered from the storage it is a view of."""
    begin = cut.extents[tensor.extent].offset + tensor.offset
    size = size_bytes(tensor.dtype, tensor.shape) or 0
    content = blake3.blake3()
    if tensor.strides is None:
        for frame in stream.frames_again(begin, size):
            content.update(frame)
    elif size:
        for block in _gathered(stream, begin, tensor.shape, tensor.strides, BITS[tensor.dtype] // 8):
            content.update(block)
    return content.hexdigest()


def _gathered(
    stream: FileStream, begin: int, shape: tuple[int, ...], strides: tuple[int, ...], width: int
) -> Iterator[bytes]:
    """The elements of a strided view in C order, in blocks of leading rows: of the storage, only what they span."""
    import numpy as np  # noqa: PLC0415

    rows = max(1, _GATHER_BYTES * shape[0] // max(1, width * math.prod(shape)))
    inner = sum((count - 1) * stride for count, stride in zip(shape[1:], strides[1:], strict=True))
    for row in range(0, shape[0], rows):
        count = min(rows, shape[0] - row)
        span = ((count - 1) * strides[0] + inner + 1) * width
        data = np.frombuffer(stream.again(begin + row * strides[0] * width, span), np.uint8)
        view = np.lib.stride_tricks.as_strided(
            data,
            (count, *shape[1:], width),
            (strides[0] * width, *(stride * width for stride in strides[1:]), 1),
            writeable=False,
        )
        yield np.ascontiguousarray(view).tobytes()
