"""Which full weights are redundant: those beside their adapters, exact copies, exports and stages of one model. Pure.

Whatever is claimed here has to be rebuilt from the store before it may go; what a wrong claim would cost is a
checkpoint that has to be restored. Still none is made on a guess.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ckptfmt.layouts.listing import natural, split
from ckptfmt.layouts.peft import CONFIG
from ckptfmt.layouts.trainer import CHECKPOINT, STATE
from ckptfmt.layouts.weights import has_weights
from ckptfmt.reclaim.evidence import Evidence
from ckptfmt.reclaim.found import CheckpointSeen, FileSeen, TensorSeen
from ckptfmt.reclaim.rows import KeepWeights, Kind, Proof, Row
from ckptfmt.transfer.build import touched

ONE_FILE: Final = frozenset({"universal", "training-pt"})
"""Layouts of checkpoints that are one file: model, optimizer and all."""

_EXPORTS: Final = frozenset({"hf-full", "stage", "torchtune"})
_BASE_NAMES: Final = re.compile(r"base|pretrained|pre-trained|original|foundation", re.IGNORECASE)
_MADE_NAMES: Final = re.compile(
    r"\d|merged|stage|run|epoch|step|tuned|sft|dpo|final|best|export|hf_model|copy|backup", re.IGNORECASE
)
_FIRST: Final = re.compile(r"embed|wte|lm_head")
"""Tensors that adapters mostly leave alone: they tell first whether two models are one."""
_MOST_COMPARED: Final = 256
_MOST_DIGESTS: Final = 8


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base that a store knows: digests of its tensors by name, dtype and shape; directories and files of it."""

    name: str
    record: str
    tensors: Mapping[tuple[str, str, tuple[int, ...]], str]
    places: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()


@dataclass(slots=True)
class Claims:
    """What the rules found.

    Attributes:
        rows: the redundant files.
        claimed: checkpoints, by index, whose full weights are among them.
        relatives: for a claimed checkpoint the one, by index, that it would be stored against; it stays.
        bases: checkpoints, by index, that others were made from or that a store refers to: these always stay.
        origins: for a claimed checkpoint, by index, the base of a store that it was made from.
    """

    rows: list[Row] = field(default_factory=list)
    claimed: set[int] = field(default_factory=set)
    relatives: dict[int, int] = field(default_factory=dict)
    bases: set[int] = field(default_factory=set)
    origins: dict[int, KnownBase] = field(default_factory=dict)


def full_weights(seen: CheckpointSeen) -> tuple[FileSeen, ...]:
    """The files that hold a checkpoint's model and nothing else: shards, their index, a second set in another form."""
    roles: dict[str, set[str]] = {}
    for tensor in seen.tensors:
        roles.setdefault(tensor.path, set()).add(tensor.role)
    models = {path for path, found in roles.items() if "model" in found and not found & {"adapter", "optimizer"}}
    places = {split(path)[0] for path in models if has_weights([split(path)[1]])}
    return tuple(
        file
        for file in seen.files
        for directory, name in [split(file.path)]
        if directory in places
        and has_weights([name])
        and (name.endswith(".json") or (file.path in roles and not roles[file.path] & {"adapter", "optimizer"}))
    )


def main_file(seen: CheckpointSeen) -> FileSeen | None:
    """The file of a checkpoint that is one file."""
    if seen.layout not in ONE_FILE:
        return None
    holding = {tensor.path for tensor in seen.tensors if tensor.role == "model"}
    found = [file for file in seen.files if file.path in holding]
    return found[0] if len(found) == 1 else None


def resumes(seen: CheckpointSeen) -> bool:
    """Whether a Trainer resumes from this directory."""
    prefix = f"{seen.root}/" if seen.root else ""
    return any(file.path == f"{prefix}{STATE}" for file in seen.files)


def model_of(seen: CheckpointSeen) -> tuple[TensorSeen, ...]:
    """The tensors of its model."""
    return tuple(tensor for tensor in seen.tensors if tensor.role == "model")


def claim_weights(seen: Sequence[CheckpointSeen], evidence: Evidence, known: Sequence[KnownBase]) -> Claims:
    """Find the redundant full weights among checkpoints.

    Args:
        seen: the checkpoints of a survey.
        evidence: compares contents.
        known: bases of a store.
    """
    claims = Claims()
    places = {place for base in known for place in base.places}
    claims.bases |= {index for index, each in enumerate(seen) if each.path in places}
    prints = _Prints(seen, evidence)
    _beside_adapters(seen, prints, known, claims)
    _duplicates(seen, evidence, known, claims)
    _exports(seen, prints, known, claims)
    return claims


@dataclass(frozen=True, slots=True)
class _Why:
    """Why files are claimed: fields as in `Row`."""

    kind: Kind
    reason: str
    proof: Proof
    goes: KeepWeights


def _claim(claims: Claims, seen: Sequence[CheckpointSeen], index: int, files: Sequence[FileSeen], why: _Why) -> None:
    claims.rows += [
        Row(f"{seen[index].top}/{f.path}", f, f.size, why.kind, why.reason, why.proof, why.goes, checkpoint=index)
        for f in files
    ]
    claims.claimed.add(index)


