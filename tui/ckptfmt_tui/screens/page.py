"""What all pages have: the tabs at the top, the command line and the jobs at the bottom, the filter, the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from ckptfmt.api import Store
from ckptfmt_tui.keys import EVERYWHERE, PAGES, bindings_of, writing_actions
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.widgets.command_line import CommandLine
from ckptfmt_tui.widgets.job_bar import JobBar
from ckptfmt_tui.widgets.key_line import KeyLine
from ckptfmt_tui.widgets.standing import stands

if TYPE_CHECKING:
    from ckptfmt_tui.ui import Ui

Result = TypeVar("Result")


class Tabs(Static):
    """The pages by number, the present one marked; a click goes to one."""

    DEFAULT_CSS = "Tabs { height: 1; background: $panel; padding: 0 1; }"

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page
        self._places: list[tuple[int, int, str]] = []

    def render(self) -> Text:
        """Draw the tabs; titles give way to numbers where there is no room."""
        # 80 columns hold all titles; what is narrower shows the present one's alone.
        roomy = self.size.width >= sum(len(title) + 4 for title in PAGES.values())
        line = Text(no_wrap=True)
        self._places = []
        for number, (page, title) in enumerate(PAGES.items(), 1):
            begin = line.cell_len
            here = page == self._page
            line.append(f" {number} ", style="dim" if not here else "bold reverse")
            if roomy or here:
                line.append(f"{title} ", style="bold reverse" if here else "")
            self._places.append((begin, line.cell_len, page))
        return line

    def on_click(self, event: events.Click) -> None:
        """Go to a page."""
        at = event.x - self.styles.padding.left
        for begin, end, page in self._places:
            if begin <= at < end:
                cast("Ui", self.app).show_page(page)


class Page(Screen[None]):
    """A page of the application.

    Attributes:
        PAGE: its name in the table of keys.
        TAB: the page whose tab is marked, where this one has none of its own.
    """

    PAGE: ClassVar[str]
    TAB: ClassVar[str] = ""
    BINDINGS: ClassVar = bindings_of(EVERYWHERE)
    _is_outdated = False

    def __init_subclass__(cls) -> None:
        """Take the bindings of the page from the table."""
        cls.BINDINGS = bindings_of(cls.PAGE)
        super().__init_subclass__()

    @property
    def ui(self) -> Ui:
        """The application."""
        return cast("Ui", self.app)

    def compose(self) -> ComposeResult:
        """See Textual."""
        yield Tabs(self.TAB or self.PAGE)
        with Vertical(id="body"):
            yield from self.body()
        yield Input(placeholder="filter", id="filter")
        yield CommandLine()
        yield JobBar()
        yield KeyLine()

    def body(self) -> ComposeResult:
        """The widgets of the page."""
        yield from ()

    def on_mount(self) -> None:
        """Show the jobs that run."""
        self.query_one("#filter").display = False
        self.query_one(JobBar).tell(self.ui.jobs)
        self.begin()

    def begin(self) -> None:
        """What the page does first."""

    def on_screen_resume(self) -> None:
        """Jobs may have told something, and the store may have changed, while another page was shown."""
        if self.query(JobBar):
            self.query_one(JobBar).forget(self.ui.jobs)
            self.jobs_changed()
        if self._is_outdated:
            self.read_again()

    def read_again(self) -> None:
        """The store changed while this page is in sight."""
        self._is_outdated = False
        self.store_changed()

    def outdate(self) -> None:
        """The store changed while this page is not in sight: what it shows is read when it is shown again."""
        self._is_outdated = True

    def jobs_changed(self) -> None:
        """A job told something."""
        self.query_one(JobBar).tell(self.ui.jobs)

    def store_changed(self) -> None:
        """Another process, or a job, changed the store's refs."""

    def tell_command(self, command: str) -> None:
        """Show the command line that does the same."""
        self.query_one(CommandLine).tell(command)

    @property
    def filter_words(self) -> str:
        """What stands in the filter."""
        return self.query_one("#filter", Input).value

    def filtered(self, words: str) -> None:
        """The filter changed."""

    def action_filter(self) -> None:
        """Show the filter and write into it."""
        field = self.query_one("#filter", Input)
        field.display = True
        # At once: `focus()` would come behind keys that were typed quickly.
        self.set_focus(field)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        if event.input.id == "filter":
            event.stop()
            self.filtered(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to what is listed; the filter stays."""
        if event.input.id == "filter":
            event.stop()
            event.input.display = bool(event.value)
            self.focus_list()

    def focus_list(self) -> None:
        """Give the keyboard to what is listed."""
        self.focus_next("VirtualTable")

    def action_back(self) -> None:
        """Take the filter away, or go back a page."""
        field = self.query_one("#filter", Input)
        if field.display:
            field.value = ""
            field.display = False
            self.focus_list()
        else:
            self.leave()

    def leave(self) -> None:
        """Escape without a filter: go back to where one came from."""
        self.ui.go_back()

    def action_reload(self) -> None:
        """Read again."""
        self.store_changed()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide what writes under `--read-only`; a field keeps the filter's key, which is a letter of paths."""
        if action == "filter" and isinstance(self.focused, Input):
            return False
        return not (self.ui.read_only and action in writing_actions())

    @work(thread=True, group="reading")
    def ask(self, question: Callable[[Store], Result], then: Callable[[Answer[Result]], None]) -> None:
        """Ask the store in a thread, and give the answer back in the application's own."""
        answer = self.ui.reader.ask(question)
        if stands(self):
            self.app.call_from_thread(self._given, then, answer)

    def ask_disk(self, question: Callable[[], Result], then: Callable[[Result], None], *, group: str) -> None:
        """Ask the disk in a thread: one of the network may not answer at once. The next of a group replaces it."""

        def answered() -> None:
            worker, answer = get_current_worker(), question()
            if not worker.is_cancelled and stands(self):
                self.app.call_from_thread(self._given, then, answer)

        self.run_worker(answered, thread=True, exclusive=True, group=group)

    def value_of(self, answer: Answer[Result]) -> Result | None:
        """What a question came to; what kept it from coming is told in a window."""
        if answer.value is None and answer.problem is not None:
            self.ui.tell_problem(answer.problem)
        return answer.value

    def _given(self, then: Callable[[Result], None], answer: Result) -> None:
        if stands(self):
            then(answer)
