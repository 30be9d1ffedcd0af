"""A full model as transformers saves it: one weight file or shards with an index, beside `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.layouts.compose import Facts, compose, json_object
from ckptfmt.layouts.listing import listing_of
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.values import plain, text_or_none
from ckptfmt.layouts.weights import has_weights, read_weights

PIPELINES: Final = frozenset({"model_index.json", "modules.json"})
"""Files that make a directory of models one checkpoint: diffusers pipelines, sentence-transformers."""

_ARCHITECTURE: Final = ("model_type", "architectures", "dtype", "torch_dtype", "vocab_size", "tie_word_embeddings")


@dataclass(frozen=True, slots=True)
class HfFullLayout:
    """A directory whose top is a full model."""

    name: str = "hf-full"

    def claims(self, listing: Listing) -> bool:
        """Full weights or their index at the top, or a pipeline of models below."""
        return has_weights(listing.files) or not listing.files.isdisjoint(PIPELINES)

    def read(self, tree: Tree) -> Reading | None:
        """Read the model at the top; weights in subdirectories are state."""
        if not self.claims(listing_of(tree.paths())):
            return None
        notes: list[str] = []
        settings, hint = read_config(tree, "config.json", notes)
        weights = read_weights(tree, "")
        facts = Facts(base_hint=hint, settings=settings, notes=tuple(notes))
        return compose(tree, self.name, (weights,), facts)


def read_config(tree: Tree, path: str, notes: list[str]) -> tuple[dict[str, Any], str | None]:
    """What a model's `config.json` says for the settings, and the model it was loaded from, where it says so."""
    config = json_object(tree, path, notes)
    known = {key: plain(config[key]) for key in _ARCHITECTURE if config.get(key) is not None}
    return ({"model": known} if known else {}), text_or_none(config.get("_name_or_path"))


HF_FULL: Final = HfFullLayout()
