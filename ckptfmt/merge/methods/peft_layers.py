"""Every method that peft can merge, by peft's own layers, one module at a time.

Planning puts peft's layers on a shadow without tensors, loads tensors without contents into them, and merges those:
whatever peft refuses, it refuses there, before any work. The merge of a module then puts the same layers on that
module alone, with its real tensors. Methods that share state between modules keep one shadow with all layers.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from ckptfmt.errors import MergeError
from ckptfmt.layouts.peft_keys import PREFIX
from ckptfmt.merge.methods.arithmetic import held_dtype, keep_subnormals
from ckptfmt.merge.methods.shadow import Shadow, stand_in
from ckptfmt.merge.methods.steps import Step, blend
from ckptfmt.merge.protocol import Adapter, Setting, Spec

NAME: Final = "default"
SHARED: Final = frozenset({"VERA", "PVERA", "VBLORA", "RANDLORA", "UNILORA", "FROD", "TINYLORA"})
"""Methods whose layers take part of their state from the model, so that a module alone is not enough."""
REFUSALS: Final = (ValueError, NotImplementedError, TypeError, RuntimeError, LookupError, AttributeError, ImportError)
"""What peft raises for what it cannot do; each is told to the user in its words."""


@dataclass(frozen=True)
class Wrapped:
    """A `PeftModel`, the names of tensors that its layers need and the adapter lacks, and of those without a layer."""

    model: Any
    missing: tuple[str, ...]
    unplaced: tuple[str, ...]


@dataclass(frozen=True)
class PeftLayers:
    """One adapter's layers: how to make them, and their tensors.

    Attributes:
        config: the adapter's, without what `trained.py` does.
        tensors: the adapter's tensors that belong to layers.
    """

    adapter: Adapter
    setting: Setting
    shadow: Shadow
    config: Mapping[str, Any]
    tensors: tuple[str, ...]
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _whole: list[nn.Module] = field(default_factory=list)

    def wrap(
        self, model: nn.Module, names: Sequence[str], *, empty: str | None = None, only: str | None = None
    ) -> Wrapped:
        """Put layers on `model` and load `names` into them, as `PeftModel.from_pretrained` does.

        Args:
            model: changed in place.
            names: the adapter's tensors to load.
            empty: a device; load tensors without the adapter's contents there, as only names and shapes are wanted.
            only: the one module to put a layer on.
        """
        import peft  # noqa: PLC0415

        with quiet():
            made = peft.PeftConfig.from_peft_type(**copy.deepcopy(dict(self.config)))
        made.inference_mode = True
        if only is not None:
            _narrow(made, only)
        with quiet():
            cast = self.setting.autocast_adapter
            meta = empty == "meta"
            wrapped = peft.PeftModel(model, made, NAME, autocast_adapter_dtype=cast, low_cpu_mem_usage=meta)
            specs = self.adapter.tensors
            state = {name: _zeros(specs[name], empty) if empty else self.adapter.read(name) for name in names}
            found = peft.set_peft_model_state_dict(wrapped, state, NAME, low_cpu_mem_usage=meta)
            wrapped.base_model._cast_adapter_dtype(adapter_name=NAME, autocast_adapter_dtype=cast)
            wrapped.eval()
        return Wrapped(wrapped, _missing(wrapped, found.missing_keys), tuple(found.unexpected_keys))

    def merge_alone(self, module: str, parameters: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Merge one module, with a layer on nothing else.

        Args:
            module: its name in memory.
            parameters: its parameters, by their names below it.

        Returns:
            The parameters afterwards.
        """
        tree = nn.Module()
        real = self.shadow.module(module)
        _put(real, parameters)
        parent = tree
        *path, leaf = module.split(".")
        for part in path:
            parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(leaf, real)
        own = [name for name in self.tensors if name.startswith(f"{PREFIX}{module}.")]
        with quiet(), torch.no_grad():
            merged = self.wrap(tree, own, only=module).model.merge_and_unload()
            return _parameters(merged.get_submodule(module), parameters)

    def factors(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors A and B of a LoRA layer, as peft loaded them."""
        with self._lock:
            found: Any = self._all_layers().get_submodule(layer)
        return found.lora_A[NAME].weight.data, found.lora_B[NAME].weight.data

    def _all_layers(self) -> nn.Module:
        """The shadow with all layers and their tensors; of the base, it holds only vectors."""
        if not self._whole:
            model = copy.deepcopy(self.shadow.model)
            stand_in(model)
            self._whole.append(self.wrap(model, self.tensors).model.base_model.model)
        return self._whole[0]

    def merge_shared(self, module: str, parameters: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Merge one module with the state that its layer shares with others; see `merge_alone`."""
        with self._lock, quiet(), torch.no_grad():
            found: Any = self._all_layers().get_submodule(module)
            base = found.get_base_layer()
            before = {name: base.get_parameter(name) for name in parameters}
            _put(base, {name: tensor.cpu() for name, tensor in parameters.items()})
            _rebase(found, autocast=self.setting.autocast_adapter)
            wrapped = found
            while hasattr(wrapped, "base_layer"):
                wrapped.merge()
                wrapped = wrapped.base_layer
            merged = {name: found.to(parameters[name].device) for name, found in _parameters(base, parameters).items()}
            for name, parameter in before.items():
                _set(base, name, parameter)
            return merged


@dataclass(frozen=True)
class LayerChange:
    """The change of one module, as a `ModuleChange`.

    Attributes:
        targets: the tensors of the base's files that hold its parameters.
        module: its name in memory.
        parameters: names of its parameters.
        shared: whether its layer needs others.
        first: what happens to the tensors of the files before.
    """

    targets: tuple[str, ...]
    layers: PeftLayers
    module: str
    parameters: tuple[str, ...]
    shared: bool
    first: Mapping[str, Sequence[Step]]

    def outputs(self, inputs: Mapping[str, Spec]) -> Mapping[str, Spec]:
        """Merging keeps dtypes and shapes."""
        return dict(inputs)

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors after peft merged them."""
        keep_subnormals()
        sources = {name: self.layers.shadow.sources[f"{self.module}.{name}"] for name in self.parameters}
        tensors = {name: _stepped(tensor, self.first.get(name, ())) for name, tensor in tensors.items()}
        before = {name: source.read(tensors).clone() for name, source in sources.items()}
        try:
            merge = self.layers.merge_shared if self.shared else self.layers.merge_alone
            merged = merge(self.module, before)
        except REFUSALS as error:
            message = f"adapter {self.layers.adapter.name}: {self.module} could not be merged: {error}"
            raise MergeError(message) from error
        found: dict[str, torch.Tensor] = {}
        for name, source in sources.items():
            for file, tensor in source.write(merged[name].detach()).items():
                found[file] = blend(tensors[file], tensor.contiguous(), self.layers.setting.weight)
        return found


def _rebase(layer: Any, *, autocast: bool) -> None:
    """Make anew what a layer computed from its base's weight when it was made, now that the weight is there.

    Sources: `update_layer` in peft's `tuners/tinylora/layer.py` and `tuners/frod/layer.py`.
    """
    base = layer.get_base_layer()
    if hasattr(layer, "_init_svd_embedding") and isinstance(base, nn.Embedding):
        layer._init_svd_embedding(NAME, layer.r[NAME])
    elif hasattr(layer, "_init_svd"):
        layer._init_svd(NAME, layer.r[NAME], getattr(layer, "fan_in_fan_out", False))
    elif hasattr(layer, "_calculate_frod_u_and_lambda"):
        weight = base.weight.T if layer.fan_in_fan_out else base.weight
        left, _ = layer._calculate_frod_u_and_lambda(layer.frod_V[NAME].to(weight.dtype), weight)
        layer.frod_U[NAME] = left.to(weight.dtype)
    for factors in (getattr(layer, name, None) for name in ("tinylora_A", "tinylora_B")):
        if factors is not None:
            factors[NAME] = factors[NAME].to(held_dtype(factors[NAME].dtype, autocast=autocast))


def _missing(wrapped: Any, keys: Sequence[str]) -> tuple[str, ...]:
    """Of the keys that were not loaded, those that peft would have saved."""
    import peft  # noqa: PLC0415

    saved = peft.get_peft_model_state_dict(wrapped, adapter_name=NAME, save_embedding_layers=False)
    shorten = type(wrapped.base_model)._remove_adapter_name_from_key
    return tuple(name for key in keys if (name := shorten(key, NAME)) in saved)


def _zeros(spec: Spec, device: str) -> torch.Tensor:
    return torch.zeros(spec.shape, dtype=_DTYPES[spec.dtype], device=device)


def _narrow(config: Any, module: str) -> None:
    """Make a configuration that puts a layer on one module."""
    feedforward = getattr(config, "feedforward_modules", None)
    if feedforward is not None:
        from peft.tuners.ia3 import IA3Model  # noqa: PLC0415

        config.feedforward_modules = {module} if IA3Model._check_target_module_feedforward(config, module) else set()
    config.target_modules = {module}
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        if hasattr(config, name):
            setattr(config, name, None)


def _stepped(tensor: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    if steps:
        tensor = tensor.clone()
    for step in steps:
        tensor = step.rows(tensor, 0)
        step.close()
    return tensor


def _put(module: nn.Module, parameters: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in parameters.items():
        _set(module, name, nn.Parameter(tensor, requires_grad=False))


def _set(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, parameter)


def _parameters(module: nn.Module, names: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: module.get_parameter(name).data for name in names}


@contextmanager
def quiet() -> Iterator[None]:
    """Run without peft's warnings, and without moving the process's random state."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
