"""Which files, tensors and adapters of two checkpoints belong together: from their manifests alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckptfmt.format.keymaps import common_naming
from ckptfmt.format.manifest import Adapter, Manifest, Tensor, tensor_digest

TensorKey = tuple[str, str, str, int]
"""Role, part, name, and which of several of that name."""


@dataclass(frozen=True, slots=True)
class TensorPair:
    """A tensor of A and the one of B that it is compared with."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True)
class PairedTensors:
    """The tensors of two checkpoints.

    Attributes:
        added: those of B alone, in order of their names.
        removed: those of A alone.
        reshaped: of both, with other shapes.
        differing: of both, of one shape, with another type or digest.
        same: of both, of one type, shape and digest.
        key_map: the key map under which the models' names agree; "same" where they do as they stand.
    """

    added: tuple[Tensor, ...]
    removed: tuple[Tensor, ...]
    reshaped: tuple[TensorPair, ...]
    differing: tuple[TensorPair, ...]
    same: tuple[TensorPair, ...]
    key_map: str


@dataclass(frozen=True, slots=True)
class PairedFiles:
    """The files and links of two checkpoints by path, with their sizes; those that differ with both sizes."""

    added: tuple[tuple[str, int], ...]
    removed: tuple[tuple[str, int], ...]
    changed: tuple[tuple[str, int, int], ...]
    same: tuple[str, ...]


def pair_files(a: Manifest, b: Manifest) -> PairedFiles:
    """Files of the same path belong together; they are the same if their SHA-256 is, links if their target is."""
    mine, theirs = _files(a), _files(b)
    both = sorted(mine.keys() & theirs.keys())
    return PairedFiles(
        added=tuple((path, theirs[path][1]) for path in sorted(theirs.keys() - mine.keys())),
        removed=tuple((path, mine[path][1]) for path in sorted(mine.keys() - theirs.keys())),
        changed=tuple((path, mine[path][1], theirs[path][1]) for path in both if mine[path] != theirs[path]),
        same=tuple(path for path in both if mine[path] == theirs[path]),
    )


def _files(manifest: Manifest) -> dict[str, tuple[str, int]]:
    found = {file.path: (file.sha256, file.size) for file in manifest.files}
    return found | {link.path: (f"-> {link.target}", 0) for link in manifest.links}


def pair_adapters(a: Manifest, b: Manifest) -> tuple[tuple[Adapter, Adapter], ...]:
    """Adapters of the same name belong together; the only one of each, whatever they are called."""
    theirs = {adapter.name: adapter for adapter in b.adapters}
    found = tuple((adapter, theirs[adapter.name]) for adapter in a.adapters if adapter.name in theirs)
    if not found and len(a.adapters) == len(b.adapters) == 1:
        return ((a.adapters[0], b.adapters[0]),)
    return found


def pair_tensors(a: Manifest, b: Manifest, adapters: Sequence[tuple[Adapter, Adapter]] = ()) -> PairedTensors:
    """Tensors of the same role, part and name belong together.

    Roles are kept apart. An adapter's tensors belong to those of the adapter that it is paired with. Names of models
    are compared under the key map that makes most of them agree.

    Args:
        a: the first checkpoint.
        b: the second one.
        adapters: as `pair_adapters` gives them.
    """
    naming = common_naming(*([each.name for each in one.tensors if each.role == "model"] for one in (a, b)))
    called = {second.name: first.name for first, second in adapters}
    mine, theirs = _keyed(a, naming.of_first, {}), _keyed(b, naming.of_second, called)
    pairs = [TensorPair(mine[key], theirs[key]) for key in sorted(mine.keys() & theirs.keys())]
    shaped = [pair for pair in pairs if pair.a.shape == pair.b.shape]
    equal = {id(pair) for pair in shaped if pair.a.dtype == pair.b.dtype and _digest(a, pair.a) == _digest(b, pair.b)}
    return PairedTensors(
        added=tuple(theirs[key] for key in sorted(theirs.keys() - mine.keys())),
        removed=tuple(mine[key] for key in sorted(mine.keys() - theirs.keys())),
        reshaped=tuple(pair for pair in pairs if pair.a.shape != pair.b.shape),
        differing=tuple(pair for pair in shaped if id(pair) not in equal),
        same=tuple(pair for pair in shaped if id(pair) in equal),
        key_map=naming.map,
    )


def _keyed(manifest: Manifest, rename: Mapping[str, str], called: Mapping[str, str]) -> dict[TensorKey, Tensor]:
    found: dict[TensorKey, Tensor] = {}
    counted: dict[tuple[str, str, str], int] = {}
    for tensor in manifest.tensors:
        part = tensor.part or ""
        if tensor.role == "adapter":
            part = called.get(part, part)
        name = rename.get(tensor.name, tensor.name) if tensor.role == "model" else tensor.name
        key = (tensor.role, part, name)
        counted[key] = counted.get(key, -1) + 1
        found[*key, counted[key]] = tensor
    return found


def _digest(manifest: Manifest, tensor: Tensor) -> str:
    return tensor_digest(manifest, tensor) if math.prod(tensor.shape) else ""
