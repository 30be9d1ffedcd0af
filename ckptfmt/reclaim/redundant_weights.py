"""Which full weights are redundant: those beside their adapters, exact copies, exports and stages of one model. Pure.

Whatever is claimed here has to be rebuilt from the store before it may go; what a wrong claim would cost is a
checkpoint that has to be restored. Still none is made on a guess.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckptfmt.layouts.listing import split
from ckptfmt.layouts.peft import CONFIG
from ckptfmt.reclaim.claims import Claims, KnownBase, Why, base_at, claim
from ckptfmt.reclaim.evidence import Evidence
from ckptfmt.reclaim.exports import claim_exports
from ckptfmt.reclaim.found import CheckpointSeen, FileSeen
from ckptfmt.reclaim.models import full_weights, main_file, model_of, resumes, staying_order, weight_files
from ckptfmt.reclaim.prints import Prints
from ckptfmt.reclaim.rows import KeepWeights
from ckptfmt.transfer.build import touched


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
    prints = Prints(seen, evidence)
    _beside_adapters(seen, prints, known, claims)
    _duplicates(seen, evidence, known, claims)
    claim_exports(seen, prints, known, claims)
    return claims


def _beside_adapters(
    seen: Sequence[CheckpointSeen], prints: Prints, known: Sequence[KnownBase], claims: Claims
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
            claim(claims, seen, index, files, Why("base-copy", reason, "samples", "adapter"))
            claims.relatives[index] = same
            if (base := base_at(seen[same], known)) is not None:
                claims.origins[index] = base
        else:
            where = _listed(each.adapters, each)
            reason = f"full weights beside the adapter that makes them ({where})"
            claim(claims, seen, index, files, Why("beside-adapter", reason, "headers", "adapter"))


def _listed(adapters: Sequence[str], seen: CheckpointSeen) -> str:
    names = [os.path.relpath(f"/{path}", f"/{seen.root}") for path in adapters]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _same_model(index: int, leaves: frozenset[str], prints: Prints, bases: set[int]) -> int | None:
    """A model without adapters that this one is, one of `bases` if any of them is.

    `leaves` are what its adapters touch, where a merged one differs.
    """
    others = sorted(prints.plain(index), key=lambda other: other not in bases)
    return next((other for other in others if other != index and prints.same(index, other, leaves)), None)


def _duplicates(seen: Sequence[CheckpointSeen], evidence: Evidence, known: Sequence[KnownBase], claims: Claims) -> None:
    """Checkpoints all of whose weights are those of another, byte for byte."""
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for index, each in enumerate(seen):
        files = weight_files(each)
        if files and index not in claims.claimed:
            one = main_file(each) is not None
            form = tuple(sorted(("" if one else split(file.path)[1], file.size) for file in files))
            groups.setdefault(form, []).append(index)
    for group in groups.values():
        kept: list[int] = []
        for index in sorted(group, key=lambda i: staying_order(seen[i], base=i in claims.bases)):
            same = next((other for other in kept if _identical(seen[index], seen[other], evidence)), None)
            if same is None or index in claims.bases:
                kept.append(index)
                continue
            files = tuple(f for f in weight_files(seen[index]) if not _linked(f, weight_files(seen[same])))
            if files:
                goes: KeepWeights = "none" if resumes(seen[index]) else "full"
                reason = f"the same bytes as {seen[same].shown}"
                claim(claims, seen, index, files, Why("duplicate", reason, "identical", goes))
                if not seen[index].adapters and (base := base_at(seen[same], known)) is not None:
                    claims.origins[index] = base
            claims.claimed.add(index)


def _linked(file: FileSeen, others: Sequence[FileSeen]) -> bool:
    return any(file.node == other.node for other in others)


def _identical(one: CheckpointSeen, other: CheckpointSeen, evidence: Evidence) -> bool:
    pairs = zip(_by_name(one), _by_name(other), strict=True)
    return all(
        a.node == b.node or evidence.same_files(f"{one.top}/{a.path}", f"{other.top}/{b.path}") for a, b in pairs
    )


def _by_name(seen: CheckpointSeen) -> list[FileSeen]:
    return sorted(weight_files(seen), key=lambda file: split(file.path)[1])
