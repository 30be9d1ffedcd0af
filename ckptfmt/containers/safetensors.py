"""safetensors files: the length prefix and the header are the skeleton, each tensor is one extent."""

from __future__ import annotations

from typing import Final

from ckptfmt.containers.protocol import ByteSource, Container, Cut, CutTensor, Span
from ckptfmt.errors import FormatError
from ckptfmt.format.safetensors import LENGTH_BYTES, header_length, parse_header

_SUFFIX: Final = ".safetensors"
_LFS_POINTER: Final = b"version https://git-lfs"


class Safetensors:
    """The container for safetensors.

    Extent `i` holds tensor `i`, in file order. A tensor of no bytes has an extent of length 0 where its offsets say
    it lies: it adds nothing to the file and its object is the empty one, so that every tensor has an extent.
    Every other byte of the file is header: the format allows no holes.
    """

    name = "safetensors"

    def claims(self, source: ByteSource, path: str) -> bool:
        """Tell from the name alone: what is named so and does not parse is damaged, not something else."""
        del source
        return path.lower().endswith(_SUFFIX)

    def cut(self, source: ByteSource) -> Cut:
        """Cut the file; only its header is read (at most 100 MB).

        Raises:
            FormatError: the header contradicts itself or the file's size.
        """
        where = source.where
        prefix = source.read(0, min(source.size, len(_LFS_POINTER)))
        if prefix == _LFS_POINTER:
            raise FormatError(f"{where}: a Git LFS pointer, not the file it stands for", hint="git lfs pull")
        length = header_length(prefix[:LENGTH_BYTES], file_size=source.size, where=where)
        header = parse_header(source.read(LENGTH_BYTES, length), file_size=source.size, where=where)
        extents = tuple(Span(item.begin, item.end - item.begin, item.dtype, item.shape) for item in header.tensors)
        tensors = tuple(
            CutTensor(item.name, (item.name,), item.dtype, item.shape, extent)
            for extent, item in enumerate(header.tensors)
        )
        return Cut(self.name, extents, tensors, header.metadata)


SAFETENSORS: Final[Container] = Safetensors()
