"""What each tensor of a checkpoint may be stored against: tensors of its base, of its parent, of the one before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.dtypes import size_bytes
from ckptfmt.format.manifest import BaseRecord, Manifest
from ckptfmt.format.refs import BASES
from ckptfmt.format.shard import MAX_DEPTH
from ckptfmt.layouts.listing import natural
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.graph import closure, depth, resolve
from ckptfmt.store.object_writer import Against
from ckptfmt.store.objects import Objects
from ckptfmt.store.store import Store
from ckptfmt.transfer.matching import Held, Key, matches
from ckptfmt.transfer.predicting import Known, Predictor, Wanted, in_turn, one_after_another
from ckptfmt.transfer.reading import ReadCheckpoint
from ckptfmt.transfer.sinks import Place
from ckptfmt.transfer.take import fills_extent
from ckptfmt.transfer.updates import MOST_STAGES, Factors, Predicted, factors_of

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis

DELTA: Final = "delta"
LOWRANK: Final = "lowrank"

_MOST_NAMES: Final = 100
_MOST_ADAPTERS: Final = 24
"""Adapters of the store that are tried, those of the refs that changed last."""
_MOST_ANCESTORS: Final = 16


@dataclass(frozen=True, slots=True)
class Like:
    """What a checkpoint is likely to be made from, the likeliest first.

    Attributes:
        models: documents with tensors like its own.
        adapters: adapters of the store that may have been merged into it.
    """

    models: tuple[BaseRecord | Manifest, ...] = ()
    adapters: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Filling:
    """A tensor that fills an extent: what it is looked for by."""

    key: Key
    dtype: str
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes of the tensor."""
        return size_bytes(self.dtype, self.shape) or 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint whose tensors may be stored against others.

    Attributes:
        tensors: those that fill an extent each, by its place.
        adapters: configurations of its own adapters, by name.
        head: gives the first frame of an extent.
        taken: digests of the extents that can be read already.
        parent: id of the manifest that it was trained from.
    """

    tensors: Mapping[Place, Filling]
    adapters: Mapping[str, Mapping[str, Any]]
    head: Callable[[Place], bytes]
    taken: Mapping[Place, str] = field(default_factory=dict)
    parent: str | None = None


class References:
    """Finds, for each extent of a checkpoint, what it may be stored against.

    Args:
        store: where the others lie.
        subject: the checkpoint.
        like: models and adapters that it is likely to be made from.
        outside: files of a base that were looked at; nothing is stored against what lies in another.
    """

    def __init__(self, store: Store, subject: Subject, like: Like, outside: BaseFiles | None) -> None:
        self._catalog = store.catalog()
        self._objects = store.objects(outside)
        self._is_outside = outside.has if outside is not None else lambda digest: False
        self._subject = subject
        self._held = [held_by(document) for document in like.models]
        self._wanted = subject.tensors if like.models else {}
        self._taken = dict(subject.taken)
        self._stored = like.adapters
        self._store = store
        self._all_known: list[Known] | None = None
        self._predictor = Predictor(self._held, self._known, self._open_prediction, self._read)

    def __call__(self, place: Place) -> tuple[Against, ...]:
        """What the extent in a place may be stored against, the likeliest first."""
        wanted = self._wanted.get(place)
        if wanted is None:
            return ()
        return (*self._predicted(place, wanted), *self._alike(wanted))

    def took(self, place: Place, digest: str) -> None:
        """Take note of an object of this checkpoint that can be read from now on."""
        self._taken[place] = digest

    def _alike(self, wanted: Filling) -> Iterator[Against]:
        seen = set()
        for held in self._held:
            for match in matches(wanted.key, wanted.dtype, wanted.shape, held):
                if (match.reference, match.digests) in seen:
                    continue
                seen.add((match.reference, match.digests))
                if against := self._against(BasisOf(DELTA, match.reference, match.digests, wanted.length)):
                    yield against

    def _predicted(self, place: Place, wanted: Filling) -> Iterator[Against]:
        tensor = Wanted(wanted.key, wanted.dtype, wanted.shape, wanted.length, lambda: self._subject.head(place))
        for predicted in self._predictor.of(tensor):
            if against := self._against(BasisOf(LOWRANK, predicted.reference, predicted.digests, wanted.length)):
                yield against

    def _against(self, what: BasisOf) -> Against | None:
        """What is not readable, or too deep, is none: nothing relies on it."""
        resolved = resolve(self._catalog.find_many, what.dependencies, self._is_outside)
        direct = self._catalog.dependencies
        if resolved.missing or any(depth(direct, each) >= MAX_DEPTH for each in set(what.dependencies)):
            return None
        try:
            basis = self._objects.basis(what)
        except CkptfmtError:
            return None
        reaches = closure(direct, what.dependencies) | set(what.dependencies)
        return Against(what.encoding, what.reference, what.dependencies, basis, frozenset(reaches))

    def _open_prediction(self, predicted: Predicted, length: int) -> Callable[[int, int], Basis] | None:
        against = self._against(BasisOf(LOWRANK, predicted.reference, predicted.digests, length))
        return against.basis if against is not None else None

    def _read(self, held: Held) -> bytes:
        return self._objects.read(held.digest, size_bytes(held.dtype, held.shape) or 0)

    def _known(self) -> Sequence[Known]:
        """The checkpoint's own adapters once they were taken, then those of the store."""
        if self._all_known is None:
            tensors: dict[str | None, dict[str, Held]] = {}
            for place, filling in self._wanted.items():
                role, part, name = filling.key
                if role == "adapter" and place in self._taken:
                    tensors.setdefault(part, {})[name] = Held(filling.dtype, filling.shape, self._taken[place])
            own = [(name, config) for name, config in self._subject.adapters.items() if name in tensors]
            known = [Known(name, factors_of(config, tensors[name])) for name, config in own]
            if known and len(known) <= MOST_STAGES:
                known = _own_in_turn(known, ancestors(self._store, self._subject.parent))
            self._all_known = [*known, *self._stored]
        return self._all_known


