"""The terminal UI in a browser: who is let in, what is served, and a real browser that uses it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from ckptfmt_tui.web.guard import new_token, refusal
from ckptfmt_tui.web.server import HOST, WebServer, listen

from ckptfmt.errors import InvalidInput
from tests.tui.browser import MISSING, binary, tab_at
from tests.tui.piloting import run

COMMAND = [sys.executable, "-c", "from ckptfmt.cli import main; main()"]
needs_browser = pytest.mark.skipif(binary() is None, reason=MISSING)


def test_whoever_lacks_anything_is_refused() -> None:
    token = new_token()
    path, host, origin = f"/{token}/", "127.0.0.1:8411", "http://127.0.0.1:8411"
    assert refusal(token, path, host, None, is_socket=False) is None
    assert refusal(token, f"{path}ws", host, origin, is_socket=True) is None
    assert refusal(token, path, "localhost:9000", "http://localhost:9000", is_socket=True) is None
    for bad in (
        None,
        "",
        "evil.example",
        "evil.example:8411",
        "127.0.0.1.evil.example",
        "127.0.0.2:8411",
        "[::1",
        "a@b:1",
    ):
        assert refusal(token, path, bad, None, is_socket=False), bad
    for bad in (
        "http://evil.example",
        "https://127.0.0.1:8411",
        "http://127.0.0.1:1",
        "http://localhost:8411",
        "null",
        "",
    ):
        assert refusal(token, f"{path}ws", host, bad, is_socket=True), bad
        assert refusal(token, path, host, bad, is_socket=False), bad
    assert refusal(token, f"{path}ws", host, None, is_socket=True), "no browser opens a web socket without an Origin"
    for bad in ("/", "", "/ws", f"/{token[:-1]}/", f"/{token}x/", f"/x{token}/", f"//{token}/", "/ä/", "*"):
        assert refusal(token, bad, host, None, is_socket=False), bad
    assert len({new_token() for _ in range(50)}) == 50
    assert len(token) >= 32


def test_the_port_that_is_wanted_or_a_free_one() -> None:
    with listen(0) as taken:
        assert taken.getsockname()[0] == HOST
        with pytest.raises(InvalidInput) as told:
            listen(taken.getsockname()[1])
        assert "in use" in told.value.message
    with listen(None) as first, listen(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]


@contextlib.asynccontextmanager
async def served(store: Path) -> AsyncIterator[tuple[WebServer, aiohttp.ClientSession]]:
    """A server in this process, and a client that is no browser."""
    listener = listen(0)
    server = WebServer(str(store), read_only=True, port=listener.getsockname()[1])
    runner = aiohttp.web.AppRunner(await server._make_app(), access_log=None)
    await runner.setup()
    await aiohttp.web.SockSite(runner, listener).start()
    try:
        async with aiohttp.ClientSession() as client:
            yield server, client
    finally:
        await runner.cleanup()


def test_the_server_answers_to_its_own_page_alone(made_store: Path) -> None:
    async def act() -> None:
        async with served(made_store) as (server, client):
            own = server.address
            origin = own.split(f"/{server.token}")[0]
            for address, headers in (
                (origin + "/", {}),
                (origin + "/ws", {}),
                (origin + "/static/js/textual.js", {}),
                (origin + "/wrong/", {}),
                (own, {"Host": "evil.example"}),
                (own, {"Origin": "http://evil.example"}),
                (own + "static/js/textual.js", {"Host": f"evil.example:{server.port}"}),
            ):
                async with client.get(address, headers=headers) as answer:
                    assert answer.status == 403, address
                    assert server.token not in await answer.text()
            for headers in (
                {"Origin": "http://evil.example"},
                {},
                {"Origin": "null"},
                {"Origin": origin, "Host": "evil"},
            ):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.ws_connect(own + "ws", headers=headers)
                assert refused.value.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect(origin + "/ws", headers={"Origin": origin})

    run(act())


def test_the_page_needs_nothing_from_elsewhere(made_store: Path) -> None:
    async def act() -> None:
        async with served(made_store) as (server, client):
            async with client.get(server.address) as answer:
                assert answer.status == 200
                page = await answer.text()
                policy = answer.headers["Content-Security-Policy"]
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert "Set-Cookie" not in answer.headers
            assert "default-src 'none'" in policy
            assert f"connect-src ws://{HOST}:{server.port}" in policy
            assert not re.findall(r"https?://", page), "no address of another machine"
            assert "$" not in page
            for path in re.findall(r"""(?:href|src|url\()=?"(/[^"]+)""", page):
                async with client.get(f"http://{HOST}:{server.port}{path}") as answer:
                    assert answer.status == 200, path
            for path in (
                "static/",
                "static/js/",
                "static/../server.py",
                "static/%2e%2e/server.py",
                "static/js/../../app_service.py",
            ):
                async with client.get(aiohttp.client.URL(server.address + path, encoded=True)) as answer:
                    assert answer.status in (403, 404), path

    run(act())


@contextlib.contextmanager
def running(store: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ckptfmt tui --web`, and the address that it prints."""
    process = subprocess.Popen(
        [*COMMAND, "tui", "--web", *words, "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32,}/", address), address + process.stdout.read()
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(process: int) -> list[int]:
    """Processes that a process has started and that still run."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


def alive(process: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@needs_browser
def test_a_browser_shows_the_store_and_takes_keys(made_store: Path, tmp_path: Path) -> None:
    async def act(address: str, server: int) -> None:
        async with tab_at(address, tmp_path / "profile") as tab:
            await tab.until("stage-1", "checkpoint-10", "1 Store")
            assert len(await tab.picture()) > 10_000
            started = children(server)
            assert len(started) == 1
            await tab.press("/")
            await tab.press("merged\r")
            await tab.until("merged", "q Quit", without="checkpoint-10")
            await tab.press("2")
            await tab.until("Two checkpoints side by side")
            # Read-only: what writes has no key.
            await tab.press("1")
            await tab.until("STORED")
            await tab.press("?")
            helped = await tab.until("Keys: Store", "Mark this checkpoint")
            assert "Merge this checkpoint" not in helped
            own = address.split("/")[2]
            assert tab.asked
            assert all(asked.split("/")[2] == own for asked in tab.asked if not asked.startswith("data:")), tab.asked
            assert not [told for told in tab.complaints if "Security Policy" in told], (
                "the page keeps its own content security policy"
            )
        end = time.monotonic() + 15
        while children(server):
            assert time.monotonic() < end, "a page that was closed leaves no process"
            await asyncio.sleep(0.05)

    with running(made_store) as (process, address):
        assert process.stdout is not None
        assert "read-only" in process.stdout.readline()
        run(act(address, process.pid))


@needs_browser
def test_with_write_the_keys_that_write_are_there(writable_store: Path, tmp_path: Path) -> None:
    async def act(address: str) -> None:
        async with tab_at(address, tmp_path / "profile") as tab:
            await tab.until("stage-1")
            await tab.press("?")
            await tab.until("Keys: Store", "Merge this checkpoint")

    with running(writable_store, "--write") as (process, address):
        assert process.stdout is not None
        assert "may change" in process.stdout.readline()
        run(act(address))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_applications_end_with_the_server(made_store: Path, number: signal.Signals) -> None:
    async def act(process: subprocess.Popen[str], address: str) -> list[int]:
        origin = "/".join(address.split("/")[:3])
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(address + "ws", headers={"Origin": origin}) as ws,
        ):
            shown = b""
            while b"stage-1" not in shown:
                message = await ws.receive(timeout=30)
                shown += message.data if isinstance(message.data, bytes) else b""
            started = children(process.pid)
            assert started
            process.send_signal(number)
            end = time.monotonic() + 30
            while process.poll() is None or any(map(alive, started)):
                assert time.monotonic() < end, "something still runs"
                await asyncio.sleep(0.05)
            return started

    with running(made_store) as (process, address):
        run(act(process, address))  # type: ignore[arg-type]
        assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL)


def test_a_taken_port_and_a_free_one(made_store: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["tui", "--web", "--port", str(port), "--store", str(made_store)]
        ran = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert f"port {port}" in ran.stderr


def test_without_the_extra_it_says_what_to_install(made_store: Path) -> None:
    block = "import sys; sys.modules['textual_serve'] = None; from ckptfmt.cli import main; main()"
    words = ["tui", "--web", "--store", str(made_store)]
    ran = subprocess.run([sys.executable, "-c", block, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pip install 'ckptfmt[web]'" in ran.stderr
