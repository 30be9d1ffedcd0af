"""The driver of an application that a server runs: it ends when the server does."""

from __future__ import annotations

from textual import messages
from textual.drivers.web_driver import WebDriver


class ServedDriver(WebDriver):
    """Textual's driver for the web; the end of its input is the end of the application, however the server ended."""

    def write(self, data: str) -> None:
        """Write; a file's name that is no text is written as escapes, as a terminal would get it."""
        super().write(data.encode("utf-8", "backslashreplace").decode("utf-8"))

    def run_input_thread(self) -> None:
        """Take the input, then leave."""
        super().run_input_thread()
        self._app.post_message(messages.ExitApp())
