"""A shadow of the base: its modules without their tensors, for peft to put its layers on.

Modules lie on torch's meta device. Where transformers knows the architecture, they are its own, under the names that
the model has in memory; else they are made from the names and shapes of the base's tensors.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from ckptfmt.merge.methods.arithmetic import TORCH_DTYPES
from ckptfmt.merge.methods.bases import INPUTS, Base
from ckptfmt.merge.protocol import Spec

_META: Final = torch.device("meta")
_POSITIONS: Final = frozenset({"wpe", "embed_positions", "position_embeddings", "token_type_embeddings"})
_CONVOLUTIONS: Final = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_ATTENTION: Final = "in_proj_weight"
_ACTIVE: Final = re.compile(r"^_|implementation|kernel|auto_map|pretrained|timm|remote_code")
_UNUSABLE: Final = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ImportError, OSError)
"""What transformers raises for a configuration that it cannot make a model of."""


@dataclass(frozen=True)
class Source:
    """Where a parameter in memory lies in the base's files.

    Attributes:
        files: its tensors there; several where experts are fused in memory.
        fuse: makes the parameter from them; None where it is the one tensor.
        split: makes them from the parameter.
    """

    files: tuple[str, ...]
    fuse: Callable[[Mapping[str, torch.Tensor]], torch.Tensor] | None = None
    split: Callable[[torch.Tensor], Mapping[str, torch.Tensor]] | None = None

    def read(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The parameter."""
        return self.fuse(tensors) if self.fuse else tensors[self.files[0]]

    def write(self, parameter: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The tensors of the files."""
        return self.split(parameter) if self.split else {self.files[0]: parameter}


@dataclass(frozen=True)
class Shadow:
    """The base's modules, and where their parameters come from.

    Attributes:
        model: on the meta device; never changed, `copy.deepcopy` it.
        sources: by the name of a parameter or buffer in memory.
    """

    model: nn.Module
    sources: Mapping[str, Source]

    def module(self, name: str) -> nn.Module:
        """A copy of one module."""
        return copy.deepcopy(self.model.get_submodule(name))

    def file_name(self, name: str) -> str | None:
        """The one tensor of the files behind a parameter in memory."""
        source = self.sources.get(name)
        return source.files[0] if source and len(source.files) == 1 else None


def build_shadow(base: Base, *, transposed: bool) -> Shadow:
    """Make the shadow of a base.

    Args:
        base: tensors and configuration.
        transposed: whether an unknown architecture's matrices are (in, out), as of `Conv1D`.
    """
    model = _known_model(base.config)
    shadow = _mapped(model, base) if model is not None else None
    return shadow or _generic(base, transposed=transposed)


def stand_in(model: nn.Module) -> None:
    """Give a shadow's parameters CPU tensors that take no memory: one element, repeated.

    Vectors are real zeros: layers that copy them write into the copies.
    """
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device == _META:
                found = made.setdefault(id(parameter), nn.Parameter(_empty(parameter), requires_grad=False))
                setattr(module, name, found)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.device == _META:
                module.register_buffer(name, _empty(buffer), name not in module._non_persistent_buffers_set)


def _empty(like: torch.Tensor) -> torch.Tensor:
    if like.ndim < 2:
        return torch.zeros(like.shape, dtype=like.dtype)
    return torch.zeros((), dtype=like.dtype).expand(like.shape)


def _known_model(config: Mapping[str, Any]) -> nn.Module | None:
    """The model that transformers makes of a configuration, on the meta device; None where it knows none."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or config.get("auto_map"):
        return None
    try:
        import transformers  # noqa: PLC0415
        from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    except ImportError:
        return None
    if kind not in transformers.CONFIG_MAPPING:
        return None
    names: Sequence[Any] = config.get("architectures") or ()
    classes = (getattr(transformers, str(name), None) for name in names)
    models = (each for each in classes if isinstance(each, type) and issubclass(each, transformers.PreTrainedModel))
    try:
        made = transformers.AutoConfig.for_model(**_inert(config), attn_implementation="eager")
        mapping = transformers.AutoModelForCausalLM._model_mapping
        factory = next(models, None) or mapping.get(type(made), None)
        if factory is None:
            return None
        with torch.device("meta"):
            model: nn.Module = factory(made)
    except (*_UNUSABLE, StrictDataclassError):
        return None
    return model


def _inert(value: Any) -> Any:
    """A configuration without what would make transformers fetch or run something: kernels, backbones, code."""
    if isinstance(value, Mapping):
        return {key: _inert(each) for key, each in value.items() if not _ACTIVE.search(str(key))}
    return [_inert(each) for each in value] if isinstance(value, list) else value


def _mapped(model: Any, base: Base) -> Shadow | None:
    """Map a known model's parameters to the base's files as transformers does when it loads them.

    Source: `convert_and_load_state_dict_in_model` and `revert_weight_conversion` in transformers' `core_model_loading`.
    None where that leaves out weights.
    """
    state = dict(model.state_dict())
    groups = _renamed(model, base, state)
    sources: dict[str, Source] = {}
    for name, (files, converter) in groups.items():
        if name in state:
            sources[name] = Source(tuple(files)) if converter is None else _fused(model, name, files, converter)
    pair = [(name, module.weight) for name, module in _embeddings(model) if hasattr(module, "weight")]
    if len(pair) == 2 and (base.head is None) and base.tied:
        _tie(model, sources, pair[0][0], pair[1][0])
    parameters = dict(model.named_parameters())
    if not parameters.keys() <= sources.keys():
        return None
    _cast(model, base, sources)
    return Shadow(model, sources)


def _renamed(model: Any, base: Base, state: Mapping[str, Any]) -> dict[str, tuple[list[str], Any]]:
    """By the name in memory: the files' tensors that make it, and transformers' converter where there is one."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415
        from transformers.core_model_loading import (  # noqa: PLC0415
            WeightConverter,
            dot_natural_key,
            rename_source_key,
        )
    except ImportError:
        found = {name: base.find(name) for name in state}
        return {name: ([file], None) for name, file in found.items() if file}
    conversions = get_model_conversion_mapping(model)
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    renamings = [each for each in conversions if not isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    groups: dict[str, tuple[list[str], Any]] = {}
    for file in sorted(base.tensors, key=dot_natural_key):
        name, pattern = rename_source_key(file, renamings, converters, model.base_model_prefix, state)
        if name not in state and file in state:
            name, pattern = file, None
        groups.setdefault(name, ([], by_pattern.get(pattern)))[0].append(file)
    return groups


def _fused(model: Any, name: str, files: Sequence[str], converter: Any) -> Source:
    from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415

    def fuse(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        work = copy.deepcopy(converter)
        for file in files:
            _, pattern = work.rename_source_key(file)
            work.add_tensor(name, file, pattern, tensors[file])
        found = work.convert(name, model=model, config=model.config)
        tensor = found[name]
        made: torch.Tensor = tensor[0] if isinstance(tensor, list) else tensor
        return made

    def split(parameter: torch.Tensor) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = revert_weight_conversion(model, {name: parameter})
        return found

    return Source(tuple(files), fuse, split)


def _embeddings(model: Any) -> list[tuple[str, nn.Module]]:
    names = {id(module): name for name, module in model.named_modules()}
    found = (model.get_input_embeddings(), model.get_output_embeddings())
    return [(names[id(module)], module) for module in found if id(module) in names]


def _tie(model: nn.Module, sources: dict[str, Source], embedding: str, head: str) -> None:
    weight = model.get_submodule(embedding).weight
    model.get_submodule(head).weight = weight
    if f"{embedding}.weight" in sources:
        sources[f"{head}.weight"] = sources[f"{embedding}.weight"]


def _cast(model: nn.Module, base: Base, sources: Mapping[str, Source]) -> None:
    """Give parameters the dtypes of the files."""
    made: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        module, _, leaf = name.rpartition(".")
        dtype = TORCH_DTYPES.get(base.tensors[sources[name].files[0]].dtype, parameter.dtype)
        found = made.setdefault(id(parameter), nn.Parameter(parameter.to(dtype), requires_grad=False))
        setattr(model.get_submodule(module), leaf, found)


def _generic(base: Base, *, transposed: bool) -> Shadow:
    """Modules made from names and shapes alone."""
    model = nn.Module()
    sources: dict[str, Source] = {}
    leaves: dict[str, dict[str, Spec]] = {}
    for name, spec in base.tensors.items():
        module, _, leaf = name.rpartition(".")
        leaves.setdefault(module, {})[leaf] = spec
        sources[name] = Source((name,))
    for name in sorted(leaves):
        made = _module(name, leaves[name], transposed=transposed or base.is_conv1d(name))
        if not name:
            for leaf, parameter in made.named_parameters():
                model.register_parameter(leaf, parameter)
            continue
        *path, last = name.split(".")
        parent = _descend(model, path)
        for child, inner in getattr(parent, last, nn.Module()).named_children():
            made.add_module(child, inner)
        parent.add_module(last, made)
    if base.head is None and base.tied and base.embedding:
        embedding = model.get_submodule(base.embedding.removesuffix(".weight"))
        vocabulary, width = base.tensors[base.embedding].shape
        head = nn.Linear(width, vocabulary, bias=False, device="meta")
        head.register_parameter("weight", embedding.get_parameter("weight"))
        model.add_module("lm_head", head)
        sources["lm_head.weight"] = sources[base.embedding]
    return Shadow(model, sources)


def _descend(model: nn.Module, path: Sequence[str]) -> nn.Module:
    for part in path:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = getattr(model, part)
    return model


def _module(name: str, leaves: Mapping[str, Spec], *, transposed: bool) -> nn.Module:
    """A module that holds these parameters: linear, embedding, convolution, attention, or one that only holds."""
    leaf = name.rpartition(".")[2]
    weight = leaves.get("weight")
    made: nn.Module = nn.Module()
    shape = weight.shape if weight else ()
    bias = "bias" in leaves
    with torch.device("meta"):
        if _ATTENTION in leaves:
            made = nn.MultiheadAttention(leaves[_ATTENTION].shape[1], 1, bias="in_proj_bias" in leaves)
        elif len(shape) == 2 and (leaf in INPUTS | _POSITIONS or "embed" in leaf) and not bias:
            made = nn.Embedding(*shape)
        elif len(shape) == 2 and transposed:
            from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

            made = Conv1D(shape[1], shape[0])
        elif len(shape) == 2:
            made = nn.Linear(shape[1], shape[0], bias=bias)
        elif len(shape) in _CONVOLUTIONS:
            kernel: Any = shape[2:]
            made = _CONVOLUTIONS[len(shape)](shape[1], shape[0], kernel, bias=bias)
        elif len(shape) == 1:
            made = nn.LayerNorm(shape, bias=bias)
    for parameter, spec in leaves.items():
        dtype = TORCH_DTYPES.get(spec.dtype)
        if dtype is None:
            made.register_buffer(parameter, torch.empty(spec.shape, device="meta"))
        else:
            found = nn.Parameter(torch.empty(spec.shape, dtype=dtype, device="meta"), requires_grad=False)
            made.register_parameter(parameter, found)
    return made
