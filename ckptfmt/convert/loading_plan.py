"""Planning what goes where when a checkpoint is loaded into a model: pure, over names, shapes and settings.

Names of both sides are brought to one form (`layouts.names`): wrappers such as `_orig_mod.`, `module.` and
`base_layer`, and the holder `main_weight`, mean nothing. LoRA whose rank or scale the model has otherwise, or not at
all, is merged into the main weight, and the model's adapters are left fresh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from ckptfmt.convert.loading_source import Item, Loadable, spec_of
from ckptfmt.errors import InvalidInput, MergeError
from ckptfmt.layouts.names import name_keys
from ckptfmt.layouts.peft_keys import PREFIX, pattern_value
from ckptfmt.merge.methods.bases import HEADS, INPUTS
from ckptfmt.merge.methods.configuration import check_configuration
from ckptfmt.merge.protocol import Spec
from ckptfmt.wording import few

_PAIRS: Final = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the model.

    Attributes:
        key: its name in `state_dict()`.
        name: what it is, as `Item.name`.
        adapter: the adapter that it belongs to.
        spec: dtype and shape.
        storage: equal for tensors that are one.
        is_parameter: whether it is trained, or a buffer.
    """

    key: str
    name: str
    adapter: str | None
    spec: Spec
    storage: object
    is_parameter: bool


@dataclass(frozen=True, slots=True)
class Merge:
    """LoRA to be merged into a main weight: `turned` adds the transpose, `embedded` is `A @ B.T`."""

    left: Item
    right: Item
    scale: float
    turned: bool
    embedded: bool

    def into(self, main: torch.Tensor, read: Callable[[Item], torch.Tensor]) -> torch.Tensor:
        """The merged weight, computed in fp32 (fp64 for an fp64 weight) and rounded once."""
        wide = torch.float64 if main.dtype == torch.float64 else torch.float32
        left, right = (read(each).to(wide) for each in (self.left, self.right))
        update = right @ left.T if self.embedded else left @ right
        return (main.to(wide) + (update.T if self.turned else update) * self.scale).to(main.dtype)


@dataclass(frozen=True, slots=True)
class Action:
    """What a tensor of the model gets: an item, or an item with LoRA merged in."""

    item: Item
    merge: Merge | None = None

    @property
    def identity(self) -> object:
        """Equal for actions that give the same tensor."""
        return self.item.identity if self.merge is None else (self.item.identity, self.merge)


@dataclass
class LoadPlan:
    """What goes where.

    Attributes:
        actions: by the model's key.
        tied: by the model's key, the key of the tensor that it shares storage with.
        problems: sentences that are errors unless loading is lax.
        others as in `LoadReport`.
    """

    actions: dict[str, Action] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def places_in(model: torch.nn.Module) -> tuple[Place, ...]:
    """The tensors of a model."""
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    parameters = {id(each) for each in model.parameters()}
    owned = {key: id(each) in parameters for key, each in model.state_dict(keep_vars=True).items()}
    named = name_keys(list(state))
    return tuple(
        Place(key, each.name, each.adapter, spec_of(tensor), _storage(key, tensor), owned.get(key, False))
        for (key, tensor), each in zip(state.items(), named, strict=True)
    )


def _storage(key: str, tensor: torch.Tensor) -> object:
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else key


def plan_load(
    source: Loadable,
    places: Sequence[Place],
    *,
    scale_in_model: Callable[[str, str], float | None],
    adapter: str | None = None,
    lora_alpha: float | None = None,
) -> LoadPlan:
    """Plan what each tensor of a model gets.

    Args:
        source: what is loaded.
        places: the model's tensors.
        scale_in_model: the scale of the LoRA that holds a tensor, by its key and adapter; None where that is unknown.
        adapter: which of the source's adapters; None for its only one, or `default`.
        lora_alpha: for LoRA whose settings the source does not say.

    Raises:
        InvalidInput: several adapters to choose between, or a scale that is not known and is needed.
        MergeError: what would have to be merged is more than LoRA, or there is nothing to merge it into.
    """
    return _Planner(source, places, scale_in_model, adapter, lora_alpha).plan()


