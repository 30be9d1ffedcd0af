"""What pages may ask of the application. They know this, and not the application, which knows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ckptfmt.problems import Problem
from ckptfmt_tui.jobs.requests import Job
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.reading import Reader


class Ui(Protocol):
    """The application, as pages see it.

    Attributes:
        reader: reads the store.
        read_only: whether whatever writes is hidden and refused.
        jobs: all that were started, the oldest first.
        marks: the `a` and `b` of a diff.
        chosen: the checkpoint to merge.
    """

    reader: Reader
    read_only: bool
    jobs: list[RunningJob]
    marks: dict[str, str]
    chosen: str | None

    @property
    def store_path(self) -> str:
        """Path of the store."""
        ...

    def show_page(self, name: str) -> object:
        """Go to a page with a tab."""
        ...

    def go_back(self) -> None:
        """Close the page on top, or go to the store's."""
        ...

    def tell_problem(self, problem: Problem) -> None:
        """Show an error in the command line's words."""
        ...

    def command_of(self, job: Job) -> str:
        """The command line that does what a job does."""
        ...

    def start(
        self,
        job: Job,
        title: str,
        *,
        then: Callable[[RunningJob], None] | None = None,
        asks: Callable[[Any], bool] = lambda plan: True,
    ) -> RunningJob:
        """Start a job; `then` is called once it is over, `asks` says whether a plan is one to agree to."""
        ...

    def agree(self, job: RunningJob) -> None:
        """Let a job do what it has planned."""
        ...

    def notify(
        self, message: str, *, title: str = "", severity: Any = "information", timeout: float | None = None
    ) -> None:
        """See `App.notify`."""
        ...

    def push_screen(self, screen: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """See `App.push_screen`."""
        ...
