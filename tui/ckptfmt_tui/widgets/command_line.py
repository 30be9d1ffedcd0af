"""The command line that does what is selected, ready to be copied."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual.widgets import Static

from ckptfmt.wording import clean

_CUT: Final = "…  Ctrl+Y copies all of it"


class CommandLine(Static):
    """One line: `$ ckptfmt …`. A click copies it, whole, also where it is cut."""

    DEFAULT_CSS: ClassVar[str] = """
    CommandLine { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
    CommandLine:hover { color: $foreground; }
    """

    command = ""

    def tell(self, command: str) -> None:
        """Show another command line."""
        self.command = command
        self.refresh()

    def render(self) -> Text:
        """Draw as much of it as there is room for, and say so where that is not all."""
        line = Text(f"$ {clean(self.command)}" if self.command else "", no_wrap=True)
        room = self.content_size.width
        if line.cell_len > room:
            line.truncate(max(room - len(_CUT), 0))
            line.append(_CUT[:room], "italic")
        return line

    def on_click(self) -> None:
        """Copy it."""
        if self.command:
            try:
                self.app.copy_to_clipboard(self.command)
            except UnicodeEncodeError:
                self.app.notify("it names a file whose name is no text, and cannot be copied", severity="warning")
            else:
                self.app.notify("copied", title=self.command, timeout=3)
