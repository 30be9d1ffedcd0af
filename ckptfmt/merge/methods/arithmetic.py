"""The arithmetic of a low-rank update, a block of rows at a time with the bits of the whole.

`B @ A` is computed by the machine's BLAS, whose results may differ in the last bit between a matrix and a part of it.
`tests/merge_methods/test_blocks.py` holds the rule by which `product_rows` avoids that.
"""

from __future__ import annotations

import sys
from typing import Final

import torch

from ckptfmt.errors import MergeError
from ckptfmt.merge.methods.scratch import scratch

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The dtypes that a merge computes in, by the names of `format.dtypes`."""

DTYPE_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
HALVES: Final = frozenset({torch.float16, torch.bfloat16})
_HALF: Final = 0.5
_PARALLEL: Final = 1 << 18
"""Elements of a sum that torch spreads over its worker threads."""
NARROW: Final = 16
"""Fewest elements of the uncut side of a product that is cut: below, BLAS changes kernels with the other length."""


def keep_subnormals(*, all_threads: bool = False) -> None:
    """Raise where this thread's arithmetic turns subnormal numbers into 0 and cannot be told not to.

    `torch.set_flush_denormal(True)`, or a library built with fast-math, does that to a thread and to those it starts;
    the sums of a merge would silently differ. The mode is cleared where torch can clear it.

    Args:
        all_threads: look at torch's own worker threads as well.

    Raises:
        MergeError: it stays on.
    """
    if _flushes(all_threads=all_threads):
        torch.set_flush_denormal(False)
        if _flushes(all_threads=all_threads):
            raise MergeError(
                "this process turns subnormal numbers into zero: a merge would silently give other tensors",
                hint="merge in a fresh process, or turn off fast-math in what set it",
            )


def _flushes(*, all_threads: bool) -> bool:
    smallest = sys.float_info.min
    if smallest * _HALF == 0:
        return True
    return all_threads and bool((torch.full((_PARALLEL,), 2.0**-126) * _HALF == 0).any())


def held_dtype(base: torch.dtype, *, autocast: bool) -> torch.dtype:
    """The dtype in which PEFT holds an adapter on a weight of dtype `base`.

    Source: peft's `_move_adapter_to_device_of_base_layer` casts to the weight's dtype, and `cast_adapter_dtype` then
    16 bits to fp32.
    """
    return torch.float32 if autocast and base in HALVES else base


def computed_dtype(held: torch.dtype) -> torch.dtype:
    """The dtype of the product: peft multiplies 16-bit factors in fp32 on a CPU."""
    return torch.float32 if held in HALVES else held


def product_rows(
    left: torch.Tensor, right: torch.Tensor, begin: int, end: int, *, transposed: bool, kept: bool = True
) -> torch.Tensor:
    """Rows of `left @ right`, or of its transpose, with the bits that the whole product has.

    Args:
        left: shape (out, rank).
        right: shape (rank, in).
        begin: first row of the result.
        end: one past the last row; at least `protocol.BLOCK_ROWS` after `begin`, or all rows.
        transposed: give rows of `(left @ right).T`, shape (in, out).
        kept: give memory of its own; else this thread's next product lies in the same.

    Returns:
        Shape (end - begin, in), or (end - begin, out) if `transposed`.
    """
    if (right.shape[1] if not transposed else left.shape[0]) < NARROW:
        whole = left @ right
        return whole[:, begin:end].T if transposed else whole[begin:end]
    left, right = (left, right[:, begin:end]) if transposed else (left[begin:end], right)
    shape = (left.shape[0], right.shape[1])
    product = torch.mm(left, right, out=left.new_empty(shape) if kept else scratch("product", shape, left))
    return product.T if transposed else product


def add_update(block: torch.Tensor, update: torch.Tensor) -> None:
    """`block += update`: in fp32 and rounded once, where an fp32 update is added to 16 bits.

    torch would take fresh memory for both in fp32.
    """
    if block.dtype in HALVES and update.dtype == torch.float32:
        wide = scratch("sum", tuple(block.shape), update)
        wide.copy_(block)
        wide += update
        block.copy_(wide)
    else:
        block += update
