"""The model root: what counts, what does not."""

from __future__ import annotations

import hashlib
import json

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptfmt.format.root import RootLeaf, model_root, root_leaves

LEAVES = (
    RootLeaf("a", "BF16", (2, 3), "0" * 64),
    RootLeaf("b", "F32", (), "1" * 64, tie=7),
    RootLeaf("é", "F32", (), "1" * 64, tie=7),
    RootLeaf("Z", "I64", (0,), "2" * 64),
)


@given(st.permutations(LEAVES))
def test_order_does_not_count(leaves: list[RootLeaf]) -> None:
    assert model_root(leaves) == model_root(LEAVES)


def test_ties_stand_under_their_first_name() -> None:
    assert [leaf.name for leaf in root_leaves(LEAVES)] == ["Z", "a", "b"]
    assert model_root(LEAVES) == model_root(LEAVES[:2] + LEAVES[3:])


@pytest.mark.parametrize("change", [{"name": "c"}, {"dtype": "F16"}, {"shape": (6,)}, {"digest": "3" * 64}])
def test_everything_else_counts(change: dict[str, object]) -> None:
    fields = {"name": "a", "dtype": "BF16", "shape": (2, 3), "digest": "0" * 64} | change
    assert model_root([RootLeaf(**fields), *LEAVES[1:]]) != model_root(LEAVES)  # type: ignore[arg-type]


def test_it_is_what_the_specification_says() -> None:
    lines = [["Z", "I64", [0], "2" * 64], ["a", "BF16", [2, 3], "0" * 64], ["b", "F32", [], "1" * 64]]
    text = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
    assert model_root(LEAVES) == blake3.blake3(text.encode()).hexdigest()
    assert hashlib.sha256(text.encode()).hexdigest() != model_root(LEAVES)


def test_of_nothing() -> None:
    assert model_root([]) == blake3.blake3(b"").hexdigest()
