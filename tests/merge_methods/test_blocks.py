"""The rule of the blocked product: blocks of at least 256 rows give the bits of the whole.

Where the uncut side is narrower than `NARROW`, BLAS takes other kernels for other lengths, and the product is
computed whole. Checked at 1, 2 and 4 threads, at heights 256 * k + {0...17} and at random ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise as pairs

import pytest
import torch

from ckptfmt.merge.methods.arithmetic import NARROW, product_rows
from ckptfmt.merge.protocol import BLOCK_ROWS

SIDES = (1, 3, 5, 15, 16, 17, 31, 33, 64, 100, 127, 255, 257, 512, 768, 1000, 2049)
RANKS = (1, 2, 3, 4, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64)


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def even(height: int) -> list[int]:
    """Blocks of 256 rows, a short tail joined to the last."""
    return [*range(0, max(height - BLOCK_ROWS, 0) + 1, BLOCK_ROWS), height] if height >= BLOCK_ROWS else [0, height]


def uneven(height: int, draw: random.Random) -> list[int]:
    cuts = [0]
    while height - cuts[-1] >= 2 * BLOCK_ROWS:
        cuts.append(cuts[-1] + draw.randint(BLOCK_ROWS, min(1500, height - cuts[-1] - BLOCK_ROWS)))
    return [*cuts, height]


def check(height: int, side: int, rank: int, cuts: list[int], dtype: torch.dtype = torch.float32) -> None:
    left, right = torch.randn(height, rank, dtype=dtype), torch.randn(rank, side, dtype=dtype)
    whole = left @ right
    for begin, end in pairs(cuts):
        block = product_rows(left, right, begin, end, transposed=False)
        assert torch.equal(block, whole[begin:end]), (height, side, rank, begin, end)
        again = product_rows(left, right, begin, end, transposed=False, kept=False)
        assert torch.equal(again, block), ("in scratch", height, side, rank, begin, end)
    left, right = torch.randn(side, rank, dtype=dtype), torch.randn(rank, height, dtype=dtype)
    whole = (left @ right).T
    for begin, end in pairs(cuts):
        block = product_rows(left, right, begin, end, transposed=True)
        assert torch.equal(block, whole[begin:end]), ("transposed", height, side, rank, begin, end)
        again = product_rows(left, right, begin, end, transposed=True, kept=False)
        assert torch.equal(again, block), ("transposed, in scratch", height, side, rank, begin, end)


@pytest.mark.parametrize("past", range(18))
def test_heights_past_a_multiple(threads: int, past: int) -> None:
    torch.manual_seed(past)
    draw = random.Random(past * 31 + threads)
    for _ in range(14):
        height = BLOCK_ROWS * draw.choice((1, 2, 3, 4, 7)) + past
        check(height, draw.choice(SIDES), draw.choice(RANKS), even(height))


def test_blocks_of_any_height(threads: int) -> None:
    torch.manual_seed(threads)
    draw = random.Random(threads)
    for _ in range(60):
        height = draw.randint(512, 5000)
        check(height, draw.choice(SIDES), draw.choice(RANKS), uneven(height, draw))


def test_blocks_on_one_thread_equal_a_whole_on_several() -> None:
    """The execution gives each of its threads a block; peft gives the whole to all of them."""
    before = torch.get_num_threads()
    draw = random.Random(5)
    torch.manual_seed(5)
    try:
        for _ in range(60):
            height, side, rank = draw.randint(512, 4000), draw.choice(SIDES), draw.choice(RANKS)
            if side < NARROW:
                continue
            left, right = torch.randn(height, rank), torch.randn(rank, side)
            torch.set_num_threads(2)
            whole = left @ right
            torch.set_num_threads(1)
            cuts = uneven(height, draw)
            blocks = [product_rows(left, right, *each, transposed=False) for each in pairs(cuts)]
            assert torch.equal(torch.cat(blocks), whole), (height, side, rank, cuts)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_16_bits(threads: int, dtype: torch.dtype) -> None:
    """What a universal checkpoint's own merge computes in its own dtype."""
    draw = random.Random(threads)
    torch.manual_seed(threads)
    for _ in range(20):
        height = draw.randint(512, 3000)
        check(height, draw.choice(SIDES), draw.choice(RANKS), uneven(height, draw), dtype)


def test_one_expert_equals_the_stack(threads: int) -> None:
    """`einsum` over stacked experts, as peft's `ParamWrapper` has it, against each expert's own blocked product."""
    draw = random.Random(threads)
    torch.manual_seed(threads)
    for _ in range(25):
        experts, rank = draw.choice((2, 4, 8, 16)), draw.choice(RANKS)
        out, into = draw.choice((48, 256, 530, 768, 1030)), draw.choice((16, 32, 100, 512))
        a, b = torch.randn(experts * rank, into), torch.randn(out, rank * experts)
        stacked = torch.einsum("o r e, e r i -> e o i", b.reshape(out, -1, experts), a.reshape(experts, -1, into))
        for expert in range(experts):
            left, right = b.reshape(out, -1, experts)[:, :, expert], a.reshape(experts, -1, into)[expert]
            cuts = even(out)
            blocks = [product_rows(left, right, *each, transposed=False) for each in pairs(cuts)]
            assert torch.equal(torch.cat(blocks), stacked[expert]), (experts, out, into, rank)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_rows(threads: int, dtype: torch.dtype) -> None:
    """DoRA's norms: a row's does not depend on the others."""
    draw = random.Random(threads)
    torch.manual_seed(threads)
    for _ in range(15):
        height, side = draw.randint(512, 2000), draw.choice(SIDES)
        weight = torch.randn(height, side, dtype=dtype)
        whole = torch.linalg.norm(weight, dim=1)
        blocks = [torch.linalg.norm(weight[begin:end].clone(), dim=1) for begin, end in pairs(uneven(height, draw))]
        assert torch.equal(torch.cat(blocks), whole), (height, side)


@pytest.mark.torture
def test_every_height_side_and_rank(threads: int) -> None:
    torch.manual_seed(threads)
    for multiple in (2, 3, 4, 8):
        for past in range(18):
            height = BLOCK_ROWS * multiple + past
            for side in SIDES:
                for rank in RANKS[::3]:
                    check(height, side, rank, even(height))
