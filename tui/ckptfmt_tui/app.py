"""The application: its pages, its jobs, the store that it watches."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual import events
from textual.app import App, SystemCommand
from textual.notifications import SeverityLevel
from textual.screen import Screen

from ckptfmt.problems import Problem
from ckptfmt.wording import clean
from ckptfmt_tui import commands
from ckptfmt_tui.jobs.requests import Job
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.keys import KEYS, PAGES
from ckptfmt_tui.reading import Reader
from ckptfmt_tui.screens.help import Help
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.table import page_class
from ckptfmt_tui.ui import Ui
from ckptfmt_tui.widgets.dialogs import Confirmation, ProblemDialog
from ckptfmt_tui.widgets.standing import stands

_WATCH_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.5
_READ_ONLY: Final = Problem(
    "read-only", "this terminal UI runs with --read-only: it writes nothing", "start it without --read-only", 1
)
_SETTLED_SECONDS: Final = 0.5
_LEAVE_SECONDS: Final = 5.0
"""How long quitting waits for the processes of jobs. One that takes longer ends by itself: its input has ended."""
_COLLECT_OLD_AFTER: Final = 1000
"""Collections of younger objects between two of the oldest; Python's own number is 10."""
_IDLE_SECONDS: Final = 5.0
"""Garbage is looked for once nothing was pressed for so long, which holds up the keys for a tenth of a second."""
_BREATH_SECONDS: Final = 0.005
"""Keys get their turn for so long between two parts of what takes long."""
DARK: Final = "textual-dark"
LIGHT: Final = "textual-light"


