"""The page of one checkpoint, and of one tensor."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.screens.checkpoint import CheckpointPage
from ckptfmt_tui.screens.store import StorePage
from ckptfmt_tui.screens.tensor import TensorPage
from ckptfmt_tui.widgets.command_line import CommandLine
from ckptfmt_tui.widgets.curve import CurveView
from ckptfmt_tui.widgets.dialogs import Form, ProblemDialog
from safetensors.numpy import load_file
from textual.pilot import Pilot

from ckptfmt import Store
from ckptfmt.store.store import manifest_key
from tests.tui.piloting import piloted, shows, until

SIZES = [(80, 24), (120, 30), (160, 48)]
Act = Callable[[CkptfmtApp, Pilot[Any], CheckpointPage], Awaitable[None]]


def on_page(store: Path, ref: str, act: Act, size: tuple[int, int] = (120, 30), *, read_only: bool = False) -> None:
    """Open a checkpoint's page, wait until all of it is known, and act."""

    async def go(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage) and len(app.screen.table.rows) > 0)
        page = CheckpointPage(ref)
        await app.push_screen(page)
        await until(pilot, lambda: page.kept is not None and page._log is not None and page._curves is not None)
        await pilot.pause()
        await act(app, pilot, page)

    piloted(CkptfmtApp(str(store), read_only=read_only), go, size)


def command(app: CkptfmtApp) -> str:
    return app.screen.query_one(CommandLine).command


@pytest.mark.parametrize("size", SIZES)
def test_what_is_known_of_a_checkpoint(made_store: Path, size: tuple[int, int]) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        assert page.held is not None
        assert shows(app, "stages/stage-3@1", "peft", page.held.id[:12])
        assert shows(app, page.held.id, "8 adapter (F32)", "default: LORA, r 4, lora_alpha 8")
        assert command(app).startswith("ckptfmt show stages/stage-3 --store")
        facts = str(page.query_one("#facts").render())
        for told in ("stated: --base tiny", "only its own", "Lineage", "stage 3", "└ from", "stages/stage-2", "@1"):
            assert told in facts, (told, facts)
        assert "stages/stage-1" in facts, "the whole chain"

    on_page(made_store, "stages/stage-3", act, size)


def test_enter_in_the_store_opens_it_and_escape_goes_back(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage) and len(app.screen.table.rows) > 0)
        await pilot.press("end", "enter")
        await until(pilot, lambda: isinstance(app.screen, CheckpointPage) and shows(app, "checkpoint-30@3"))
        await until(pilot, lambda: shows(app, "labels", "best", "it is not pruned or dropped"))
        await pilot.press("question_mark")
        await until(pilot, lambda: shows(app, "Keys:", "Show its tensors"))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, StorePage))

    piloted(CkptfmtApp(str(made_store)), act)


@pytest.mark.parametrize("size", SIZES)
def test_every_part_is_reached_by_its_key_and_by_the_arrows(made_store: Path, size: tuple[int, int]) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        seen = {
            "t": ("lora_A.weight", "F32", "SHAPE"),
            "f": ("adapter_model.safetensors", "safetensors", "CONTAINER"),
            "s": ("target_modules", "q_proj, v_proj", "VALUE"),
            "c": ("eval_loss", "METRIC"),
            "i": ("manifest", "layout", "trainer"),
        }
        for key, told in seen.items():
            await pilot.press(key)
            await until(pilot, lambda told=told: shows(app, *told))  # type: ignore[misc]
        order = [page.sections.chosen]
        for _ in range(5):
            await pilot.press("right")
            order.append(page.sections.chosen)
        assert order == ["info", "tensors", "files", "settings", "curves", "info"]
        await pilot.press("left")
        assert page.sections.chosen == "curves"
        await pilot.click("Sections", offset=(12, 0))
        assert page.sections.chosen == "tensors"

    on_page(made_store, "sweep/run-1/checkpoint-20", act, size)