def _at(seen: CheckpointSeen, known: Sequence[KnownBase]) -> KnownBase | None:
    """The base of the store whose files a checkpoint is."""
    return next((base for base in known if seen.path in base.places), None)


def _beside_adapters(
    seen: Sequence[CheckpointSeen], prints: _Prints, known: Sequence[KnownBase], claims: Claims
) -> None:
    """Full weights in the same checkpoint as adapters of that very model."""
    for index, each in enumerate(seen):
        if index in claims.bases or not each.adapters or not (files := full_weights(each)):
            continue
        model = {tensor.name for tensor in model_of(each)}
        factors = [tensor.name for tensor in each.tensors if tensor.role == "adapter"]
        configured = {split(file.path)[0] for file in each.files if split(file.path)[1] == CONFIG}
        leaves = [touched(name, model) for name in factors]
        if not leaves or configured.isdisjoint(each.adapters) or any(leaf is None for leaf in leaves):
            continue
        if (same := _same_model(index, frozenset(filter(None, leaves)), prints, claims.bases)) is not None:
            reason = (
                f"the base model copied beside the adapter: all of its sampled tensors are those of {seen[same].shown}"
            )
            _claim(claims, seen, index, files, _Why("base-copy", reason, "samples", "adapter"))
            claims.relatives[index] = same
            if (base := _at(seen[same], known)) is not None:
                claims.origins[index] = base
        else:
            where = _listed(each.adapters, each)
            reason = f"full weights beside the adapter that makes them ({where})"
            _claim(claims, seen, index, files, _Why("beside-adapter", reason, "headers", "adapter"))


def _listed(adapters: Sequence[str], seen: CheckpointSeen) -> str:
    names = [os.path.relpath(f"/{path}", f"/{seen.root}") for path in adapters]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


class _Prints:
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
                _matrices(self._seen[index]), key=lambda t: (_FIRST.search(t.name) is None, -t.length, t.name)
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
        mine = {tensor.name: tensor for tensor in _matrices(self._seen[index])}
        theirs = {tensor.name: tensor for tensor in _matrices(self._seen[other])}
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
        mine = {tensor.name: tensor for tensor in _matrices(self._seen[index])}
        theirs = {tensor.name: tensor for tensor in _matrices(self._seen[other])}
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
        telling = [each for each in _matrices(seen) if self._evidence.tensor(seen.top, each) is not None]
        telling.sort(key=lambda tensor: (_FIRST.search(tensor.name) is None, tensor.length, tensor.name))
        return any(self._evidence.digest(seen.top, each) == base.tensors[each.form] for each in telling[:_MOST_DIGESTS])


def _matrices(seen: CheckpointSeen) -> list[TensorSeen]:
    return [tensor for tensor in model_of(seen) if len(tensor.shape) > 1 and tensor.plain]


def _same_model(index: int, leaves: frozenset[str], prints: _Prints, bases: set[int]) -> int | None:
    """A model without adapters that this one is, one of `bases` if any of them is.

    `leaves` are what its adapters touch, where a merged one differs.
    """
    others = sorted(prints.plain(index), key=lambda other: other not in bases)
    return next((other for other in others if other != index and prints.same(index, other, leaves)), None)


def _duplicates(seen: Sequence[CheckpointSeen], evidence: Evidence, known: Sequence[KnownBase], claims: Claims) -> None:
    """Checkpoints all of whose weights are those of another, byte for byte."""
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for index, each in enumerate(seen):
        files = _weight_files(each)
        if files and index not in claims.claimed:
            one = main_file(each) is not None
            form = tuple(sorted(("" if one else split(file.path)[1], file.size) for file in files))
            groups.setdefault(form, []).append(index)
    for group in groups.values():
        kept: list[int] = []
        for index in sorted(group, key=lambda i: _staying(seen[i], i in claims.bases)):
            same = next((other for other in kept if _identical(seen[index], seen[other], evidence)), None)
            if same is None or index in claims.bases:
                kept.append(index)
                continue
            files = tuple(f for f in _weight_files(seen[index]) if not _linked(f, _weight_files(seen[same])))
            if files:
                goes: KeepWeights = "none" if resumes(seen[index]) else "full"
                reason = f"the same bytes as {seen[same].shown}"
                _claim(claims, seen, index, files, _Why("duplicate", reason, "identical", goes))
                if not seen[index].adapters and (base := _at(seen[same], known)) is not None:
                    claims.origins[index] = base
            claims.claimed.add(index)


def _weight_files(seen: CheckpointSeen) -> tuple[FileSeen, ...]:
    one = main_file(seen)
    return (one,) if one is not None else full_weights(seen)


def _linked(file: FileSeen, others: Sequence[FileSeen]) -> bool:
    return any(file.node == other.node for other in others)


def _identical(one: CheckpointSeen, other: CheckpointSeen, evidence: Evidence) -> bool:
    pairs = zip(_by_name(one), _by_name(other), strict=True)
    return all(
        a.node == b.node or evidence.same_files(f"{one.top}/{a.path}", f"{other.top}/{b.path}") for a, b in pairs
    )