def _own_in_turn(own: list[Known], before: tuple[Mapping[str, Factors], ...]) -> list[Known]:
    """Adapters of one checkpoint: each alone, each after those of earlier checkpoints, one after another."""
    ordered = sorted(own, key=lambda each: natural(each.name))
    found = list(ordered)
    found += [known for each in ordered for known in one_after_another(before, each) if known.before]
    return [*found, *in_turn(ordered), *in_turn(ordered[::-1])]


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


def incoming(checkpoint: ReadCheckpoint) -> Subject:
    """A checkpoint that is taken in."""
    adapters = {each.name: each.config for each in checkpoint.reading.adapters}
    return Subject(tensors_of(checkpoint), adapters, checkpoint.head)


def standing(manifest: Manifest, objects: Objects) -> Subject:
    """A checkpoint of the store."""
    tensors: dict[Place, Filling] = {}
    taken: dict[Place, str] = {}
    for tensor in manifest.tensors:
        file = manifest.files[tensor.file]
        extent = file.extents[tensor.extent]
        fills = tensor.strides is None and not tensor.offset
        if fills and extent.length and size_bytes(tensor.dtype, tensor.shape) == extent.length:
            place = (file.path, tensor.extent)
            tensors.setdefault(place, Filling((tensor.role, tensor.part, tensor.name), tensor.dtype, tensor.shape))
            taken[place] = extent.digest

    def head(place: Place) -> bytes:
        return bytes(next(objects.frames(taken[place], tensors[place].length)))

    parent = manifest.lineage.parent if manifest.lineage is not None else None
    return Subject(tensors, {adapter.name: adapter.config for adapter in manifest.adapters}, head, taken, parent)


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


def known_adapters(store: Store, before: Sequence[Manifest]) -> list[Known]:
    """Adapters that may have been merged into a checkpoint: those of `before`, then those that changed last.

    Where one belongs to a stage of a lineage, it may have been merged after those of the stages before: these follow.
    So it may where a few have names that differ by numbers.
    """
    found = [(known, manifest) for manifest in before for known in adapters_of(manifest, "before")]
    series: dict[str, list[Known]] = {}
    newest = sorted(store.refs.names(), key=lambda item: -item[1])
    for name, _ in [item for item in newest if not item[0].startswith(BASES)][:_MOST_NAMES]:
        target = _standing(store, name)
        try:
            manifest = store.manifest(target) if target is not None else None
        except CkptfmtError:
            continue
        if manifest is not None and manifest.adapters:
            own = adapters_of(manifest, name)
            found += [(known, manifest) for known in own]
            series.setdefault(re.sub(r"\d+", "0", name), []).extend(own[:1])
        if len(found) >= _MOST_ADAPTERS:
            break
    found = found[:_MOST_ADAPTERS]
    chained = [
        known
        for last, manifest in found
        if manifest.lineage is not None
        for known in one_after_another(ancestors(store, manifest.lineage.parent), last)
        if known.before
    ]
    for members in series.values():
        if 1 < len(members) <= MOST_STAGES:
            chained += in_turn(sorted(members, key=lambda each: natural(each.name)))
    return [*(known for known, _ in found), *chained[:_MOST_ADAPTERS]]


def ancestors(store: Store, parent: str | None) -> tuple[Mapping[str, Factors], ...]:
    """The updates of a stage and of the stages before it, the first one first; of a stage without adapter none."""
    found: list[Mapping[str, Factors]] = []
    for _ in range(_MOST_ANCESTORS):
        if parent is None or len(found) == MOST_STAGES - 1:
            break
        try:
            manifest = store.manifest(parent)
        except CkptfmtError:
            break
        known = {each.name: each.updates for each in adapters_of(manifest, "stage")}
        if known:
            found.insert(0, known.get("stage:default") or next(iter(known.values())))
        parent = manifest.lineage.parent if manifest.lineage is not None else None
    return tuple(found)


def adapters_of(manifest: Manifest, name: str) -> list[Known]:
    """The adapters of a checkpoint of the store."""
    tensors: dict[str | None, dict[str, Held]] = {}
    for (role, part, tensor), held in held_by(manifest).items():
        if role == "adapter":
            tensors.setdefault(part, {})[tensor] = held
    return [
        Known(f"{name}:{adapter.name}", factors_of(adapter.config, tensors[adapter.name]))
        for adapter in manifest.adapters
        if adapter.name in tensors
    ]


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
