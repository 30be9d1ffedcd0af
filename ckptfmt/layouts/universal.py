"""Universal checkpoints of the nanoGPT family: one `.pt`, merged or with LoRA still in it.

Its keys are `model`, `optimizer`, `model_args`, `iter_num`, `best_val_loss` and `config`.

A LoRA layer of this family keeps `main_weight.weight`, `lora_A.weight` and `lora_B.weight`; its scale is
`lora_alpha` over the rank (`attn_lora_rank`, `embedding_rank`), its update `B @ A`, and for an embedding `A @ B.T`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.layouts.compose import Facts, compose
from ckptfmt.layouts.pickled import pickled_of, read_sections
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.values import count_or_none, number_or_none, plain_object, scalar

_MARKS: Final = frozenset({"model_args", "iter_num", "best_val_loss"})
_LORA_SETTINGS: Final = ("embedding_mode", "embedding_rank", "attn_lora_rank", "lora_alpha", "lora_dropout")
_FILE: Final = "ckpt.pt"


@dataclass(frozen=True, slots=True)
class UniversalLayout:
    """One `ckpt.pt`, with the vocabulary files beside it."""

    name: str = "universal"

    def claims(self, listing: Listing) -> bool:
        """A file called `ckpt.pt`: it is a claim on that file, not on the directory."""
        return _FILE in listing.files

    def read(self, tree: Tree) -> Reading | None:
        """Read a pickled checkpoint that has `model` and one of nanoGPT's own keys."""
        found = pickled_of(tree)
        if found is None or found.model_key != "model" or _MARKS.isdisjoint(found.document):
            return None
        document = found.document
        lora = lora_settings(document)
        part = read_sections(found.cut, found.path, model_key="model", config=lora)
        settings = {key: plain_object(document.get(key)) for key in ("model_args", "config")}
        best = number_or_none(scalar(tree, found.path, found.cut, document.get("best_val_loss")))
        facts = Facts(
            step=count_or_none(scalar(tree, found.path, found.cut, document.get("iter_num"))),
            settings={key: value for key, value in settings.items() if value},
            metrics={} if best is None else {"best_val_loss": best},
        )
        return compose(tree, self.name, (part,), facts)


def lora_settings(document: Mapping[Any, Any]) -> dict[str, Any] | None:
    """What a checkpoint's `model_args` (or, where they are silent, its `config`) say of LoRA; None if nothing."""
    sources = [plain_object(document.get(key)) for key in ("config", "hyperparameters", "model_args")]
    found: dict[str, Any] = {}
    for source in sources:
        found |= {key: value for key, value in source.items() if key in _LORA_SETTINGS or "lora" in key.lower()}
    return dict(sorted(found.items())) or None


UNIVERSAL: Final = UniversalLayout()
