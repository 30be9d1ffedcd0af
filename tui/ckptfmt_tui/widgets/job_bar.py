"""The line at the bottom that tells of the job that runs: what, how far, how fast, how long yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.widgets import Static

from ckptfmt.wording import clean, count, duration, size
from ckptfmt_tui.jobs.running import RunningJob

_BAR_COLUMNS = 16
STYLES = {"done": "green", "failed": "bold red", "stopped": "yellow", "asking": "yellow"}


class JobBar(Static):
    """One line, hidden while there is nothing to tell."""

    DEFAULT_CSS: ClassVar[str] = """
    JobBar { height: 1; background: $panel; padding: 0 1; display: none; text-wrap: nowrap; text-overflow: ellipsis; }
    JobBar.told { display: block; }
    """

    _old = frozenset[int]()

    def tell(self, jobs: Sequence[RunningJob]) -> None:
        """Tell of the newest job that runs, else of the last one that ended since `forget`."""
        jobs = [job for job in jobs if not job.is_idle and job.number not in self._old]
        running = [job for job in jobs if not job.over]
        self.set_class(bool(jobs), "told")
        if not jobs:
            return
        line = job_line(running[-1] if running else jobs[-1])
        if len(running) > 1:
            line.append(f"  (and {count(len(running) - 1, 'job')} more)")
        self.update(line)

    def forget(self, jobs: Sequence[RunningJob]) -> None:
        """Tell no more of those that are over: what the page shows now has nothing to do with them."""
        self._old = frozenset(job.number for job in jobs if job.over)


def state_words(job: RunningJob) -> str:
    """Where a job stands, in a word or two."""
    return "nothing to do" if job.is_idle else job.state


def job_line(job: RunningJob) -> Text:
    """A job on one line."""
    line = Text()
    line.append(f"{clean(job.title)}  ", style="bold")
    if job.over or job.state == "asking":
        words = {"done": "done", "failed": "failed", "stopped": "stopped", "asking": "waits for your word"}[job.state]
        line.append(words, style=STYLES[job.state])
        if job.problem is not None and job.state == "failed":
            line.append(f": {clean(job.problem.message)}")
        elif job.over:
            line.append(f" in {duration(job.seconds)}")
        return line
    if job.state == "stopping":
        line.append("stopping, removes what it began  ", style="yellow")
    line.append(progress_words(job))
    return line


def progress_words(job: RunningJob) -> str:
    """The current step: bytes, rate, time left."""
    told = f"{clean(job.label)}  " if job.label else ""
    if job.total_bytes:
        share = min(job.done_bytes / job.total_bytes, 1.0)
        filled = int(share * _BAR_COLUMNS)
        told += f"{'━' * filled}{'─' * (_BAR_COLUMNS - filled)} {share:4.0%}  "
        told += f"{size(job.done_bytes)} of {size(job.total_bytes)}"
    elif job.done_bytes:
        told += size(job.done_bytes)
    if job.rate > 0:
        told += f"  {size(int(job.rate))}/s"
    left = job.seconds_left
    if left is not None:
        told += f"  {duration(left)} left"
    return told
