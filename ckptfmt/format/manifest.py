"""The manifest: the document of one checkpoint, and the base record, the document of a base model.

Both hold no time, host, absolute path, mode or mtime: equal contents have equal bytes and so equal ids.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Json = Any
"""Plain JSON: None, bool, int, float, str, lists and string-keyed objects of these."""

Role = Literal["model", "adapter", "optimizer", "state"]
"""Whose a tensor is. `state` is all that is neither: routers, RNG states, skill libraries."""

Container = Literal["safetensors", "torch-zip", "opaque"]
Binding = Literal["recorded", "proven", "stated", "none"]
How = Literal["continue", "stack", "resume", "parent-only"]
"""How a stage goes on from its parent.

`continue`: the parent was merged, and a new adapter trained on the result (merge and continue). `stack`: a new adapter
was trained beside the parent's, which stayed an adapter. `resume`: the parent's own adapter was trained further.
`parent-only`: as `continue`, but what was merged is the base with the parent's own adapter, whatever came before that.
"""


MANIFEST_TAG: Final = "ckptfmt/manifest"
BASE_TAG: Final = "ckptfmt/base"


class Extent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A contiguous run of a weight file: `length` bytes at byte `offset`, held by object `digest`."""

    offset: int
    length: int
    digest: str


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A regular file of a checkpoint.

    An opaque file has `content`; a container has `skeleton` (its bytes without the extents, in order) and `extents`
    sorted by offset, disjoint. `reason` says why a weight file was not cut.
    """

    path: str
    size: int
    sha256: str
    container: Container = "opaque"
    content: str | None = None
    skeleton: str | None = None
    extents: tuple[Extent, ...] = ()
    reason: str | None = None
    damaged: bool = False


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A symbolic link, kept as it was: `target` is its text, never followed on restore."""

    path: str
    target: str


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A tensor and where its bytes lie.

    `name` is the name in its role's own terms (a model tensor without wrapper prefixes); `key` is the name inside
    the container where that differs. `file` and `extent` index the document's files and that file's extents;
    `offset` is in bytes from the extent's start; `strides` in elements, None for C order. `part` names the adapter
    or component that an adapter's or state's tensor belongs to. `digest` is that of the tensor's bytes in logical
    C order where the extent's own is not (views, slices, transposes); model tensors always have one or the other.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    file: int
    extent: int
    offset: int = 0
    strides: tuple[int, ...] | None = None
    key: str | None = None
    part: str | None = None
    digest: str | None = None


class Adapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One adapter of a checkpoint: `name` unique in it, `path` its directory or file, `method` as PEFT names it.

    `config` is the adapter's configuration in canonical form (sets as sorted lists); `digest` is its identity: over
    its configuration and its tensors. `base_hint` is what the adapter says of its base: a name, never a binding.
    """

    name: str
    path: str
    method: str
    config: dict[str, Json]
    digest: str
    base_hint: str | None = None
    revision_hint: str | None = None


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One tensor of a base, by name and digest."""

    name: str
    digest: str


class BaseLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of a checkpoint: `record` and `root` bind, `name` is what it was called then.

    `leaves` are the base tensors that the checkpoint's adapters touch.
    """

    name: str
    record: str
    root: str
    binding: Binding
    evidence: str
    leaves: tuple[Leaf, ...] = ()


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where in a chain of stages a checkpoint stands. `parent` is a manifest id."""

    parent: str | None = None
    stage: int | None = None
    how: How | None = None
    dtype: str | None = None


class Manifest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="format", tag=MANIFEST_TAG
):
    """One checkpoint. Lists are sorted by path; a manifest's id is the digest of its bytes."""

    version: int
    layout: str
    files: tuple[File, ...]
    directories: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    root: str | None = None
    base: BaseLink | None = None
    base_hint: str | None = None
    lineage: Lineage | None = None
    step: int | None = None
    settings: dict[str, Json] = {}
    metrics: dict[str, Json] = {}
    notes: tuple[str, ...] = ()


class BaseRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="format", tag=BASE_TAG
):
    """A base model: its files with SHA-256, its tensors with digests, and its model root.

    `repo` and `revision` say where on the Hub it came from. Its name is a ref (`bases/<name>`), outside the record.
    """

    version: int
    root: str
    files: tuple[File, ...]
    directories: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    repo: str | None = None
    revision: str | None = None


def file_objects(file: File) -> tuple[tuple[str, int], ...]:
    """Every object a file needs, with its decoded length in bytes."""
    if file.content is not None:
        return ((file.content, file.size),)
    cut = sum(extent.length for extent in file.extents)
    extents = tuple((extent.digest, extent.length) for extent in file.extents)
    return ((file.skeleton, file.size - cut), *extents) if file.skeleton else extents


def objects_of(document: Manifest | BaseRecord) -> dict[str, int]:
    """Every object the files of `document` need: digest to decoded length in bytes."""
    return {digest: length for file in document.files for digest, length in file_objects(file)}


def tensor_digest(document: Manifest | BaseRecord, tensor: Tensor) -> str:
    """The digest of a tensor's bytes in logical C order."""
    return tensor.digest or document.files[tensor.file].extents[tensor.extent].digest


def logical_bytes(document: Manifest | BaseRecord) -> int:
    """Bytes the document's files take when they are restored."""
    return sum(file.size for file in document.files)
