"""What a directory holds, for the path picker: names at once, sizes of directories when somebody has the time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

Want = Literal["directory", "any", "new"]
"""What a path is picked for: a directory that is there, whatever is there, or a place for a new directory."""
_MOST_FILES: Final = 50_000
"""Of a directory whose size is told: what holds more is told as `more than`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the picker.

    Attributes:
        kind: `use` stands for the path itself, `up` for the directory above.
        name: what is shown.
        path: absolute.
        size: of a file, in bytes; None where it is not known yet.
        changed: seconds since the epoch; None for what is no entry of a directory.
    """

    kind: Literal["use", "up", "directory", "file"]
    name: str
    path: str
    size: int | None = None
    changed: float | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """The lines for what is typed, and why there are none."""

    entries: tuple[Entry, ...]
    problem: str | None = None


def absolute(typed: str) -> str:
    """What is typed as an absolute path; `~` is the home, a slash at the end stays."""
    path = os.path.expanduser(typed)
    made = os.path.normpath(os.path.join(os.getcwd(), path))
    return made if not path.endswith("/") or made == "/" else made + "/"


def look_into(typed: str, want: Want, *, hidden: bool) -> Listed:
    """The lines for what is typed: entries of its directory that begin as its last part does."""
    path = absolute(typed)
    directory, _, begin = path.rpartition("/")
    directory = directory or "/"
    lines = _use(path, want)
    if directory != "/" and not begin:
        lines.append(Entry("up", "..", os.path.dirname(directory)))
    try:
        with os.scandir(directory) as found:
            seen = [_entry(each) for each in found if _wanted(each.name, begin, hidden=hidden)]
    except OSError as error:
        return Listed(tuple(lines), error.strerror or str(error))
    entries = [each for each in seen if each is not None and (each.kind == "directory" or want == "any")]
    entries.sort(key=lambda each: (each.kind != "directory", each.name.lower(), each.name))
    if want == "new" and begin:
        return Listed((*entries, *lines) if any(each.name == begin for each in entries) else (*lines, *entries))
    return Listed((*lines, *entries))


def _use(path: str, want: Want) -> list[Entry]:
    if want == "new":
        return [Entry("use", "use this path", path.rstrip("/") or "/")]
    if path.endswith("/") and os.path.isdir(path):
        return [Entry("use", "use this directory", path.rstrip("/") or "/")]
    return []


def _wanted(name: str, begin: str, *, hidden: bool) -> bool:
    return name.startswith(begin) and (hidden or begin.startswith(".") or not name.startswith("."))


def _entry(found: os.DirEntry[str]) -> Entry | None:
    try:
        about = found.stat()
    except OSError:  # A dead link, or it is gone.
        return None
    if stat.S_ISDIR(about.st_mode):
        return Entry("directory", found.name, found.path, None, about.st_mtime)
    if stat.S_ISREG(about.st_mode):
        return Entry("file", found.name, found.path, about.st_size, about.st_mtime)
    return None


def refused(path: str, want: Want) -> str | None:
    """Why a path cannot be picked; None where it can."""
    if want == "new":
        if os.path.isfile(path):
            return "there is a file of that name"
        if os.path.isdir(path):
            try:
                with os.scandir(path) as found:
                    return "it is not empty" if next(found, None) is not None else None
            except OSError as error:
                return error.strerror or str(error)
        return None if os.path.isdir(os.path.dirname(path)) else "the directory above it is not there"
    if not os.path.exists(path):
        return "it is not there"
    return "it is no directory" if want == "directory" and not os.path.isdir(path) else None


def size_below(path: str, stopped: Callable[[], bool]) -> tuple[int, bool] | None:
    """Bytes of the files below a directory, and whether these are all; None where it was stopped."""
    total = files = 0
    waiting = [path]
    while waiting:
        if stopped():
            return None
        try:
            with os.scandir(waiting.pop()) as found:
                for each in found:
                    if each.is_dir(follow_symlinks=False):
                        waiting.append(each.path)
                    elif each.is_file(follow_symlinks=False):
                        total += each.stat(follow_symlinks=False).st_size
                        files += 1
        except OSError:  # What cannot be read is not counted.
            continue
        if files > _MOST_FILES:
            return total, False
    return total, True


def free_bytes(path: str) -> int | None:
    """Bytes that may still be written where a path lies or would lie; None where that cannot be told."""
    while path and not os.path.isdir(path):
        path = os.path.dirname(path) if path != "/" else ""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
