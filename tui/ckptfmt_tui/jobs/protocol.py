"""What a job's process tells: one JSON document a line on its standard output. It is told `go` or `stop`, a line each.

Closing its standard input is `stop`: a job never outlives the application that wanted it.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from ckptfmt_tui.jobs.requests import Request

GO: Final = "go"
STOP: Final = "stop"


class Event(msgspec.Struct, frozen=True, tag_field="event"):
    """Something that a job tells."""


class Began(Event, frozen=True, tag="began"):
    """A step began; `total_bytes` is None where it is not known."""

    label: str
    total_bytes: int | None


class Advanced(Event, frozen=True, tag="advanced"):
    """So many bytes of the step are done in all."""

    done_bytes: int


class Planned(Event, frozen=True, tag="planned"):
    """What the job will do once it is told `go`; `document` is the verb's plan."""

    document: Any


class Finished(Event, frozen=True, tag="finished"):
    """The verb's result."""

    document: Any


class Failed(Event, frozen=True, tag="failed"):
    """How it failed, in the words of the command line."""

    code: str
    message: str
    hint: str | None
    exit_code: int
    tensors: tuple[str, ...] = ()


AnyEvent = Began | Advanced | Planned | Finished | Failed
Start = tuple[str, Request]
"""The first line that a job's process reads: the store's path, and what to do."""


def encode(message: object) -> bytes:
    """A message as one line. File names that are no text travel as escapes, which msgspec would refuse."""
    return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"


def decode_event(line: bytes) -> AnyEvent:
    """An event.

    Raises:
        ValueError: it is none.
    """
    event: AnyEvent = msgspec.convert(json.loads(line), type=AnyEvent)
    return event


def decode_start(line: bytes) -> Start:
    """What to do, and in which store."""
    start: Start = msgspec.convert(json.loads(line), type=Start)
    return start
