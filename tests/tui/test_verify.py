"""The page Verify: what is damaged, whom it harms, what to try; nothing is repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs.requests import Fsck, Verify
from ckptfmt_tui.keys import EVERYWHERE, KEYS
from ckptfmt_tui.models import findings as told
from ckptfmt_tui.screens.verify import VerifyPage
from ckptfmt_tui.widgets.command_line import CommandLine
from ckptfmt_tui.widgets.table import VirtualTable
from textual.pilot import Pilot

from ckptfmt import Store
from ckptfmt.api.results import Damage, VerifyReport
from tests.api.test_verify import digest_of, flip, place_of
from tests.tui.piloting import piloted, shows, until

RUN = "sweep/run-1"


def harm_object(store: Path, ref: str) -> str:
    """Flip a bit of an adapter's tensor, as stored; its digest."""
    with Store.open(store) as opened:
        manifest = opened.show(ref).manifest
        [tensor] = [each for each in manifest.tensors if "layers.0.self_attn.q_proj" in each.name][:1]
        digest = digest_of(opened, ref, tensor.name)
        shard, begin, end = place_of(opened, digest)
    flip(shard, (begin + end) // 2)
    return digest


def harm_manifest(store: Path, ref: str) -> None:
    with Store.open(store) as opened:
        manifest = opened.show(ref).id
    path = store / "manifests" / manifest[:2] / f"{manifest}.json"
    flip(path, path.stat().st_size // 2)


def page_of(app: CkptfmtApp) -> VerifyPage:
    return cast(VerifyPage, app.screen)


def command_of(app: CkptfmtApp) -> str:
    return app.screen.query_one(CommandLine).command


async def ended(pilot: Pilot[Any], app: CkptfmtApp) -> None:
    await until(pilot, lambda: page_of(app).job is not None and page_of(app).job.over, 60)  # type: ignore[union-attr]
    await pilot.pause()


async def listed(pilot: Pilot[Any], app: CkptfmtApp) -> None:
    await until(pilot, lambda: isinstance(app.screen, VerifyPage) and page_of(app).listing.rows)


def test_a_sound_store_is_told_in_figures(made_store: Path) -> None:
    with Store.open(made_store) as store:
        report = store.verify()

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        await pilot.press("a")
        await ended(pilot, app)
        assert page_of(app).findings == ()
        assert shows(app, f"{report.objects} objects, ", "decoded in ", "all sound", "nothing is damaged")
        assert command_of(app) == f"ckptfmt verify --all --store {made_store}"
        await pilot.press("f")
        await ended(pilot, app)
        assert page_of(app).job is not None and page_of(app).job.request == Fsck()  # type: ignore[union-attr]
        assert shows(app, "fsck: ", "no problems")
        assert command_of(app) == f"ckptfmt fsck --store {made_store}"

    piloted(CkptfmtApp(str(made_store), page="verify"), act, size=(80, 24))


def test_a_damaged_shard_and_a_damaged_manifest(writable_store: Path) -> None:
    digest = harm_object(writable_store, f"{RUN}/checkpoint-10")
    harm_manifest(writable_store, "stages/stage-3")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        await until(pilot, lambda: shows(app, "1 name cannot be read", "stages/stage-3"))
        assert command_of(app) == f"ckptfmt fsck --full --repair --store {writable_store}"

        await pilot.press("a")
        await ended(pilot, app)
        [manifest, damaged] = page_of(app).findings
        assert (manifest.harms, damaged.harms) == (("stages/stage-3",), (f"{RUN}/checkpoint-10",))
        assert damaged.whole == f"object {digest}"
        assert shows(app, "2 damaged", "2 checkpoints harmed", f"object {digest[:12]}", f"{RUN}/checkpoint-10")

        await pilot.press("down", "enter")
        assert app.screen.query_one("#more").has_focus
        assert shows(app, digest, f"harms checkpoint {RUN}/checkpoint-10", "hint: ckptfmt fsck --full --repair")
        await pilot.press("escape")
        assert page_of(app).table.has_focus

        await pilot.press("slash", *"stage-3", "enter")
        assert [finding.harms for finding in page_of(app).table.rows] == [("stages/stage-3",)]
        await pilot.press("escape")
        assert len(page_of(app).table.rows) == 2

        before = {path: path.stat().st_mtime_ns for path in writable_store.rglob("*.*")}
        await pilot.press("F")
        await ended(pilot, app)
        assert shows(app, "fsck --full: ", "2 problems", "object-damaged", "manifest-damaged")
        assert {name for each in page_of(app).findings for name in each.harms} == {
            f"{RUN}/checkpoint-10",
            "stages/stage-3",
        }
        assert all(finding.hint for finding in page_of(app).findings)
        assert {path: path.stat().st_mtime_ns for path in writable_store.rglob("*.*")} == before, "nothing is repaired"

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_some_checkpoints_by_pick_and_by_filter(writable_store: Path) -> None:
    harm_object(writable_store, f"{RUN}/checkpoint-10")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        page = page_of(app)
        await pilot.press("s")
        assert page.checkpoints.has_focus, "nothing was chosen yet"
        refs = [row.ref for row in page.checkpoints.rows]
        first, last = refs[0], refs[-1]
        await pilot.press("space", "G", "space")
        assert page.picked == {first, last}
        assert command_of(app) == f"ckptfmt verify {first} {last} --store {writable_store}"
        await pilot.press("s")
        await ended(pilot, app)
        assert page.job is not None and page.job.request == Verify((first, last))
        assert shows(app, "verify 2 checkpoints: ", "all sound")
        assert page.states == {first: "sound", last: "sound"}

        await pilot.press("c", "g", "space", "G", "space", "slash", *"sweep", "enter")
        assert page.picked == frozenset()
        await pilot.press("s")
        await ended(pilot, app)
        assert page.job.request == Verify(tuple(ref for ref in refs if ref.startswith(RUN)))
        assert page.states[f"{RUN}/checkpoint-10"] == "damaged" and page.states[f"{RUN}/checkpoint-20"] == "sound"
        await pilot.press("c")
        assert shows(app, "damaged", "sound")
        await pilot.press("escape", "escape")
        assert page.table.has_focus and app.screen is page

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_stopped_and_one_at_a_time(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        await pilot.press("a", "F")
        assert [job.request for job in app.jobs] == [Verify()], "one look at a time"
        assert shows(app, "verify everything: x stops it")
        await pilot.press("x")
        await ended(pilot, app)
        assert app.jobs[0].state == "stopped"
        assert shows(app, "verify everything: stopped")

    piloted(CkptfmtApp(str(made_store), page="verify"), act)


def test_a_look_that_ends_behind_another_page(writable_store: Path) -> None:
    harm_object(writable_store, "other")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        await pilot.press("a", "1")
        await until(pilot, lambda: app.jobs[0].over, 60)
        await until(pilot, lambda: shows(app, "1 damaged"))
        await pilot.press("5")
        await until(pilot, lambda: shows(app, "1 checkpoint harmed: other"))

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_a_store_without_its_document(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        (writable_store / "store.json").unlink()
        await pilot.press("f")
        await ended(pilot, app)
        assert page_of(app).job is not None and page_of(app).job.problem is not None  # type: ignore[union-attr]
        assert shows(app, "fsck: error: ", "hint: ")

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_read_only_looks_all_the_same(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(pilot, app)
        await pilot.press("f")
        await ended(pilot, app)
        assert app.jobs[0].state == "done"
        palette = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Verify all", "Fsck", "Stop"} <= palette

    piloted(CkptfmtApp(str(made_store), page="verify", read_only=True), act)


def test_a_damaged_base_record_harms_what_is_bound_to_it(writable_store: Path) -> None:
    with Store.open(writable_store) as store:
        record = store.list_bases()[0].record
        bound = {row.ref for row in store.list_refs() if row.base == "tiny"}
    path = writable_store / "bases" / f"{record}.json"
    flip(path, path.stat().st_size // 2)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, VerifyPage) and page_of(app).listing.damaged)
        [finding] = [each for each in page_of(app).findings if each.what == "bases/tiny"]
        readable = {row.ref for row in page_of(app).listing.rows}
        assert set(finding.harms) == {"bases/tiny", *(bound & readable)}
        assert shows(app, "bases/tiny")

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_command_lines_of_hints() -> None:
    assert told.command_of_hint("ckptfmt fsck --repair") == ("fsck", "--repair")
    assert told.command_of_hint("ckptfmt base add b '/d/my base; 2'") == ("base", "add", "b", "/d/my base; 2")
    for hint in (None, "put its files back, or: ckptfmt base verify b --path DIR", "ckptfmt gc, then look again"):
        assert told.command_of_hint(hint) == ()


def test_an_object_that_harms_nobody() -> None:
    found = told.verified(VerifyReport(3, 900, (Damage("a" * 64, "gone", ()),)), 2.0)
    assert [line.text for line in found.lines[:2]] == ["3 objects, 900 B decoded in 2 s: 1 damaged", "harms nobody"]
    assert "harms nobody" in [line.text for line in found.findings[0].details()]


@pytest.mark.parametrize("page", ["verify", "bases"])
def test_no_key_of_a_page_is_taken_by_the_list_or_by_the_application(page: str) -> None:
    taken = {key for each in KEYS if each.page == EVERYWHERE for key in each.keys.split(",")}
    taken |= {key for each in VirtualTable.BINDINGS for key in each.key.split(",")}
    own = [key for each in KEYS if each.page == page for key in each.keys.split(",")]
    assert len(own) == len(set(own)) and not taken & set(own)
