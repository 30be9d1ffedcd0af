"""The diff page as one uses it: marks, choosing, switches, the heat map, the mouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.screens.diff import DiffPage
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.chooser import Chooser
from ckptfmt_tui.widgets.heat_map import HeatMap
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input

from ckptfmt import Store
from tests.tui.piloting import piloted, screen_text, shows, until

A, B = "bases/tiny", "merged/stage-1"


def app_of(store: Path, *marks: str, page: str = "diff") -> CkptfmtApp:
    app = CkptfmtApp(str(store), page=page)
    app.marks = dict(zip("ab", marks, strict=False))
    return app


async def compared(app: CkptfmtApp, pilot: Pilot[Any]) -> DiffPage:
    await until(pilot, lambda: app.jobs and all(job.over for job in app.jobs))
    await until(pilot, lambda: shows(app, "Tensors"))
    assert isinstance(app.screen, DiffPage)
    return app.screen


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (160, 48)])
def test_two_marks_are_compared_and_shown(made_store: Path, size: tuple[int, int]) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await compared(app, pilot)
        assert shows(app, A, B, "CHANGE", "q_proj", "A is the base of B", f"$ ckptfmt diff {A} {B} --store")
        assert len(page.table_of("tensors").rows) > 0
        heat = page.query_one(HeatMap)
        assert bool(heat.region.height) == (size[1] >= 36), "the map stands above the tensors where there is room"

    piloted(app_of(made_store, A, B), act, size)


def test_marking_on_the_store_page_opens_it(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "stage-1"))
        await pilot.press("slash", *"stages", "enter", "down", "a", "down", "b")
        await until(pilot, lambda: isinstance(app.screen, DiffPage))
        await compared(app, pilot)
        assert shows(app, "A  stages/stage-1", "B  stages/stage-2", "update of", "B was trained from A")

    piloted(app_of(made_store, page="store"), act)


def test_a_and_b_are_chosen_by_typing(made_store: Path, people: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "not chosen: key a"))
        await pilot.press("c")
        assert not app.jobs, "there is nothing to compare yet"
        await pilot.press("a")
        await until(pilot, lambda: shows(app, "which checkpoint", "bases/tiny"))
        await pilot.press(*"stage-1", "down", "enter")
        await until(pilot, lambda: app.marks.get("a") == "stages/stage-1")
        await pilot.press("b")
        await until(pilot, lambda: shows(app, "which checkpoint"))
        await pilot.press(*str(people / "stage-2"), "enter")
        await until(pilot, lambda: app.marks.get("b") == str(people / "stage-2"))
        await compared(app, pilot)
        assert shows(app, "update of")
        await pilot.press("w")
        await until(pilot, lambda: len(app.jobs) == 2 and app.jobs[1].over)
        assert app.jobs[1].result.b.name == "stages/stage-1"

    piloted(app_of(made_store), act)


def test_a_name_that_is_typed_whole_is_taken_before_others_that_hold_it(writable_store: Path) -> None:
    with Store.open(writable_store) as store:
        store.rename("other", "tage-2")  # `stages/stage-2` holds it, and stands before it.

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = app.screen
        assert isinstance(page, DiffPage)
        await until(pilot, lambda: page._options)
        await pilot.press("a", *"tage-2")
        await until(pilot, lambda: isinstance(app.screen, Chooser) and app.screen.words == "tage-2")
        await pilot.press("enter")
        await until(pilot, lambda: app.marks.get("a") == "tage-2")

    piloted(app_of(writable_store), act)


def test_the_switches_show_and_hide(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await compared(app, pilot)
        table = page.table_of("tensors")
        changed = len(table.rows)
        assert {row.kind for row in table.rows} == {"changed"}
        await pilot.press("equals_sign")
        assert {row.kind for row in table.rows} == {"changed", "same"}
        await pilot.press("tilde")
        assert {row.kind for row in table.rows} == {"same"}
        await pilot.press("equals_sign")
        await pilot.pause()
        assert not table.rows
        assert shows(app, f"hidden: {changed} changed (key ~)")
        await pilot.press("tilde", "slash", *"layers.1 v_proj", "enter")
        await until(pilot, lambda: 0 < len(table.rows) < changed)
        assert all("layers.1" in row.name and "v_proj" in row.name for row in table.rows)
        await pilot.press("escape", "o")
        await until(pilot, lambda: len(table.rows) == changed)
        names = [row.told for row in table.rows]
        assert names == sorted(names)

    piloted(app_of(made_store, A, B), act)


def test_a_cell_of_the_heat_map_chooses_its_tensors(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await compared(app, pilot)
        await pilot.press("h")
        await until(pilot, lambda: shows(app, "LAYER", "relative change by layer and module"))
        heat = page.query_one(HeatMap)
        largest = max((cell.value or 0.0) for cell in heat.grid.all_cells)
        assert heat.current is not None
        assert heat.current.value == largest, "the cursor begins at the largest change"
        told = heat.current.source
        assert shows(app, f"layer {told.layer}, {told.module}: change")
        await pilot.press("enter")
        await until(pilot, lambda: shows(app, "Esc", "only", "CHANGE"))
        assert [row.ranks["change"] for row in page.table_of("tensors").rows] == [largest]
        await pilot.press("escape")
        await until(pilot, lambda: len(page.table_of("tensors").rows) > 1)
        assert isinstance(app.screen, DiffPage)

    piloted(app_of(made_store, A, B), act)


def test_the_mouse_does_the_same(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await compared(app, pilot)
        lines = screen_text(app).split("\n")
        at = next(y for y, line in enumerate(lines) if "Heat map" in line)
        await pilot.click(offset=(lines[at].index("Heat map") + 1, at))
        await until(pilot, lambda: shows(app, "LAYER"))
        heat = page.query_one(HeatMap)
        lines = screen_text(app).split("\n")
        header = next(y for y, line in enumerate(lines) if line.startswith("LAYER"))
        x = lines[header].index("v_proj") + 2
        await pilot.click(offset=(x, header + 2))
        await until(pilot, lambda: shows(app, "layer 1, self_attn.v_proj", "only"))
        assert heat.current is not None
        assert all("layers.1.self_attn.v_proj" in row.name for row in page.table_of("tensors").rows)

    piloted(app_of(made_store, A, B), act)


def test_without_colours_shades_tell_the_same(made_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await compared(app, pilot)
        await pilot.press("h", "left")
        await until(pilot, lambda: shows(app, "░░▒▒▓▓██"))
        assert any(mark in line for line in screen_text(app).split("\n")[7:-4] for mark in "░▒▓█")

    piloted(app_of(made_store, A, B), act)


def test_a_problem_is_told_in_the_words_of_the_command_line(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "This did not work", "nowhere"))
        await pilot.press("escape", "1", "2")
        await pilot.pause(0.2)
        assert len(app.jobs) == 1, "what failed is not tried again by itself"

    piloted(app_of(made_store, "stages/stage-1", "nowhere"), act)


def test_settings_and_metrics_stand_side_by_side(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await compared(app, pilot)
        await pilot.press("m")
        await until(pilot, lambda: shows(app, "KEY", "eval_loss"))
        await pilot.press("s", "equals_sign")
        await until(pilot, lambda: shows(app, "lora_alpha"))
        await pilot.press("f")
        await until(pilot, lambda: shows(app, "FILE", "adapter_model.safetensors"))

    piloted(app_of(made_store, "sweep/run-1/checkpoint-10", "sweep/run-1/checkpoint-20"), act)


def test_letters_typed_quickly_behind_the_filters_key_stand_in_the_filter(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "checkpoint-10"))
        for letter in "/d/merged":
            app.post_message(Key("slash" if letter == "/" else letter, letter))
        await until(pilot, lambda: app.screen.query_one("#filter", Input).value == "d/merged")
        assert isinstance(app.screen, Page)

    piloted(app_of(made_store, page="store"), act)
