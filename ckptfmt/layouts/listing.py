"""Names of files as directories, in the order that people count in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ckptfmt.layouts.protocol import Listing

MAX_DEPTH: Final = 100
"""Directories below one another that a listing follows."""

_STAGE: Final = re.compile(r"stage[-_ ]?(\d{1,6})(?![0-9A-Za-z])", re.IGNORECASE)


def listing_of(paths: Iterable[str], name: str = "") -> Listing:
    """The tree of directories that the relative `paths` ('/' between parts) make; `name` is the top one's.

    What lies deeper than `MAX_DEPTH` is left out: no layout reaches there, and its files are kept anyway.
    """
    return _nest((path for path in paths if path.count("/") < MAX_DEPTH), name)


def _nest(paths: Iterable[str], name: str) -> Listing:
    files: set[str] = set()
    below: dict[str, list[str]] = {}
    for path in paths:
        head, slash, tail = path.partition("/")
        if slash:
            below.setdefault(head, []).append(tail)
        else:
            files.add(path)
    return Listing(name, frozenset(files), {head: _nest(tails, head) for head, tails in below.items()})


def paths_below(listing: Listing, at: str = "") -> list[str]:
    """Every file below `listing`, relative to it and prefixed with `at`."""
    found = [join(at, name) for name in listing.files]
    for name, below in listing.directories.items():
        found += paths_below(below, join(at, name))
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Tell whether `name` is that of a directory in which nobody looks for checkpoints: `.cache`, `.hydra`, `.venv`."""
    return name.startswith(".")


def join(directory: str, name: str) -> str:
    """`name` below `directory`, either of which may be ''."""
    return f"{directory}/{name}" if directory and name else directory or name


def split(path: str) -> tuple[str, str]:
    """A path's directory ('' at the top) and base name."""
    directory, _, name = path.rpartition("/")
    return directory, name


def stem_of(path: str) -> str:
    """A path without its last suffix."""
    directory, name = split(path)
    return join(directory, name.rpartition(".")[0] or name)


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key that counts: `checkpoint-500` before `checkpoint-1000`."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)


def stage_of(name: str) -> int | None:
    """The number of a stage by its directory's name: 1 of `stage_1_outputs`, 3 of `stage_3_lora`, 4 of `stage4`."""
    match = _STAGE.match(name)
    return int(match[1]) if match else None
