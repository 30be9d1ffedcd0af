"""A browser without a screen, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium here: install the package chromium (Debian, Fedora) or chromium-browser (Ubuntu)"
_CATCH = """
Object.defineProperty(Object.prototype, 'terminal', {configurable: true, set(found) {
  window.caught = found;
  Object.defineProperty(this, 'terminal', {value: found, writable: true});
}});
"""
"""The page's terminal is nobody's global: it is caught when it is made."""
_TEXT = """
(() => {
  const buffer = window.caught && window.caught.buffer.active;
  if (!buffer) return '';
  return Array.from({length: window.caught.rows}, (_, y) => buffer.getLine(y).translateToString(true)).join('\\n');
})()
"""


def binary() -> str | None:
    """A Chromium, or None."""
    return next((found for name in BINARIES if (found := shutil.which(name))), None)


class Tab:
    """A page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.asked: list[str] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            told = json.loads((await self._socket.receive(timeout=30)).data)
            if told.get("id") == number:
                assert "error" not in told, told["error"]
                return told["result"]
            if told.get("method") == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])
            elif told.get("method") == "Log.entryAdded":
                self.complaints.append(told["params"]["entry"]["text"])

    async def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def text(self) -> str:
        """What stands in the page's terminal."""
        return str(await self.value(_TEXT))

    async def until(self, *texts: str, without: str | None = None, seconds: float = 20.0) -> str:
        """Wait until all of these stand in the terminal, and one thing does not."""
        end = time.monotonic() + seconds
        while True:
            shown = await self.text()
            if all(text in shown for text in texts) and (without is None or without not in shown):
                return shown
            assert time.monotonic() < end, f"not within {seconds:g} s: {texts}; the page:\n{shown}"
            await asyncio.sleep(0.05)

    async def press(self, text: str) -> None:
        """Press keys that make letters."""
        for letter in text:
            code = {"\r": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}}.get(letter, {"key": letter})
            await self.call("Input.dispatchKeyEvent", type="keyDown", text=letter, **code)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    async def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@contextlib.asynccontextmanager
async def tab_at(address: str, profile: Path) -> AsyncIterator[Tab]:
    """A tab of a browser of its own that shows a page.

    Args:
        address: of the page.
        profile: an empty directory.
    """
    program = binary()
    assert program is not None
    words = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"]
    words += ["--no-sandbox"] if os.getuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        program,
        *words,
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        "--window-size=1280,800",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            async with client.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
                for domain in ("Page", "Network", "Log", "Runtime"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Page.addScriptToEvaluateOnNewDocument", source=_CATCH)
                await tab.call("Page.navigate", url=address)
                yield tab
                await tab.call("Browser.close")
        await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _port(file: Path) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text(encoding="utf-8").split("\n")[0])
        await asyncio.sleep(0.05)
    raise AssertionError("the browser did not start")
