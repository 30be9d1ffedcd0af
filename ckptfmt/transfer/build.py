"""From what was read and what was hashed to a manifest: pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from ckptfmt.containers.protocol import Cut, CutTensor, Opaque
from ckptfmt.digest import digest_of
from ckptfmt.errors import BaseMismatch
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.manifest import (
    Adapter,
    BaseLink,
    BaseRecord,
    Binding,
    File,
    Leaf,
    Lineage,
    Link,
    Manifest,
    Tensor,
    tensor_digest,
)
from ckptfmt.format.refs import Attributes
from ckptfmt.format.root import RootLeaf, model_root
from ckptfmt.layouts.protocol import ReadAdapter, Reading
from ckptfmt.transfer.walk import Walked


@dataclass(frozen=True, slots=True)
class Content:
    """A checkpoint's content: its files as they stand in a manifest, and the tensors in them."""

    files: tuple[File, ...]
    directories: tuple[str, ...]
    links: tuple[Link, ...]
    tensors: tuple[Tensor, ...]


def place_tensors(
    reading: Reading, files: tuple[File, ...], cuts: Mapping[str, Cut | Opaque], views: Mapping[tuple[str, int], str]
) -> tuple[Tensor, ...]:
    """The tensors of a reading with their places in `files`; `views` are digests by path and index in the cut."""
    position = {file.path: index for index, file in enumerate(files)}
    placed = []
    for read in reading.tensors:
        cut = cuts[read.path]
        if isinstance(cut, Opaque):
            continue
        found = cut.tensors[read.index]
        placed.append(
            Tensor(
                name=read.name,
                role=read.role,
                dtype=found.dtype,
                shape=found.shape,
                file=position[read.path],
                extent=found.extent,
                offset=found.offset,
                strides=found.strides,
                key=None if found.key == read.name else _printable(found.key),
                part=read.part,
                digest=views.get((read.path, read.index)),
            )
        )
    return tuple(sorted(placed, key=_tensor_order))


def _printable(key: str) -> str:
    """A container's key as JSON can hold it: lone surrogates, which a hostile header may have, are escaped."""
    return key.encode("utf-8", "backslashreplace").decode()


def _tensor_order(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.role, tensor.part or "", tensor.name, tensor.file, tensor.extent, tensor.offset)


def root_of(content: Content) -> str | None:
    """The model root of a checkpoint's model tensors; None where it has none, or two of one name."""
    model = [tensor for tensor in content.tensors if tensor.role == "model"]
    if not model or len({tensor.name for tensor in model}) != len(model):
        return None
    return model_root(
        RootLeaf(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            digest=_digest(content.files, tensor),
            tie=(tensor.file, tensor.extent, tensor.offset, tensor.shape, tensor.strides),
        )
        for tensor in model
    )


def build_manifest(reading: Reading, content: Content, *, base: BaseLink | None, lineage: Lineage | None) -> Manifest:
    """The manifest of a checkpoint."""
    return Manifest(
        version=FORMAT_VERSION,
        layout=reading.layout,
        files=content.files,
        directories=content.directories,
        links=content.links,
        tensors=content.tensors,
        adapters=tuple(_adapter(read, content) for read in reading.adapters),
        root=root_of(content),
        base=base,
        base_hint=reading.base_hint,
        lineage=lineage,
        step=reading.step,
        settings=dict(reading.settings),
        metrics=dict(reading.metrics),
        notes=reading.notes,
    )


def build_record(content: Content, root: str, repo: str | None, revision: str | None) -> BaseRecord:
    """The record of a base."""
    return BaseRecord(
        version=FORMAT_VERSION,
        root=root,
        files=content.files,
        directories=content.directories,
        links=content.links,
        tensors=content.tensors,
        repo=repo,
        revision=revision,
    )


