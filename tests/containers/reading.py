"""An independent way from a cut back to tensor bytes, and what must hold of every cut."""

from __future__ import annotations

import itertools
import math

from ckptfmt.containers import BytesSource, cut_file
from ckptfmt.containers.protocol import Cut, CutTensor, Inert, Opaque, TensorAt
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.dtypes import BITS


def cut_bytes(data: bytes, path: str) -> Cut | Opaque:
    """Cut `data`, checking all that must hold whatever comes out."""
    result = cut_file(BytesSource(data, where=path), path)
    if isinstance(result, Cut):
        check(result, data)
    return result


def survives(data: bytes, path: str) -> Cut | Opaque | CkptfmtError:
    """Cut bytes that may be anything: a sound cut, an opaque file or one of our errors that names the file."""
    try:
        return cut_bytes(data, path)
    except CkptfmtError as error:
        assert error.message.startswith(path), error.message
        assert len(error.message) < 2000
        return error


def check(cut: Cut, data: bytes) -> None:
    """The promises of `Cut`: extents and skeleton make up the file, every tensor lies inside its extent."""
    skeleton, position, rebuilt = [], 0, b""
    for span in cut.extents:
        assert position <= span.offset and span.length >= 0
        skeleton.append(data[position : span.offset])
        position = span.offset + span.length
        if span.dtype is not None:
            assert BITS[span.dtype] * math.prod(span.shape) == 8 * span.length
        else:
            assert span.shape == ()
    assert position <= len(data)
    skeleton.append(data[position:])
    for part, span in itertools.zip_longest(skeleton, cut.extents):
        rebuilt += part + (data[span.offset : span.offset + span.length] if span else b"")
    assert rebuilt == data
    assert len({tensor.path for tensor in cut.tensors}) == len(cut.tensors)
    for tensor in cut.tensors:
        assert tensor.key == ".".join(map(str, tensor.path))
        if len(data) < 1 << 20 and math.prod(tensor.shape) < 100_000:
            logical(cut, tensor, data)
    shown = [value for value in leaves(cut.tree) if isinstance(value, TensorAt)]
    assert len({at.index for at in shown}) == len(shown)
    for value in leaves(cut.tree):
        assert value is None or isinstance(value, bool | int | float | str | TensorAt | Inert), type(value)


def leaves(tree: object):
    pending = [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            assert all(type(key) in (str, int) for key in value)
            pending.extend(value.values())
        elif type(value) is list:
            pending.extend(value)
        else:
            yield value


def logical(cut: Cut, tensor: CutTensor, data: bytes) -> bytes:
    """A tensor's bytes in logical C order, element by element from its extent."""
    span = cut.extents[tensor.extent]
    stored = data[span.offset : span.offset + span.length]
    bits = BITS[tensor.dtype]
    if tensor.strides is None:
        size = math.prod(tensor.shape) * bits // 8
        assert tensor.offset + size <= len(stored)
        return stored[tensor.offset : tensor.offset + size]
    width = bits // 8
    parts = []
    for index in itertools.product(*map(range, tensor.shape)):
        at = tensor.offset + width * sum(i * s for i, s in zip(index, tensor.strides, strict=True))
        assert at >= 0 and at + width <= len(stored)
        parts.append(stored[at : at + width])
    return b"".join(parts)


def by_path(cut: Cut) -> dict[tuple[str | int, ...], CutTensor]:
    return {tensor.path: tensor for tensor in cut.tensors}


class Spy:
    """A source that counts the bytes read from it."""

    def __init__(self, source) -> None:
        self.source = source
        self.where, self.size = source.where, source.size
        self.read_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return self.source.read(offset, length)
