"""A model's state dict: which of its tensors are the model's, and which an adapter's that lies inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.containers.protocol import Cut, CutTensor
from ckptfmt.layouts.compose import Part, listed
from ckptfmt.layouts.names import name_keys
from ckptfmt.layouts.protocol import ReadAdapter, ReadTensor

MODEL_KEYS: Final = ("model_state_dict", "model", "state_dict", "module")
"""Keys of a `.pt` file below which a model's state dict lies, the surest first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a state dict: `index` into the tensors of the file at `path`, `key` its key in the state dict."""

    path: str
    index: int
    tensor: CutTensor
    key: str


def key_of(path: Iterable[str | int]) -> str:
    """The keys that lead to a tensor as one name."""
    return ".".join(map(str, path))


def state_dict_of(path: str, cut: Cut) -> list[Entry]:
    """The tensors of a weight file that are the model's.

    A `.bin` holds the state dict itself or, below one of `MODEL_KEYS`, beside other things.
    """
    heads = {str(tensor.path[0]) for tensor in cut.tensors if len(tensor.path) > 1}
    flat = any(len(tensor.path) == 1 for tensor in cut.tensors)
    below = None if flat else next((key for key in MODEL_KEYS if key in heads), None)
    if below is not None:
        return section_of(path, cut, below)
    return [Entry(path, index, tensor, key_of(tensor.path)) for index, tensor in enumerate(cut.tensors)]


def section_of(path: str, cut: Cut, key: str) -> list[Entry]:
    """The tensors below one top-level key."""
    return [
        Entry(path, index, tensor, key_of(tensor.path[1:]))
        for index, tensor in enumerate(cut.tensors)
        if len(tensor.path) > 1 and tensor.path[0] == key
    ]


def read_state_dict(
    entries: Sequence[Entry],
    *,
    beside: Mapping[str, ReadAdapter] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Part:
    """Read the whole state dict of one model: its own tensors, then those of adapters inside it.

    Args:
        entries: every tensor of the state dict, of all its files.
        beside: adapters that have files of their own: their copies in here are state, lest they be applied twice.
        config: settings of the adapters in here; None where nothing is known of them.
    """
    beside = beside or {}
    model: list[ReadTensor] = []
    others: list[ReadTensor] = []
    inner: dict[str, list[tuple[Entry, ReadTensor]]] = {}
    methods: dict[str, str] = {}
    doubled: set[str] = set()
    for entry, named in zip(entries, name_keys([entry.key for entry in entries]), strict=True):
        if named.outside:
            others.append(ReadTensor(entry.path, entry.index, named.name, "state", "outside-model"))
        elif named.adapter is None:
            model.append(ReadTensor(entry.path, entry.index, named.name, "model"))
        elif named.adapter in beside:
            doubled.add(named.adapter)
            part = f"in-weights:{named.adapter}"
            others.append(ReadTensor(entry.path, entry.index, named.name, "state", part))
        else:
            tensor = ReadTensor(entry.path, entry.index, named.name, "adapter", named.adapter)
            inner.setdefault(named.adapter, []).append((entry, tensor))
            if named.method:
                methods.setdefault(named.adapter, named.method)
    adapters = tuple(
        ReadAdapter(name, found[0][0].path, methods.get(name, "unknown"), {**_ranks(found), **(config or {})})
        for name, found in inner.items()
    )
    notes = [f"adapter {name!r} lies inside the weights, without a configuration" for name in inner if config is None]
    if doubled:
        notes.append(f"the weights hold copies of the adapters beside them, kept as state: {listed(sorted(doubled))}")
    within = [tensor for found in inner.values() for _, tensor in found]
    return Part((*model, *within, *others), adapters, tuple(notes))


def _ranks(found: Iterable[tuple[Entry, ReadTensor]]) -> dict[str, Any]:
    """LoRA ranks by the shapes of the factors: the usual one as `r`, modules with another as `rank_pattern`."""
    ranks = {
        tensor.name.partition(".lora_")[0]: min(entry.tensor.shape)
        for entry, tensor in found
        if ".lora_A" in tensor.name and len(entry.tensor.shape) == 2
    }
    if not ranks:
        return {}
    usual, _ = Counter(ranks.values()).most_common(1)[0]
    pattern = {module: rank for module, rank in sorted(ranks.items()) if rank != usual}
    return {"r": usual, **({"rank_pattern": pattern} if pattern else {})}
