"""Whether a page or a window can still be drawn into, when something that it asked for is answered late."""

from __future__ import annotations

from typing import Any

from textual.screen import Screen


def stands(screen: Screen[Any]) -> bool:
    """Whether its widgets are there: while it, or the application, is being left, they go one after the other."""
    return screen.is_attached and screen.app.is_running and screen.display
