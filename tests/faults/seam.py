"""Watching, stopping and failing the mutating calls of this process, through `durable.observed`."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

DESCRIPTOR_CALLS = ("write", "pwrite", "fsync")


@dataclass(frozen=True, slots=True)
class Event:
    """One call that was made: `path` is what it changed, `other` a second path (or a link's text)."""

    call: str
    path: str
    other: str = ""
    data: bytes = b""
    offset: int = 0


@dataclass
class Recorder:
    """Keeps every call, with the bytes it wrote and the path behind its descriptor."""

    events: list[Event] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)
    _offsets: dict[int, int] = field(default_factory=dict)

    def before(self, call: str, arguments: tuple[Any, ...]) -> None:
        return

    def after(self, call: str, arguments: tuple[Any, ...], result: object) -> None:
        self.events.append(self._event(call, arguments, result))

    def _event(self, call: str, arguments: tuple[Any, ...], result: object) -> Event:
        if call == "create":
            assert isinstance(result, int)
            self._paths[result] = arguments[0]
            self._offsets[result] = 0
            return Event(call, arguments[0])
        if call in DESCRIPTOR_CALLS:
            descriptor = arguments[0]
            path = self._paths[descriptor]
            if call == "fsync":
                return Event(call, path)
            assert isinstance(result, int)
            data = bytes(arguments[1][:result])
            if call == "pwrite":
                return Event(call, path, data=data, offset=arguments[2])
            offset = self._offsets[descriptor]
            self._offsets[descriptor] += result
            return Event(call, path, data=data, offset=offset)
        if call == "symlink":
            return Event(call, arguments[1], other=arguments[0])
        other = arguments[1] if call in ("rename", "link") else ""
        return Event(call, arguments[0], other=other)


@dataclass
class Counter:
    """Counts calls, and those of them that were made without an error."""

    calls: list[str] = field(default_factory=list)
    made: int = 0

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        self.calls.append(call)

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        self.made += 1


@dataclass
class Killer:
    """Ends the process with SIGKILL at boundary `at`: before call n is 2n, after it is 2n + 1."""

    at: int
    _next: int = 0

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        self._pass()

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        self._pass()

    def _pass(self) -> None:
        if self._next == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self._next += 1


class Abort(BaseException):
    """Stands for Ctrl-C: the process goes on to clean up."""


@dataclass
class Failing:
    """Fails call number `at` (and, if `lasting`, all after it) with `error`, before it is made.

    Args:
        at: number of the call among those that `only` lets through.
        error: makes what is raised.
        lasting: go on failing.
        only: which calls count.
    """

    at: int
    error: Callable[[], BaseException]
    lasting: bool = False
    only: Callable[[str], bool] = lambda _call: True
    hit: int = 0
    _next: int = 0

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        if not self.only(call):
            return
        number, self._next = self._next, self._next + 1
        if number == self.at or (self.lasting and number > self.at):
            self.hit += 1
            raise self.error()

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        return


def failing_with(number: int, at: int, *, lasting: bool = False) -> Failing:
    """Call `at` fails with this errno; unlinks of a full disk work, as they do."""
    return Failing(at, lambda: OSError(number, os.strerror(number)), lasting=lasting)


@contextmanager
def short_writes(patch: pytest.MonkeyPatch, at: int, *, lasting: bool) -> Iterator[list[int]]:
    """Let write or pwrite number `at` (and, if `lasting`, all after it) take only half of what it is given."""
    seen: list[int] = []
    write, pwrite = os.write, os.pwrite

    def length(size: int) -> int:
        seen.append(size)
        short = len(seen) - 1 == at or (lasting and len(seen) - 1 > at)
        return max(1, size // 2) if short else size

    def short_write(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[: length(len(data))])

    def short_pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        return pwrite(descriptor, data[: length(len(data))], offset)

    with patch.context() as inner:
        inner.setattr(os, "write", short_write)
        inner.setattr(os, "pwrite", short_pwrite)
        yield seen


def in_child(action: Callable[[], None]) -> int:
    """Run `action` in a fork of this process; its exit status as `os.waitstatus_to_exitcode` gives it.

    A child that hangs is ended after a minute, by a signal that no test expects.
    """
    return os.waitstatus_to_exitcode(os.waitpid(_forked(action), 0)[1])


def in_processes(count: int, action: Callable[[int], None]) -> None:
    """Run `action(0)` … `action(count - 1)` in forks that start together; all must end well."""
    read, write = os.pipe()

    def one(number: int) -> None:
        os.close(write)
        os.read(read, 1)  # Ends when the last writer closes.
        action(number)

    children = [_forked(lambda n=number: one(n)) for number in range(count)]
    os.close(read)
    os.close(write)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * count


def _forked(action: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Newer Pythons warn of forks beside threads.
        child = os.fork()
    if child == 0:
        status = 70
        try:
            signal.alarm(60)
            action()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent sees the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return child
