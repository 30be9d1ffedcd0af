"""The demonstration as a whole: everything comes back, and it would say so if something did not."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ckptfmt.api import Store
from ckptfmt.demo.made import TINY
from ckptfmt.demo.report import DemoReport
from ckptfmt.demo.run import STEPS, run_demo
from ckptfmt.demo.state import Demo, Step
from ckptfmt.demo.table import ratio, render, size
from ckptfmt.errors import Conflict

pytestmark = pytest.mark.fixtures


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def text_of(report: DemoReport, *, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(render(report))
    out = console.file
    assert isinstance(out, StringIO)
    return out.getvalue()


def spoil_an_original(demo: Demo) -> None:
    path = demo.people.checkpoints[0].path / "adapter_config.json"
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> DemoReport:
    return run_demo(tmp_path_factory.mktemp("run") / "demo", size=TINY, say=lines.append)


def test_the_stages_merge_to_pefts_bits_and_a_changed_base_is_refused(report: DemoReport, lines: list[str]) -> None:
    assert report.merge is not None
    assert report.merge.same_bits and report.merge.stages == 3
    assert report.merge.refused is not None and "1 of" in report.merge.refused
    assert any("the very bits" in line for line in lines)


def test_every_file_comes_back(report: DemoReport) -> None:
    assert report.ok
    assert report.files == report.files_same > 50
    assert report.damaged == 0 < report.objects
    assert all(row.differing == () for row in report.rows)


def test_the_store_is_there_to_look_at(report: DemoReport) -> None:
    with Store.open(report.store) as store:
        rows = {row.ref: row for row in store.list_refs()}
        assert set(rows) == {row.ref for row in report.rows}
        assert rows["stages/stage-3"].parent
        assert [base.name for base in store.list_bases()] == [report.base]
    assert report.store_bytes < report.disk_bytes


def test_each_step_is_told(report: DemoReport, lines: list[str]) -> None:
    assert report.ok
    for number, step in enumerate(STEPS, start=1):
        assert f"[{number}/{len(STEPS)}] {step.title}" in lines


def test_the_table_names_every_checkpoint_and_the_sums(report: DemoReport) -> None:
    shown = text_of(report)
    assert all(row.ref in shown for row in report.rows)
    assert f"{report.files} of {report.files}" in shown
    assert "Every file came back" in shown
    table = text_of(report, width=80).partition("Every file")[0]
    assert len(table.splitlines()) == len(report.rows) + 6, "a cell was folded at 80 columns"


def test_cleaning_up_frees_what_it_said_and_its_undo_brings_all_of_it_back(report: DemoReport) -> None:
    cleanup = report.cleanup
    assert cleanup is not None and cleanup.ok
    assert cleanup.held_bytes == cleanup.planned_bytes > report.disk_bytes / 4
    assert cleanup.gc_freed_bytes > 0
    assert "Its undo brought all of them back" in text_of(report)


def test_merged_models_take_next_to_nothing_beside_their_adapters(report: DemoReport) -> None:
    merged = [row for row in report.rows if row.merged]
    assert {row.kind for row in merged} == {"full export", "stage, merged"}
    with Store.open(report.store) as store:
        for row in merged:
            weights = store.show(row.ref).encodings["lowrank"]
            assert weights.objects and weights.stored_bytes < 0.01 * weights.logical_bytes
    assert "The 5 merged models" in text_of(report)


def test_a_file_that_differs_is_named(tmp_path: Path) -> None:
    steps = (*STEPS[:4], Step("spoil", spoil_an_original), *STEPS[4:])
    report = run_demo(tmp_path / "demo", size=TINY, steps=steps)
    assert not report.ok
    assert report.files_same == report.files - 1
    assert report.rows[0].differing == ("adapter_config.json",)
    assert "NOT everything came back: adapter_config.json" in text_of(report)


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(Conflict) as caught:
        run_demo(tmp_path, size=TINY)
    assert caught.value.code == "target-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_sizes_are_written_for_people() -> None:
    assert [size(n) for n in (0, 999, 12_345, 9_012_345, 108_100_000_000)] == [
        "0 B",
        "999 B",
        "12 kB",
        "9.0 MB",
        "108.1 GB",
    ]
    assert [ratio(90, 10), ratio(90, 0)] == ["9.0 x", "-"]
