"""A full model as an adapter on its base: what becomes factors, what is kept whole, and what PEFT calls it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from ckptfmt.convert.lowrank import Factors, factorize
from ckptfmt.errors import MergeError
from ckptfmt.format.dtypes import size_bytes
from ckptfmt.layouts.peft_keys import PREFIX
from ckptfmt.merge.execute import TORCH
from ckptfmt.merge.methods.bases import HEADS, INPUTS, Base
from ckptfmt.merge.protocol import Spec
from ckptfmt.merge.source import TensorSource
from ckptfmt.merge.universal_names import MASKS
from ckptfmt.progress import Progress

_HEAD: Final = "lm_head"
_FACTORED: Final = frozenset({"F32", "F16", "BF16"})
_BARE: Final = re.compile(r"(layers|h)\.\d+\..*")
_MEMORY_PREFIXES: Final = {"gpt2": "transformer.", "gpt_neox": "gpt_neox.", "bloom": "transformer."}
_TASKS: Final = (
    ("ForCausalLM", "CAUSAL_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
    ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
)


@dataclass(frozen=True, slots=True)
class Pairing:
    """A tuned model beside its base.

    Attributes:
        tuned_name: by base tensor, what the tuned model calls it.
        changed: base tensors that the tuned model has other bits of.
        added: tensors that only the tuned model has.
    """

    tuned_name: Mapping[str, str]
    changed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass
class FactoredAdapter:
    """An adapter in the making (a `merge.protocol.Adapter`): factors in memory, whole tensors in the tuned model.

    Attributes:
        factors: by module, as PEFT names it.
        whole: by PEFT's tensor name, that of the tuned model's tensor.
        sizes: by base tensor that changed, the Frobenius norm of its update.
    """

    tuned: TensorSource
    base_config: Mapping[str, Any]
    base_hint: str | None
    target_modules: tuple[str, ...] = ()
    factors: dict[str, Factors] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    sizes: dict[str, float] = field(default_factory=dict)
    transposed: bool = False
    tied: bool = False
    name: str = "factored"
    method: str = "LORA"

    @property
    def config(self) -> dict[str, Any]:
        """The `adapter_config.json`: every module has the scaling 1, at a rank of its own."""
        ranks = {module: factors.rank for module, factors in sorted(self.factors.items())}
        usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
        pattern = {module: rank for module, rank in ranks.items() if rank != usual}
        architecture = str((self.base_config.get("architectures") or [""])[0])
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": next((task for end, task in _TASKS if architecture.endswith(end)), None),
            "base_model_name_or_path": self.base_hint,
            "revision": None,
            "inference_mode": True,
            "r": usual,
            "lora_alpha": usual,
            "lora_dropout": 0.0,
            "rank_pattern": pattern,
            "alpha_pattern": dict(pattern),
            "target_modules": list(self.target_modules),
            "modules_to_save": sorted(self.saved) or None,
            "fan_in_fan_out": self.transposed,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
        }
        return config | ({"ensure_weight_tying": True} if self.tied else {})

    @property
    def tensors(self) -> dict[str, Spec]:
        """See `merge.protocol.Adapter`."""
        specs = self.tuned.specs()
        found = {name: specs[tuned] for name, tuned in self.whole.items()}
        for module, factors in self.factors.items():
            found[f"{PREFIX}{module}.lora_A.weight"] = Spec("F32", tuple(factors.right.shape))
            found[f"{PREFIX}{module}.lora_B.weight"] = Spec("F32", tuple(factors.left.shape))
        return dict(sorted(found.items()))

    def read(self, name: str) -> torch.Tensor:
        """See `merge.protocol.Adapter`."""
        if name in self.whole:
            return whole_tensor(self.tuned, self.whole[name])
        module, _, part = name.removeprefix(PREFIX).rpartition(".lora_")
        return self.factors[module].right if part == "A.weight" else self.factors[module].left


def whole_tensor(source: TensorSource, name: str) -> torch.Tensor:
    """One tensor of a model, whole, proven by its digest."""
    spec = source.specs()[name]
    data = bytearray(b"".join(source.frames(name)))
    dtype = TORCH[spec.dtype]
    return (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(spec.shape)


def pair_models(base: TensorSource, tuned: TensorSource) -> Pairing:
    """Find each base tensor in the tuned model.

    Raises:
        MergeError: one is not there, or only in another shape; or nothing differs.
    """
    mine, theirs = base.specs(), tuned.specs()
    names = Base(theirs, {})
    found: dict[str, str] = {}
    for name, spec in mine.items():
        here = names.find(name) or (names.embedding if _leaf(name) in HEADS else None)
        if here is not None and theirs[here].shape == spec.shape:
            found[name] = here
        elif not (MASKS.fullmatch(name) and len(spec.shape) != 1):
            what = f"has shape {list(theirs[here].shape)} there" if here else "is not there"
            raise MergeError(
                f"{tuned.name} is no fine-tune of {base.name}: tensor {name!r}, {list(spec.shape)} in the base, {what}",
                hint="is this the base that the model was trained from?",
            )
    changed = tuple(name for name, here in found.items() if not _same(base, name, tuned, here))
    taken = set(found.values())
    added = tuple(name for name in theirs if name not in taken and not _repeats(tuned, name, names))
    if not changed and not added:
        raise MergeError(f"{tuned.name} does not differ from {base.name}: there is nothing to factor")
    return Pairing(found, changed, added)


def _same(base: TensorSource, name: str, tuned: TensorSource, here: str) -> bool:
    mine, theirs = base.specs()[name], tuned.specs()[here]
    if mine.dtype == theirs.dtype:
        return base.digest(name) == tuned.digest(here)
    if mine.dtype not in _FACTORED or theirs.dtype not in _FACTORED:
        return False
    return torch.equal(whole_tensor(base, name).to(TORCH[theirs.dtype]), whole_tensor(tuned, here))


def _repeats(tuned: TensorSource, name: str, names: Base) -> bool:
    """A mask, or a head saved beside the embedding that it is tied to."""
    shape = tuned.specs()[name].shape
    if MASKS.fullmatch(name) and len(shape) != 1:
        return True
    return _leaf(name) in HEADS and names.embedding is not None and tuned.digest(name) == tuned.digest(names.embedding)


def factor_model(
    base: TensorSource,
    tuned: TensorSource,
    pairing: Pairing,
    adapter: FactoredAdapter,
    *,
    tolerance: float | None,
    whole: frozenset[str],
    progress: Progress,
) -> None:
    """Fill `adapter` with factors where the update is of low rank, and with whole modules where it is not.

    Args:
        base: the base.
        tuned: the tuned model.
        pairing: what differs.
        adapter: takes the result.
        tolerance: see `lowrank.factorize`.
        whole: base tensors that are to be kept whole, whatever their rank.
        progress: told of the bytes of changed tensors.
    """
    specs = base.specs()
    known = Base(specs, adapter.base_config)
    in_memory = _memory_names(specs, adapter.base_config)
    progress.begin("factor", sum(_size(specs[name]) for name in pairing.changed))
    unfit: list[str] = []
    for name in pairing.changed:
        factors = None
        before, after = whole_tensor(base, name), whole_tensor(tuned, pairing.tuned_name[name])
        adapter.sizes[name] = float(torch.linalg.vector_norm(after.double() - before.double()))
        if name not in whole and _is_linear(name, specs[name]):
            turned = known.is_conv1d(name.removesuffix(".weight"))
            adapter.transposed |= turned
            factors = factorize(before.T if turned else before, after.T if turned else after, tolerance)
        if factors is None:
            unfit.append(name)
        else:
            adapter.factors[in_memory(name).removesuffix(".weight")] = factors
        progress.advance(_size(specs[name]))
    for name in unfit:
        _save_module(adapter, name, pairing, in_memory)
    for name in pairing.added:
        adapter.saved.add(name.rpartition(".")[0])
        adapter.whole[PREFIX + name] = name
    if known.tied and known.embedding in unfit:
        _keep_tied(adapter, known, pairing)
    adapter.target_modules = _targets(adapter, specs, in_memory)
    progress.end()


def _save_module(adapter: FactoredAdapter, name: str, pairing: Pairing, in_memory: Callable[[str], str]) -> None:
    """Keep the whole module that a tensor belongs to: PEFT saves modules, not single parameters of them."""
    module = name.rpartition(".")[0]
    adapter.factors.pop(in_memory(f"{module}.weight").removesuffix(".weight"), None)
    adapter.saved.add(in_memory(f"{module}.weight").removesuffix(".weight"))
    for other, tuned in pairing.tuned_name.items():
        if other.rpartition(".")[0] == module:
            adapter.whole[PREFIX + in_memory(other)] = tuned


def _keep_tied(adapter: FactoredAdapter, known: Base, pairing: Pairing) -> None:
    """Save the head with the embedding's values.

    PEFT unties an embedding that it saves whole, unless it is told not to, and it can be told so only of one called
    `embed_tokens`. Merged onto another the head is a tensor of its own, with the same values.
    """
    embedding = known.embedding or ""
    adapter.tied = _leaf(embedding) == "embed_tokens"
    if known.head is None:
        adapter.saved.add(_HEAD)
        adapter.whole[f"{PREFIX}{_HEAD}.weight"] = pairing.tuned_name[embedding]


def _targets(adapter: FactoredAdapter, specs: Mapping[str, Spec], in_memory: Callable[[str], str]) -> tuple[str, ...]:
    """The factored modules by their last names where those mean no others, else in full."""
    linear = [in_memory(name).removesuffix(".weight") for name, spec in specs.items() if name.endswith(".weight")]
    leaves = {module.rpartition(".")[2] for module in adapter.factors}
    meant = {module for module in linear if module.rpartition(".")[2] in leaves}
    return tuple(sorted(leaves if meant == adapter.factors.keys() else adapter.factors))


def _is_linear(name: str, spec: Spec) -> bool:
    leaf = _leaf(name)
    fits = len(spec.shape) == 2 and name.endswith(".weight") and spec.dtype in _FACTORED
    return fits and leaf not in INPUTS | HEADS | {"wpe"}


def _memory_names(specs: Mapping[str, Spec], config: Mapping[str, Any]) -> Callable[[str], str]:
    """Names as the model with its head has them in memory: files of bare models lack a prefix."""
    kind = config.get("model_type")
    prefix = _MEMORY_PREFIXES.get(str(kind), "model.")
    if kind is None or not any(map(_BARE.fullmatch, specs)):
        return lambda name: name
    return lambda name: name if _leaf(name) in HEADS else prefix + name


def _leaf(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _size(spec: Spec) -> int:
    return size_bytes(spec.dtype, spec.shape) or 0
