"""What the types of a manifest or base record cannot say: indexes in range, extents in order, paths that stay inside.

A document that passes can be restored without any further look at its numbers and names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Final

from ckptfmt.digest import is_digest
from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import BaseRecord, File, Manifest, Tensor

MAX_PATH_BYTES: Final = 4096


def check_document(document: Manifest | BaseRecord, *, where: str) -> None:
    """Check that all parts of `document` fit each other.

    Raises:
        FormatError: they do not; the message says where, as in `files[3].extents[2].offset: …`.
    """
    for problem in _problems(document):
        raise FormatError(f"{where}: {problem}", code="malformed-document")


def path_problem(path: str) -> str | None:
    """What keeps `path` from being the relative path of a restored file; None where nothing does."""
    if {"", ".", ".."} & set(path.split("/")):
        return "absolute, or with an empty, '.' or '..' part"
    if not path.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path):
        return "control characters or lone surrogates"
    if len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        return f"more than {MAX_PATH_BYTES} bytes"
    return None


def _problems(document: Manifest | BaseRecord) -> Iterator[str]:
    yield from _path_problems(document)
    for index, file in enumerate(document.files):
        for problem in _file_problems(file):
            yield f"files[{index}].{problem}"
    for index, tensor in enumerate(document.tensors):
        problem_of_tensor = _tensor_problem(document, tensor)
        if problem_of_tensor:
            yield f"tensors[{index}].{problem_of_tensor}"
    root = document.root
    if root is not None and not is_digest(root):
        yield "root: expected a digest"


def _path_problems(document: Manifest | BaseRecord) -> Iterator[str]:
    seen: set[str] = set()
    links = {link.path for link in document.links}
    named = chain(
        ((f"files[{index}].path", file.path) for index, file in enumerate(document.files)),
        ((f"directories[{index}]", path) for index, path in enumerate(document.directories)),
        ((f"links[{index}].path", link.path) for index, link in enumerate(document.links)),
    )
    for place, path in named:
        problem = path_problem(path)
        if problem:
            yield f"{place}: {path!r}: {problem}"
            return
        if path in seen:
            yield f"{place}: {path!r} stands twice"
        seen.add(path)
        parts = path.split("/")
        if any("/".join(parts[:depth]) in links for depth in range(1, len(parts))):
            yield f"{place}: {path!r} lies below a link"


def _file_problems(file: File) -> Iterator[str]:
    if file.size < 0:
        yield f"size: {file.size}"
    if not is_digest(file.sha256):
        yield "sha256: expected 64 hex digits"
    if file.content is not None:
        if file.skeleton is not None or file.extents or not is_digest(file.content):
            yield "content: expected a digest, and neither skeleton nor extents beside it"
        return
    if file.skeleton is not None and not is_digest(file.skeleton):
        yield "skeleton: expected a digest"
    position = cut = 0
    for index, extent in enumerate(file.extents):
        if not is_digest(extent.digest):
            yield f"extents[{index}].digest: expected a digest"
        if extent.length < 0 or extent.offset < position:
            yield f"extents[{index}].offset: {extent.offset} lies before the end of the extent before it, {position}"
        position = extent.offset + extent.length
        cut += extent.length
    if position > file.size:
        yield f"extents: they end at byte {position} of {file.size}"
    elif file.skeleton is None and cut != file.size:
        yield f"skeleton: {file.size - cut} bytes are in no extent"


def _tensor_problem(document: Manifest | BaseRecord, tensor: Tensor) -> str | None:
    if not 0 <= tensor.file < len(document.files):
        return f"file: {tensor.file}, of {len(document.files)}"
    extents = document.files[tensor.file].extents
    if not 0 <= tensor.extent < len(extents):
        return f"extent: {tensor.extent}, of {len(extents)}"
    if tensor.dtype not in BITS:
        return f"dtype: unknown {tensor.dtype!r}"
    if any(dimension < 0 for dimension in tensor.shape):
        return "shape: a negative dimension"
    strides = tensor.strides if tensor.strides is not None else _c_strides(tensor.shape)
    if len(strides) != len(tensor.shape) or any(stride < 0 for stride in strides):
        return "strides: expected one for each dimension, none negative"
    if tensor.digest is not None and not is_digest(tensor.digest):
        return "digest: expected a digest"
    elements = 0
    if all(tensor.shape):
        elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    end = tensor.offset * 8 + elements * BITS[tensor.dtype]
    if tensor.offset < 0 or end > extents[tensor.extent].length * 8:
        return f"offset: the tensor reaches past its extent of {extents[tensor.extent].length} bytes"
    return None


def _c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)
