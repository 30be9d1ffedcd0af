"""LoRA and DoRA on linear layers, Conv1D and embeddings, by rows: the arithmetic of peft without its classes.

What this path does not do (convolutions, fused experts, the rarer variants) goes through peft's own layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ckptfmt.layouts.peft_keys import AdapterKeys, is_targeted, lora_scaling, lora_variant, pattern_value
from ckptfmt.merge.methods.bases import HEADS
from ckptfmt.merge.methods.configuration import check_scaling
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.steps import AddBias, AddProduct, Decompose
from ckptfmt.merge.methods.trained import tied_targets

_LINEAR: Final = {"lora_A.weight", "lora_B.weight"}
_EMBEDDING: Final = {"lora_embedding_A", "lora_embedding_B"}
_KNOWN: Final = "put the lora_alpha of its training into its adapter_config.json and import it again"


def is_plain(ledger: Ledger) -> bool:
    """Whether the configuration asks for nothing but `W + s * B @ A` and its DoRA form."""
    return lora_variant(ledger.adapter.config) is None


def plan_lora(ledger: Ledger, keys: AdapterKeys) -> tuple[frozenset[str], frozenset[str]]:
    """Plan every module that can be changed by rows.

    Returns:
        The modules that are done with, and those that are left.

    Raises:
        MergeError: a module's factors do not fit each other or the base.
    """
    ignored = {module for module in keys.lora if not _is_wrapped(ledger, module)}
    if ignored and len(ignored) == len(keys.lora):
        raise ledger.error(f"none of its modules is one of its target_modules: {min(ignored)} is not")
    for module in sorted(ignored):
        ledger.note(f"{module} is not one of the adapter's target_modules: peft ignores its factors, and so does this")
    order = sorted(keys.lora.keys() - ignored, key=lambda module: (_leaf(module) in HEADS, module))
    plain = is_plain(ledger)
    left: set[str] = set()
    waiting: set[str | None] = set()
    for module in order:
        target = ledger.base.shared(f"{module}.weight")
        if not plain or (target and target in waiting) or not _plan_module(ledger, module, keys.lora[module]):
            left.add(module)
            waiting.add(target)
    return frozenset(keys.lora) - left, frozenset(left)


def _is_wrapped(ledger: Ledger, module: str) -> bool:
    """Whether peft puts a layer on a module: it is a target, or the head that follows a targeted embedding."""
    config = ledger.adapter.config
    if is_targeted(config, module) or _targets_parameter(ledger, module):
        return True
    targets = config.get("target_modules") or ()
    follows = bool(config.get("ensure_weight_tying")) and _leaf(module) in HEADS and ledger.base.tied
    return follows and any(each.rpartition(".")[2] == "embed_tokens" for each in targets if isinstance(targets, list))


def _targets_parameter(ledger: Ledger, module: str) -> bool:
    """Whether a module's update is put on a parameter of it: peft rounds those another way."""
    targets = ledger.adapter.config.get("target_parameters") or ()
    inner = module.replace(".base_layer", "")
    holders = {target.rpartition(".")[0] for target in targets}
    unknown = ledger.base.find(f"{inner}.weight") is None
    return any(f".{inner}".endswith(f".{holder}") if holder else unknown for holder in holders)


