"""Full models that were made of one base: exports of a sweep, stages saved merged. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.layouts.trainer import CHECKPOINT
from ckptfmt.reclaim.claims import Claims, KnownBase, Why, base_at, claim
from ckptfmt.reclaim.found import CheckpointSeen
from ckptfmt.reclaim.models import full_weights, resumes, staying_order
from ckptfmt.reclaim.prints import Prints
from ckptfmt.reclaim.rows import Kind

_EXPORTS: Final = frozenset({"hf-full", "stage", "torchtune"})


@dataclass(frozen=True, slots=True)
class _Origin:
    """What the models of a family were made from.

    Attributes:
        shown: what reasons call it.
        stays: the checkpoints, by index, that it is; none where only a store has it.
        like: a checkpoint, by index, that has matrices of it: the first of `stays`, or one that was made from it.
        stored: the base of the store that it is; None where no store knows it.
    """

    shown: str
    stays: tuple[int, ...]
    like: int
    stored: KnownBase | None


def claim_exports(seen: Sequence[CheckpointSeen], prints: Prints, known: Sequence[KnownBase], claims: Claims) -> None:
    """Full models of the same tensors that share matrices: what was made of one base.

    What stays is added to the bases of `claims`.
    """
    hints = {hint for each in seen for hint in each.hints}
    candidates = [index for index in _exported(seen) if index not in claims.claimed]
    for family in _with_casts(list(_families(candidates, prints)), prints):
        origin = _known_origin(family, seen, prints, known, claims.bases) or _likeliest(family, seen, hints)
        if origin is None:
            continue
        claims.bases.update(origin.stays)
        made = [index for index in family if index not in origin.stays]
        for index in made:
            if origin.stored is not None and (index == origin.like or prints.share(index, origin.like)):
                claims.origins[index] = origin.stored
            if origin.stays:
                claims.relatives[index] = origin.like
                exact = prints.same_tensors(index, origin.like)
            else:
                exact = origin.stored is not None and prints.is_base(index, origin.stored)
            _claim_export(claims, seen, index, origin.shown, len(made), exact=exact)


def _exported(seen: Sequence[CheckpointSeen]) -> list[int]:
    """Full models that are no part of a training that goes on."""
    trained = {os.path.dirname(each.shown) for each in seen if CHECKPOINT.fullmatch(os.path.basename(each.shown))}
    return [
        index
        for index, each in enumerate(seen)
        if each.layout in _EXPORTS
        and not each.adapters
        and not resumes(each)
        and each.shown not in trained
        and full_weights(each)
    ]


def _known_origin(
    family: Sequence[int],
    seen: Sequence[CheckpointSeen],
    prints: Prints,
    known: Sequence[KnownBase],
    bases: set[int],
) -> _Origin | None:
    """A base among them, else one of the store; None where there is neither."""
    if stays := tuple(index for index in family if index in bases):
        return _Origin(seen[stays[0]].shown, stays, stays[0], base_at(seen[stays[0]], known))
    for base in known:
        for index in family:
            if prints.made_from(index, base):
                return _Origin(f"base {base.name!r} of the store", (), index, base)
    return None


def _likeliest(family: Sequence[int], seen: Sequence[CheckpointSeen], hints: set[str]) -> _Origin | None:
    """The one of them that looks most like a base; None for one alone."""
    if len(family) == 1:
        return None
    root = min(family, key=lambda index: (not _hinted(seen[index], hints), *staying_order(seen[index], base=False)))
    return _Origin(seen[root].shown, (root,), root, None)


def _claim_export(
    claims: Claims, seen: Sequence[CheckpointSeen], index: int, origin: str, count: int, *, exact: bool
) -> None:
    stage = seen[index].stage
    if exact:
        reason = f"an exact copy of {origin}, saved in other files: every tensor is the same"
        claim(claims, seen, index, full_weights(seen[index]), Why("base-copy", reason, "identical", "adapter"))
        return
    if stage is not None:
        kind: Kind = "merged-stage"
        reason = f"stage {stage} saved merged: it shares matrices with {origin}"
    else:
        kind = "export"
        reason = f"a full export that shares matrices with {origin}"
        reason += f", as {count - 1} {'others do' if count > 2 else 'other does'}" if count > 1 else ""
    claim(claims, seen, index, full_weights(seen[index]), Why(kind, reason, "samples", "adapter"))


def _families(candidates: Sequence[int], prints: Prints) -> Iterator[list[int]]:
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


def _with_casts(families: list[list[int]], prints: Prints) -> list[list[int]]:
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


def _one_a_type(family: Sequence[int], prints: Prints) -> list[int]:
    return list({prints.dtypes(index): index for index in reversed(family)}.values())


def _hinted(seen: CheckpointSeen, hints: set[str]) -> bool:
    """Whether adapters name this directory as their base."""
    return any(
        hint == seen.shown or seen.shown.endswith(f"/{hint.removeprefix('./').strip('/')}") for hint in hints if hint
    )
