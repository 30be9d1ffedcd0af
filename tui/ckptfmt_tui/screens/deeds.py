"""What can be done with a checkpoint from wherever it is shown: verify, restore, merge."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptfmt.wording import count, size
from ckptfmt_tui.browsing import absolute
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.widgets.dialogs import Field, Form

if TYPE_CHECKING:
    from ckptfmt_tui.ui import Ui


def verify(ui: Ui, refs: Sequence[str], what: str) -> str:
    """Decode some checkpoints and compare their digests; the command line that does the same."""

    def told(job: RunningJob) -> None:
        if job.state == "stopped":
            return
        if job.problem is not None:
            ui.tell_problem(job.problem)
        elif job.result.damaged:
            damaged = count(len(job.result.damaged), "object")
            ui.notify(f"{damaged} damaged: see the page Jobs", title=job.title, severity="error", timeout=20)
        else:
            ui.notify(f"{count(job.result.objects, 'object')}, {size(job.result.bytes)}: all sound", title=job.title)

    request = jobs.Verify(tuple(refs))
    ui.start(request, f"verify {what}", then=told)
    return ui.command_of(request)


def restore(ui: Ui, ref: str) -> None:
    """Ask where to, and give the files of a checkpoint back."""

    def told(job: RunningJob) -> None:
        if job.state == "stopped":
            return
        if job.problem is not None:
            ui.tell_problem(job.problem)
        else:
            files = f"{count(job.result.files, 'file')}, {size(job.result.bytes)}"
            ui.notify(f"{files}, each compared: {job.result.path}", title=job.title)

    def asked(values: dict[str, str]) -> jobs.Restore:
        return jobs.Restore(ref, absolute(values["target"].strip()))

    def go(values: object) -> None:
        if isinstance(values, dict) and not ui.read_only:
            ui.start(asked(values), f"restore {ref}", then=told)

    target = os.path.join(os.getcwd(), ref.partition("@")[0].rpartition("/")[2])
    ui.push_screen(
        Form(
            f"Restore {ref}",
            [Field("target", "Into", target, hint="a directory that does not exist, or is empty")],
            command=lambda values: ui.command_of(asked(values)),
            check=lambda values: None if values["target"].strip() else "say where",
        ),
        go,
    )


def merge(ui: Ui, ref: str) -> None:
    """Go to the page that merges, with this checkpoint chosen."""
    ui.chosen = ref
    ui.show_page("merge")
