"""LoRA experts of a mixture: `peft_adapters/expert_N/` beside `dylo_moe_state/` with router and skill library.

Written by a callback of transformers' Trainer, so `trainer_state.json`, the optimizer and (in older checkpoints)
a merged model stand beside them. An expert saved under its own adapter name lies one level deeper,
`peft_adapters/expert_0/expert_0/`: PEFT puts every adapter but `default` into a subdirectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.layouts.compose import Facts, Part, compose, json_object, state_tensors
from ckptfmt.layouts.hf_full import read_config
from ckptfmt.layouts.listing import listing_of, split, stem_of
from ckptfmt.layouts.peft import claims_adapter, named, read_adapters
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.trainer import read_state
from ckptfmt.layouts.values import plain_object, text_or_none
from ckptfmt.layouts.weights import read_weights

ADAPTERS: Final = "peft_adapters"
STATE: Final = "dylo_moe_state"


@dataclass(frozen=True, slots=True)
class ExpertsLayout:
    """A composite checkpoint: several experts, what routes between them, and the Trainer's state."""

    name: str = "experts"

    def claims(self, listing: Listing) -> bool:
        """`peft_adapters/` with an adapter below, or `dylo_moe_state/`."""
        experts = listing.directories.get(ADAPTERS)
        return STATE in listing.directories or (experts is not None and _has_adapter(experts))

    def read(self, tree: Tree) -> Reading | None:
        """Read experts as adapters, router and skill library as state, and merged weights where they are."""
        if not self.claims(listing_of(tree.paths())):
            return None
        notes: list[str] = []
        state = read_state(tree, "", notes)
        mixture = json_object(tree, f"{STATE}/config.json", notes)
        top = json_object(tree, "config.json", notes)
        settings, hint = read_config(tree, "config.json", [])
        adapters = read_adapters(tree, ADAPTERS)
        weights = read_weights(tree, "", named(adapters))
        base = next(filter(None, (text_or_none(each.get("base_model_name_or_path")) for each in (mixture, top))), hint)
        facts = Facts(
            base_hint=base,
            step=state.step,
            settings={**settings, **({"mixture": plain_object(mixture)} if mixture else {}), **state.settings},
            metrics=state.metrics,
            notes=tuple(notes),
        )
        return compose(tree, self.name, (adapters, weights, _components(tree)), facts)


def _has_adapter(listing: Listing) -> bool:
    return claims_adapter(listing.files) or any(map(_has_adapter, listing.directories.values()))


def _components(tree: Tree) -> Part:
    """Router and skill library, each a part under its file's name."""
    tensors = []
    for path in tree.paths():
        if path.startswith(f"{STATE}/") and isinstance(cut := tree.cut(path), Cut):
            tensors += state_tensors(cut, path, stem_of(split(path)[1]))
    return Part(tuple(tensors))


EXPERTS: Final = ExpertsLayout()