def _adapter(read: ReadAdapter, content: Content) -> Adapter:
    mine = [tensor for tensor in content.tensors if tensor.role == "adapter" and tensor.part == read.name]
    lines = [[tensor.name, tensor.dtype, tensor.shape, _digest(content.files, tensor)] for tensor in mine]
    identity = msgspec.json.encode([read.method, read.config, lines], order="deterministic")
    return Adapter(
        name=read.name,
        path=read.path,
        method=read.method,
        config=dict(read.config),
        digest=digest_of(identity),
        base_hint=read.base_hint,
        revision_hint=read.revision_hint,
    )


STATED: Final = "--base {base}"
BOUND: Final = "bind --base {base}"
FOUND: Final = "cleanup: tensors of it are those of base '{base}'"
EVIDENCE: Final = (STATED, BOUND, FOUND)
"""All that a binding may rest on, but the checkpoint's own tensors: a manifest that is lost is made again from one."""


def bind(name: str, digest: str, record: BaseRecord, content: Content, *, evidence: str) -> BaseLink:
    """Bind a checkpoint to a base.

    It is `proven` where the checkpoint's own copies of every base tensor that its adapters touch are the base's.

    Raises:
        BaseMismatch: the base has none of the modules that the adapters touch, or they do not fit its shapes.
    """
    leaves = touched_leaves(record, [tensor.name for tensor in content.tensors if tensor.role == "adapter"], name)
    own = {tensor.name: _digest(content.files, tensor) for tensor in content.tensors if tensor.role == "model"}
    binding: Binding = "stated"
    if leaves and all(own.get(leaf.name) == leaf.digest for leaf in leaves):
        binding, evidence = "proven", f"the checkpoint's own copies of all {len(leaves)} touched base tensors agree"
    return BaseLink(name=name, record=digest, root=record.root, binding=binding, evidence=evidence, leaves=leaves)


def touched_leaves(record: BaseRecord, adapter: Iterable[str], base: str) -> tuple[Leaf, ...]:
    """The base tensors that an adapter's tensors, given by name, belong to; sorted.

    Raises:
        BaseMismatch: there are adapter tensors, and none belongs to the base.
    """
    tensors = {tensor.name: tensor for tensor in record.tensors if tensor.role == "model"}
    leaves: dict[str, Leaf] = {}
    missed = []
    for name in adapter:
        leaf = touched(name, tensors)
        if leaf is None:
            missed.append(name)
        else:
            leaves[leaf] = Leaf(leaf, tensor_digest(record, tensors[leaf]))
    if missed and not leaves:
        raise BaseMismatch(
            f"base {base!r} has none of the modules that the adapter touches (such as {missed[0]!r})",
            tensors=tuple(missed),
            hint="ckptfmt base ls",
        )
    return tuple(leaves[name] for name in sorted(leaves))


def touched(name: str, tensors: Container[str]) -> str | None:
    """The base tensor an adapter tensor belongs to: the longest module path that has a weight in the base.

    Wrappers put parts in front (`base_model.model.`, `transformer.`), adapters put theirs behind (`.lora_A.weight`).
    """
    parts = name.split(".")
    for begin in range(len(parts)):
        for end in range(len(parts), begin, -1):
            module = ".".join(parts[begin:end])
            for candidate in (module, f"{module}.weight"):
                if candidate in tensors and "." in candidate:
                    return candidate
    return None


def _digest(files: tuple[File, ...], tensor: Tensor) -> str:
    return tensor.digest or files[tensor.file].extents[tensor.extent].digest


def attributes_of(walked: Walked) -> tuple[Attributes, ...]:
    """Modes and mtimes of all that was walked."""
    return tuple(Attributes(entry.path, entry.mode, entry.mtime_ns) for entry in walked.entries if entry.kind != "link")


def wants_view(tensor: CutTensor, role: str, *, fills: bool) -> bool:
    """Tell whether a manifest needs a tensor's own digest: of what merges, where the extent's is another."""
    return role in ("model", "adapter") and not fills and bool(tensor.dtype)