def _plan_module(ledger: Ledger, module: str, parts: dict[str, str]) -> bool:
    bare = parts.keys() - {"lora_magnitude_vector", "lora_B.bias"}
    target = ledger.base.shared(f"{module}.weight")
    if (
        target is None
        or ledger.base.in_mixture(module)
        or _targets_parameter(ledger, module)
        or bare not in (_LINEAR, _EMBEDDING)
    ):
        return False
    embedding = bare == _EMBEDDING
    left, right = (parts[f"lora_embedding_{side}" if embedding else f"lora_{side}.weight"] for side in "BA")
    out, rank, into = _fit(ledger, module, left, right)
    if out is None or len(ledger.shape(target)) != 2:
        return False
    transposed = embedding or _is_transposed(ledger, module, target, out, into)
    wanted = (into, out) if transposed else (out, into)
    if ledger.shape(target) != wanted:
        raise ledger.error(
            f"{module} has factors for a weight of shape {list(wanted)}, {target} in the base has "
            f"{list(ledger.shape(target))}",
            hint="is this the model that the adapter was trained on?",
        )
    scaling = _scaling(ledger, module, rank)
    product = AddProduct(
        ledger.held(left), ledger.held(right), ledger.setting.autocast_adapter, scaling, transposed, embedding
    )
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude and transposed:
        return False
    if magnitude and ledger.adapter.tensors[magnitude].shape != (out,):
        raise ledger.error(f"{magnitude} has shape {list(ledger.adapter.tensors[magnitude].shape)}, not [{out}]")
    _refuse_whole_numbers(ledger, [left, right, *filter(None, [magnitude, parts.get("lora_B.bias")])])
    targets = tied_targets(ledger, target)
    for each in targets:
        if magnitude:
            plain = AddProduct(
                product.left, product.right, product.autocast, _scaling(ledger, module, rank, weight=1.0)
            )
            ledger.add(each, Decompose(plain, ledger.held(magnitude), ledger.setting.weight))
        else:
            if ledger.steps.get(each) and _leaf(module) in HEADS:
                ledger.note(f"{each} is the embedding and the head: as in peft, both updates are added to it")
            ledger.add(each, product)
        ledger.scaling[each] = scaling
    if bias := parts.get("lora_B.bias"):
        _add_bias(ledger, module, bias, out, scaling)
    return True


def _refuse_whole_numbers(ledger: Ledger, names: Iterable[str]) -> None:
    for name in names:
        dtype = ledger.adapter.tensors[name].dtype
        if not dtype.startswith(("F", "BF")):
            raise ledger.error(f"{name} is stored as {dtype}: no factor is made of such numbers")


def _fit(ledger: Ledger, module: str, left: str, right: str) -> tuple[int | None, int, int]:
    """Sizes out, rank and in of a module's factors; out is None where they are not matrices."""
    b, a = (ledger.adapter.tensors[name].shape for name in (left, right))
    if len(a) != 2 or len(b) != 2:
        return None, 0, 0
    config = ledger.adapter.config
    rank = pattern_value(config.get("rank_pattern"), module, config.get("r", a[0]))
    if not a[0] == b[1] == rank:
        raise ledger.error(
            f"{module} has factors of rank {a[0]} and {b[1]}, its configuration says {rank}",
            hint="is this the adapter_config.json that was saved with these tensors?",
        )
    return b[0], a[0], a[1]


def _scaling(ledger: Ledger, module: str, rank: int, *, weight: float | None = None) -> float:
    """`alpha / r`, or `alpha / sqrt(r)` with rsLoRA, times the weight of the adapter."""
    factor = ledger.setting.weight if weight is None else weight
    scaling = lora_scaling(ledger.adapter.config, module, rank, weight=factor)
    if scaling is None:
        raise ledger.error(f"its lora_alpha is null: the scaling of {module} is not known", hint=_KNOWN)
    check_scaling(f"adapter {ledger.adapter.name}", module, scaling)
    return scaling


def _is_transposed(ledger: Ledger, module: str, target: str, out: int, into: int) -> bool:
    """Whether a weight is (in, out): by its shape, or where it is square by what is known of the module."""
    if out != into:
        return ledger.shape(target) == (into, out)
    if "model_type" in ledger.base.config:
        return ledger.base.is_conv1d(module)
    return bool(ledger.adapter.config.get("fan_in_fan_out"))


def _add_bias(ledger: Ledger, module: str, bias: str, out: int, scaling: float) -> None:
    target = ledger.base.find(f"{module}.bias")
    if target is None:
        raise ledger.error(
            f"it was trained with lora_bias and {module} has no bias in the base",
            hint="such an adapter can only be used unmerged",
        )
    if ledger.base.tensors[target].shape != (out,) or ledger.adapter.tensors[bias].shape != (out,):
        raise ledger.error(f"{bias} does not fit {target}, shape {list(ledger.base.tensors[target].shape)}")
    ledger.add(target, AddBias(ledger.held(bias), ledger.setting.autocast_adapter, scaling))


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]
