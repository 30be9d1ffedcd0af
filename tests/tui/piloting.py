"""What tests of the terminal UI share: waiting for what is to be seen, and what stands on the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ckptfmt_tui.app import CkptfmtApp
from textual.pilot import Pilot

_POLL_SECONDS = 0.02


async def until(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Let the application run until something holds.

    Raises:
        AssertionError: it does not, for so long.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s; the screen:\n{screen_text(pilot.app)}")
        await pilot.pause(_POLL_SECONDS)


def screen_text(app: Any) -> str:
    """What is on the screen, as plain text, a line a row."""
    compositor = app.screen._compositor
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in compositor.render_strips())


def shows(app: Any, *texts: str) -> bool:
    """Whether all of these stand on the screen."""
    screen = screen_text(app)
    return all(text in screen for text in texts)


def piloted(
    app: CkptfmtApp, act: Callable[[CkptfmtApp, Pilot[Any]], Awaitable[None]], size: tuple[int, int] = (120, 30)
) -> None:
    """Run an application without a terminal, and act in it."""

    async def go() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await act(app, pilot)

    run(go())


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end."""
    asyncio.run(work)
