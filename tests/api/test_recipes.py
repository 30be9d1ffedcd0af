"""What a merge would merge, told before it: the chain in order, its base, and why it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from ckptfmt import Store
from ckptfmt.errors import CkptfmtError, IntegrityError, MergeError
from tests.cli.made import adapter, full


@pytest.fixture
def chain(store: Store, tmp_path: Path) -> Store:
    store.add_base("tiny", full(tmp_path / "base"))
    parent = None
    for stage, rank in ((1, 4), (2, 8), (3, 2)):
        directory = adapter(tmp_path / f"stage-{stage}", seed=stage, rank=rank)
        store.import_path(
            directory, name=f"s/{stage}", base="tiny", parent=parent, stage=stage, how="continue" if parent else None
        )
        parent = f"s/{stage}"
    return store


def test_a_chain_is_told_in_the_order_of_its_merge(chain: Store, tmp_path: Path) -> None:
    report = chain.recipe("s/3")
    assert [(step.refs, step.stage, step.method, step.rank) for step in report.steps] == [
        (("s/1",), 1, "LORA", 4),
        (("s/2",), 2, "LORA", 8),
        (("s/3",), 3, "LORA", 2),
    ]
    assert (report.base, report.base_now, report.binding) == ("tiny", "tiny", "stated")
    assert report.path == str(tmp_path / "base")
    assert not report.kept
    merged = chain.merge("s/3", tmp_path / "out")
    assert len(merged.adapters) == len(report.steps)
    assert [each.partition(":")[0] for each in merged.adapters] == [step.manifest for step in report.steps]
    assert merged.base_root == report.base_root


@pytest.mark.parametrize("dtype", [None, "bf16", "fp32"])
def test_about_so_much_is_written(chain: Store, tmp_path: Path, dtype: Literal["bf16", "fp32"] | None) -> None:
    report = chain.recipe("s/2")
    chain.merge("s/2", tmp_path / "out", dtype=dtype)
    told = report.cast_bytes[dtype] if dtype else report.base_bytes
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert abs(told - written) < 2000 + written // 20


def test_a_base_that_was_kept_says_so(chain: Store) -> None:
    chain.keep_base("tiny")
    assert chain.recipe("s/1").kept


def test_what_cannot_be_merged_is_known_from_manifests(chain: Store, tmp_path: Path) -> None:
    chain.import_path(full(tmp_path / "model", seed=9), name="model")
    chain.import_path(adapter(tmp_path / "loose"), name="loose")
    found = chain.refusals()
    assert set(found) == {"model", "loose"}
    assert found["model"].startswith("has no adapter to merge")
    assert found["loose"].startswith("is bound to no base")


def test_what_cannot_be_merged_is_said_in_the_words_of_merge(chain: Store, tmp_path: Path) -> None:
    chain.import_path(full(tmp_path / "model", seed=9), name="model")
    chain.import_path(adapter(tmp_path / "loose"), name="loose")
    for name, kind in (("model", MergeError), ("loose", IntegrityError)):
        with pytest.raises(kind) as told:
            chain.recipe(name)
        with pytest.raises(CkptfmtError) as said:
            chain.merge(name, tmp_path / "out")
        assert (told.value.message, told.value.code, told.value.hint) == (
            said.value.message,
            said.value.code,
            said.value.hint,
        )
