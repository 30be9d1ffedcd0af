"""Known adapters: what a merge of them would give, as predictions that a merged tensor may be stored against.

An adapter is known where its factors are objects: taken in with the same checkpoint, or in the store. Which rounding
the merge used, and whether there was such a merge at all, is found by trying a few rows; nothing here is believed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.format.dtypes import BITS
from ckptfmt.layouts.peft_keys import PREFIX, split_lora
from ckptfmt.transfer.matching import Held, Match

_FACTORS: Final = (("lora_B.weight", "lora_A.weight"), ("lora_embedding_B", "lora_embedding_A"))
_FLOATS: Final = frozenset({"BF16", "F16", "F32"})
_WRAPPERS: Final = ("model.", "transformer.", "base_model.model.", "")


@dataclass(frozen=True, slots=True)
class Factors:
    """The low-rank update of one module: `scaling` x left x right, perhaps transposed.

    Attributes:
        left: the tensor (m, r).
        right: the tensor (r, n).
        scaling: what their product is multiplied by.
        transposed: whether the update is the transpose of the product.
    """

    left: Held
    right: Held
    scaling: float
    transposed: bool


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction as a shard would name it, and the digests of base and factors that it is made of."""

    reference: str
    digests: tuple[str, ...]
    rule: str


def factors_of(config: Mapping[str, Any], tensors: Mapping[str, Held]) -> dict[str, Factors]:
    """The updates of a LoRA adapter, by module.

    Args:
        config: its configuration as PEFT writes it.
        tensors: its tensors by name.
    """
    parts: dict[str, dict[str, Held]] = {}
    for name, held in tensors.items():
        module, part = split_lora(name.removeprefix(PREFIX))
        if part:
            parts.setdefault(module, {})[part] = held
    found = {}
    for module, of in parts.items():
        for left_part, right_part in _FACTORS:
            left, right = of.get(left_part), of.get(right_part)
            if left is None or right is None or not {left.dtype, right.dtype} <= _FLOATS:
                continue
            if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0]:
                continue
            scaling = _scaling(config, module, left.shape[1])
            if scaling is not None:
                turned = left_part != "lora_B.weight" or bool(config.get("fan_in_fan_out"))
                found[module] = Factors(left, right, scaling, turned)
    return found


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float | None:
    """`alpha / r`, or `alpha / sqrt(r)` with rsLoRA; None where it is no number that a float32 holds.

    Patterns are compared as plain names: those of a file from elsewhere are not run as regular expressions.
    """
    alpha = config.get("lora_alpha", 8)
    patterns = config.get("alpha_pattern")
    for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
        plain = str(pattern).replace("\\.", ".").removeprefix("^").removesuffix("$")
        if f".{module}".endswith(f".{plain}"):
            alpha = value
            break
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not rank:
        return None
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scaling if 1e-30 < abs(scaling) < 1e30 else None


def update_of(name: str, updates: Mapping[str, Factors]) -> Factors | None:
    """The update of the tensor `name`, under any of the names that ways of saving give its module."""
    module = name.removesuffix(".weight")
    for wrapper in _WRAPPERS:
        for candidate in (wrapper + module, module.removeprefix(wrapper)):
            if candidate in updates:
                return updates[candidate]
    return None


def predictions(
    dtype: str,
    shape: tuple[int, ...],
    bases: Sequence[tuple[Match, str]],
    factors: Factors,
    read: Callable[[Held], bytes],
) -> Iterator[Predicted]:
    """Every way in which a merge may have made a tensor, by what its base is, what it was held in and how it rounded.

    Args:
        dtype: of the merged tensor.
        shape: its dimensions.
        bases: matches in the base, and the dtype that each reference gives.
        factors: the update.
        read: gives the bytes of a factor.
    """
    if dtype not in _FLOATS or len(shape) != 2:
        return
    turned = factors.transposed
    product = factors.left.shape[0], factors.right.shape[1]
    if product[0] != product[1]:
        turned = product != shape
    if (product[::-1] if turned else product) != shape:
        return
    noise = _noise(factors, read)
    if noise is None:
        return
    scale = struct.pack(">f", factors.scaling).hex()
    m, rank = factors.left.shape
    form = "transposed" if turned else "product"
    size = f"{m}x{rank}x{factors.right.shape[1]}"
    for match, held in bases:
        if held not in (dtype, "F32"):
            continue
        for rule in _rules(factors, held):
            stage = f"0:{form}:{size}:{factors.left.dtype}:{factors.right.dtype}:{scale}:{rule}"
            head = f"{held}:{dtype}:{shape[0]}x{shape[1]}:{noise}"
            digests = (*match.digests, factors.left.digest, factors.right.digest)
            yield Predicted(f"{match.reference}|{head}|{stage}", digests, rule)


def _rules(factors: Factors, held: str) -> tuple[str, ...]:
    """The likeliest first: PEFT holds factors of 16 bits as float32 unless it is told otherwise."""
    narrow = [held] if held != "F32" else [] if factors.left.dtype == "F32" else [factors.left.dtype]
    return ("once", *(f"twice-{each}" for each in narrow), *(f"thrice-{each}" for each in narrow))


def _noise(factors: Factors, read: Callable[[Held], bytes]) -> int | None:
    """log2 of how far a float32 product is off: 2^-24 of the update's standard deviation, from Gram matrices."""
    import numpy as np  # noqa: PLC0415

    grams = []
    for held, by_rows in ((factors.left, False), (factors.right, True)):
        values = _as_float64(read(held), held.dtype).reshape(held.shape)
        values = values if by_rows else values.T
        with np.errstate(all="ignore"):
            grams.append(values @ values.T)
    with np.errstate(all="ignore"):
        mean_square = float(np.sum(grams[0] * grams[1])) / (factors.left.shape[0] * factors.right.shape[1])
    size = abs(factors.scaling) * math.sqrt(mean_square) if mean_square > 0 else 0.0
    if not math.isfinite(size) or size < 1e-30:
        return None
    return max(-100, min(100, math.floor(math.log2(size)) - 24))


def _as_float64(data: bytes, dtype: str) -> Any:
    import numpy as np  # noqa: PLC0415

    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).view("<f4").astype(np.float64)
    return np.frombuffer(data, f"<f{BITS[dtype] // 8}").astype(np.float64)
