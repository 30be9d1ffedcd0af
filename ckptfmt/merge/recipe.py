"""Recipes: what a model is made of, found from manifests alone, before a byte of a tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ckptfmt.errors import BaseMismatch, IntegrityError, InvalidInput, MergeError, NotFound
from ckptfmt.format.manifest import Adapter, BaseLink, How, Manifest

OUTPUT: Final = "output"
"""Held in the dtype that the merged model is written in."""

_DEFAULT: Final = "default"
_EXPERTS: Final = "experts"
_MAX_STAGES: Final = 10_000

Load = Callable[[str], Manifest]


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One adapter of a recipe.

    Attributes:
        manifest: id of the manifest it lies in.
        adapter: which of its adapters.
        weight: multiplies its update; 1.0 is the adapter as it was trained.
        dtype: what the model is held in while it is merged: bf16, fp16, fp32, `OUTPUT`, or None for the base's own.
    """

    manifest: str
    adapter: Adapter
    weight: float = 1.0
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A base and the adapters that are merged onto it, in order.

    Attributes:
        base: the base, as the checkpoint that decides it is bound to it.
        ingredients: adapters, the oldest first; none for the base itself.
        stages: number of stages that the recipe stands for, superseded ones included.
        trained_on: what the adapters say they were trained on, where that is another name than the base's.
    """

    base: BaseLink
    ingredients: tuple[Ingredient, ...]
    stages: int
    trained_on: str | None = None


def resolve_recipe(
    digest: str,
    load: Load,
    *,
    name: str,
    how: How | None = None,
    chosen: Mapping[str, float] | None = None,
    dtype: str | None = None,
) -> Recipe:
    """The recipe of a checkpoint: its base, and the adapters along its lineage.

    Args:
        digest: the checkpoint's manifest.
        load: reads a manifest by its id.
        name: what the checkpoint is called, for errors.
        how: for lineages that do not say how a stage continues the one before.
        chosen: adapters of the checkpoint by name, with weights; None for its only one, or `default`.
        dtype: for lineages that do not say what the model was held in between the stages.

    Raises:
        MergeError: it has no adapter, or several that cannot be chosen between, or its lineage does not say how.
        IntegrityError: no binding (`no-binding`); a stage of the chain is not in the store (`incomplete`).
        BaseMismatch: stages of the chain are bound to different bases.
    """
    chain = _chain(digest, load, name)
    own = _own_adapters(chain[0][1], name, chosen)
    ingredients = _ingredients(chain, own, name, how, dtype)
    base = _base(chain, name)
    hint = own[0][0].base_hint if own else None
    return Recipe(
        base=base,
        ingredients=tuple(ingredients),
        stages=len(chain),
        trained_on=hint if hint and hint not in (base.name,) else None,
    )


def _chain(digest: str, load: Load, name: str) -> list[tuple[str, Manifest]]:
    """The checkpoint and its ancestors, youngest first, up to one that is no adapter's parent."""
    chain: list[tuple[str, Manifest]] = []
    seen: set[str] = set()
    current: str | None = digest
    while current is not None:
        if current in seen or len(chain) > _MAX_STAGES:
            raise IntegrityError(f"{name}: its lineage runs in a circle at {current[:16]}", hint=f"ckptfmt log {name}")
        seen.add(current)
        try:
            manifest = load(current)
        except NotFound as error:
            stage = _stage(chain[-1][1]) if chain else ""
            raise IntegrityError(
                f"{name}: the parent {current[:16]} of {stage or 'the checkpoint'} is not in the store: "
                "the chain has a gap",
                code="incomplete",
                hint="import the missing stage, then import the later ones again with --parent",
            ) from error
        chain.append((current, manifest))
        current = manifest.lineage.parent if manifest.lineage else None
    return chain


def _stage(manifest: Manifest) -> str:
    stage = manifest.lineage.stage if manifest.lineage else None
    return f"stage {stage}" if stage is not None else ""


