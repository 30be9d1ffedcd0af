"""Whether a checkpoint looks as if it was made from a base: by names and shapes alone, so it proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ckptfmt.format.manifest import BaseRecord, Manifest, Tensor
from ckptfmt.layouts.peft_keys import PREFIX, split_lora
from ckptfmt.transfer.build import touched
from ckptfmt.transfer.held import Held, Key
from ckptfmt.transfer.matching import matches
from ckptfmt.transfer.references import held_by
from ckptfmt.wording import shape_words

_MUST_FIT: Final = 0.5
"""Of a checkpoint's tensors, what a base has to have: a new head, or other rows of an embedding, are ordinary."""
_SIDES: Final = {"lora_A.weight": 1, "lora_B.weight": 0}
"""The dimension of a factor that is one of the module's own."""


def stranger(manifest: Manifest, record: BaseRecord, base: str) -> str | None:
    """What speaks against a base, in a sentence; None where nothing does.

    Args:
        manifest: a checkpoint, of which the tensors of model and adapters are looked at.
        record: the base's.
        base: the base's name.
    """
    held = held_by(record)
    tensors = {tensor.name: tensor for tensor in record.tensors if tensor.role == "model"}
    own = [tensor for tensor in manifest.tensors if tensor.role in ("model", "adapter")]
    odd = [tensor for tensor in own if not _fits(tensor, held, tensors)]
    if not odd or len(odd) <= (1 - _MUST_FIT) * len(own):
        return None
    first = odd[0]
    return (
        f"{len(odd)} of {len(own)} tensors fit none of base {base!r} by name and shape (such as {first.name!r}, "
        f"{shape_words(first.shape)}): was it made from another base?"
    )


def _fits(tensor: Tensor, held: Mapping[Key, Held], tensors: Mapping[str, Tensor]) -> bool:
    if tensor.role == "model":
        same = tensors.get(tensor.name)
        if same is not None and same.shape == tensor.shape:
            return True
        return any(matches((tensor.role, tensor.part, tensor.name), tensor.dtype, tensor.shape, held))
    leaf = touched(tensor.name, tensors)
    if leaf is None:
        return False
    side = _SIDES.get(split_lora(tensor.name.removeprefix(PREFIX))[1])
    return side is None or len(tensor.shape) != 2 or tensor.shape[side] in tensors[leaf].shape
