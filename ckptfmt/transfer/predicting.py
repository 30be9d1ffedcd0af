"""Which known adapter was merged into a checkpoint, and how: tried on a few rows, then used for every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.transfer.matching import Held, Key, Match, matches
from ckptfmt.transfer.updates import Factors, Predicted, predictions, update_of

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis

_TRIED_TENSORS: Final = 3
_TRIED_BYTES: Final = 64 << 10
_KEPT: Final = 2
_MUST_PREDICT: Final = 0.5
"""Of the elements that differ from the base, what a prediction has to get right on the rows that are tried."""

Open = Callable[[Predicted, int], "Callable[[int, int], Basis] | None"]
"""Gives what makes the basis of a prediction of so many bytes; None where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Known:
    """An adapter whose factors are objects: what to call it, and its updates by module."""

    name: str
    updates: Mapping[str, Factors]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor that is to be stored: what it is looked for by, and its first bytes."""

    key: Key
    dtype: str
    shape: tuple[int, ...]
    length: int
    head: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class _Way:
    """How a merge was made: with which adapter, onto which model, held in which dtype, rounded by which rule."""

    adapter: int
    model: int
    held: str
    rule: str


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

    def of(self, wanted: Wanted) -> Iterator[Predicted]:
        """What a merge of a known adapter would have made of a tensor, in the ways that fitted before."""
        if wanted.key[0] != "model" or len(wanted.shape) != 2:
            return
        if not self._ways:
            if self._tries >= _TRIED_TENSORS:
                return
            known = self._known()
            if not any(update_of(wanted.key[2], each.updates) for each in known):
                return
            self._tries += 1
            self._ways = self._try(wanted, known)
        for way in self._ways:
            for found, predicted in self._all(wanted, self._known(), way):
                if found == way:
                    yield predicted

    def _try(self, wanted: Wanted, known: Sequence[Known]) -> list[_Way]:
        """The ways that predict the first rows of a tensor best."""
        head = wanted.head()[:_TRIED_BYTES]
        shares: dict[_Way, float] = {}
        for way, predicted in self._all(wanted, known, None):
            share = self._wrong(predicted, wanted, head)
            if share is not None and share < min(1 - _MUST_PREDICT, shares.get(way, 1.0)):
                shares[way] = share
        return sorted(shares, key=lambda way: shares[way])[:_KEPT]

    def _wrong(self, predicted: Predicted, wanted: Wanted, head: bytes) -> float | None:
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

    def _all(self, wanted: Wanted, known: Sequence[Known], only: _Way | None) -> Iterator[tuple[_Way, Predicted]]:
        for index, adapter in enumerate(known):
            if only is not None and only.adapter != index:
                continue
            factors = update_of(wanted.key[2], adapter.updates)
            if factors is None:
                continue
            for model, held in enumerate(self._models):
                if only is not None and only.model != model:
                    continue
                for match, dtype in _bases(wanted, held):
                    for predicted in predictions(wanted.dtype, wanted.shape, [(match, dtype)], factors, self._read):
                        yield _Way(index, model, dtype, predicted.rule), predicted


def _bases(wanted: Wanted, held: Mapping[Key, Held]) -> Iterator[tuple[Match, str]]:
    """What the update may have been added to: the base in the tensor's dtype, or in float32."""
    for dtype in dict.fromkeys((wanted.dtype, "F32")):
        match = next(iter(matches(wanted.key, dtype, wanted.shape, held)), None)
        if match is not None:
            yield match, dtype