def test_tensors_are_filtered_and_sorted_by_key_and_header(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        await pilot.press("t")
        table = page.table("tensors")
        listed = page.list
        assert listed is not None
        assert command(app).startswith("ckptfmt show merged/stage-1 --tensors")
        await until(pilot, lambda: shows(app, "lowrank"))
        await pilot.press("o", "o")
        assert table.sorted_by == "-size"
        sizes = [listed.size(at) for at in table.rows]  # type: ignore[arg-type]
        assert sizes == sorted(sizes, reverse=True)
        await pilot.press("O")
        assert table.sorted_by == "size"
        await pilot.press("slash", *"q_proj", "enter")
        await until(pilot, lambda: len(table.rows) == 2)
        await pilot.press("escape")
        await until(pilot, lambda: len(table.rows) == len(listed.tensors))
        await pilot.click("#tensors", offset=(3, 0))
        await until(pilot, lambda: table.sorted_by == "name")
        names = [listed.tensors[at].name for at in table.rows]  # type: ignore[index]
        assert names == sorted(names)
        await pilot.click("#tensors", offset=(3, 0))
        await until(pilot, lambda: [listed.tensors[at].name for at in table.rows] == names[::-1])  # type: ignore[index]
        while table.sorted_by.strip("-") != "encoding":
            await pilot.press("o")
        await until(pilot, lambda: shows(app, "ENCODI…▲"))  # A title as wide as its column.
        await pilot.press("i", "slash", *"embed")
        await until(pilot, lambda: page.sections.chosen == "tensors" and len(table.rows) == 1)

    on_page(made_store, "merged/stage-1", act)


def test_metrics_are_drawn_over_the_run(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        await until(pilot, lambda: bool(page._curves))
        await pilot.press("c")
        table = page.table("metrics")
        at = next(index for index, row in enumerate(table.rows) if row[0] == "eval_loss")  # type: ignore[index]
        table.cursor = at
        await until(
            pilot, lambda: shows(app, "eval_loss over 3 checkpoints of the run", "lowest  0.1667 in checkpoint-30")
        )
        await until(pilot, lambda: shows(app, "here 0.25", "step", "●", "◆"))
        assert page._curves["eval_loss"].y == (0.5, 0.25, 5 / 30)
        assert page.query_one(CurveView)._plot is not None

    on_page(made_store, "sweep/run-1/checkpoint-20", act)


def test_a_checkpoint_without_metrics_or_settings_says_so(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        await pilot.press("c")
        await until(pilot, lambda: shows(app, "no metrics were found"))

    on_page(made_store, "other", act)


def test_what_moves_on_while_it_is_looked_at(writable_store: Path, people: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        held = page.held
        assert held is not None
        with Store.open(writable_store) as store:
            store.import_path(people / "stage-1", name="stages/stage-3", base="tiny")
        await pilot.press("f5")
        await until(pilot, lambda: shows(app, "stages/stage-3@2"))
        assert page.held is not None
        assert page.held.id != held.id
        with Store.open(writable_store) as store:
            store.drop("stages/stage-3")
        await pilot.press("f5")
        await until(pilot, lambda: shows(app, "no longer stands"))
        for key in ("t", "enter"):
            await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, TensorPage) and app.screen.look is not None)

    on_page(writable_store, "stages/stage-3", act)


def test_a_damaged_manifest_is_told_in_the_words_of_the_command_line(writable_store: Path) -> None:
    with Store.open(writable_store) as store:
        row = next(row for row in store.list_refs() if row.ref == "stages/stage-2")
    (writable_store / manifest_key(row.manifest)).write_bytes(b"{}")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage) and len(app.screen.table.rows) > 0)
        await app.push_screen(CheckpointPage("stages/stage-2"))
        await until(
            pilot, lambda: isinstance(app.screen, ProblemDialog) and shows(app, "damaged", "hint:", "ckptfmt fsck")
        )
        await pilot.press("escape")
        for key in ("t", "f", "s", "c", "enter", "o", "O", "slash", "x", "escape", "f5"):
            await pilot.press(key)
        assert isinstance(app.screen, CheckpointPage), "it is told once"

    piloted(CkptfmtApp(str(writable_store)), act)


def test_read_only_on_these_pages(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        for key in ("m", "r"):
            await pilot.press(key)
            assert app.screen is page
        assert not shows(app, "Restore")
        await pilot.press("t", "enter")
        await until(pilot, lambda: isinstance(app.screen, TensorPage) and app.screen.look is not None)

    on_page(made_store, "stages/stage-1", act, read_only=True)


def test_verify_and_restore_from_here(made_store: Path, tmp_path: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        await pilot.press("v")
        await until(pilot, lambda: app.jobs[-1].over)
        assert app.jobs[-1].request.refs == ("stages/stage-1",)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Form))
        await pilot.press("escape")
        assert len(app.jobs) == 1

    on_page(made_store, "stages/stage-1", act)


