"""The command line that does what is selected, ready to be copied."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.widgets import Static

from ckptfmt.wording import clean


class CommandLine(Static):
    """One line: `$ ckptfmt …`. A click copies it."""

    DEFAULT_CSS: ClassVar[str] = """
    CommandLine { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
    CommandLine:hover { color: $foreground; }
    """

    command = ""

    def tell(self, command: str) -> None:
        """Show another command line."""
        self.command = command
        self.update(Text(f"$ {clean(command)}" if command else "", no_wrap=True, overflow="ellipsis"))

    def on_click(self) -> None:
        """Copy it."""
        if self.command:
            try:
                self.app.copy_to_clipboard(self.command)
            except UnicodeEncodeError:
                self.app.notify("it names a file whose name is no text, and cannot be copied", severity="warning")
            else:
                self.app.notify("copied", title=self.command, timeout=3)
