"""Several cleanups of one tree at once, and cleanups with undos: nothing is lost, nothing is freed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.errors import CkptfmtError
from ckptfmt.reclaim.proving import prove
from tests.faults import seam
from tests.reclaim.making import purge_of
from tests.reclaim.test_kill import Setting, check, clean, make, undo
from tests.store.making import tree_of


@pytest.fixture
def setting(quick: Path) -> Iterator[Setting]:
    yield make(quick / "before")


def test_cleanups_at_once_free_everything_once(setting: Setting, quick: Path) -> None:
    with setting.open() as store:
        said = cleaning.plan(store, [setting.tree]).shown.freed_bytes

    def act(number: int) -> None:
        with setting.open() as store:
            report = cleaning.execute(store, cleaning.plan(store, [setting.tree], hold_days=0), prover=prove)
        (quick / f"freed-{number}").write_text(json.dumps(report.freed_bytes))

    seam.in_processes(4, act)
    assert sum(json.loads((quick / f"freed-{number}").read_text()) for number in range(4)) == said
    check(setting, whole=False)
    clean(0)(setting)
    assert not list(setting.tree.glob("runs/*/model.safetensors"))


@pytest.mark.parametrize("round_", range(3))
def test_a_cleanup_and_an_undo_at_once(setting: Setting, quick: Path, round_: int) -> None:
    def act(number: int) -> None:
        try:
            if number % 2:
                undo(setting)
            else:
                clean(7)(setting)
        except CkptfmtError:
            pass  # A race that was lost and is said.

    clean(7)(setting)
    seam.in_processes(4, act)
    check(setting, whole=False)
    undo(setting)
    undo(setting)
    check(setting, whole=True)
    before = {path: node for path, node in setting.before.items() if node.kind == "file"}
    assert {path: node for path, node in tree_of(setting.tree).items() if node.kind == "file"} == before


def test_a_purge_and_an_undo_at_once(setting: Setting, quick: Path) -> None:
    clean(7)(setting)

    def act(number: int) -> None:
        with Store.open(setting.work / "store") as store:
            for row in cleaning.list_receipts(store):
                if number % 2:
                    cleaning.undo_cleanup(store, row.receipt)
                else:
                    purge_of(store, row.receipt)

    seam.in_processes(4, act)
    check(setting, whole=False)
