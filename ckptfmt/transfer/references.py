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
from ckptfmt.format.shard import MAX_DEPTH
from ckptfmt.layouts.listing import natural
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.graph import closure, depth, resolve
from ckptfmt.store.object_writer import Against
from ckptfmt.store.objects import Objects
from ckptfmt.store.store import Store
from ckptfmt.transfer.held import Held, Key
from ckptfmt.transfer.matching import Filling, matches
from ckptfmt.transfer.predicting import Known, Predictor, in_turn, one_after_another
from ckptfmt.transfer.reading import ReadCheckpoint
from ckptfmt.transfer.recent import Recent, standing_target
from ckptfmt.transfer.sinks import Place
from ckptfmt.transfer.take import fills_extent
from ckptfmt.transfer.updates import MOST_STAGES, Factors, Predicted, factors_of

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis

DELTA: Final = "delta"
LOWRANK: Final = "lowrank"

_MOST_ADAPTERS: Final = 24
"""Adapters of the store that are tried, those of the refs that changed last."""
MOST_NEAR: Final = _MOST_ADAPTERS // 2
"""Of these, at most so many that are likelier by their names."""
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
        for predicted in self._predictor.of(wanted, lambda: self._subject.head(place)):
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
            held = {
                filling.key: Held(filling.dtype, filling.shape, self._taken[place])
                for place, filling in self._wanted.items()
                if place in self._taken
            }
            known = _known_of(self._subject.adapters, held)
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


def _fillings(document: BaseRecord | Manifest) -> Iterator[tuple[Place, Filling, str]]:
    """The tensors of a document that fill an object each: where, which, and the object's digest."""
    for tensor in document.tensors:
        file = document.files[tensor.file]
        extent = file.extents[tensor.extent]
        filling = Filling((tensor.role, tensor.part, tensor.name), tensor.dtype, tensor.shape)
        if tensor.strides is None and not tensor.offset and extent.length and filling.length == extent.length:
            yield (file.path, tensor.extent), filling, extent.digest


def held_by(document: BaseRecord | Manifest) -> dict[Key, Held]:
    """The tensors of a document that fill an object each."""
    held: dict[Key, Held] = {}
    for _, filling, digest in _fillings(document):
        held.setdefault(filling.key, Held(filling.dtype, filling.shape, digest))
    return held


def incoming(checkpoint: ReadCheckpoint) -> Subject:
    """A checkpoint that is taken in."""
    adapters = {each.name: each.config for each in checkpoint.reading.adapters}
    return Subject(tensors_of(checkpoint), adapters, checkpoint.head)


def standing(manifest: Manifest, objects: Objects) -> Subject:
    """A checkpoint of the store."""
    tensors: dict[Place, Filling] = {}
    taken: dict[Place, str] = {}
    for place, filling, digest in _fillings(manifest):
        tensors.setdefault(place, filling)
        taken[place] = digest

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


def like_of(
    recent: Recent,
    subject: Subject,
    ref: str,
    first: Sequence[BaseRecord | Manifest],
    *,
    but: Manifest | None = None,
    near: Sequence[tuple[str, str]] = (),
) -> Like:
    """What a checkpoint called `ref` is likely to be made from.

    Args:
        recent: the checkpoints of the store.
        subject: the checkpoint.
        ref: its name.
        first: models that are known to be like it.
        but: its own manifest, if it has one.
        near: names and manifests of checkpoints whose adapters are likelier than those that changed last.
    """
    before = [each for each in _earlier(recent.store, ref, subject.parent) if each != but]
    merged = any(filling.is_matrix for filling in subject.tensors.values())
    return Like(
        models=(*first, *(each for each in before if each not in first)),
        adapters=tuple(_known_adapters(recent, before, near)) if merged else (),
    )


def _known_adapters(recent: Recent, before: Sequence[Manifest], near: Sequence[tuple[str, str]]) -> list[Known]:
    """Adapters that may have been merged into a checkpoint: those of `before`, of `near`, then what changed last.

    Where one belongs to a stage of a lineage, it may have been merged after those of the stages before: these follow.
    So it may where a few have names that differ by numbers.
    """
    found = [(known, manifest) for manifest in before for known in adapters_of(manifest, "before")]
    series: dict[str, list[Known]] = {}
    for name, manifest in _near_then_recent(recent, near):
        if manifest.adapters:
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
        for known in one_after_another(ancestors(recent.store, manifest.lineage.parent), last)
        if known.before
    ]
    for members in series.values():
        if 1 < len(members) <= MOST_STAGES:
            chained += in_turn(sorted(members, key=lambda each: natural(each.name)))
    return [*(known for known, _ in found), *chained[:_MOST_ADAPTERS]]


def _near_then_recent(recent: Recent, near: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Manifest]]:
    """Those that can be read, each once; of `near` at most half as many as are tried."""
    seen = set()
    for name, target in near[:MOST_NEAR]:
        seen.add(target)
        try:
            yield name, recent.store.manifest(target)
        except CkptfmtError:
            continue
    for name, target, manifest in recent:
        if target not in seen:
            yield name, manifest


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
    configs = {adapter.name: adapter.config for adapter in manifest.adapters}
    return _known_of(configs, held_by(manifest), f"{name}:")


def _known_of(configs: Mapping[str, Mapping[str, Any]], held: Mapping[Key, Held], prefix: str = "") -> list[Known]:
    """Adapters by their configurations, of which some tensors are held."""
    tensors: dict[str | None, dict[str, Held]] = {}
    for (role, part, tensor), each in held.items():
        if role == "adapter":
            tensors.setdefault(part, {})[tensor] = each
    return [
        Known(prefix + name, factors_of(config, tensors[name])) for name, config in configs.items() if name in tensors
    ]


def _earlier(store: Store, ref: str, parent: str | None) -> list[Manifest]:
    """Manifests that a checkpoint called `ref` is likely to be like: its parent, what stood there, the step before.

    Those that cannot be read are left out: nothing relies on them.
    """
    found: list[Manifest] = []
    for digest in dict.fromkeys(filter(None, (parent, standing_target(store, ref), _step_before(store, ref)))):
        try:
            found.append(store.manifest(digest))
        except CkptfmtError:
            continue
    return found


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
    return standing_target(store, best[1]) if best is not None else None
