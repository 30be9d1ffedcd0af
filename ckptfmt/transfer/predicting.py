"""Which known adapters were merged into a checkpoint, and how: tried on a few rows, then used for every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.transfer.held import Held, Key
from ckptfmt.transfer.matching import Filling, Match, matches
from ckptfmt.transfer.updates import MOST_STAGES, Factors, Manner, Predicted, noise_of, predictions, updates_of

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis

_TRIED_TENSORS: Final = 3
_TRIED_BYTES: Final = 64 << 10
_KEPT: Final = 2
_MOST_BASES: Final = 3
"""Ways in which one model's tensors may be a base."""
_MOST_WAYS: Final = 6
_FITS: Final = 1e-4
"""Of the elements that are tried, what may be wrong where a way is the one: no other is tried then."""
_MUST_PREDICT: Final = 0.5
"""Of the elements that are tried, what a prediction has to get right."""
_HOPELESS: Final = 0.9
"""Of the elements that are tried, how many another rounding of the same updates does not make right."""

Open = Callable[[Predicted, int], "Callable[[int, int], Basis] | None"]
"""Gives what makes the basis of a prediction of so many bytes; None where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Known:
    """An adapter whose factors are objects, and perhaps others that were merged before it.

    Attributes:
        name: what to call it.
        updates: by module.
        before: updates of the adapters that were merged before it, the first one first.
    """

    name: str
    updates: Mapping[str, Factors]
    before: tuple[Mapping[str, Factors], ...] = ()

    def stages_of(self, name: str) -> list[Factors]:
        """The updates of the tensor `name`, the first one first."""
        return [found for each in (*self.before, self.updates) for found in updates_of(name, each)]


def one_after_another(before: Sequence[Mapping[str, Factors]], last: Known) -> Iterator[Known]:
    """An adapter as merged alone, onto what the adapter before it was merged into, and so on."""
    yield last
    for number in range(1, min(len(before), MOST_STAGES - 1) + 1):
        yield Known(last.name, last.updates, tuple(before[-number:]))


def in_turn(adapters: Sequence[Known]) -> Iterator[Known]:
    """Every few of some adapters, merged one after another in their order."""
    updates = [each.updates for each in adapters]
    for index, last in enumerate(adapters):
        yield from (known for known in one_after_another(updates[:index], last) if known.before)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a merge was made: with which adapters, onto which model, held in which dtype, rounded in which manner."""

    known: int
    model: int
    held: str
    manner: Manner


class Predictor:
    """Finds the predictions of each tensor.

    Args:
        models: tensors of what may have been merged onto.
        known: gives the adapters that can be read by now, the likeliest first.
        open_basis: makes the basis of a prediction.
        read: gives the bytes of a factor.
    """

    def __init__(
        self,
        models: Sequence[Mapping[Key, Held]],
        known: Callable[[], Sequence[Known]],
        open_basis: Open,
        read: Callable[[Held], bytes],
    ) -> None:
        self._models = models
        self._known = known
        self._open = open_basis
        self._read = read
        self._ways: list[_Way] = []
        self._tries = 0
        self._noises: dict[Factors, int | None] = {}

    def of(self, wanted: Filling, head: Callable[[], bytes]) -> Iterator[Predicted]:
        """What a merge of known adapters would have made of a tensor, in the ways that fitted before.

        Args:
            wanted: the tensor.
            head: gives its first bytes.
        """
        if not wanted.is_matrix:
            return
        known = self._known()
        if not any(each.stages_of(wanted.key[2]) for each in known):
            return
        if not any(known[way.known].stages_of(wanted.key[2]) for way in self._ways):
            if self._tries >= _TRIED_TENSORS:
                return
            self._tries += 1
            self._ways += self._try(wanted, known, head()[:_TRIED_BYTES])
        seen = set()
        for way in self._ways:
            for found, predicted in self._all(wanted, known, way):
                if found == way and (predicted.reference, predicted.digests) not in seen:
                    seen.add((predicted.reference, predicted.digests))
                    yield predicted

    def _try(self, wanted: Filling, known: Sequence[Known], head: bytes) -> list[_Way]:
        """The ways that predict the first rows of a tensor best.

        Of those that say the same of this tensor, the one with more adapters comes first: it may say more of others.
        """
        shares: dict[tuple[str, tuple[str, ...]], float] = {}
        ways: dict[_Way, tuple[str, tuple[str, ...]]] = {}
        settled: set[tuple[int, int, str, str]] = set()
        for way, predicted in self._all(wanted, known, None):
            text = (predicted.reference, predicted.digests)
            merge = (way.known, way.model, way.held, predicted.reference.partition("|")[0])
            if merge in settled:
                continue
            if text not in shares:
                share = self._wrong(predicted, wanted, head)
                shares[text] = 1.0 if share is None else share
            if shares[text] < min(1 - _MUST_PREDICT, shares[ways[way]] if way in ways else 1):
                ways[way] = text
            if not _FITS < shares[text] < _HOPELESS:
                settled.add(merge)
        best = sorted(ways, key=lambda way: (shares[ways[way]], -len(known[way.known].before)))
        texts = list(dict.fromkeys(ways[way] for way in best))[:_KEPT]
        return [way for way in best if ways[way] in texts][:_MOST_WAYS]

    def _wrong(self, predicted: Predicted, wanted: Filling, head: bytes) -> float | None:
        """Wrong elements among those tried."""
        import numpy as np  # noqa: PLC0415

        basis_of = self._open(predicted, wanted.length)
        if basis_of is None:
            return None
        word = f"<u{4 if wanted.dtype == 'F32' else 2}"
        try:
            words = np.frombuffer(basis_of(0, len(head)).words, word)
        except CkptfmtError:
            return None
        return float(np.mean(words != np.frombuffer(head, word)))

    def _all(self, wanted: Filling, known: Sequence[Known], only: _Way | None) -> Iterator[tuple[_Way, Predicted]]:
        for index, adapter in enumerate(known):
            if only is not None and only.known != index:
                continue
            stages = adapter.stages_of(wanted.key[2])
            if not stages:
                continue
            for model, held in enumerate(self._models):
                if only is not None and only.model != model:
                    continue
                for match, dtype in _bases(wanted, held):
                    base = (match, dtype)
                    for predicted in predictions(wanted.dtype, wanted.shape, base, stages, self._noise):
                        yield _Way(index, model, dtype, predicted.manner), predicted

    def _noise(self, factors: Factors) -> int | None:
        """None as well where an adapter of the store cannot be read: what may be smaller must not fail an import."""
        if factors not in self._noises:
            try:
                self._noises[factors] = noise_of(factors, self._read)
            except CkptfmtError:
                self._noises[factors] = None
        return self._noises[factors]


def _bases(wanted: Filling, held: Mapping[Key, Held]) -> Iterator[tuple[Match, str]]:
    """What the update may have been added to: the base in the tensor's dtype, or in float32."""
    for dtype in dict.fromkeys((wanted.dtype, "F32")):
        for match in islice(matches(wanted.key, dtype, wanted.shape, held), _MOST_BASES):
            yield match, dtype
