"""Planning an import: which checkpoints lie below a path, and what each will be called."""

from __future__ import annotations

import os
import re
import shlex
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ckptfmt.errors import InvalidInput, NotFound
from ckptfmt.format.refs import BASES, check_name
from ckptfmt.layouts import find_checkpoints, unclaimed
from ckptfmt.layouts.protocol import Found
from ckptfmt.transfer.walk import Walked, is_store, walk, walk_files
from ckptfmt.wording import few

PLACEHOLDER: Final = "{name}"
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._/-]+")


@dataclass(frozen=True, slots=True)
class Planned:
    """A checkpoint to be taken in.

    Attributes:
        source: absolute path of its directory, or of the file where it is one.
        walked: what is there.
        ref: the name it will have.
        layout: the layout that claims it, from names alone.
        stage: number of the stage, where the name tells.
        parent: ref of the stage before it, where that is part of the same plan.
    """

    source: str
    walked: Walked
    ref: str
    layout: str
    stage: int | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an import will do, parents before children.

    `name` is what was stated; `left` are files that belong to no checkpoint, and, with a '/' behind, directories that
    were not looked into.
    """

    path: str
    name: str
    checkpoints: tuple[Planned, ...]
    left: tuple[str, ...] = ()


def plan_import(path: str, name: str) -> Plan:
    """Find the checkpoints at or below `path` and name them.

    Args:
        path: a file, a checkpoint's directory, or a directory of many.
        name: the ref; where there are many it holds `{name}`, for which each one's path below `path` stands.

    Raises:
        InvalidInput: many checkpoints and no `{name}`; or two would have one name (`name-collision`).
        NotFound: there is nothing, or nothing but directories.
        UnsafeFile, StorageError: as `walk`.
    """
    path = os.path.abspath(path)
    if is_store(path):
        raise InvalidInput(
            f"{path} is a store and no checkpoint", hint="copy a store with cp -a; list what it holds with ckptfmt ls"
        )
    if os.path.isfile(path):
        return _plan_file(os.path.realpath(path), name)
    walked = walk(path)
    if all(entry.kind == "directory" for entry in walked.entries):
        raise _nothing_there(walked)
    files = [entry.path for entry in walked.of_kind("file")]
    found = find_checkpoints(files)
    if PLACEHOLDER not in name:
        if len(found) > 1:
            names = few([each.name or "." for each in found], 5)
            raise InvalidInput(
                f"{path} holds {len(found)} checkpoints ({names}): give a name for each",
                hint=f"ckptfmt import {shlex.quote(path)} --name '{name}/{PLACEHOLDER}'",
            )
        _check_ref(name)
    parts = _Parts(walked)
    planned = _all_planned(parts, found, name)
    _refuse_collisions(planned)
    left = tuple(item for item in unclaimed(files, found)) if found[0].root or len(found) > 1 else ()
    passed_over = tuple(f"{directory}/" for directory in walked.passed_over)
    return Plan(walked.root, name, tuple(_linked(planned)), tuple(sorted((*left, *passed_over))))


def _nothing_there(walked: Walked) -> NotFound:
    over = f", but for {few(walked.passed_over)}, which is not looked into" if walked.passed_over else ""
    return NotFound(f"{walked.root}: nothing there: it holds no files{over}", hint="check the path: what is in it?")


def _plan_file(path: str, name: str) -> Plan:
    """One file, with what lies beside it and belongs to it (a tokenizer)."""
    directory, base = os.path.split(path)
    beside = sorted(item.name for item in os.scandir(directory) if item.is_file(follow_symlinks=False))
    found = [each for each in find_checkpoints(beside) if each.files is not None and base in each.files]
    mine = [each for each in found if each.files and each.layout != "unknown" and _is_single(each, base)]
    stem = os.path.splitext(base)[0]
    ref = _check_ref(name.replace(PLACEHOLDER, _NOT_IN_NAMES.sub("-", stem)))
    walked = walk_files(directory, (mine[0].files if mine else None) or [base])
    return Plan(path, name, (Planned(path, walked, ref, mine[0].layout if mine else "unknown"),))


def _check_ref(name: str) -> str:
    if name.startswith(BASES):
        raise InvalidInput(
            f"{name!r}: names below {BASES} are those of bases", code="ref-name", hint="ckptfmt base add"
        )
    return check_name(name)


def _is_single(found: Found, base: str) -> bool:
    return os.path.splitext(base)[0] == found.name.rpartition("/")[2]


class _Parts:
    """Parts of a walked directory, found by bisection: a directory may hold many checkpoints and many files."""

    def __init__(self, walked: Walked) -> None:
        self._walked = walked
        self._keys = [entry.path.encode() for entry in walked.entries]

    def part(self, root: str, files: Sequence[str] | None, *, around: bool) -> Walked:
        if not root:
            return self._walked.below("", files, around=around) if files is not None else self._walked
        prefix = root.encode()
        begin, end = bisect_left(self._keys, prefix + b"/"), bisect_left(self._keys, prefix + b"0")
        top = bisect_left(self._keys, prefix)
        entries = (self._walked.entries[top], *self._walked.entries[begin:end])
        return Walked(self._walked.root, entries).below(root, files, around=around)


def _all_planned(parts: _Parts, found: Sequence[Found], name: str) -> list[Planned]:
    """Every checkpoint under its name.

    Raises:
        InvalidInput: names that no ref can have, all of them at once.
    """
    planned, bad = [], []
    for each in found:
        try:
            planned.append(_planned(parts, each, name))
        except InvalidInput as error:
            bad.append((each, error))
    if len(bad) == 1 or (bad and len({error.message for _, error in bad}) == 1):
        raise bad[0][1]
    if bad:
        listed = "; ".join(f"{each.name}: {error.message}" for each, error in bad)
        raise InvalidInput(
            f"{len(bad)} of {len(found)} names cannot be given: {listed}", code="ref-name", hint=bad[0][1].hint
        )
    return planned


def _planned(parts: _Parts, found: Found, name: str) -> Planned:
    main = _main_file(found) if found.name != found.root else None
    walked = parts.part(found.root, found.files, around=main is None)
    source = f"{walked.root}/{main}" if main else walked.root
    below = _NOT_IN_NAMES.sub("-", found.name)
    ref = name.replace(PLACEHOLDER, below).strip("/") if below else _top_name(name, walked)
    return Planned(source, walked, _check_ref(re.sub("/+", "/", ref)), found.layout, found.stage)


def _main_file(found: Found) -> str | None:
    """The file that a one-file checkpoint is named after."""
    stem = found.name.rpartition("/")[2]
    return next((path for path in found.files or () if stem in (path, os.path.splitext(path)[0])), None)


def _top_name(name: str, walked: Walked) -> str:
    """The searched directory itself is a checkpoint: it is called what stands before `{name}`."""
    stripped = re.sub("/+", "/", name.replace(PLACEHOLDER, "")).strip("/")
    return stripped or _NOT_IN_NAMES.sub("-", os.path.basename(walked.root))


def _refuse_collisions(planned: list[Planned]) -> None:
    named: dict[str, list[str]] = {}
    for each in planned:
        named.setdefault(each.ref, []).append(each.source)
    told = []
    for ref, sources in named.items():
        if len(sources) > 1:
            both = "both" if len(sources) == 2 else "all"
            told.append(f"{', '.join(sources[:-1])} and {sources[-1]} would {both} be called {ref!r}")
    if told:
        raise InvalidInput(
            "; ".join(told), code="name-collision", hint="import them one at a time, each with a --name of its own"
        )


def _linked(planned: list[Planned]) -> list[Planned]:
    """Link stages that lie side by side by number: stage N is trained from stage N-1. Parents come first.

    Where several have that number, it is the one whose name differs in the number alone; else none is guessed.
    """
    stages: dict[tuple[str, int], list[Planned]] = {}
    for each in planned:
        if each.stage is not None:
            stages.setdefault((os.path.dirname(each.source), each.stage), []).append(each)
    linked = []
    for each in planned:
        before = stages.get((os.path.dirname(each.source), each.stage - 1), []) if each.stage is not None else []
        alike = [other for other in before if _series(other) == _series(each)] or before
        linked.append(replace(each, parent=alike[0].ref if len(alike) == 1 else None))
    return sorted(linked, key=lambda each: (each.stage is not None, each.stage or 0))


def _series(planned: Planned) -> str:
    """A stage's name without its number, which is the first in it."""
    return re.sub(r"\d+", "", os.path.basename(planned.source), count=1)
