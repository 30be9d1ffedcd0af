"""Known adapters: what a merge of them would give, as predictions that a merged tensor may be stored against.

An adapter is known where its factors are objects: taken in with the same checkpoint, or in the store. Which rounding
the merge used, and whether there was such a merge at all, is found by trying a few rows; nothing here is believed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptfmt.format.dtypes import BITS
from ckptfmt.layouts.peft_keys import PREFIX, split_lora
from ckptfmt.transfer.fused import parts_of
from ckptfmt.transfer.held import Held
from ckptfmt.transfer.matching import Match

_FACTORS: Final = (("lora_B.weight", "lora_A.weight"), ("lora_embedding_B", "lora_embedding_A"))
_FLOATS: Final = frozenset({"BF16", "F16", "F32"})
MOST_STAGES: Final = 4
"""Updates of one prediction."""
_WRAPPERS: Final = ("model.", "transformer.", "base_model.model.", "")


@dataclass(frozen=True, slots=True)
class Factors:
    """The low-rank update of one module: `scaling` x left x right, perhaps transposed.

    Attributes:
        left: the tensor (m, r).
        right: the tensor (r, n).
        scaling: what their product is multiplied by.
        transposed: whether the update is the transpose of the product.
        across: whether the tensor of the right factor is its transpose (n, r).
        part: which of how many parts of a fused tensor is updated, counted from 0; the rows of the first begin it, and
            the others, all alike, end it.
    """

    left: Held
    right: Held
    scaling: float
    transposed: bool
    across: bool = False
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a merge rounded.

    Attributes:
        rule: of each stage, as the encoding names it.
        narrowed: the type that factors were rounded to first; None where they were not.
    """

    rule: str
    narrowed: str | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction as a shard would name it, and the digests of base and factors that it is made of."""

    reference: str
    digests: tuple[str, ...]
    manner: Manner


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
            if len(left.shape) != 2 or len(right.shape) != 2:
                continue
            across = left.shape[1] != right.shape[0]
            if across:  # nanoGPT's embeddings: A is (vocabulary, rank), B is (width, rank), the update is A x B^T.
                left, right = right, left
                if left.shape[1] != right.shape[1]:
                    continue
            scaling = _scaling(config, module, left.shape[1])
            if scaling is not None:
                turned = left_part != "lora_B.weight" or bool(config.get("fan_in_fan_out"))
                found[module] = Factors(left, right, scaling, turned and not across, across)
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


def updates_of(name: str, updates: Mapping[str, Factors]) -> list[Factors]:
    """The updates of the tensor `name`: one, or those of the projections that are fused in it."""
    whole = update_of(name, updates)
    if whole is not None:
        return [whole]
    for parts in parts_of(name):
        found = [(update_of(part, updates), index) for index, part in enumerate(parts)]
        if any(update is not None for update, _ in found):
            return [replace(update, part=(index, len(parts))) for update, index in found if update is not None]
    return []


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
    base: tuple[Match, str],
    stages: Sequence[Factors],
    noise_of: Callable[[Factors], int | None],
) -> Iterator[Predicted]:
    """Every way in which a merge may have made a tensor of a base and updates, by how it rounded.

    Args:
        dtype: of the merged tensor.
        shape: its dimensions.
        base: what the updates were added to, and the dtype that its reference gives, in which the sums were held.
        stages: the updates, in the order in which they were added.
        noise_of: how far the product of an update may be off; None where nothing can be predicted from it.
    """
    match, held = base
    if dtype not in _FLOATS or len(shape) != 2 or held not in (dtype, "F32") or not 0 < len(stages) <= MOST_STAGES:
        return
    forms = [_form(factors, shape) for factors in stages]
    noises = [noise_of(replace(factors, part=(0, 1))) for factors in stages] if None not in forms else [None]
    noise = max((each for each in noises if each is not None), default=0)
    if None in noises:
        return
    factors = [each.digest for stage in stages for each in (stage.left, stage.right)]
    for manner in _manners(stages, dtype, held):
        texts = [f"{held}:{dtype}:{shape[0]}x{shape[1]}:{noise}"]
        for stage, form in zip(stages, forms, strict=True):
            types = ":".join(_read_as(each.dtype, manner.narrowed) for each in (stage.left, stage.right))
            texts.append(f"{form}:{types}:{struct.pack('>f', stage.scaling).hex()}:{manner.rule}")
        yield Predicted("|".join((match.reference, *texts)), (*match.digests, *factors), manner)


def _form(factors: Factors, shape: tuple[int, ...]) -> str | None:
    """Where the product is added, which way round, and the shapes of its factors; None where it is no such update."""
    turned = factors.transposed
    (rows, rank), columns = factors.left.shape, factors.right.shape[0 if factors.across else 1]
    index, count = factors.part
    if count > 1:
        # Of a fused tensor, rows are updated: factors that lie the other way round belong to none.
        if turned or factors.across or columns != shape[1] or rows > shape[0]:
            return None
        begin = 0 if index == 0 else shape[0] - (count - index) * rows
        return f"{begin}:product:{rows}x{rank}x{columns}" if begin >= 0 else None
    if factors.across:
        return f"0:across:{rows}x{rank}x{columns}" if (rows, columns) == shape else None
    if rows != columns:
        turned = (rows, columns) != shape
    if ((columns, rows) if turned else (rows, columns)) != shape:
        return None
    return f"0:{'transposed' if turned else 'product'}:{rows}x{rank}x{columns}"


def _read_as(dtype: str, narrowed: str | None) -> str:
    return dtype if narrowed in (None, dtype) else f"{dtype}>{narrowed}"


def _manners(stages: Sequence[Factors], dtype: str, held: str) -> Iterator[Manner]:
    """The likeliest first: PEFT holds factors of 16 bits as float32 unless it is told otherwise.

    Told otherwise, or where somebody cast the whole model, factors that were saved in float32 are what the model is.
    """
    yield Manner("once")
    saved = {each.dtype for stage in stages for each in (stage.left, stage.right)}
    narrow = [held] if held != "F32" else sorted(saved - {"F32"})
    for kind in ("twice", "thrice"):
        for each in narrow:
            yield Manner(f"{kind}-{each}")
    model = held if held != "F32" else dtype
    if model != "F32" and saved != {model}:
        for rule in (f"twice-{model}", f"thrice-{model}", "once"):
            yield Manner(rule, model)


def noise_of(factors: Factors, read: Callable[[Held], bytes]) -> int | None:
    """log2 of how far a float32 product is off: 2^-24 of the update's standard deviation, from Gram matrices.

    None where nothing can be predicted: an update of zeros, or one that is not finite.
    """
    import numpy as np  # noqa: PLC0415

    grams, columns = [], factors.right.shape[0 if factors.across else 1]
    for held, by_rows in ((factors.left, False), (factors.right, not factors.across)):
        with np.errstate(all="ignore"):
            values = _as_float64(read(held), held.dtype).reshape(held.shape)
            values = values if by_rows else values.T
            grams.append(values @ values.T)
    with np.errstate(all="ignore"):
        mean_square = float(np.sum(grams[0] * grams[1])) / (factors.left.shape[0] * columns)
    size = abs(factors.scaling) * math.sqrt(mean_square) if mean_square > 0 else 0.0
    if not math.isfinite(size) or size < 1e-30:
        return None
    return max(-100, min(100, math.floor(math.log2(size)) - 24))


def _as_float64(data: bytes, dtype: str) -> Any:
    import numpy as np  # noqa: PLC0415

    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).view("<f4").astype(np.float64)
    return np.frombuffer(data, f"<f{BITS[dtype] // 8}").astype(np.float64)