def _by_name(seen: CheckpointSeen) -> list[FileSeen]:
    return sorted(_weight_files(seen), key=lambda file: split(file.path)[1])


def _staying(seen: CheckpointSeen, base: bool) -> tuple[object, ...]:  # noqa: FBT001
    """The order in which checkpoints of equal content stay: bases, what resumes, what is called a base, the first."""
    return (not base, not resumes(seen), _likeness(seen), natural(seen.shown))


def _likeness(seen: CheckpointSeen) -> int:
    """How little a checkpoint is called as a base would be."""
    parts = seen.name.split("/") if seen.name else [os.path.basename(seen.top)]
    if _BASE_NAMES.search(parts[-1]) and not re.search(r"copy|backup|merged", parts[-1], re.IGNORECASE):
        return 0
    return 2 if any(_MADE_NAMES.search(part) for part in parts[-2:]) else 1


def _exports(seen: Sequence[CheckpointSeen], prints: _Prints, known: Sequence[KnownBase], claims: Claims) -> None:
    """Full models of the same tensors that share matrices: what was made of one base."""
    trained = {os.path.dirname(each.shown) for each in seen if CHECKPOINT.fullmatch(os.path.basename(each.shown))}
    candidates = [
        index
        for index, each in enumerate(seen)
        if index not in claims.claimed
        and each.layout in _EXPORTS
        and not each.adapters
        and not resumes(each)
        and each.shown not in trained
        and full_weights(each)
    ]
    hints = {hint for each in seen for hint in each.hints}
    for family in _with_casts(list(_families(candidates, prints)), prints):
        bases = [index for index in family if index in claims.bases]
        made = ((index, base) for base in known for index in family if prints.made_from(index, base))
        first, stored = next(made, (None, None)) if not bases else (None, None)
        if bases or stored is not None:
            claims.bases.update(bases)
            rest = [index for index in family if index not in bases]
            origin = seen[bases[0]].shown if bases else f"base {stored.name!r} of the store" if stored else ""
            whose = _at(seen[bases[0]], known) if bases else stored
            like = bases[0] if bases else first
            if whose is not None and like is not None:
                claims.origins.update((index, whose) for index in rest if index == like or prints.share(index, like))
        elif len(family) > 1:
            root = min(family, key=lambda i: (not _hinted(seen[i], hints), *_staying(seen[i], base=False)))
            claims.bases.add(root)
            bases, rest, origin = [root], [i for i in family if i != root], seen[root].shown
        else:
            continue
        for index in rest:
            if bases:
                claims.relatives[index] = bases[0]
            exact = (
                prints.same_tensors(index, bases[0]) if bases else stored is not None and prints.is_base(index, stored)
            )
            _claim_export(claims, seen, index, origin, len(rest), exact=exact)


def _claim_export(
    claims: Claims, seen: Sequence[CheckpointSeen], index: int, origin: str, count: int, *, exact: bool
) -> None:
    stage = seen[index].stage
    if exact:
        reason = f"an exact copy of {origin}, saved in other files: every tensor is the same"
        _claim(claims, seen, index, full_weights(seen[index]), _Why("base-copy", reason, "identical", "adapter"))
        return
    if stage is not None:
        kind: Kind = "merged-stage"
        reason = f"stage {stage} saved merged: it shares matrices with {origin}"
    else:
        kind = "export"
        reason = f"a full export that shares matrices with {origin}"
        reason += f", as {count - 1} {'others do' if count > 2 else 'other does'}" if count > 1 else ""
    _claim(claims, seen, index, full_weights(seen[index]), _Why(kind, reason, "samples", "adapter"))


def _families(candidates: Sequence[int], prints: _Prints) -> Iterator[list[int]]:
    """Candidates that share matrices with one another, directly or through others."""
    wanted = set(candidates)
    done: set[int] = set()
    for index in candidates:
        if index in done:
            continue
        family, waiting = [], [index]
        done.add(index)
        while waiting:
            current = waiting.pop()
            family.append(current)
            for other in sorted(wanted.intersection(prints.alike(current)) - done):
                if prints.of(current).items() & prints.of(other).items():
                    done.add(other)
                    waiting.append(other)
        yield sorted(family)


def _with_casts(families: list[list[int]], prints: _Prints) -> list[list[int]]:
    """Families joined that are of one model in several float types."""
    joined: list[list[int]] = []
    for family in families:
        for other in joined:
            if any(prints.cast(family[0], index) for index in _one_a_type(other, prints)):
                other.extend(family)
                break
        else:
            joined.append(list(family))
    return [sorted(family) for family in joined]


def _one_a_type(family: Sequence[int], prints: _Prints) -> list[int]:
    return list({prints.dtypes(index): index for index in reversed(family)}.values())


def _hinted(seen: CheckpointSeen, hints: set[str]) -> bool:
    """Whether adapters name this directory as their base."""
    return any(
        hint == seen.shown or seen.shown.endswith(f"/{hint.removeprefix('./').strip('/')}") for hint in hints if hint
    )
