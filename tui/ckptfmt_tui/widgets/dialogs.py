"""Windows over a page: an error in the command line's words, a question, a confirmation that is typed, a few fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from ckptfmt.problems import Problem
from ckptfmt.wording import clean

_CSS = """
Dialog { align: center middle; }
Dialog > Vertical {
    width: 90%; max-width: 100; height: auto; max-height: 90%;
    background: $surface; border: round $primary; padding: 0 1;
}
Dialog.danger > Vertical { border: round $error; }
Dialog .title { text-style: bold; width: 1fr; }
Dialog VerticalScroll { height: auto; max-height: 14; }
Dialog .buttons { height: auto; align-horizontal: right; }
Dialog Button { margin: 0 0 0 2; min-width: 12; }
Dialog Input, Dialog Select { margin: 0; }
Dialog .fault { color: $text-error; height: auto; }
"""

_ROOMY: Final = 4
"""So many fields fit into a window of 24 lines with room around each."""


class Dialog(ModalScreen[object | None]):
    """A window that Escape closes, with nothing done."""

    DEFAULT_CSS = _CSS
    BINDINGS: ClassVar = [Binding("escape", "close", "Close")]

    def action_close(self) -> None:
        """Close it, with nothing done."""
        self.dismiss(None)


class ProblemDialog(Dialog):
    """An error, worded as the command line words it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(classes="danger")
        self.problem = problem

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label("This did not work", classes="title")
            with VerticalScroll():
                yield Static(Text("\n".join(clean(line) for line in self.problem.lines())), id="problem")
            with Horizontal(classes="buttons"):
                yield Button("Close", id="close", variant="primary")

    def on_button_pressed(self) -> None:
        """Close it."""
        self.dismiss(None)


class Confirmation(Dialog):
    """Says what will happen, and waits for yes; `typed` has to be typed where something is deleted.

    Where nothing is to be typed, y and n answer too, and Enter does it. Dismissed with True, or None.
    """

    DEFAULT_CSS = """
    Confirmation #typed { height: 1; border: none; padding: 0 1; background: $boost; margin: 0 0 1 0; }
    """
    BINDINGS: ClassVar = [
        Binding("y", "answer(True)", "Do it", show=False),
        Binding("n", "answer(False)", "Cancel", show=False),
    ]

    def __init__(self, title: str, lines: Sequence[str | Text], *, command: str, typed: str | None = None) -> None:
        super().__init__(classes="danger" if typed else "")
        self._title = title
        self._lines = lines
        self._command = command
        self._typed = typed

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._title)), classes="title")
            with VerticalScroll():
                yield Static(Text("\n").join(_as_text(line) for line in self._lines), id="lines")
            if self._command:
                yield Static(Text(f"$ {clean(self._command)}", style="dim"), id="command")
            if self._typed:
                yield Label(Text.assemble("To do it, type ", (f" {self._typed} ", "bold reverse"), ":"))
                yield Input(id="typed")
            with Horizontal(classes="buttons"):
                yield Button("Cancel" if self._typed else "Cancel (n)", id="cancel")
                yield Button(
                    "Do it" if self._typed else "Do it (y)",
                    id="go",
                    variant="error" if self._typed else "primary",
                    disabled=bool(self._typed),
                )

    def on_mount(self) -> None:
        """Wait for what is typed, or at what was asked for: what needs no word can be taken back."""
        self.query_one("#typed" if self._typed else "#go").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Letters answer nothing that has to be typed."""
        return not (action == "answer" and self._typed)

    def action_answer(self, yes: bool) -> None:  # noqa: FBT001 - an action's argument
        """Do it or not."""
        self.dismiss(yes or None)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Open the way once the word is right."""
        self.query_one("#go", Button).disabled = event.value.strip() != self._typed

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Do it, if the word is right."""
        if event.value.strip() == self._typed:
            self.action_answer(yes=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do it or not."""
        self.dismiss(event.button.id == "go" or None)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form.

    Attributes:
        key: names it in the result.
        label: stands before it.
        value: what it begins with.
        choices: what may be chosen; none: it is typed.
        hint: shown while it is empty.
    """

    key: str
    label: str
    value: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""


class Form(Dialog):
    """A few fields; shows the command line that they make, as they change. Dismissed with a dict, or None.

    Args:
        title: of the window.
        fields: in order.
        command: the command line that the values make.
        check: what is wrong with the values; None where nothing is.
    """

    DEFAULT_CSS = """
    Form .row { height: 3; }
    Form.many .row { height: 1; margin: 0 0 1 0; }
    Form.many .row Label { padding: 0; }
    Form .row Label { width: 16; padding: 1 0; }
    Form .row Input, Form .row Select { width: 1fr; }
    """

    def __init__(
        self,
        title: str,
        fields: Sequence[Field],
        *,
        command: Callable[[dict[str, str]], str],
        check: Callable[[dict[str, str]], str | None] = lambda values: None,
    ) -> None:
        super().__init__(classes="many" if len(fields) > _ROOMY else "")
        self._title = title
        self._fields = fields
        self._command = command
        self._check = check

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._title)), classes="title")
            with VerticalScroll():
                compact = len(self._fields) > _ROOMY
                for field in self._fields:
                    with Horizontal(classes="row"):
                        yield Label(field.label)
                        if field.choices:
                            choices = [(choice, choice) for choice in field.choices]
                            yield Select(choices, value=field.value, allow_blank=False, id=field.key, compact=compact)
                        else:
                            yield Input(field.value, placeholder=field.hint, id=field.key, compact=compact)
            yield Static(id="fault", classes="fault")
            yield Static(id="command")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button("Go", id="go", variant="primary")

    @property
    def values(self) -> dict[str, str]:
        """What stands in the fields."""
        found = {}
        for field in self._fields:
            widget = self.query_one(f"#{field.key}")
            found[field.key] = str(widget.value) if isinstance(widget, Input | Select) else ""
        return found

    def on_mount(self) -> None:
        """Begin with the first field."""
        self._told()
        self.query_one(f"#{self._fields[0].key}").focus()

    def on_input_changed(self) -> None:
        """Tell what the values make."""
        self._told()

    def on_select_changed(self) -> None:
        """Tell what the values make."""
        self._told()

    def _told(self) -> None:
        values = self.values
        fault = self._check(values)
        self.query_one("#fault", Static).update(Text(clean(fault or "")))
        self.query_one("#command", Static).update(Text(f"$ {clean(self._command(values))}", style="dim"))
        self.query_one("#go", Button).disabled = fault is not None

    def on_input_submitted(self) -> None:
        """Go, if nothing is wrong."""
        if self._check(self.values) is None:
            self.dismiss(self.values)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Go or not."""
        self.dismiss(self.values if event.button.id == "go" else None)


def _as_text(line: str | Text) -> Text:
    return line if isinstance(line, Text) else Text(clean(line))
