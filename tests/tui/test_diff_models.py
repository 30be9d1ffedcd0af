"""What the diff page shows, without a screen: rows, their order, the heat map's scale and colours."""

from __future__ import annotations

import colorsys
import itertools
import math
from pathlib import Path

import pytest
from ckptfmt_tui.models import diffs
from ckptfmt_tui.models.heat import Grid, Heat, Scale, colour, column_widths, ink, scale_of, shade, window

from ckptfmt import Store
from ckptfmt.api.diff_words import is_in, number, rank_words, share, short_modules
from ckptfmt.api.results_diff import Cell, DiffReport

ALL = frozenset(diffs.KINDS)


@pytest.fixture(scope="module")
def report(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffReport:
    """The base, and what was merged from it."""
    with pytest.MonkeyPatch.context() as patch, Store.open(made_store) as store:
        patch.setenv("CKPTFMT_CACHE", str(tmp_path_factory.mktemp("diff-cache")))
        return store.diff("bases/tiny", "merged/stage-1")


@pytest.fixture(scope="module")
def stages(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffReport:
    """Two adapters."""
    with pytest.MonkeyPatch.context() as patch, Store.open(made_store) as store:
        patch.setenv("CKPTFMT_CACHE", str(tmp_path_factory.mktemp("diff-cache")))
        return store.diff("stages/stage-1", "stages/stage-2")


def test_every_tensor_is_a_row(report: DiffReport) -> None:
    rows = diffs.tensor_rows(report)
    found = diffs.counts(rows)
    assert found["changed"] == len(report.tensors.changed) > 0
    assert found["same"] == report.tensors.same > 0
    assert {row.name for row in rows if row.kind == "same"} == set(report.tensors.same_names)
    first = report.tensors.changed[0]
    row = next(row for row in rows if row.name == first.name)
    assert row.cells["change"] == number(first.relative_norm)
    assert row.ranks["change"] == first.relative_norm


def test_adapters_are_rows_of_updates_without_their_factors(stages: DiffReport) -> None:
    rows = diffs.tensor_rows(stages)
    assert {row.of for row in rows} == {"adapter"}
    assert not any("lora_A" in row.name for row in rows)
    assert {row.name for row in rows} == {each.module for each in stages.adapters.compared[0].modules}


def test_rows_are_sorted_by_what_is_asked_for(report: DiffReport) -> None:
    rows = diffs.tensor_rows(report)
    largest = [row.ranks["change"] for row in diffs.chosen(rows, kinds=frozenset({"changed"}), order="change")]
    assert largest == sorted((each or 0.0 for each in largest), reverse=True)
    least = diffs.chosen(rows, kinds=frozenset({"changed"}), order="-change")
    assert [row.ranks["change"] for row in least] == largest[::-1]
    names = [row.told for row in diffs.chosen(rows, kinds=ALL, order="name")]
    assert names == sorted(names)
    kinds = [row.kind for row in diffs.chosen(rows, kinds=ALL, order="change")]
    assert kinds[-1] == "same", "what has no change stands behind what has one"


def test_a_change_from_zero_stands_first_and_states_of_an_optimizer_last() -> None:
    def row(name: str, change: float | None, of: str | None = "model") -> diffs.Row:
        return diffs.Row("changed", name, name, {}, {"change": change}, of)  # type: ignore[arg-type]

    rows = [row("small", 0.1), row("moment", 9.0, None), row("from zero", math.inf), row("unknown", None)]
    shown = [each.name for each in diffs.chosen(rows, kinds=ALL, order="change")]
    assert shown == ["from zero", "small", "unknown", "moment"]
    assert diffs.largest(rows) == 9.0


def test_a_cell_chooses_its_tensors(report: DiffReport) -> None:
    rows = diffs.tensor_rows(report)
    for cell in report.summary.cells:
        shown = diffs.chosen(rows, kinds=ALL, cell=cell)
        assert len(shown) == cell.tensors
        assert sum(row.kind != "same" for row in shown) == cell.changed


def test_a_cell_is_told_by_number_and_by_stack() -> None:
    cell = Cell("model", "3", "mlp.up_proj", 0.1, 1, 1)
    assert is_in(cell, "model.layers.3.mlp.up_proj.weight")
    assert not is_in(cell, "model.layers.13.mlp.up_proj.weight")
    assert not is_in(cell, "model.layers.3.mlp.down_proj.weight")
    assert is_in(Cell("model", "encoder.block.3", "q", 0.1, 1, 1), "encoder.block.3.q.weight")
    assert not is_in(Cell("model", "encoder.block.3", "q", 0.1, 1, 1), "decoder.block.3.q.weight")
    assert is_in(Cell("model", None, "lm_head", 0.1, 1, 1), "lm_head.weight")


def test_the_grid_has_a_place_for_every_cell(report: DiffReport) -> None:
    grid = diffs.grid_of(report.summary, "model")
    assert grid is not None
    assert grid.rows == report.summary.layers
    shown = [heat.source for heat in grid.all_cells]
    missing = [cell for cell in report.summary.cells if cell not in shown]
    assert all(cell.layer is None and not cell.changed and cell.module in grid.below for cell in missing)
    for (row, column), heat in grid.cells.items():
        assert heat.source.layer == grid.rows[row]
        assert heat.source.module.endswith(grid.columns[column])
    assert diffs.grid_of(report.summary, "adapter") is None


def test_values_stand_side_by_side(stages: DiffReport) -> None:
    rows = diffs.value_rows(stages.settings)
    assert diffs.counts(rows)["same"] == stages.settings.same > 0
    for row in rows:
        if row.kind == "same":
            assert row.cells["a"] == row.cells["b"]
    files = diffs.file_rows(stages)
    assert diffs.counts(files)["same"] == stages.files.same


@pytest.mark.parametrize("dark", [True, False])
def test_the_colours_run_one_way_and_can_be_read(dark: bool) -> None:
    steps = [colour(at / 40, dark=dark) for at in range(41)]
    brightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in steps]
    pairs = itertools.pairwise(brightness)
    assert all(a < b for a, b in pairs) if dark else all(a > b for a, b in pairs)
    for paper in steps:
        assert _contrast(paper, ink(paper)) >= 4.5
    assert colorsys.rgb_to_hsv(*steps[0]) != colorsys.rgb_to_hsv(*steps[-1])


def _contrast(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """As WCAG 2 defines it."""

    def luminance(rgb: tuple[int, int, int]) -> float:
        parts = [each / 255 for each in rgb]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_scale_is_linear_until_values_are_far_apart() -> None:
    assert scale_of([Heat(None, ""), Heat(0.0, "0")]) is None
    near = scale_of([Heat(0.1, ""), Heat(0.2, ""), Heat(None, "")])
    assert near == Scale(0.1, 0.2)
    assert near.at(0.15) == pytest.approx(0.5)
    far = Scale(0.001, 1.0)
    assert far.at(math.sqrt(0.001)) == pytest.approx(0.5)
    assert Scale(0.5, 0.5).at(0.5) == 1.0
    assert [shade(at) for at in (0.0, 0.3, 0.6, 0.9, 1.0)] == ["░", "▒", "▓", "█", "█"]


def test_columns_share_the_room() -> None:
    assert column_widths(["q_proj", "a"], 40) == (7, 7)
    cut = column_widths(["post_attention_layernorm"] * 9, 74)
    assert sum(cut) + 9 <= 74
    assert min(column_widths(["module"] * 40, 20)) == 6, "a number always has its room; the others are scrolled to"


@pytest.mark.parametrize("room", [5, 14, 30, 500])
def test_the_current_column_is_in_sight(room: int) -> None:
    widths = [6] * 40
    first = 0
    for current in [*range(40), *range(39, -1, -1), 20, 3]:
        first, last = window(widths, first, current, room)
        assert first <= current < last
        assert last - first == 1 or sum(widths[first:last]) + last - first <= room


def test_words() -> None:
    told = {0.0: "0%", 0.00001: "<0.01%", 0.004: "0.40%", 0.05: "5.0%", 0.5: "50%", 1.0: "100%"}
    assert {each: share(each) for each in told} == told
    assert rank_words(2048.4, estimated=False) == "2048"
    assert rank_words(1.234, estimated=True) == "~1.23"
    assert short_modules(["self_attn.q_proj", "mlp.q_proj", "norm"]) == ["self_attn.q_proj", "mlp.q_proj", "norm"]
    assert Grid("", (), (), {}).all_cells == ()