def _own_adapters(manifest: Manifest, name: str, chosen: Mapping[str, float] | None) -> list[tuple[Adapter, float]]:
    known = {adapter.name: adapter for adapter in manifest.adapters}
    if chosen is not None:
        missing = [wanted for wanted in chosen if wanted not in known]
        if missing:
            raise MergeError(
                f"{name} has no adapter {missing[0]!r} (it has: {', '.join(known) or 'none'})",
                hint=f"ckptfmt show {name}",
            )
        return [(known[wanted], weight) for wanted, weight in chosen.items()]
    if not known:
        raise MergeError(
            f"{name} has no adapter to merge (layout {manifest.layout})",
            hint=f"ckptfmt restore {name} DIR",
        )
    if manifest.layout == _EXPERTS and len(known) > 1:
        first = next(iter(known))
        raise MergeError(
            f"{name} is a mixture of {len(known)} experts that a router chooses between for each token: "
            "merged into one model they would compute something else",
            hint=f"ckptfmt merge {name} OUT --adapter {first}",
        )
    if len(known) == 1:
        return [(next(iter(known.values())), 1.0)]
    if _DEFAULT in known:
        return [(known[_DEFAULT], 1.0)]
    raise MergeError(
        f"{name} has {len(known)} adapters: {', '.join(known)}",
        hint=f"ckptfmt merge {name} OUT --adapter {next(iter(known))}",
    )


def _ingredients(
    chain: list[tuple[str, Manifest]],
    own: list[tuple[Adapter, float]],
    name: str,
    how: How | None,
    dtype: str | None,
) -> list[Ingredient]:
    """The adapters to merge, oldest first.

    A stage that `continue`s was trained on its parent merged, in the dtype it says; one that is `stack`ed, beside its
    parent's adapters, which are merged with its own at the end; one that `resume`s holds its parent's adapter,
    trained further, so it stands in its place; one trained `parent-only` knew none before its parent's.
    """
    ingredients: list[Ingredient] = []
    said: list[How] = []
    superseding = alone = False
    held: str | None = OUTPUT
    for position, (digest, manifest) in enumerate(chain):
        mine = own if position == 0 else _parent_adapters(manifest, name)
        if not mine:
            break  # A full model: what was trained on it has it as its base.
        lineage = manifest.lineage
        if not superseding:
            ingredients[:0] = [Ingredient(digest, adapter, weight, held) for adapter, weight in mine]
        if lineage is None or lineage.parent is None or alone:
            break
        stated = lineage.how or how
        said += [lineage.how] if lineage.how else []
        if stated is None:
            raise MergeError(
                f"{name}: {_stage(manifest) or digest[:16]} does not say how it goes on from its parent",
                hint=f"ckptfmt merge {name} OUT --how continue  (or stack, resume, parent-only: see --help)",
            )
        if stated in ("continue", "parent-only"):
            held = lineage.dtype or dtype
        superseding = stated == "resume"
        alone = stated == "parent-only"
    if how is not None and said and how not in said and len(said) == _steps(chain):
        raise InvalidInput(
            f"{name}: --how {how} contradicts what its stages say themselves: {', '.join(dict.fromkeys(said))}",
            hint="leave --how out, or import the stages again with the --how that is meant",
        )
    return ingredients


def _steps(chain: list[tuple[str, Manifest]]) -> int:
    return sum(1 for _, manifest in chain if manifest.lineage and manifest.lineage.parent)


def _parent_adapters(manifest: Manifest, name: str) -> list[tuple[Adapter, float]]:
    if not manifest.adapters:
        return []
    return _own_adapters(manifest, f"an ancestor of {name}", None)


def _base(chain: list[tuple[str, Manifest]], name: str) -> BaseLink:
    """The base of a chain: what its stages are bound to, all to one."""
    bound = [(digest, manifest.base) for digest, manifest in chain if manifest.base is not None]
    if not bound:
        hint = chain[0][1].base_hint or next((adapter.base_hint for adapter in chain[0][1].adapters), None)
        said = f"; its configuration names {hint!r}, which is no proof" if hint else ""
        raise IntegrityError(
            f"{name} is bound to no base{said}",
            code="no-binding",
            hint=f"ckptfmt bind {name} --base NAME",
        )
    first = bound[0][1]
    for digest, link in bound[1:]:
        if link.root != first.root:
            raise BaseMismatch(
                f"{name} is bound to base {first.name!r} ({first.root[:16]}), its ancestor {digest[:16]} to "
                f"{link.name!r} ({link.root[:16]}): one chain has one base",
                tensors=(),
                hint=f"ckptfmt log {name}",
            )
    return first


def describe(recipe: Recipe) -> str:
    """A recipe in a line: base and adapters with their weights."""
    parts = [
        f"{item.adapter.name}" + ("" if item.weight == 1.0 else f"*{item.weight:g}") for item in recipe.ingredients
    ]
    return " + ".join([recipe.base.name, *parts])
