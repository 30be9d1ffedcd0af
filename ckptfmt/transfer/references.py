"""What each tensor of a checkpoint may be stored against: tensors of its base, of its parent, of the one before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.dtypes import size_bytes
from ckptfmt.format.manifest import BaseRecord, Manifest
from ckptfmt.format.shard import MAX_DEPTH
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.graph import closure, depth, resolve
from ckptfmt.store.object_writer import Against
from ckptfmt.store.store import Store
from ckptfmt.transfer.matching import Held, Key, matches
from ckptfmt.transfer.reading import ReadCheckpoint
from ckptfmt.transfer.sinks import Place
from ckptfmt.transfer.take import fills_extent

ENCODING: Final = "delta"


@dataclass(frozen=True, slots=True)
class Filling:
    """A tensor that fills an extent: what it is looked for by."""

    key: Key
    dtype: str
    shape: tuple[int, ...]


class References:
    """Finds, for each extent of a checkpoint, what it may be stored against.

    Args:
        store: where the others lie.
        checkpoint: what is taken in.
        documents: the base's record, the parent's manifest and so on, the first to be tried first.
        outside: files of a base that were looked at; nothing is stored against what lies in another.
    """

    def __init__(
        self,
        store: Store,
        checkpoint: ReadCheckpoint,
        documents: Sequence[BaseRecord | Manifest],
        outside: BaseFiles | None,
    ) -> None:
        self._catalog = store.catalog()
        self._objects = store.objects(outside)
        self._is_outside = outside.has if outside is not None else lambda digest: False
        self._held = [held_by(document) for document in documents]
        self._wanted = tensors_of(checkpoint) if documents else {}

    def __call__(self, place: Place) -> tuple[Against, ...]:
        """What the extent in a place may be stored against, the likeliest first."""
        return tuple(self._of(place))

    def _of(self, place: Place) -> Iterator[Against]:
        wanted = self._wanted.get(place)
        if wanted is None:
            return
        seen = set()
        for held in self._held:
            for match in matches(wanted.key, wanted.dtype, wanted.shape, held):
                if (match.reference, match.digests) in seen or not self._readable(match.digests):
                    continue
                seen.add((match.reference, match.digests))
                length = size_bytes(wanted.dtype, wanted.shape) or 0
                try:
                    basis = self._objects.basis(BasisOf(ENCODING, match.reference, match.digests, length))
                except CkptfmtError:
                    continue  # Nothing relies on it.
                reaches = closure(self._catalog.dependencies, match.digests) | set(match.digests)
                yield Against(ENCODING, match.reference, match.digests, basis, frozenset(reaches))

    def _readable(self, digests: Sequence[str]) -> bool:
        resolved = resolve(self._catalog.find_many, digests, self._is_outside)
        return not resolved.missing and all(
            depth(self._catalog.dependencies, each) < MAX_DEPTH for each in set(digests)
        )


def held_by(document: BaseRecord | Manifest) -> dict[Key, Held]:
    """The tensors of a document that fill an object each."""
    held: dict[Key, Held] = {}
    for tensor in document.tensors:
        extents = document.files[tensor.file].extents
        extent = extents[tensor.extent]
        fills = tensor.strides is None and not tensor.offset
        if fills and extent.length and size_bytes(tensor.dtype, tensor.shape) == extent.length:
            held.setdefault((tensor.role, tensor.part, tensor.name), Held(tensor.dtype, tensor.shape, extent.digest))
    return held


def tensors_of(checkpoint: ReadCheckpoint) -> Mapping[Place, Filling]:
    """The tensors of a checkpoint that fill an extent each, by its place."""
    wanted: dict[Place, Filling] = {}
    for tensor in checkpoint.reading.tensors:
        cut = checkpoint.cuts[tensor.path]
        if isinstance(cut, Cut):
            found = cut.tensors[tensor.index]
            if fills_extent(cut, found):
                key = (tensor.role, tensor.part, tensor.name)
                wanted.setdefault((tensor.path, found.extent), Filling(key, found.dtype, found.shape))
    return wanted


def earlier(store: Store, ref: str, parent: str | None) -> list[Manifest]:
    """Manifests that a checkpoint called `ref` is likely to be like: its parent, what stood there, the step before.

    Those that cannot be read are left out: nothing relies on them.
    """
    found: list[Manifest] = []
    for digest in dict.fromkeys(filter(None, (parent, _standing(store, ref), _step_before(store, ref)))):
        try:
            found.append(store.manifest(digest))
        except CkptfmtError:
            continue
    return found


def _standing(store: Store, ref: str) -> str | None:
    try:
        newest = store.refs.newest(ref)
    except CkptfmtError:
        return None
    return newest.target if newest is not None else None


def _step_before(store: Store, ref: str) -> str | None:
    """What the ref stands for that has the next lower number in the same place of the same name."""
    parts = list(re.finditer(r"\d+", ref))
    if not parts:
        return None
    begin, end = parts[-1].span()
    number, best = int(ref[begin:end]), None
    for name, _ in store.refs.names(ref[:begin]):
        middle = name[begin : len(name) - (len(ref) - end)]
        same = name.startswith(ref[:begin]) and name.endswith(ref[end:]) and middle.isdecimal()
        if same and int(middle) < number and (best is None or int(middle) > best[0]):
            best = (int(middle), name)
    return _standing(store, best[1]) if best is not None else None
