"""Serves the application to a browser on this machine, and to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import signal
import socket
import sys
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import Template
from typing import Final

from aiohttp import WSCloseCode, web
from textual_serve.server import Server, to_int

from ckptfmt.errors import InvalidInput
from ckptfmt_tui.web.guard import HEADERS, new_token, policy, refusal
from ckptfmt_tui.web.process import ServedApp

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8411
_PAGE: Final = Path(__file__).with_name("page.html")
_MOST_CELLS: Final = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer(Server):
    """Gives a page to whoever knows its address, and runs one application for each.

    Args:
        store: path of the store.
        read_only: whether the application may change nothing.
        port: that it listens on.
    """

    def __init__(self, store: str, *, read_only: bool, port: int) -> None:
        super().__init__("", host=HOST, port=port, title=f"ckptfmt {store}")
        self.token = new_token()
        self.words = (sys.executable, "-m", "ckptfmt_tui", store, *(["--read-only"] if read_only else []))
        self._sockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()

    @property
    def address(self) -> str:
        """What a browser is given."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded])
        top = f"/{self.token}"
        app.add_routes(
            [
                web.get(f"{top}/", self.handle_index),
                web.get(f"{top}/ws", self.handle_websocket),
                web.get(f"{top}/download/{{key}}", self.handle_download),
                web.static(f"{top}/static", self.statics_path),
            ]
        )
        app.on_shutdown.append(self.on_shutdown)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        is_socket = headers.get("Upgrade", "").lower() == "websocket"
        why = refusal(self.token, request.path, headers.get("Host"), headers.get("Origin"), is_socket=is_socket)
        if why is not None:
            return web.Response(status=403, text=f"{why}\n", headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as refused:
            refused.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page."""
        nonce = secrets.token_urlsafe(16)
        page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
            title=_escaped(self.title),
            top=f"/{self.token}",
            nonce=nonce,
            socket=_escaped(f"ws://{request.host}/{self.token}/ws"),
            font_size=max(min(to_int(request.query.get("fontsize", "16"), 16), 64), 6),
        )
        headers = {"Content-Security-Policy": policy(nonce, request.host)}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Run an application for a page, until one of them is gone."""
        width, height = (
            max(min(to_int(request.query.get(name, ""), otherwise), _MOST_CELLS), 1)
            for name, otherwise in (("width", 80), ("height", 24))
        )
        ws = web.WebSocketResponse(heartbeat=15)
        await ws.prepare(request)
        self._sockets.add(ws)
        served = ServedApp(
            self.words,
            write_bytes=ws.send_bytes,
            write_str=ws.send_str,
            close=ws.close,
            download_manager=self.download_manager,
        )
        try:
            await served.start(width, height)
            with contextlib.suppress(ValueError, KeyError, IndexError, TypeError, AssertionError, AttributeError):
                # What is no message of the page's script ends the page.
                await self._process_messages(ws, served)
        finally:
            await served.stop()
            await ws.close()
        return ws

    async def on_shutdown(self, app: web.Application) -> None:
        """Close every page; the applications behind them leave."""
        await asyncio.gather(*(ws.close(code=WSCloseCode.GOING_AWAY) for ws in list(self._sockets)))

    async def run(self, listener: socket.socket, ready: Callable[[str], None]) -> None:
        """Serve until Ctrl-C or SIGTERM.

        Args:
            listener: bound to the port.
            ready: told the address once it answers.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ended.set)
        runner = web.AppRunner(await self._make_app(), access_log=None, handle_signals=False, shutdown_timeout=25.0)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            ready(self.address)
            await ended.wait()
        finally:
            await runner.cleanup()


def listen(port: int | None) -> socket.socket:
    """A socket that listens on this machine alone.

    Args:
        port: the one that is wanted; None: the usual one, or a free one where it is taken.

    Raises:
        InvalidInput: the wanted one is taken, or not ours to take.
    """
    for wanted in (DEFAULT_PORT, 0) if port is None else (port,):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, wanted))
            made.listen(16)
        except OSError as error:
            made.close()
            if port is None and wanted and error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            raise InvalidInput(
                f"port {wanted} of {HOST}: {error.strerror}", hint="leave --port out: a free one is taken"
            ) from error
        return made
    raise AssertionError("unreachable")


def serve(store: str, *, read_only: bool, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve a store's terminal UI until Ctrl-C.

    Args:
        store: its path.
        read_only: whether nothing may be changed.
        port: see `listen`.
        ready: told the address.
    """
    with listen(port) as listener:
        server = WebServer(store, read_only=read_only, port=listener.getsockname()[1])
        asyncio.run(server.run(listener, ready))


def _escaped(text: str) -> str:
    for letter, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(letter, name)
    return text
