"""Where a model's tensors are loaded from: a state dict in memory, or a checkpoint of a store or a directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from ckptfmt.containers import cut_file
from ckptfmt.containers.protocol import Cut, CutTensor, Inert, TensorAt
from ckptfmt.convert.checkpoint import Checkpoint
from ckptfmt.errors import InvalidInput
from ckptfmt.format.dtypes import size_bytes
from ckptfmt.format.manifest import File, Tensor, tensor_digest
from ckptfmt.layouts.names import name_keys
from ckptfmt.layouts.statedict import MODEL_KEYS
from ckptfmt.layouts.universal import lora_settings
from ckptfmt.merge.execute import TORCH
from ckptfmt.merge.pickled import ObjectSource
from ckptfmt.merge.protocol import Spec
from ckptfmt.merge.source import TensorSource

OPTIMIZER_KEYS: Final = ("optimizer", "optimizer_state_dict", "optimizer_states")
_NAMES: Final = {dtype: name for name, dtype in TORCH.items()}


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor to load.

    Attributes:
        key: what the source calls it.
        name: what it is: the plain model's name, or PEFT's for an adapter's tensor.
        adapter: whose adapter's it is; None for the model's own.
        spec: dtype and shape.
        identity: equal for tensors of the same content.
    """

    key: str
    name: str
    adapter: str | None
    spec: Spec
    identity: object


class Loadable(Protocol):
    """Something to load from."""

    @property
    def where(self) -> str:
        """What to call it in errors."""
        ...

    @property
    def items(self) -> tuple[Item, ...]:
        """The tensors of its model and of its adapters."""
        ...

    def config(self, adapter: str) -> Mapping[str, Any]:
        """What is known of an adapter's settings."""
        ...

    def read(self, item: Item) -> torch.Tensor:
        """One of the tensors, on the CPU or where it is."""
        ...

    def optimizer(self) -> tuple[Mapping[str, Any] | None, str]:
        """The optimizer's state dict, or None and the reason."""
        ...


class StateDictSource:
    """A state dict, or a training checkpoint that holds one, as `torch.load` gives it.

    Raises:
        InvalidInput: it holds no tensors.
    """

    where = "the state dict"

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        key = next((key for key in MODEL_KEYS if isinstance(document.get(key), Mapping)), None)
        self._tensors = {
            name: tensor
            for name, tensor in (document[key] if key else document).items()
            if isinstance(tensor, torch.Tensor)
        }
        if not self._tensors:
            raise InvalidInput("the state dict holds no tensors")
        named = name_keys(list(self._tensors))
        self.items = tuple(
            Item(key, each.name, each.adapter, spec_of(tensor), _place(tensor))
            for (key, tensor), each in zip(self._tensors.items(), named, strict=True)
        )

    def config(self, adapter: str) -> Mapping[str, Any]:
        """See `Loadable.config`."""
        return lora_settings(self._document) or {}

    def read(self, item: Item) -> torch.Tensor:
        """See `Loadable.read`."""
        return self._tensors[item.key]

    def optimizer(self) -> tuple[Mapping[str, Any] | None, str]:
        """See `Loadable.optimizer`."""
        found = next((self._document[key] for key in OPTIMIZER_KEYS if key in self._document), None)
        return (found, "") if isinstance(found, Mapping) else (None, "the checkpoint holds none")


