"""Memory that a thread computes in again and again: sums in it have the bits of torch's own, and none is shared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ckptfmt.merge.methods.arithmetic import add_update
from ckptfmt.merge.methods.scratch import scratch

LIKE = torch.empty(0)


def test_the_same_use_has_the_same_memory_and_another_has_not() -> None:
    first = scratch("product", (300, 5), LIKE)
    assert first.shape == (300, 5) and first.dtype == torch.float32
    assert scratch("product", (2, 700), LIKE).data_ptr() == first.data_ptr()
    assert scratch("sum", (300, 5), LIKE).data_ptr() != first.data_ptr()
    assert scratch("product", (300, 5), LIKE.double()).data_ptr() != first.data_ptr()
    assert scratch("product", (0, 5), LIKE).shape == (0, 5)


def test_it_grows() -> None:
    small = scratch("product", (10,), LIKE)
    assert scratch("product", (1 << 20,), LIKE).numel() == 1 << 20
    assert small.numel() == 10


def test_a_thread_has_its_own() -> None:
    mine = scratch("sum", (100,), LIKE)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(scratch, "sum", (100,), LIKE).result()
    assert mine.data_ptr() != theirs.data_ptr()


def test_what_is_no_block_is_not_kept() -> None:
    shape = (3000, 3000)
    first, second = scratch("sum", shape, LIKE), scratch("sum", shape, LIKE)
    assert first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("added", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("turned", [False, True])
def test_a_sum_has_the_bits_of_torchs(dtype: torch.dtype, added: torch.dtype, turned: bool) -> None:
    torch.manual_seed(3)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-45, 65504.0, 3e38])
    pairs = torch.cartesian_prod(special, special)
    for scale in (1.0, 1e-3, 1e3, 1e-30):
        left, right = torch.randn(520, 33), torch.randn(520, 33) * scale
        left[: len(pairs), 0], right[: len(pairs), 0] = pairs[:, 0], pairs[:, 1]
        block, update = left.to(dtype), right.to(added)
        if turned:
            update = update.T.contiguous().T
        wanted = block.clone()
        wanted += update
        add_update(block, update)
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        assert torch.equal(block.view(kind), wanted.view(kind))
