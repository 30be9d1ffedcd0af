"""The parts of a page by name, the present one marked; a click goes to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import Static


class Sections(Static):
    """One line of names, each with its key.

    Args:
        keys: the key of each part.
        chosen: the first one.
    """

    DEFAULT_CSS: ClassVar[str] = "Sections { height: 1; padding: 0 1; background: $surface; }"

    class Chosen(Message):
        """A part was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.part = name

    def __init__(self, keys: Mapping[str, str], chosen: str) -> None:
        super().__init__()
        self._keys = dict(keys)
        self._counts: dict[str, str] = {}
        self.chosen = chosen

    def choose(self, name: str) -> None:
        """Mark a part."""
        self.chosen = name
        self.refresh()

    def count(self, name: str, told: str) -> None:
        """Say how many there are of something."""
        self._counts[name] = told
        self.refresh(layout=True)

    def beside(self, steps: int) -> str:
        """The part so many steps to the right."""
        names = list(self._keys)
        return names[(names.index(self.chosen) + steps) % len(names)]

    def render(self) -> Text:
        """Draw the names."""
        line = Text(no_wrap=True)
        for name, text in self._words():
            here = name == self.chosen
            before, letter, after = text.partition(self._keys[name])
            line.append(before, style="bold reverse" if here else "")
            line.append(letter, style="bold reverse underline" if here else "underline")
            line.append(after, style="bold reverse" if here else "")
            line.append(" ")
        return line

    def _words(self) -> list[tuple[str, str]]:
        counted = {name: f" {name} {self._counts.get(name, '')}".rstrip() + " " for name in self._keys}
        if sum(len(text) + 1 for text in counted.values()) > self.size.width:
            counted = {name: f" {name} " for name in self._keys}
        return list(counted.items())

    def on_click(self, event: events.Click) -> None:
        """Tell of the part that was clicked."""
        at = event.x - self.styles.padding.left
        for name, text in self._words():
            if 0 <= at < len(text):
                self.post_message(self.Chosen(name))
                return
            at -= len(text) + 1
