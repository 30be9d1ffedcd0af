"""Work that is stopped, at any moment, and an application that is killed: the store is whole, no file is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.requests import Job
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.jobs.verbs import JOBS
from safetensors.numpy import save_file

from ckptfmt import Store
from ckptfmt.api import cleaning
from tests.cli.made import adapter, full
from tests.tui.acting import assert_sound, bloated, files_of

MOMENTS = ("asking", "first", 0.5, 0.95)
"""When a job is stopped: while it asks, at the first step after that, or at a part of all that it tells of."""


def follow(store: Path, request: Job, moment: str | float, *, at_step: str | None = None) -> RunningJob:
    """Run a job as the application does, agree to its plan, and stop it at a moment."""

    async def go() -> RunningJob:
        job = RunningJob(1, request, "job")
        agreed = False
        pending: list[asyncio.Task[None]] = []

        def changed(job: RunningJob) -> None:
            nonlocal agreed
            if job.state == "asking":
                if moment == "asking":
                    job.stop()
                elif not agreed:
                    agreed = True
                    pending.append(asyncio.ensure_future(job.agree()))
            elif job.state == "running" and (agreed or JOBS[type(request)].plan is None) and job.label:
                here = at_step is None or at_step in job.label
                share = job.done_bytes / job.total_bytes if job.total_bytes else 1.0
                if here and (moment == "first" or (isinstance(moment, float) and share >= moment)):
                    job.stop()

        verb = JOBS[type(request)]
        await job.run(str(store), (verb.result, verb.plan), changed)
        for task in pending:
            await task
        return job

    return asyncio.run(go())


def restorable(store: Path, tree: Path, before: dict[str, bytes], out: Path) -> None:
    """Every file is in its place, or an undo brings it back there."""
    with Store.open(store) as opened:
        for row in cleaning.list_receipts(opened):
            if row.files:
                cleaning.undo_cleanup(opened, row.receipt)
    assert files_of(tree) == before
    shutil.rmtree(out, ignore_errors=True)


@pytest.fixture
def store(quick: Path) -> Path:
    path = quick / "store"
    Store.init(path).close()
    return path


def large(directory: Path, tensors: int = 24) -> Path:
    """A model of some megabytes that takes a moment."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(3)
    weights = {f"model.layers.{at}.w": random.standard_normal((256, 512)).astype(np.float32) for at in range(tensors)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    return directory


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_stopped_cleanup_leaves_every_file_in_place_or_held(store: Path, quick: Path, moment: str | float) -> None:
    bloated(quick, store, "first", "second", "third")
    tree = quick / "tree"
    before = files_of(tree)
    step = {0.5: "prove", 0.95: "tree/second"}.get(moment) if isinstance(moment, float) else None
    job = follow(store, jobs.Cleanup((str(tree),)), moment, at_step=step)
    assert job.state in ("stopped", "done")
    if moment in ("asking", "first"):
        assert job.state == "stopped"
        assert files_of(tree) == before
    assert_sound(store)
    restorable(store, tree, before, quick / "out")
    again = follow(store, jobs.Cleanup((str(tree),)), "never")
    assert again.state == "done", again.problem
    assert again.result.refused == ()


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_stopped_import_leaves_nothing_or_all_of_a_checkpoint(store: Path, quick: Path, moment: str | float) -> None:
    source = large(quick / "model")
    before = files_of(source)
    job = follow(store, jobs.Import(str(source), "mine"), moment)
    assert job.state in ("stopped", "done")
    assert files_of(source) == before
    assert_sound(store)
    with Store.open(store) as opened:
        names = [row.ref for row in opened.list_refs()]
        # Stopped after its name was published, and before it was told: then it is there, and whole.
        assert names in ([["mine"]] if job.state == "done" else [[], ["mine"]] if moment == 0.95 else [[]])
        if not names:
            opened.import_path(source, name="mine")
        opened.restore("mine", quick / "out")
    assert files_of(quick / "out") == before


@pytest.mark.parametrize("moment", ["first", 0.5, 0.95], ids=str)
def test_a_stopped_merge_leaves_no_directory(store: Path, quick: Path, moment: str | float) -> None:
    with Store.open(store) as opened:
        opened.add_base("tiny", full(quick / "base", width=512))
        opened.import_path(adapter(quick / "stage", width=512), name="stage", base="tiny")
    inside = {name for name in files_of(store) if name.startswith(("shards", "manifests", "refs"))}
    job = follow(store, jobs.Merge("stage", str(quick / "out")), moment)
    assert job.state in ("stopped", "done")
    left = [name for name in os.listdir(quick) if name.startswith((".out", "out"))]
    # Stopped after it had its name, and before that was told: then it is there, and whole.
    assert left in ([["out"]] if job.state == "done" else [[], ["out"]] if moment == 0.95 else [[]])
    if left:
        with Store.open(store) as opened:
            opened.merge("stage", quick / "again")
        assert files_of(quick / "out") == files_of(quick / "again")
    assert {name for name in files_of(store) if name.startswith(("shards", "manifests", "refs"))} == inside
    assert_sound(store)


@pytest.mark.parametrize("moment", ["asking", "first", 0.5], ids=str)
def test_a_stopped_gc_loses_nothing(writable_store: Path, quick: Path, moment: str | float) -> None:
    with Store.open(writable_store) as opened:
        opened.drop("other")
        rows = {row.ref: row.manifest for row in opened.list_refs()}
    follow(writable_store, jobs.Gc(0.0, 0.0), moment)
    with Store.open(writable_store) as opened:
        assert opened.verify().damaged == (), "what is needed and lies in the trash is read from there"
        assert {row.ref: row.manifest for row in opened.list_refs()} == rows
        for number, name in enumerate(rows):
            opened.restore(name, quick / f"out-{number}")
    again = follow(writable_store, jobs.Gc(0.0, 0.0), "never")
    assert again.state == "done", again.problem
    assert_sound(writable_store)


def test_a_stopped_purge_keeps_what_it_did_not_delete(store: Path, quick: Path) -> None:
    paths = bloated(quick, store, "first", "second")
    tree = quick / "tree"
    before = files_of(tree)
    with Store.open(store) as opened:
        report = cleaning.execute(opened, cleaning.plan(opened, [tree]))
    follow(store, jobs.Purge(report.receipt), "first")
    assert_sound(store)
    with Store.open(store) as opened:
        for number, path in enumerate(paths):
            opened.restore(f"tree/{path.parent.name}", quick / f"out-{number}")
            name = str(path.relative_to(tree))
            assert (quick / f"out-{number}" / path.name).read_bytes() == before[name]


APPLICATION = """
import asyncio, sys
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as jobs

async def go():
    app = CkptfmtApp(sys.argv[1])
    async with app.run_test() as pilot:
        job = app.start(jobs.Import(sys.argv[2], "mine"), "import")
        while not (job.label and job.done_bytes):
            if job.state == "asking":
                app.agree(job)
            await pilot.pause(0.01)
        print(job._process.pid, flush=True)
        await pilot.pause(60)

asyncio.run(go())
"""


def test_killing_the_application_ends_its_jobs_with_nothing_half_published(store: Path, quick: Path) -> None:
    """SIGKILL of the whole terminal UI: its job's standard input closes, which stops it."""
    source = large(quick / "model", tensors=200)
    paths = os.pathsep.join(path for path in sys.path if path)
    application = subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(store), str(source)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert application.stdout is not None
    worker = int(application.stdout.readline())
    application.send_signal(signal.SIGKILL)
    application.wait()
    application.stdout.close()
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{worker}"), "the job outlives its application"
    assert_sound(store)
    with Store.open(store) as opened:
        assert opened.list_refs() == []
        opened.import_path(source, name="mine")
        opened.restore("mine", quick / "out")
    assert files_of(quick / "out") == files_of(source)