class CheckpointSource:
    """A checkpoint of a store, or of a directory. What is read is proven by its digest."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.where = checkpoint.name
        self._checkpoint = checkpoint
        manifest = checkpoint.manifest
        self._sources = {
            adapter.name: TensorSource(checkpoint.name, manifest, checkpoint.objects, adapter=adapter.name)
            for adapter in manifest.adapters
        }
        self.items = tuple(
            self._item(tensor) for tensor in manifest.tensors if tensor.role == "model" or self._is_adapter(tensor)
        )
        if not self.items:
            raise InvalidInput(f"{self.where} holds no model and no adapter (layout {manifest.layout})")

    def _is_adapter(self, tensor: Tensor) -> bool:
        return tensor.role == "adapter" and tensor.part in self._sources

    def _item(self, tensor: Tensor) -> Item:
        key = tensor.key or tensor.name
        section = next((section for section in MODEL_KEYS if key.startswith(f"{section}.")), None)
        if section is not None and not tensor.name.startswith(f"{section}."):
            key = key.removeprefix(f"{section}.")
        adapter = tensor.part if tensor.role == "adapter" else None
        digest = tensor_digest(self._checkpoint.manifest, tensor)
        return Item(key, tensor.name, adapter, Spec(tensor.dtype, tensor.shape), digest)

    def config(self, adapter: str) -> Mapping[str, Any]:
        """See `Loadable.config`."""
        return next((each.config for each in self._checkpoint.manifest.adapters if each.name == adapter), {})

    def read(self, item: Item) -> torch.Tensor:
        """See `Loadable.read`."""
        source = self._sources[item.adapter] if item.adapter is not None else self._checkpoint.model
        return _tensor(b"".join(source.frames(item.name)), item.spec)

    def optimizer(self) -> tuple[Mapping[str, Any] | None, str]:
        """See `Loadable.optimizer`. It is made of the inert tree: nothing of the file is run."""
        manifest = self._checkpoint.manifest
        files = {tensor.file for tensor in manifest.tensors if tensor.role == "optimizer"}
        for file in (manifest.files[index] for index in sorted(files)):
            if file.container == "torch-zip":
                return self._optimizer_of(file)
        return None, "the checkpoint holds none" if not files else "it lies in no file of torch's"

    def _optimizer_of(self, file: File) -> tuple[Mapping[str, Any] | None, str]:
        source = ObjectSource(file, self._checkpoint.objects)
        cut = cut_file(source, file.path)
        if not isinstance(cut, Cut) or not isinstance(cut.tree, Mapping):
            return None, f"{file.path} holds no state dict"
        tree = next((cut.tree[key] for key in OPTIMIZER_KEYS if key in cut.tree), cut.tree)
        if isinstance(tree, list) and len(tree) == 1:
            tree = tree[0]
        if not isinstance(tree, Mapping) or not {"state", "param_groups"} <= tree.keys():
            return None, f"{file.path} holds no optimizer state"
        inert = _inert_in(tree)
        if inert is not None:
            return None, f"{file.path} holds a {inert} in it, which is not run"
        return _alive(tree, lambda at: _cut_tensor(source, cut, cut.tensors[at.index])), ""


def spec_of(tensor: torch.Tensor) -> Spec:
    """Dtype and shape of a tensor in memory."""
    return Spec(_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def _place(tensor: torch.Tensor) -> object:
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _tensor(data: bytes, spec: Spec) -> torch.Tensor:
    dtype = TORCH[spec.dtype]
    return (torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(spec.shape)


def _cut_tensor(source: ObjectSource, cut: Cut, tensor: CutTensor) -> torch.Tensor:
    span = cut.extents[tensor.extent]
    if tensor.strides is None:
        size = size_bytes(tensor.dtype, tensor.shape) or 0
        return _tensor(source.read(span.offset + tensor.offset, size), Spec(tensor.dtype, tensor.shape))
    data = torch.frombuffer(bytearray(source.read(span.offset, span.length)), dtype=TORCH[tensor.dtype])
    return data.as_strided(tensor.shape, tensor.strides, tensor.offset // data.element_size()).clone()


def _inert_in(value: Any) -> str | None:
    """The name of something in the tree that is no plain value."""
    if isinstance(value, Inert):
        return value.name
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return next((found for item in inside if (found := _inert_in(item)) is not None), None)


def _alive(value: Any, read: Any) -> Any:
    if isinstance(value, TensorAt):
        return read(value)
    if isinstance(value, Mapping):
        return {key: _alive(item, read) for key, item in value.items()}
    return [_alive(item, read) for item in value] if isinstance(value, list) else value
