"""What an adapter trained in full, whatever its method: whole modules, biases, rows of an embedding.

Sources: peft's `ModulesToSaveWrapper`, `TrainableTokensWrapper`, `set_peft_model_state_dict`, and what
`merge_and_unload` does to tied weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ckptfmt.layouts.peft_keys import AdapterKeys
from ckptfmt.merge.methods.bases import HEADS, INPUTS
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.steps import Replace, ReplaceRows
from ckptfmt.merge.protocol import Spec

_TYING: Final[dict[str, bool]] = {"tie_word_embeddings": False}


_HEADLESS: Final = frozenset({"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"})
"""Tasks whose models have no output embedding."""
_PEFT_NAMES: Final = frozenset({"embed_tokens", "lm_head"})
"""The embeddings that peft knows as such: `ensure_weight_tying` does nothing for others (`EMBEDDING_LAYER_NAMES`)."""


def plan_trained(ledger: Ledger, keys: AdapterKeys) -> None:
    """Plan everything but the method's own modules, in the order in which peft does it.

    Raises:
        MergeError: a tensor fits nothing in the base.
    """
    for tensor in (*keys.held.values(), *keys.saved.values(), *keys.tokens.values()):
        dtype = ledger.adapter.tensors[tensor].dtype
        if not dtype.startswith(("F", "BF")):
            raise ledger.error(f"{tensor} is stored as {dtype}: no weight is trained in such numbers")
    lora = set(keys.lora)
    for name, tensor in keys.held.items():
        _load(ledger, name, tensor, lora)
    _save_modules(ledger, keys)
    for module in sorted(keys.tokens, key=lambda name: name.rpartition(".")[2] in HEADS):
        _replace_rows(ledger, module, keys.tokens[module])
    _resize(ledger)


def _load(ledger: Ledger, name: str, tensor: str, lora: Iterable[str]) -> None:
    """A tensor that peft loads into the base itself, in place: tied weights stay tied."""
    module = name.rpartition(".")[0]
    if module in lora and ".base_layer." not in tensor:
        ledger.note(f"{tensor} is not loaded by peft: the module is wrapped, and its own tensors are under base_layer")
        return
    target = ledger.base.shared(name)
    if target is None:
        raise ledger.error(f"{tensor} has no counterpart in the base: there is no {name}")
    _replace(ledger, target, tensor)


def _ties(ledger: Ledger) -> bool:
    named = ledger.adapter.config.get("modules_to_save") or ()
    return any(name.rpartition(".")[2] in _PEFT_NAMES for name in named)


def _save_modules(ledger: Ledger, keys: AdapterKeys) -> None:
    """Modules trained in full. Where one of a tied pair is, the pair is untied, as `merge_and_unload` does it."""
    base, saved = ledger.base, keys.saved
    embedding = next((name for name in saved if _leaf(name) in INPUTS and base.find(name) == base.embedding), None)
    head = next((name for name in saved if _leaf(name) in HEADS and name.endswith(".weight")), None)
    tied = base.tied and ledger.adapter.config.get("task_type") not in _HEADLESS
    keep = tied and bool(ledger.adapter.config.get("ensure_weight_tying")) and embedding is not None and _ties(ledger)
    for name, tensor in saved.items():
        if tied and base.head is None and name == head:
            continue
        target = base.find(name)
        if target is not None:
            _replace(ledger, target, tensor)
        else:
            _add_module(ledger, name, tensor)
    if not tied or keep or not (embedding or head):
        return
    if base.head is None:
        loaded = next((name for name in keys.held if _leaf(name) in HEADS), None)
        name = head or loaded or "lm_head.weight"
        _untie(ledger, saved.get(name) or keys.held.get(name), name)
    ledger.config |= _TYING
    ledger.note("input and output embeddings are no longer one tensor: the adapter trained one of them in full")


def _untie(ledger: Ledger, tensor: str | None, name: str) -> None:
    """Give the head a tensor of its own: the one that was trained, or what the embedding was before."""
    embedding = ledger.base.embedding
    if embedding is None or not (tensor or ledger.base.config.get("tie_word_embeddings", True)):
        return
    spec = ledger.base.tensors[embedding]
    if tensor is None:
        ledger.added[name] = (spec, embedding, [])
        return
    shape = ledger.adapter.tensors[tensor].shape
    if shape[1:] != spec.shape[1:]:
        raise ledger.error(f"{tensor} has shape {list(shape)}, {embedding} in the base {list(spec.shape)}")
    ledger.added[name] = (Spec(spec.dtype, shape), None, [Replace(ledger.held(tensor), 1.0)])
    _resized(ledger, name, shape)


def _add_module(ledger: Ledger, name: str, tensor: str) -> None:
    """A module that the base's files lack, as a classifier's head: it is added in the base's dtype."""
    dtypes = [spec.dtype for spec in ledger.base.tensors.values() if spec.dtype in {"F32", "F16", "BF16", "F64"}]
    dtype = max(set(dtypes), key=dtypes.count, default=ledger.adapter.tensors[tensor].dtype)
    ledger.added[name] = (Spec(dtype, ledger.adapter.tensors[tensor].shape), None, [Replace(ledger.held(tensor), 1.0)])
    ledger.note(f"the base has no {name}: the adapter brings it")