# One tensor


@pytest.mark.parametrize("size", SIZES)
def test_a_look_at_a_tensor(made_store: Path, people: Path, size: tuple[int, int]) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    numbers = load_file(people / "stage-1" / "adapter_model.safetensors")[name].astype(np.float64)

    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        assert page.list is not None
        await pilot.press("t")
        table = page.table("tensors")
        table.cursor = next(at for at, row in enumerate(table.rows) if page.list.tensors[row].name == name)  # type: ignore[index]
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TensorPage) and app.screen.look is not None)
        screen = app.screen
        assert isinstance(screen, TensorPage)
        look = screen.look
        assert look is not None and look.figures is not None
        assert look.figures.most == numbers.max()
        await until(pilot, lambda: shows(app, f"{numbers.max():.6g}", f"{numbers.mean():.6g}", "how many", "█"))
        places = str(screen.query_one("#places").render())
        assert look.object[:24] in places
        assert "planes of F32" in places
        assert look.copies[0].shard.rpartition("/")[2][:24] in places
        if size[0] < 120:
            screen.query_one("#halves").scroll_end(animate=False)
        await until(pilot, lambda: shows(app, "Its copy in the store", "encoding"))
        await pilot.press("l")
        assert "logarithm of how many" in str(screen.query_one("#figures").render())
        assert command(app).startswith("ckptfmt show stages/stage-1 --tensors")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is page)

    on_page(made_store, "stages/stage-1", act, size)


def test_a_tensor_of_a_base_and_who_else_needs_it(made_store: Path, people: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        assert page.list is not None
        await pilot.press("t")
        table = page.table("tensors")
        table.cursor = next(
            at
            for at, row in enumerate(table.rows)
            if page.list.tensors[row].name == "model.embed_tokens.weight"  # type: ignore[index]
        )
        await until(pilot, lambda: shows(app, "in base"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TensorPage) and app.screen.look is not None)
        await until(pilot, lambda: shows(app, "In the files of base tiny", "Needed by 1 other too", "bases/tiny"))
        assert str(people / "base" / "model.safetensors") in str(app.screen.query_one("#places").render())

    on_page(made_store, "merged/stage-1", act, (160, 48))


def test_a_tensor_whose_bytes_are_damaged_is_told_and_not_invented(writable_store: Path) -> None:
    with Store.open(writable_store) as store:
        look = store.look_at("other", 0)
        manifest = store.contents("other").manifest
    path = writable_store / look.copies[0].shard
    data = bytearray(path.read_bytes())
    data[look.copies[0].begin + 5] ^= 1
    path.write_bytes(data)

    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        screen = TensorPage("other", "other@1", 0, manifest.tensors[0])
        await app.push_screen(screen)
        await until(pilot, lambda: shows(app, "error:", "is not what was stored", "hint: ckptfmt verify"))
        assert screen.look is None

    on_page(writable_store, "other", act)


def test_leaving_stops_the_reading(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        await pilot.press("t", "enter")
        await until(pilot, lambda: isinstance(app.screen, TensorPage))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is page and app.jobs[-1].over)
        assert app.jobs[-1].state in ("stopped", "done")

    on_page(made_store, "stages/stage-1", act)


def test_names_of_others_cannot_steer_the_terminal(quick: Path, people: Path) -> None:
    import shutil

    source = quick / "adapter"
    shutil.copytree(people / "stage-1", source)
    config = json.loads((source / "adapter_config.json").read_text())
    config["evil"] = "a\x1b[31mred[bold]x"
    (source / "adapter_config.json").write_text(json.dumps(config))
    with Store.init(quick / "odd") as store:
        store.import_path(source, name="odd")

    async def act(app: CkptfmtApp, pilot: Pilot[Any], page: CheckpointPage) -> None:
        await pilot.press("s")
        await until(pilot, lambda: shows(app, "a\\x1b[31mred[bold]x"))

    on_page(quick / "odd", "odd", act)
