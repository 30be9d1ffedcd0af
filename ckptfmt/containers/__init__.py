"""Containers: one weight file cut into a skeleton and extents, without a guess at what names mean."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ckptfmt.containers.legacy import why_not_zip
from ckptfmt.containers.protocol import Opaque
from ckptfmt.containers.safetensors import SAFETENSORS
from ckptfmt.containers.source import BytesSource, FileSource
from ckptfmt.containers.torch_zip import SUFFIXES, TORCH_ZIP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptfmt.containers.protocol import ByteSource, Container, Cut

__all__ = ["CONTAINERS", "BytesSource", "FileSource", "cut_file"]

CONTAINERS: Final[Mapping[str, Container]] = MappingProxyType({item.name: item for item in (SAFETENSORS, TORCH_ZIP)})
"""Every kind of weight file that is cut, by name."""


def cut_file(source: ByteSource, path: str) -> Cut | Opaque:
    """Cut the file `source`, called `path` in its checkpoint, as the container that claims it.

    Returns:
        The cut; or Opaque with the reason for a weight file that is kept whole; or Opaque without one for a file
        that is no weight file by its name.

    Raises:
        FormatError: it is a weight file that contradicts itself.
    """
    for container in CONTAINERS.values():
        if container.claims(source, path):
            return container.cut(source)
    return Opaque(why_not_zip(source)) if path.lower().endswith(SUFFIXES) else Opaque()
