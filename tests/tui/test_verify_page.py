"""The verify page: what is sound, what is damaged and whom it harms, names that cannot be read; nothing is repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.screens.verify import VerifyPage
from ckptfmt_tui.widgets.dialogs import Form
from textual.pilot import Pilot
from textual.widgets import Input

from ckptfmt import Store
from tests.tui.acting import files_of, over
from tests.tui.piloting import piloted, shows, until


def damage_shard(store: Path) -> None:
    """Flip a bit at the end of the largest shard: an object's bytes, of which the header knows nothing."""
    path = max((path for path in (store / "shards").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)


def page(app: CkptfmtApp) -> VerifyPage:
    assert isinstance(app.screen, VerifyPage), app.screen
    return app.screen


def test_a_sound_store_is_told_to_be(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "a verifies everything"))
        await pilot.press("a")
        job = await over(pilot, lambda: page(app).job)
        await until(pilot, lambda: shows(app, "all sound", f"{job.result.objects} objects", "nothing is damaged"))
        await pilot.press("F")
        await until(pilot, lambda: page(app).job is not job)
        await over(pilot, lambda: page(app).job)
        await until(pilot, lambda: shows(app, "no problems", "fsck, every stored byte"))

    piloted(CkptfmtApp(str(made_store), page="verify", read_only=True), act, (80, 24))


def test_damage_is_listed_with_whom_it_harms_and_the_repair(writable_store: Path) -> None:
    damage_shard(writable_store)
    with Store.open(writable_store) as opened:
        (expected, *_) = opened.verify().damaged
    before = files_of(writable_store)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("a")
        await over(pilot, lambda: page(app).job)
        await until(pilot, lambda: shows(app, "1 damaged", f"object {expected.object[:12]}", "hint: ckptfmt fsck"))
        for name in expected.checkpoints:
            assert shows(app, name)
        assert shows(app, "$ ckptfmt fsck --full --repair --store")
        await pilot.press("F")
        await until(pilot, lambda: isinstance(page(app).job and page(app).job.request, jobs.Fsck))  # type: ignore[union-attr]
        await over(pilot, lambda: page(app).job)
        await until(pilot, lambda: shows(app, "1 problem", "harmed:"))

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)
    assert files_of(writable_store) == before, "it is only looked at"


def test_a_name_that_cannot_be_read_is_listed(writable_store: Path) -> None:
    (ref,) = (writable_store / "refs" / "other").glob("*.json")
    ref.chmod(0o644)
    ref.write_bytes(ref.read_bytes()[:-20])

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "1 names cannot be read", "other"))
        await pilot.press("f")
        await over(pilot, lambda: page(app).job)
        await until(pilot, lambda: shows(app, "damage", "problem"))

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_some_checkpoints_are_verified(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: page(app).listing.rows)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Form) and app.screen.query(Input))
        app.screen.query_one("#names", Input).value = "nobody/*"
        await until(pilot, lambda: shows(app, "no checkpoint fits"))
        app.screen.query_one("#names", Input).value = "stages sweep/*-10"
        await until(pilot, lambda: not shows(app, "no checkpoint fits"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, VerifyPage) and app.screen.job)
        job = await over(pilot, lambda: page(app).job)
        assert job.request == jobs.Verify(
            ("stages/stage-1", "stages/stage-2", "stages/stage-3", "sweep/run-1/checkpoint-10")
        )
        await until(pilot, lambda: shows(app, "all sound"))

    piloted(CkptfmtApp(str(made_store), page="verify"), act)


def test_a_look_can_be_stopped(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("a", "x")
        await over(pilot, lambda: page(app).job)
        await until(pilot, lambda: shows(app, "stopped"))

    piloted(CkptfmtApp(str(made_store), page="verify"), act)