class _Planner:
    def __init__(
        self,
        source: Loadable,
        places: Sequence[Place],
        scale_in_model: Callable[[str, str], float | None],
        adapter: str | None,
        lora_alpha: float | None,
    ) -> None:
        self.source = source
        self.scale_in_model = scale_in_model
        self.lora_alpha = lora_alpha
        self.made = LoadPlan()
        self.used: set[str] = set()
        self.places = places
        self.main = {place.name: place for place in places if place.adapter is None}
        self.have = {item.name: item for item in source.items if item.adapter is None}
        self.mine = _chosen({item.adapter for item in source.items if item.adapter}, adapter, source.where)
        theirs = {place.adapter for place in places if place.adapter}
        self.theirs = next(iter(theirs)) if len(theirs) == 1 else self.mine if self.mine in theirs else None
        self.parts = {_bare(item.name): item for item in source.items if item.adapter and item.adapter == self.mine}
        config = source.config(self.mine or "")
        if "peft_type" in config:  # Others' say what they like under these names.
            check_configuration(source.where, config, self.parts)
        self.slots = {_bare(place.name): place for place in places if place.adapter and place.adapter == self.theirs}

    def plan(self) -> LoadPlan:
        for module, names in _modules(self.parts).items():
            self.adapt(module, names)
        for name, item in self.parts.items():
            self.place_part(name, item)
        for place in self.places:
            self.place_main(place)
        self.join_ties()
        self.settle()
        return self.made

    def adapt(self, module: str, names: tuple[str, str]) -> None:
        """The LoRA of one module: copied where the model has the same, else merged into its main weight."""
        right, left = (self.parts[name] for name in names)
        slots = [self.slots.get(name) for name in names]
        rank = right.spec.shape[0] if "embedding" in names[0] else min(right.spec.shape)
        found = [slot for slot in slots if slot is not None]
        if len(found) == len(names) and all(
            slot.spec.shape == item.spec.shape for slot, item in zip(found, (right, left), strict=True)
        ):
            theirs = self.scale_in_model(found[0].key, found[0].adapter or "")
            mine = self.scale(module, rank)
            if theirs is None or mine is None or math.isclose(theirs, mine, rel_tol=1e-6):
                return
            self.made.notes.append(
                f"{module}: its scale is {theirs:g} in the model, {mine:g} in the checkpoint: merged"
            )
        main = f"{module}.weight"
        if main not in self.have:
            raise MergeError(
                f"{self.source.where}: LoRA of {module} does not fit the model, and the weight to merge it into is "
                "not in the checkpoint",
                hint="merge it onto its base with ckptfmt merge, or load it into a model of the same rank and scale",
            )
        if f"{module}.lora_magnitude_vector" in self.parts:
            raise MergeError(f"{self.source.where}: DoRA of {module} cannot be merged here", hint="ckptfmt merge")
        if main in self.main:
            self.made.actions[self.main[main].key] = Action(
                self.have[main], self.merge(module, left, right, self.have[main].spec, rank)
            )
            self.used |= {self.have[main].key, left.key, right.key}

    def merge(self, module: str, left: Item, right: Item, main: Spec, rank: int) -> Merge:
        scale = self.scale(module, rank)
        if scale is None:
            raise InvalidInput(
                f"{self.source.where}: LoRA of {module} has to be merged, and its scale is not known",
                hint="load_into(..., lora_alpha=...): the scale is that over the rank",
            )
        nanogpt = not left.name.startswith(PREFIX)
        embedded = nanogpt and module.rpartition(".")[2] in INPUTS
        product = (right.spec.shape[0], left.spec.shape[0]) if embedded else (left.spec.shape[0], right.spec.shape[1])
        square = product[0] == product[1]
        fan_in = bool(self.source.config(self.mine or "").get("fan_in_fan_out"))
        turned = "embedding" in left.name.rpartition("lora_")[2] or (fan_in if square else product != main.shape)
        if (product[::-1] if turned else product) != main.shape:
            raise MergeError(f"{self.source.where}: LoRA of {module} does not fit its weight {list(main.shape)}")
        return Merge(left, right, scale, turned, embedded)

    def scale(self, module: str, rank: int) -> float | None:
        config = self.source.config(self.mine or "")
        alpha = pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", self.lora_alpha))
        if not isinstance(alpha, int | float) or isinstance(alpha, bool):
            return None
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def place_part(self, name: str, item: Item) -> None:
        """A tensor of the adapter that no merge took: into its slot, or, trained in full, into the main weight."""
        slot = self.slots.get(name)
        if item.key in self.used:
            return
        if slot is not None:
            self.put(slot, Action(item))
        elif name in self.main and not _is_lora(name):
            self.put(self.main[name], Action(item))

    def place_main(self, place: Place) -> None:
        if place.key in self.made.actions:
            return
        name = _bare(place.name) if place.adapter else place.name
        item = self.have.get(name)
        if item is not None and not (place.adapter and _is_lora(name)):
            self.put(place, Action(item))

    def put(self, place: Place, action: Action) -> None:
        self.used.add(action.item.key)
        if action.item.spec.shape == place.spec.shape:
            self.made.actions[place.key] = action
            return
        self.made.mismatched.append(place.key)
        self.made.problems.append(
            f"{place.key} is {list(place.spec.shape)} in the model, {list(action.item.spec.shape)} in the checkpoint"
        )

    def join_ties(self) -> None:
        """Tensors that are one in the model get one value, or it is a problem: the model cannot be the checkpoint's."""
        groups: dict[object, list[Place]] = {}
        for place in self.places:
            groups.setdefault(place.storage, []).append(place)
        for group in groups.values():
            acting = [place for place in group if place.key in self.made.actions]
            if len(group) < 2 or not acting:
                continue
            first = min(acting, key=lambda place: place.name.rpartition(".")[0].rpartition(".")[2] in HEADS)
            for place in group:
                if place is first:
                    continue
                self.made.tied[place.key] = first.key
                other = self.made.actions.pop(place.key, None)
                if other is not None and not self.is_same(other, self.made.actions[first.key]):
                    sentence = f"{first.key} and {place.key} are one in the model and differ in the checkpoint"
                    self.made.problems.append(sentence)
                    self.made.notes.append(f"{sentence}: both are the first one's now")

    def is_same(self, first: Action, second: Action) -> bool:
        if first.identity == second.identity:
            return True
        if first.merge or second.merge or first.item.spec != second.item.spec:
            return False
        return torch.equal(self.source.read(first.item), self.source.read(second.item))

    def settle(self) -> None:
        """What no tensor of the model got, and what got no tensor of the checkpoint."""
        made = self.made
        known = {*made.actions, *made.tied, *made.mismatched}
        for place in self.places:
            if place.key in known:
                continue
            if place.is_parameter and place.adapter is None and self.have:
                made.missing.append(place.key)
                made.problems.append(f"{place.key} is not in the checkpoint")
            else:
                made.fresh.append(place.key)
        made.unexpected += [item.key for item in self.source.items if item.key not in self.used]


def _chosen(names: Collection[str], wanted: str | None, where: str) -> str | None:
    if wanted is not None and wanted not in names:
        raise InvalidInput(f"{where} has no adapter {wanted!r} (it has: {few(sorted(names)) or 'none'})")
    if wanted is not None or len(names) < 2:
        return wanted or next(iter(names), None)
    if "default" in names:
        return "default"
    raise InvalidInput(f"{where} has {len(names)} adapters: {few(sorted(names))}", hint="say which with adapter=")


def _bare(name: str) -> str:
    return name.removeprefix(PREFIX)


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def _modules(parts: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The modules that have both LoRA factors, with the names of A and B."""
    found = {}
    for name in parts:
        for right, left in _PAIRS:
            module = name.removesuffix(f".{right}")
            if module != name and f"{module}.{left}" in parts:
                found[module] = (name, f"{module}.{left}")
    return found
