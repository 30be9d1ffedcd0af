"""The one place that prints: results to stdout, everything else to stderr, and nothing that a terminal would obey.

Names and messages may come from files of others. Control characters in them are shown and not sent.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from ckptfmt.wording import clean

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: Final = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33"}


class Styled(NamedTuple):
    """A line in a style: `bold`, `dim`, `red`, `green` or `yellow`."""

    text: str
    style: str


Line = str | Styled
"""One line of text for people, without its line feed."""


def print_document(document: object) -> None:
    """Print `document` (built-in types and `msgspec` structs) as one JSON document on stdout."""
    _write(sys.stdout, encode(document, indent=2 if _is_terminal(sys.stdout) else 0) + "\n")


def encode(document: object, *, indent: int = 0) -> str:
    """`document` as JSON. Numbers that JSON does not have become null; file names that are no text, escapes."""
    import json
    import math

    import msgspec

    def without_nan(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nan(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [without_nan(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    builtins = msgspec.to_builtins(document)
    try:
        data = msgspec.json.encode(builtins)
    except UnicodeEncodeError:
        return json.dumps(without_nan(builtins), indent=indent or None)
    return (msgspec.json.format(data, indent=indent) if indent else data).decode()


def print_lines(lines: list[Line]) -> None:
    """Print a result for people on stdout."""
    _write(sys.stdout, _text(lines, colour=_has_colour(sys.stdout)))


def print_notes(lines: list[Line]) -> None:
    """Print what is not the result on stderr."""
    _write(sys.stderr, _text(lines, colour=_has_colour(sys.stderr)))


def print_drawing(drawing: RenderableType) -> None:
    """Print what rich draws, made of words of our own, on stdout."""
    from rich.console import Console

    Console(file=sys.stdout).print(drawing)


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal that `stream` writes to; None where it is none, and lines may be as long as they are."""
    return columns() if _is_terminal(stream) else None


def columns() -> int:
    """Columns of this process's terminal."""
    import shutil

    return shutil.get_terminal_size().columns


def soften(*streams: TextIO) -> None:
    """Let streams escape what their encoding does not have: a name that cannot be printed must not stop a verb."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def flush() -> None:
    """Hand over what was printed.

    Raises:
        OSError: it cannot be written. A reader that is gone is no such error.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)


def discard(stream: TextIO) -> None:
    """Let everything that `stream` still holds, or is given, go nowhere."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # Not a file: a test's, or one that is closed.
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:  # Who read it has seen enough; the exit code still tells how the work went.
        discard(stream)


def _text(lines: list[Line], *, colour: bool) -> str:
    printed = []
    for line in lines:
        if isinstance(line, Styled):
            text = clean(line.text)
            printed.append(f"\x1b[{_STYLES[line.style]}m{text}\x1b[0m\n" if colour else f"{text}\n")
        else:
            printed.append(f"{clean(line)}\n")
    return "".join(printed)


def _is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()


def _has_colour(stream: TextIO) -> bool:
    return _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
