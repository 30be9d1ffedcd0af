"""The application's side of a job: starts its process, follows it, agrees to its plan, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from ckptfmt.problems import Problem, problem_of, storage_error
from ckptfmt_tui.jobs.protocol import GO, STOP, Advanced, Began, Failed, Finished, Planned, decode_event, encode
from ckptfmt_tui.jobs.requests import Job

State = Literal["running", "asking", "stopping", "done", "failed", "stopped"]
OVER: Final = frozenset({"done", "failed", "stopped"})

_RATE_SECONDS: Final = 5.0
_LINE_BYTES: Final = 1 << 28
"""The longest document that a job may tell."""
_PATIENCE_SECONDS: Final = 30.0
"""How long a job that was told to stop may clean up behind itself before it is killed."""

_LAST_SECONDS: Final = 10.0
"""The same, once the application itself ends."""


@dataclass
class RunningJob:
    """One job.

    Attributes:
        number: counts the jobs of this application.
        request: what it was asked to do.
        title: the same, for people.
        state: where it stands.
        label, done_bytes, total_bytes: its current step.
        plan: what it will do, once it asks.
        result: what it gave back.
        problem: how it failed.
        asks: whether a plan is one to agree to: one of nothing waits for nobody's word.
        was_agreed: whether its plan was agreed to.
        is_idle: whether it waits with a plan of nothing.
        began_at, ended_at: seconds, monotonic.
    """

    number: int
    request: Job
    title: str
    state: State = "running"
    label: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    plan: Any = None
    result: Any = None
    problem: Problem | None = None
    asks: Callable[[Any], bool] = lambda plan: True
    was_agreed: bool = False
    is_idle: bool = False
    began_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    _asked_at: float | None = None
    _waited: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _process: asyncio.subprocess.Process | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in OVER

    @property
    def seconds(self) -> float:
        """How long it worked, or has been working: what it waited for somebody's word does not count."""
        now = self.ended_at or time.monotonic()
        return (self._asked_at or now) - self.began_at - self._waited

    @property
    def rate(self) -> float:
        """Bytes a second over the last seconds."""
        if len(self._samples) < 2:
            return 0.0
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        return (done - before) / (last - first) if last > first else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Of the current step, as far as its rate tells."""
        if not self.total_bytes or self.rate <= 0:
            return None
        return max(self.total_bytes - self.done_bytes, 0) / self.rate

    async def run(self, store: str, types: tuple[type, type | None], changed: Callable[[RunningJob], None]) -> None:
        """Run the job to its end.

        Args:
            store: path of the store.
            types: of its result, and of its plan.
            changed: told after each change.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ckptfmt_tui.jobs.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,  # Ctrl-C in the terminal is a key of the application.
            )
            await self._say(encode((store, self.request)))
            if self.state == "stopping":  # It was told so before there was a process to tell.
                self.stop()
            await self._follow(types, changed)
        except asyncio.CancelledError:  # The application ends; what runs cleans up behind itself.
            await self._let_end()
            raise
        except OSError as error:
            self._end("failed", problem_of(storage_error(error)))
        finally:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            if not self.over:
                self._end("failed", Problem("bug", "the job's process ended without a word", "run it again", 1))
            changed(self)

    async def _follow(self, types: tuple[type, type | None], changed: Callable[[RunningJob], None]) -> None:
        process = self._process
        if process is None or process.stdout is None:
            return
        while line := await process.stdout.readline():
            self._take(line, types)
            changed(self)
        await process.wait()

    def _take(self, line: bytes, types: tuple[type, type | None]) -> None:
        match decode_event(line):
            case Began(label, total_bytes):
                self.label, self.total_bytes, self.done_bytes = label, total_bytes, 0
                self._samples = deque([(time.monotonic(), 0)])
            case Advanced(done_bytes):
                self.done_bytes = done_bytes
                self._sample()
            case Planned(document):
                self.plan = msgspec.convert(document, type=types[1] or Any)
                if self.state == "running":
                    self.state, self._asked_at = "asking", time.monotonic()
                    self.is_idle = not self.asks(self.plan)
            case Finished(document):
                self.result = msgspec.convert(document, type=types[0])
                self._end("done", None)
            case Failed(code, message, hint, exit_code, tensors):
                problem = Problem(code, message, hint, exit_code, tensors)
                self._end("stopped" if code == "interrupted" else "failed", problem)

    def _sample(self) -> None:
        now = time.monotonic()
        self._samples.append((now, self.done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()

    def _end(self, state: State, problem: Problem | None) -> None:
        self._wait_no_longer()
        self.state, self.problem, self.ended_at = state, problem, time.monotonic()

    def _wait_no_longer(self) -> None:
        self.is_idle = False
        if self._asked_at is not None:
            self._waited += time.monotonic() - self._asked_at
            self._asked_at = None

    async def _let_end(self) -> None:
        """Stop it, and wait for that, but not for ever."""
        self.stop()
        if self._process is not None:
            with contextlib.suppress(TimeoutError):  # It is killed then.
                # Reading to the end closes the pipes, too.
                await asyncio.wait_for(self._process.communicate(b""), _LAST_SECONDS)

    def refuse(self, problem: Problem) -> None:
        """End it before it began."""
        self._end("failed", problem)

    async def agree(self) -> None:
        """Let it do what it has planned."""
        if self.state == "asking":
            self._wait_no_longer()
            self.state, self.was_agreed = "running", True
            await self._say(f"{GO}\n".encode())

    def stop(self) -> None:
        """Ask it to stop. It cleans up behind itself; killed, it would leave nothing half-published either."""
        if self.over:
            return
        self._wait_no_longer()
        self.state = "stopping"
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{STOP}\n".encode())
            asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._kill)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _say(self, data: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):  # It has ended; what it said tells how.
            pass
