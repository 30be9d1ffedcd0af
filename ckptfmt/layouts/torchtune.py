"""Outputs of torchtune: `epoch_N/` with HF shards, the adapter in torchtune's own keys and in PEFT's.

`recipe_state/recipe_state.pt` beside them is for resuming the last epoch.

Source: torchtune 0.6, `training/checkpointing/_checkpointer.py`, `FullModelHFCheckpointer.save_checkpoint`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.layouts.compose import Facts, Part, compose, json_object
from ckptfmt.layouts.hf_full import read_config
from ckptfmt.layouts.listing import join, listing_of
from ckptfmt.layouts.peft import CONFIG, claims_adapter, named, read_adapters
from ckptfmt.layouts.pickled import read_sections
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.values import plain, text_or_none
from ckptfmt.layouts.weights import has_weights, read_weights

EPOCH: Final = re.compile(r"epoch_(\d+)")
RECIPE_DIRECTORY: Final = "recipe_state"
RECIPE: Final = f"{RECIPE_DIRECTORY}/recipe_state.pt"
NATIVE: Final = "adapter_model.pt"
REPO: Final = "original_repo_id.json"

_RECIPE_SETTINGS: Final = ("seed", "epochs_run", "total_epochs", "max_steps_per_epoch", "steps_run")


@dataclass(frozen=True, slots=True)
class TorchtuneLayout:
    """One epoch, with the recipe's state where it belongs to it."""

    name: str = "torchtune"

    def claims(self, listing: Listing) -> bool:
        """A directory called `epoch_N` with weights or an adapter, or the adapter in both spellings."""
        if EPOCH.fullmatch(listing.name):
            return has_weights(listing.files) or claims_adapter(listing.files)
        return listing.files >= {NATIVE, CONFIG}

    def read(self, tree: Tree) -> Reading | None:
        """Read one epoch; the native copy of its adapter is state, for the PEFT one says the same."""
        listing = listing_of(tree.paths(), tree.name)
        at = "" if self.claims(listing) else self._epoch_below(listing)
        if at is None:
            return None
        notes: list[str] = []
        adapters = read_adapters(tree, at)
        weights = read_weights(tree, at, named(adapters))
        settings, hint = read_config(tree, join(at, "config.json"), notes)
        repo = text_or_none(json_object(tree, join(at, REPO), notes).get("repo_id"))
        recipe, recipe_settings = _recipe(tree)
        epoch = EPOCH.fullmatch(at or tree.name)
        if epoch:
            settings["epoch"] = int(epoch[1])
        facts = Facts(base_hint=repo or hint, settings={**settings, **recipe_settings}, notes=tuple(notes))
        return compose(tree, self.name, (adapters, weights, recipe), facts)

    def _epoch_below(self, listing: Listing) -> str | None:
        """The one epoch of an output directory that came with its recipe's state."""
        epochs = [name for name, below in listing.directories.items() if EPOCH.fullmatch(name) and self.claims(below)]
        return epochs[0] if len(epochs) == 1 and RECIPE_DIRECTORY in listing.directories else None


def _recipe(tree: Tree) -> tuple[Part, dict[str, Any]]:
    if RECIPE not in tree.paths() or not isinstance(cut := tree.cut(RECIPE), Cut):
        return Part(), {}
    document = cut.tree if isinstance(cut.tree, dict) else {}
    known = {key: plain(document[key]) for key in _RECIPE_SETTINGS if document.get(key) is not None}
    return read_sections(cut, RECIPE, model_key=None), ({"recipe": known} if known else {})


TORCHTUNE: Final = TorchtuneLayout()
