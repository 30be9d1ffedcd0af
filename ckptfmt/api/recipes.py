"""What a merge would merge, in order: found from manifests alone, so that it can be shown before anything is read."""

from __future__ import annotations

import math
from functools import cache

import msgspec
from msgspec import structs

from ckptfmt.api.shared import is_kept, standing_refs
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import BaseRecord, Binding, How, Manifest, logical_bytes
from ckptfmt.format.refs import BASES
from ckptfmt.merge.plan import CAST, DTYPES
from ckptfmt.merge.recipe import resolve_recipe
from ckptfmt.store.bases import all_bases, places_of
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store


class RecipeStep(msgspec.Struct, frozen=True):
    """One adapter that is merged.

    `refs` name its manifest now; `how` says how its stage goes on from the one before, `dtype` what the model is held
    in while it is merged (`output`: the dtype that is written; null: the base's own); `rank` is null where its method
    has none.
    """

    manifest: str
    refs: tuple[str, ...]
    stage: int | None
    adapter: str
    method: str
    rank: int | None
    weight: float
    how: How | None
    dtype: str | None


class RecipeReport(msgspec.Struct, frozen=True):
    """What a merge of `ref` merges onto what.

    `base` is what it was called when it was bound, `base_now` what its record is called now (null: no name stands for
    it); `kept` tells whether the store holds all of its bytes, `path` where they were last seen else. `base_bytes` is
    about what a merge writes that keeps the base's dtypes, `cast_bytes` the same for each dtype it may be given.
    `stages` counts superseded ones too.
    """

    ref: str
    base: str
    base_now: str | None
    base_root: str
    base_bytes: int
    cast_bytes: dict[str, int]
    binding: Binding
    evidence: str
    kept: bool
    path: str | None
    stages: int
    steps: tuple[RecipeStep, ...]
    trained_on: str | None


def refusals(store: Store) -> dict[str, str]:
    """See `Store.refusals`."""

    @cache  # Lineages share their ancestors.
    def load(digest: str) -> Manifest:
        return structs.replace(store.manifest_uncached(digest), files=(), tensors=())

    found = {}
    for generation in standing_refs(store, pass_over):
        if generation.target is None or generation.name.startswith(BASES):
            continue
        try:
            resolve_recipe(generation.target, load, name=generation.name)
        except CkptfmtError as error:
            found[generation.name] = error.message.removeprefix(generation.name).removeprefix(":").strip()
    return found


def recipe(store: Store, name: str, how: How | None = None) -> RecipeReport:
    """See `Store.recipe`."""
    digest, _ = store.resolve(name)
    found = resolve_recipe(digest, store.manifest, name=name, how=how)
    refs_of: dict[str, list[str]] = {}
    for generation in standing_refs(store, pass_over):
        refs_of.setdefault(generation.target or "", []).append(generation.name)
    steps = []
    for item in found.ingredients:
        lineage = store.manifest(item.manifest).lineage
        rank = item.adapter.config.get("r")
        steps.append(
            RecipeStep(
                manifest=item.manifest,
                refs=tuple(sorted(refs_of.get(item.manifest, ()))),
                stage=lineage.stage if lineage else None,
                adapter=item.adapter.name,
                method=item.adapter.method,
                rank=rank if isinstance(rank, int) else None,
                weight=item.weight,
                how=lineage.how if lineage else None,
                dtype=item.dtype,
            )
        )
    link = found.base
    record = store.record(link.record)
    own_bytes = logical_bytes(record)
    names = [base.name for base in all_bases(store, pass_over) if base.digest == link.record]
    places = places_of(store, link.record)
    return RecipeReport(
        ref=name,
        base=link.name,
        base_now=link.name if link.name in names else next(iter(names), None),
        base_root=link.root,
        base_bytes=own_bytes,
        cast_bytes={word: own_bytes + _grows(record, dtype) for word, dtype in DTYPES.items()},
        binding=link.binding,
        evidence=link.evidence,
        kept=is_kept(store, link.record),
        path=places[0] if places else None,
        stages=found.stages,
        steps=tuple(steps),
        trained_on=found.trained_on,
    )


def _grows(record: BaseRecord, dtype: str) -> int:
    """Bytes that a base takes more in another dtype; less than 0: that it takes less."""
    cast = [tensor for tensor in record.tensors if tensor.dtype in CAST]
    return sum((BITS[dtype] - BITS[tensor.dtype]) * math.prod(tensor.shape) // 8 for tensor in cast)
