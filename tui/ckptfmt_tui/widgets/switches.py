"""A line of words that are chosen or switched by a key or a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import Static

from ckptfmt.wording import clean


@dataclass(frozen=True, slots=True)
class Switch:
    """A word of the line.

    Attributes:
        name: names it in messages.
        key: the key that does the same.
        label: what stands there.
        on: whether it is chosen, or switched on.
        tail: dim words after it.
        marked: whether a mark and its key stand before it.
    """

    name: str
    key: str
    label: str
    on: bool
    tail: str = ""
    marked: bool = True


class Switches(Static):
    """A line of switches; `choice` for one of several, else each has a mark of its own."""

    DEFAULT_CSS: ClassVar[str] = "Switches { height: 1; padding: 0 1; background: $surface; }"

    class Switched(Message):
        """A word was clicked."""

        def __init__(self, switches: Switches, name: str) -> None:
            super().__init__()
            self.switches = switches
            self.name = name

        @property
        def control(self) -> Switches:
            """The line."""
            return self.switches

    def __init__(self, *, choice: bool, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        super().__init__(id=id)
        self._choice = choice
        self._shown: Sequence[Switch] = ()
        self._places: list[tuple[int, int, str]] = []

    def show_switches(self, switches: Sequence[Switch]) -> None:
        """Show others."""
        self._shown = switches
        self.refresh()

    def render(self) -> Text:
        """Draw them, and remember where."""
        line = Text(no_wrap=True, overflow="ellipsis")
        self._places = []
        for switch in self._shown:
            begin = line.cell_len
            if self._choice:
                line.append(f" {switch.key} ", "bold reverse" if switch.on else "dim")
                line.append(f"{clean(switch.label)} ", "bold reverse" if switch.on else "")
                if switch.tail:
                    line.append(f"{switch.tail} ", "reverse" if switch.on else "dim")
            else:
                if switch.marked:
                    line.append("● " if switch.on else "○ ", "green" if switch.on else "dim")
                    line.append(f"{switch.key} ", "bold" if switch.on else "dim")
                line.append(switch.label, "" if switch.on else "dim")
                if switch.tail:
                    line.append(f" {switch.tail}", "dim")
            self._places.append((begin, line.cell_len, switch.name))
            line.append(" " if self._choice else "   ")
        return line

    def on_click(self, event: events.Click) -> None:
        """Tell which one was clicked."""
        at = event.x - self.styles.padding.left
        for begin, end, name in self._places:
            if begin <= at < end:
                self.post_message(self.Switched(self, name))
