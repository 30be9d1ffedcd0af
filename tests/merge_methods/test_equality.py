"""The equality table: elements that differ from `merge_and_unload()` and `save_pretrained`, and there are none.

`python -m benchmarks.merge_equality` prints it. Each case runs here in one combination of model and dtype, drawn by
its place in the table so that all occur; under `torture` in all of them.
"""

from __future__ import annotations

import zlib

import pytest

from tests.merge_methods.cases import CASES, DTYPES
from tests.merge_methods.equality import Case, compare

pytestmark = [pytest.mark.fixtures, pytest.mark.filterwarnings("ignore")]

ALL = [(case, kind, dtype) for case in CASES for kind in case.kinds for dtype in DTYPES]
BY_REASON = 96
"""Most elements that may differ in a case that gives its reason: as many as GLoRA's modules have biases in Llama."""


def _drawn(case: Case) -> tuple[Case, str, str]:
    """One combination a case; bf16 most often, as most models are."""
    draw = zlib.crc32(case.name.encode())
    return case, case.kinds[draw % len(case.kinds)], ("bfloat16", "bfloat16", "float16", "float32")[draw // 7 % 4]


def _check(case: Case, kind: str, dtype: str) -> None:
    outcome = compare(case, kind, dtype)
    assert outcome.changed, "the adapter changes something"
    if case.reason:
        assert outcome.elements <= BY_REASON, outcome.differing
    else:
        assert not outcome.differing
    assert not outcome.config, "config.json is what transformers writes"


@pytest.mark.parametrize(("case", "kind", "dtype"), [pytest.param(*_drawn(case), id=case.name) for case in CASES])
def test_no_element_differs(case: Case, kind: str, dtype: str) -> None:
    _check(case, kind, dtype)


@pytest.mark.torture
@pytest.mark.parametrize(
    ("case", "kind", "dtype"), [pytest.param(*each, id=f"{each[0].name}-{each[1]}-{each[2]}") for each in ALL]
)
def test_no_element_differs_in_any_combination(case: Case, kind: str, dtype: str) -> None:
    _check(case, kind, dtype)
