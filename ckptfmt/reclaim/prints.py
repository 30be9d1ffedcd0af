"""Fingerprints of models: which checkpoints have the same matrices, or some, as far as evidence tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ckptfmt.reclaim.claims import KnownBase
from ckptfmt.reclaim.evidence import Evidence
from ckptfmt.reclaim.found import CheckpointSeen
from ckptfmt.reclaim.models import ONE_FILE, full_weights, matrices, model_of, resumes

_FIRST: Final = re.compile(r"embed|wte|lm_head")
"""Tensors that adapters mostly leave alone: they tell first whether two models are one."""
_MOST_COMPARED: Final = 256
_MOST_DIGESTS: Final = 8


class Prints:
    """Fingerprints of the matrices of checkpoints' models, read when they are first asked for."""

    def __init__(self, seen: Sequence[CheckpointSeen], evidence: Evidence) -> None:
        self._seen = seen
        self._evidence = evidence
        self._forms: dict[frozenset[tuple[str, str, tuple[int, ...]]], list[int]] = {}
        self._plain: dict[frozenset[tuple[str, str, tuple[int, ...]]], list[int]] = {}
        self._found: dict[int, dict[str, str]] = {}
        for index, each in enumerate(seen):
            if each.layout not in ONE_FILE and (model := model_of(each)) and full_weights(each):
                form = frozenset(tensor.form for tensor in model)
                self._forms.setdefault(form, []).append(index)
                if not each.adapters and not resumes(each):
                    self._plain.setdefault(form, []).append(index)

    def alike(self, index: int) -> list[int]:
        """The checkpoints whose models have tensors of the same names, dtypes and shapes, itself among them."""
        return self._forms.get(frozenset(tensor.form for tensor in model_of(self._seen[index])), [])

    def plain(self, index: int) -> list[int]:
        """As `alike`, those without adapters that no Trainer resumes from."""
        return self._plain.get(frozenset(tensor.form for tensor in model_of(self._seen[index])), [])

    def of(self, index: int) -> dict[str, str]:
        """Fingerprint by name of those that tell anything: matrices, embeddings first, then the largest."""
        if index not in self._found:
            wanted = sorted(
                matrices(self._seen[index]), key=lambda t: (_FIRST.search(t.name) is None, -t.length, t.name)
            )
            top = self._seen[index].top
            prints = ((t.name, self._evidence.tensor(top, t)) for t in wanted[:_MOST_COMPARED])
            self._found[index] = {name: each for name, each in prints if each is not None}
        return self._found[index]

    def share(self, index: int, other: int) -> bool:
        """Whether two models have tensors of the same names, dtypes and shapes, and a matrix alike."""
        return other in self.alike(index) and bool(self.of(index).items() & self.of(other).items())

    def same(self, index: int, other: int, first: frozenset[str]) -> bool:
        """Whether the matrices of two models of one form agree; those called `first` are compared first."""
        mine = {tensor.name: tensor for tensor in matrices(self._seen[index])}
        theirs = {tensor.name: tensor for tensor in matrices(self._seen[other])}
        told = 0
        for name in sorted(mine, key=lambda name: (name not in first, name))[:_MOST_COMPARED]:
            here = self._evidence.tensor(self._seen[index].top, mine[name])
            if name not in theirs or here != self._evidence.tensor(self._seen[other].top, theirs[name]):
                return False
            told += here is not None
        return told > 0

    def dtypes(self, index: int) -> frozenset[str]:
        """The element types of a model."""
        return frozenset(tensor.dtype for tensor in model_of(self._seen[index]))

    def cast(self, index: int, other: int) -> bool:
        """Whether two models have the same names and shapes in other types, and one of their matrices is cast."""
        mine = {tensor.name: tensor for tensor in matrices(self._seen[index])}
        theirs = {tensor.name: tensor for tensor in matrices(self._seen[other])}
        if self.dtypes(index) == self.dtypes(other) or mine.keys() != theirs.keys():
            return False
        if any(tensor.shape != theirs[name].shape for name, tensor in mine.items()):
            return False
        tops = self._seen[index].top, self._seen[other].top
        names = sorted(mine, key=lambda name: (_FIRST.search(name) is None, name))[:_MOST_COMPARED]
        return any(self._evidence.same_cast(tops[0], mine[name], tops[1], theirs[name]) for name in names)

    def same_tensors(self, index: int, other: int) -> bool:
        """Whether every tensor of two models is the same, byte for byte; all are read where samples agree."""
        if other not in self.alike(index) or not self.same(index, other, frozenset()):
            return False
        tops = self._seen[index].top, self._seen[other].top
        theirs = {tensor.name: tensor for tensor in model_of(self._seen[other])}
        return all(
            (digest := self._evidence.digest(tops[0], each)) is not None
            and digest == self._evidence.digest(tops[1], theirs[each.name])
            for each in model_of(self._seen[index])
        )

    def is_base(self, index: int, base: KnownBase) -> bool:
        """Whether every tensor of a model is the base's, byte for byte; all are read until one differs."""
        seen = self._seen[index]
        if {tensor.form for tensor in model_of(seen)} != set(base.tensors):
            return False
        return all(
            self._evidence.digest(seen.top, each) == base.tensors[each.form]
            for each in sorted(model_of(seen), key=lambda tensor: (tensor.length, tensor.name))
        )

    def made_from(self, index: int, base: KnownBase) -> bool:
        """Whether a model has the base's tensors, and one of its matrices is the base's, byte for byte."""
        seen = self._seen[index]
        if {tensor.form for tensor in model_of(seen)} != set(base.tensors):
            return False
        telling = [each for each in matrices(seen) if self._evidence.tensor(seen.top, each) is not None]
        telling.sort(key=lambda tensor: (_FIRST.search(tensor.name) is None, tensor.length, tensor.name))
        return any(self._evidence.digest(seen.top, each) == base.tensors[each.form] for each in telling[:_MOST_DIGESTS])
