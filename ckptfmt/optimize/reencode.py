"""Storing objects of standing checkpoints again, smaller: new copies beside the old ones, which gc takes away.

    subject (transfer/references.py)  → what each tensor may be stored against
      → quick: delta, lowrank with known factors, as an import tries them
      → recovery (recovery.py): factors of a lost adapter, found in what was merged
      → shards, each durable before the next tensor: stopped at any time, what was done is done

No manifest changes. What was tried on an object is remembered beside the store, so that a second run goes on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ckptfmt.digest import FRAME_BYTES, Buffer, digest_of
from ckptfmt.encodings.chooser import compare
from ckptfmt.encodings.prediction import Prediction
from ckptfmt.encodings.references import parse_reference
from ckptfmt.encodings.words import Words
from ckptfmt.errors import FormatError
from ckptfmt.format import documents
from ckptfmt.format.manifest import BaseRecord, Manifest, objects_of
from ckptfmt.format.shard import MAX_DEPTH, ShardObject
from ckptfmt.optimize.probe import probe
from ckptfmt.optimize.recovery import SMALLEST, Recovered, recover
from ckptfmt.progress import Progress
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.catalog import Location
from ckptfmt.store.graph import closure, depth, smallest
from ckptfmt.store.object_writer import Against, Incoming
from ckptfmt.store.outside import all_outside
from ckptfmt.store.publish import pinned
from ckptfmt.store.shards import ShardWriter, shard_key
from ckptfmt.store.store import Store
from ckptfmt.transfer.likely import find_likely, trusted_files
from ckptfmt.transfer.matching import Filling
from ckptfmt.transfer.predicting import Known
from ckptfmt.transfer.recent import Recent
from ckptfmt.transfer.references import (
    DELTA,
    LOWRANK,
    Like,
    References,
    Subject,
    like_of,
    standing,
)
from ckptfmt.transfer.sinks import Place

_QUICK: Final = "optimized-quick"
_SEARCHED: Final = "optimized-searched"
_MUST_SAVE: Final = 0.9
_SHORTEST_SIDE: Final = 32
_FLUSH_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Optimized:
    """What storing a checkpoint again came to.

    Attributes:
        before: bytes that its objects, and those that they are stored against, took.
        after: bytes that they take now.
        tried: objects that were looked at.
        smaller: objects that were stored again.
        recovered: of these, those whose adapter was found again.
    """

    before: int
    after: int
    tried: int
    smaller: int
    recovered: int


@dataclass(slots=True)
class _Tally:
    tried: int = 0
    smaller: int = 0
    recovered: int = 0


def optimize(
    store: Store,
    digest: str,
    name: str,
    *,
    recovery: bool,
    again: bool,
    device: str,
    progress: Progress,
    given: tuple[Known, ...] = (),
) -> Optimized:
    """Store the objects of a checkpoint again where that makes them smaller.

    Args:
        store: where it is.
        digest: id of its manifest.
        name: its ref, which says what came before it.
        recovery: look for lost adapters too, which takes seconds to minutes a tensor.
        again: try also what was tried before.
        device: where to look, as torch names it.
        progress: told of decoded bytes; may raise to stop: what was stored by then stays.
        given: adapters that may have been merged into it, beside those of the store.

    Raises:
        NotFound, IntegrityError: the checkpoint cannot be read.
        StorageError: the disk is full, or refuses; what was stored by then stays.
    """
    manifest = store.manifest(digest)
    before = _taken(_copies(store, manifest))
    tally = _Tally()
    with pinned(store, digest), ThreadPoolExecutor(os.cpu_count() or 1, "encode") as pool:
        work = _Work(store, manifest, digest, name, pool, recovery=recovery, device=device, again=again, given=given)
        places = [place for place in work.subject.tensors if any(work.to_try(place))]
        progress.begin(f"optimize {name}", sum(work.subject.tensors[place].length for place in places))
        try:
            for place in places:
                work.improve(place, tally)
                progress.advance(work.subject.tensors[place].length)
        finally:
            work.close()
        progress.end()
    copies = _copies(store, manifest)
    # What an earlier run wrote, that was stopped, is seen and need not be durable.
    store.storage.settle({shard_key(copy.shard) for copy in copies})
    return Optimized(before, _taken(copies), tally.tried, tally.smaller, tally.recovered)


def _copies(store: Store, manifest: Manifest) -> list[Location]:
    """The smallest copies of all that a checkpoint needs."""
    return list(smallest(store.catalog().find_many, objects_of(manifest)).values())


def _taken(copies: list[Location]) -> int:
    return sum(copy.stored.stored_bytes() for copy in copies)


class _Work:
    """One checkpoint's tensors, and the writer that takes what is smaller."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        digest: str,
        name: str,
        pool: Executor,
        *,
        recovery: bool,
        device: str,
        again: bool,
        given: tuple[Known, ...],
    ) -> None:
        self._store = store
        self._pool = pool
        self._recovery = recovery
        self._device = device
        self._again = again
        self._catalog = store.catalog()
        self._objects = store.objects(all_outside(store, manifest.base))
        self.subject = standing(manifest, self._objects)
        like, outside = _like(store, self.subject, manifest, digest, name)
        like = Like(like.models, (*given, *like.adapters))
        self._models, self._all = _stamps(like)
        self._references = References(store, self.subject, like, outside)
        self._writer = self._new_writer()
        self._waiting = 0
        self._tried: list[str] = []

    def _new_writer(self) -> ShardWriter:
        def written(shard: str, size: int, objects: tuple[ShardObject, ...]) -> None:
            self._store.facts().add_shard(shard, size, objects)

        return ShardWriter(
            self._store.storage, effort="balanced", pool=self._pool, remaining=lambda: 1 << 20, written=written
        )

    def close(self) -> None:
        """Make durable what was written, unless writing failed, and remember what was tried."""
        try:
            self._flush()
        finally:
            self._writer.abort()

    def _flush(self) -> None:
        self._writer.flush()
        if not self._writer.failed:
            facts = self._store.facts()
            facts.remember(_QUICK, [(digest, self._all, b"") for digest in self._tried])
            if self._recovery:
                facts.remember(_SEARCHED, [(digest, self._models, b"") for digest in self._tried])
            self._tried.clear()

    def to_try(self, place: Place) -> tuple[bool, bool]:
        """What no earlier run did with the same models and adapters: store quickly, search for factors."""
        digest, facts = self.subject.taken[place], self._store.facts()
        quick = self._again or facts.fact(_QUICK, digest, self._all) is None
        searched = not self._again and facts.fact(_SEARCHED, digest, self._models) is not None
        return quick, self._recovery and not searched

    def improve(self, place: Place, tally: _Tally) -> None:
        """Store a tensor again where that is smaller."""
        filling, digest = self.subject.tensors[place], self.subject.taken[place]
        copies = self._catalog.find(digest)
        if not copies or filling.length < 1 << 12:
            return
        tally.tried += 1
        may_store, may_search = self.to_try(place)
        now = copies[0].stored.stored_bytes()
        against = [each for each in self._references(place) if digest not in each.reaches]
        quick = self._quick(place, filling, against, now) if may_store else None
        if quick is not None:
            self._write(digest, filling, [quick])
            tally.smaller += 1
            now = self._writer.stored(digest).stored_bytes()
        if may_search and copies[0].stored.encoding != LOWRANK and (quick is None or quick.encoding != LOWRANK):
            found = self._recovered(digest, filling, against, now)
            if found is not None:
                self._settle()
                self._write(digest, filling, [found])
                tally.smaller += 1
                tally.recovered += 1
        self._tried.append(digest)
        self._waiting += now
        if self._waiting > _FLUSH_BYTES:
            self._settle()

    def _quick(self, place: Place, filling: Filling, against: list[Against], now: int) -> Against | None:
        """What makes a tensor clearly smaller than it is stored now, judged by a sample."""
        if not against:
            return None
        head = self.subject.head(place)
        best: tuple[int, Against | None] = (0, None)
        plain, sizes = compare(head, filling.dtype, [(each.encoding, each.basis) for each in against])
        for each, size in zip(against, sizes, strict=True):
            if size < plain and (best[1] is None or size < _MUST_SAVE * best[0]):
                best = (size, each)
        sampled = min(len(head), 64 << 10)
        return best[1] if best[0] / sampled * filling.length < _MUST_SAVE * now else None

    def _recovered(self, digest: str, filling: Filling, against: list[Against], now: int) -> Against | None:
        """Factors that are found again, stored, and what the tensor is then stored against."""
        fits = filling.is_matrix and min(filling.shape) >= _SHORTEST_SIDE and math.prod(filling.shape) >= SMALLEST
        grounds = [each for each in against if each.encoding == DELTA]
        if not fits or not grounds:
            return None
        merged = _words(b"".join(map(bytes, self._objects.frames(digest, filling.length))), filling)
        looked = self._looked_for(merged, grounds, filling, now)
        if looked is None:
            return None
        ground, found, prediction = looked
        factors = [self._put(words, found.factor_element) for words in (found.left, found.right)]
        self._settle()
        return self._against(prediction.name, (*ground.dependencies, *factors), filling.length)

    def _looked_for(
        self, merged: Words, grounds: list[Against], filling: Filling, now: int
    ) -> tuple[Against, Recovered, Prediction] | None:
        """Factors, and what they are added to. Numbers that the search cannot work with are none that are found."""
        try:
            ranks = {}
            for each in grounds:
                seen = probe(_words(each.basis(0, filling.length).words, filling), merged, filling.dtype)
                if seen.low_rank:
                    ranks[seen.rank] = each
            if not ranks:
                return None
            ground = ranks[min(ranks)]
            base = _words(ground.basis(0, filling.length).words, filling)
            found = recover(base, merged, filling.dtype, at_most_bits=8 * now, device=self._device)
            if found is None or found.bits / 8 > _MUST_SAVE * now:
                return None
            return ground, found, found.prediction(parse_reference(ground.reference))
        except (LinAlgError, ArithmeticError, ValueError, FormatError):
            return None

    def _put(self, words: Words, element: str) -> str:
        data = words.tobytes()
        target = self._writer.begin(Incoming(len(data), element, tuple(words.shape)))
        for begin in range(0, len(data), FRAME_BYTES):
            target.append(data[begin : begin + FRAME_BYTES])
        digest = target.finish()
        if digest is None:
            raise ValueError("an object that is stored against nothing is always taken")
        return digest

    def _against(self, reference: str, dependencies: tuple[str, ...], length: int) -> Against | None:
        direct = self._catalog.dependencies
        if any(depth(direct, each) >= MAX_DEPTH for each in set(dependencies)):
            return None
        basis = self._objects.basis(BasisOf(LOWRANK, reference, dependencies, length))
        return Against(
            LOWRANK, reference, dependencies, basis, frozenset(closure(direct, dependencies) | set(dependencies))
        )

    def _write(self, digest: str, filling: Filling, against: Iterable[Against]) -> None:
        incoming = Incoming(filling.length, filling.dtype, filling.shape, digest, tuple(against))
        target = self._writer.begin(incoming)
        for frame in self._objects.frames(digest, filling.length):
            target.append(frame)
        target.finish()

    def _settle(self) -> None:
        """Make durable what was written. A writer takes an object once: what comes again needs another."""
        self._flush()
        self._writer = self._new_writer()
        self._waiting = 0