def _replace(ledger: Ledger, target: str, tensor: str) -> None:
    found, there = ledger.adapter.tensors[tensor].shape, ledger.base.tensors[target].shape
    if found != there:
        if found[1:] != there[1:] or _leaf(target) not in INPUTS | HEADS:
            raise ledger.error(f"{tensor} has shape {list(found)}, {target} in the base {list(there)}")
        ledger.shapes[target] = found
        _resized(ledger, target, found)
    weight = 1.0 if target in ledger.shapes else ledger.setting.weight
    ledger.steps.setdefault(target, []).append(Replace(ledger.held(tensor), weight))


def _resized(ledger: Ledger, name: str, shape: tuple[int, ...]) -> None:
    base = ledger.base
    embedding = base.tensors[base.embedding].shape if base.embedding else shape
    if _leaf(name) in INPUTS | HEADS and shape[0] != embedding[0]:
        ledger.config["vocab_size"] = shape[0]


def _resize(ledger: Ledger) -> None:
    """A new vocabulary must be known for both embeddings: what a resize fills in at random cannot be rebuilt."""
    size = ledger.config.get("vocab_size")
    if size is None:
        return
    base = ledger.base
    for name in {base.embedding, base.head} - {None}:
        if name is not None and ledger.shape(name)[0] != size:
            raise ledger.error(
                f"its vocabulary has {size} tokens, and {name} has {ledger.shape(name)[0]} rows",
                hint="the adapter must bring both resized embeddings (save_embedding_layers=True)",
            )
    for name, (spec, source, _) in ledger.added.items():
        if source is not None and spec.shape[0] != size:
            raise ledger.error(f"its vocabulary has {size} tokens, and {name} would keep {spec.shape[0]} rows")


def _replace_rows(ledger: Ledger, module: str, tensor: str) -> None:
    config = ledger.adapter.config
    indices = config.get("trainable_token_indices") or config.get("token_indices") or ()
    if isinstance(indices, Mapping):
        indices = next((found for name, found in indices.items() if f".{module}".endswith(f".{name}")), ())
    target = ledger.base.shared(f"{module}.weight")
    if target is None:
        raise ledger.error(f"{tensor} has no counterpart in the base: there is no {module}.weight")
    shape = ledger.adapter.tensors[tensor].shape
    rows = ledger.shape(target)[0]
    if shape != (len(indices), *ledger.shape(target)[1:]) or any(not 0 <= at < rows for at in indices):
        raise ledger.error(f"{tensor} has shape {list(shape)} for {len(indices)} tokens of {target}")
    for twin in tied_targets(ledger, target):
        ledger.add(twin, ReplaceRows(ledger.held(tensor), tuple(indices), ledger.setting.weight))


def tied_targets(ledger: Ledger, target: str) -> tuple[str, ...]:
    """A tensor and the copy of it that the base's files hold under the name of a tied weight."""
    base = ledger.base
    pair = (base.embedding, base.head)
    if target not in pair or not base.tied or None in pair:
        return (target,)
    ledger.note("the files hold the tied embedding twice: both copies are changed")
    return tuple(name for name in pair if name is not None)


def _leaf(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]
