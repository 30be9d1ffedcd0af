"""The application's process behind one page of a browser."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections.abc import Sequence
from typing import Any, Final

from textual_serve.app_service import AppService

_PATIENCE_SECONDS: Final = 10.0


class ServedApp(AppService):
    """One run of the application, for one web socket.

    Args:
        words: its command line; no shell reads it.
        options: see `AppService`.
    """

    def __init__(self, words: Sequence[str], **options: Any) -> None:
        super().__init__("", **options)
        self._words = words

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        environment = super()._build_environment(width, height)
        environment["TEXTUAL_DRIVER"] = "ckptfmt_tui.web.driver:ServedDriver"
        return environment

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._build_environment(width, height),
            start_new_session=True,  # Ctrl-C in the server's terminal is the server's: it tells the application.
        )
        self._stdin = self._process.stdin
        return self._process

    async def stop(self) -> None:
        """Let it leave, as `q` does; kill it if it does not."""
        process = self._process
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().stop(), _PATIENCE_SECONDS)
        if process is None:
            return
        if self._stdin is not None:
            self._stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