class CkptfmtApp(App[int]):
    """The terminal UI of one store.

    Args:
        store: its path.
        read_only: hide and refuse whatever writes.
        page: the page to begin with.
        alone: whether this process is its own, so that it may decide when garbage is collected.
    """

    TITLE = "ckptfmt"
    ENABLE_COMMAND_PALETTE = True
    CSS: ClassVar[str] = """
    #body { height: 1fr; }
    #filter { height: 1; border: none; padding: 0 1; background: $boost; }
    #filter:focus { border: none; }
    """

    def __init__(self, store: str, *, read_only: bool = False, page: str = "store", alone: bool = False) -> None:
        super().__init__()
        self.reader = Reader(store)
        self.read_only = read_only
        self.jobs: list[RunningJob] = []
        self.marks: dict[str, str] = {}
        self.chosen: str | None = None
        self._first = page
        self._alone = alone
        self._open: set[int] = set()
        self._pressed_at: float | None = None
        self._pages: dict[str, Page] = {}
        self._seen: object = None
        self._parsed_for: dict[str, str] = {}

    @property
    def store_path(self) -> str:
        """Path of the store."""
        return self.reader.path

    def on_mount(self) -> None:
        """Show the first page, and begin to watch the store."""
        self.theme = DARK
        if self._alone:
            gc.set_threshold(*gc.get_threshold()[:2], _COLLECT_OLD_AFTER)
        self.show_page(self._first)
        self._watch()
        self.set_interval(_WATCH_SECONDS, self._watch)
        # In a thread, once the first page stands: a tenth of a second that the first job would hold up the keys for.
        self.set_timer(_SETTLED_SECONDS, lambda: self.run_worker(_load_jobs, thread=True, group="loading"))
        self.set_interval(_TICK_SECONDS, self._tick)

    def show_page(self, name: str) -> Page:
        """Go to one of the pages with a tab; what lay above it is closed."""
        if name not in self._pages:
            self._pages[name] = page_class(name)()
            self.install_screen(self._pages[name], name)
            if self._alone:
                # Its module and widgets stay as long as the application does: looking through them for garbage, a
                # hundred thousand objects, would hold up the keys for a tenth of a second, again and again.
                self.set_timer(_SETTLED_SECONDS, gc.freeze)
        while len(self.screen_stack) > 1 and not (len(self.screen_stack) == 2 and self._is_tab(self.screen)):
            self.pop_screen()
        if self._is_tab(self.screen):
            self.switch_screen(name)
        else:
            self.push_screen(name)
        return self._pages[name]

    def _is_tab(self, screen: Screen[Any]) -> bool:
        return isinstance(screen, Page) and screen in self._pages.values()

    def go_back(self) -> None:
        """Close the page on top; from a page with a tab, go to the store's."""
        if self._is_tab(self.screen):
            if self.screen is not self._pages.get("store"):
                self.show_page("store")
        elif len(self.screen_stack) > 1:
            self.pop_screen()

    def action_page(self, name: str) -> None:
        """Go to a page."""
        self.show_page(name)

    def action_help(self) -> None:
        """Show the keys of this page."""
        if isinstance(self.screen, Page):
            self.push_screen(Help(self.screen.PAGE, read_only=self.read_only))

    def action_toggle_theme(self) -> None:
        """Change between dark and light."""
        self.theme = LIGHT if self.theme == DARK else DARK

    def refresh_css(self, animate: bool = True) -> None:  # noqa: FBT001, FBT002 - as Textual calls it
        """See Textual, which parses all styles and applies them in one turn of the loop: a twentieth of a second.

        Here these are two turns, and what is parsed for these colours already is not parsed again.
        """
        variables = self.get_css_variables()
        if variables == self._parsed_for:
            self._restyle(animate=animate)
            return
        self.stylesheet.set_variables(variables)
        self.stylesheet.reparse()
        self._parsed_for = variables
        self.set_timer(_BREATH_SECONDS, lambda: self._restyle(animate=animate))

    def _restyle(self, *, animate: bool) -> None:
        covered = self.screen_stack[:-1]
        for root in (self, *covered):  # The application's own are those of the screen on top as well.
            self.stylesheet.update(root, animate=animate)
        for screen in self.screen_stack:
            screen._css_update_count = self._css_update_count  # Else going to it restyles everything again.
            screen.refresh(layout=True)

    def action_save_screen(self) -> None:
        """Write the screen as SVG into the present directory."""
        if self.is_web:
            self.deliver_screenshot()
            return
        name = f"ckptfmt-{datetime.now(UTC):%Y%m%d-%H%M%S}.svg"
        try:
            path = self.save_screenshot(name, os.getcwd())
        except OSError as error:
            self.notify(str(error), severity="error")
        else:
            self.notify(path, title="Screenshot")

    def action_copy_command(self) -> None:
        """Copy the command line that is shown."""
        from ckptfmt_tui.widgets.command_line import CommandLine  # noqa: PLC0415

        for shown in self.screen.query(CommandLine):
            shown.on_click()

    def action_interrupt(self) -> None:
        """What Ctrl-C does: copy the text that is marked, else quit."""
        if self.screen.get_selected_text():
            self.screen.action_copy_text()
        else:
            self.action_leave()

    def action_leave(self) -> None:
        """Quit; asks first while jobs run."""
        running = [job for job in self.jobs if not job.over and job.state != "asking"]
        if not running:
            self.exit(0)
            return
        lines = [f"{job.title}: {job.label or job.state}" for job in running]
        question = Confirmation(
            "Stop these jobs and quit?", [*lines, "What they began is removed; nothing is half-published."], command=""
        )
        self.push_screen(question, lambda answer: self.exit(0) if answer else None)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every key of the page, by name, and Textual's own."""
        yield from super().get_system_commands(screen)
        if isinstance(screen, Page):
            for key in KEYS:
                goes = key.action.startswith("app.page(")  # Those are below, wherever one is.
                if key.page in (screen.PAGE, "everywhere") and not goes and not (self.read_only and key.writes):
                    yield SystemCommand(key.label, key.help, self._runs(screen, key.action))
        for page, title in PAGES.items():
            yield SystemCommand(f"Page {title}", f"Go to {title}", self._runs(screen, f"app.page('{page}')"))

    def _runs(self, screen: Screen[Any], action: str) -> Callable[[], Any]:
        return lambda: self.call_later(screen.run_action, action)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """See Textual. Names and paths are no markup, and nothing in them is obeyed."""
        lines = "\n".join(map(clean, message.split("\n")))
        super().notify(lines, title=clean(title), severity=severity, timeout=timeout, markup=markup)

    def tell_problem(self, problem: Problem) -> None:
        """Show an error in the command line's words."""
        self.push_screen(ProblemDialog(problem))

    def start(
        self,
        job: Job,
        title: str,
        *,
        then: Callable[[RunningJob], None] | None = None,
        asks: Callable[[Any], bool] = lambda plan: True,
    ) -> RunningJob:
        """Start a job.

        Args:
            job: what to do.
            title: for people.
            then: called once it is over.
            asks: whether a plan is one to agree to.
        """
        running = RunningJob(len(self.jobs) + 1, job, title, asks=asks)
        self.jobs.append(running)
        if self.read_only and self._writes(job):  # No page offers it; this is what holds if one does.
            running.refuse(_READ_ONLY)
            self._jobs_changed()
            if then is not None:
                then(running)
            return running
        self.run_worker(self._run(running, then), group="jobs", exit_on_error=False)
        return running

    @staticmethod
    def _writes(job: Job) -> bool:
        from ckptfmt_tui.jobs.verbs import writes  # noqa: PLC0415 - see `on_mount`

        return writes(job)

    async def _run(
        self,
        running: RunningJob,
        then: Callable[[RunningJob], None] | None,
    ) -> None:
        from ckptfmt_tui.jobs.verbs import JOBS  # noqa: PLC0415 - see `on_mount`

        verb = JOBS[type(running.request)]
        self._open.add(running.number)
        try:
            await running.run(self.store_path, (verb.result, verb.plan), lambda job: self._jobs_changed())
        finally:
            self._open.discard(running.number)
        if then is not None:
            then(running)
        if verb.writes:
            self._watch()

    def command_of(self, job: Job) -> str:
        """The command line that does what a job does."""
        return commands.of_job(self.store_path, job)

    def agree(self, job: RunningJob) -> None:
        """Let a job do what it has planned."""
        self.run_worker(job.agree(), group="agreeing")

    async def on_event(self, event: events.Event) -> None:
        """See Textual; and remember when something was pressed."""
        if isinstance(event, events.InputEvent):
            self._pressed_at = time.monotonic()
        await super().on_event(event)

    def _tidy(self) -> None:
        if self._pressed_at is not None and time.monotonic() - self._pressed_at > _IDLE_SECONDS:
            self._pressed_at = None
            gc.collect()

    def _tick(self) -> None:
        if self._alone:
            self._tidy()
        if any(not job.over for job in self.jobs):
            self._jobs_changed()

    def _jobs_changed(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Page) and stands(screen) and screen.is_mounted:
                screen.jobs_changed()

    def _watch(self) -> None:
        self.run_worker(self._look, thread=True, group="watching", exclusive=True)

    def _look(self) -> None:
        seen = self.reader.stamp()
        if self.is_running:
            self.call_from_thread(self._compare, seen)

    def _compare(self, seen: object) -> None:
        before, self._seen = self._seen, seen
        if before is None or before == seen:
            return
        pages = [page for page in self.screen_stack if isinstance(page, Page)]
        for page in {*self._pages.values(), *pages}:
            if not (stands(page) and page.is_mounted):
                continue
            if page is pages[-1]:  # A window may lie over it.
                page.read_again()
            else:
                page.outdate()

    async def on_unmount(self) -> None:
        """Stop the jobs that run, and let go of the store."""
        for job in self.jobs:
            job.stop()
        end = time.monotonic() + _LEAVE_SECONDS
        while self._open and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self.reader.close()


def _load_jobs() -> None:
    import_module("ckptfmt_tui.jobs.verbs")


if TYPE_CHECKING:
    _AS_PAGES_SEE_IT: type[Ui] = CkptfmtApp


def run(store: str, *, read_only: bool = False, page: str = "store") -> int:
    """Run the application in this terminal until it is left."""
    code = CkptfmtApp(store, read_only=read_only, page=page, alone=True).run()
    sys.stdout.flush()
    return code or 0