def _like(store: Store, subject: Subject, manifest: Manifest, digest: str, name: str) -> tuple[Like, BaseFiles | None]:
    """What a standing checkpoint is likely to be made from, and the files of its base where they are what was recorded.

    A copy against a base elsewhere stands beside one that needs none: gc keeps that one, wherever there is one.
    """
    models: list[BaseRecord | Manifest] = []
    outside = None
    if manifest.base is not None:
        models.append(store.record(manifest.base.record))
        outside = trusted_files(store, manifest.base)
    recent = Recent(store)
    if not models and (likely := find_likely(recent, subject, but=frozenset({digest}))):
        models.append(likely.document)
        outside = likely.outside
    return like_of(recent, subject, name, models, but=manifest), outside


def _stamps(like: Like) -> tuple[str, str]:
    """What stands for the models that tensors are compared with, and for these and the adapters."""
    models = sorted(digest_of(documents.encode(document)) for document in like.models)
    updates = [update for known in like.adapters for update in known.updates.values()]
    factors = sorted({f"{update.left.digest}{update.right.digest}" for update in updates})
    return digest_of("".join(models).encode()), digest_of("".join([*models, *factors]).encode())


def _words(data: Buffer, filling: Filling) -> Words:
    word = "<u4" if filling.dtype == "F32" else "<u2"
    return np.frombuffer(data, word).reshape(filling.shape)
