"""A case of the equality table: a tiny model, an adapter with random weights, PEFT's merge of it and ours."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.protocol import Setting
from tests.merge_methods.applying import FileAdapter, apply, differing, read_model, specs

VOCABULARY = 530
HIDDEN = 32
WIDE = 560
"""More than two blocks of rows."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        config: makes PEFT's configuration for a kind of model.
        kinds: models it fits.
        tied: models whose embeddings are tied (Llama); GPT-2 always is.
        prepare: what is done to the model before the adapter is put on it, and before it is merged.
        reason: why elements may differ; empty where none may.
        autocast: see `Setting.autocast_adapter`.
        write: writes the adapter, where peft does not.
        options: of `save_pretrained`.
    """

    name: str
    config: Callable[[str], Any]
    kinds: tuple[str, ...] = ("llama", "gpt2", "mixtral")
    tied: bool = False
    prepare: Callable[[Any], None] = lambda model: None
    scale: float = 0.05
    reason: str = ""
    autocast: bool = True
    write: Callable[[Path], None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Elements that differ by tensor, elements the merge changed, and keys of the configuration that differ."""

    differing: Mapping[str, int]
    changed: int
    config: Mapping[str, Any]

    @property
    def elements(self) -> int:
        return sum(self.differing.values())


def new_model(kind: str, *, tied: bool = False) -> Any:
    import transformers

    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "tie_word_embeddings": tied,
    }
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, attention_bias=True))
    if kind == "mixtral":
        config = {**common, "intermediate_size": 48}
        return transformers.MixtralForCausalLM(
            transformers.MixtralConfig(**config, num_local_experts=4, num_experts_per_tok=2)
        )
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_inner=WIDE, n_layer=2, n_head=4, n_positions=32
    )
    return transformers.GPT2LMHeadModel(config)


def compare(case: Case, kind: str, dtype: str, seed: int = 0, directory: Path | None = None) -> Outcome:
    """Merge a case with PEFT and with ours."""
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        place = directory or Path(temporary)
        make(case, kind, dtype, seed, place)
        theirs, config = peft_merge(case, kind, dtype, place)
        return ours(case, place, theirs, config)


def make(case: Case, kind: str, dtype: str, seed: int, place: Path) -> None:
    """Save a base and an adapter with random weights."""
    import peft

    torch.manual_seed(seed)
    model = new_model(kind, tied=case.tied).to(getattr(torch, dtype))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05)
    model.save_pretrained(place / "base")
    if case.write is not None:
        case.write(place / "adapter")
        return
    case.prepare(model)
    tuned = peft.get_peft_model(model, case.config(kind))
    randomise(tuned, case.scale)
    tuned.save_pretrained(place / "adapter", **case.options)


def randomise(model: Any, scale: float) -> None:
    """Random weights for whatever the adapter trains: most methods begin with zeros."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype.is_floating_point:
            parameter.data += torch.randn(parameter.shape).to(parameter.dtype) * scale


def peft_merge(case: Case, kind: str, dtype: str, place: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(place / "base", dtype=getattr(torch, dtype))
    case.prepare(model)
    merged = peft.PeftModel.from_pretrained(
        model, str(place / "adapter"), autocast_adapter_dtype=case.autocast
    ).merge_and_unload()
    merged.save_pretrained(place / "merged")
    return read_model(place / "merged"), json.loads((place / "merged" / "config.json").read_text())


def ours(case: Case, place: Path, theirs: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Outcome:
    base = read_model(place / "base")
    before = json.loads((place / "base" / "config.json").read_text())
    setting = Setting(model_config=before, autocast_adapter=case.autocast)
    found: dict[str, int] = {}
    for rows in (256, 0):
        changes = plan_changes(FileAdapter(place / "adapter"), specs(base), setting)
        merged = apply(changes, base, rows)
        found |= differing(merged, theirs)
    after = {**before, **changes.config_changes}
    keys = [key for key in config if config[key] != after.get(key) and key != "transformers_version"]
    return Outcome(found, sum(differing(base, theirs).values()), {key: (after.get(key), config[key]) for key in keys})
