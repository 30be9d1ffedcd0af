"""Finding: every checkpoint below some directories, by names and the headers of weight files. Nothing is written.

A tree that people left behind may hold anything: what cannot be read is told and passed over, no link is followed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.errors import CkptfmtError, InvalidInput, NotFound
from ckptfmt.format.check import path_problem
from ckptfmt.layouts import find_checkpoints, read_checkpoint
from ckptfmt.layouts.listing import join
from ckptfmt.layouts.protocol import Found, Reading
from ckptfmt.layouts.trainer import INCOMPLETE, STATE
from ckptfmt.progress import SILENT, Progress
from ckptfmt.reclaim.found import CheckpointSeen, FileSeen, Survey, TensorSeen
from ckptfmt.store.stat_cache import stamp_of
from ckptfmt.transfer.take import fills_extent
from ckptfmt.transfer.walk import PASSED_OVER, is_store

WEIGHTS: Final = re.compile(r".+\.(?:safetensors|pt|pth|ckpt|bin)", re.IGNORECASE)
"""Files that may hold tensors, by their names."""

TRAINING_STATE: Final = re.compile(r"(?:optimizer|scheduler|scaler|rng_state|random_states|training_args).*")
"""Files of a training's state, by their names: no weights."""

_TEMPORARY: Final = re.compile(r".+\.(?:tmp|temp|incomplete|part|partial)|tmp-checkpoint-\d+|.*\.ckptfmt-partial")
_UNREAD_JSON: Final = frozenset({STATE, "tokenizer.json", "vocab.json"})
"""Large texts that say nothing of what is redundant."""
_MAX_JSON_BYTES: Final = 8 << 20
_YOUNG_NS: Final = 3600 * 10**9
"""What changed in the last hour may still be written."""


def survey(directories: Sequence[str], *, now_ns: int, progress: Progress = SILENT) -> Survey:
    """Look at everything below `directories`.

    Args:
        directories: absolute or relative; one inside another counts once.
        now_ns: the time, for telling what an unfinished save left from what is being saved.
        progress: told of nothing but the directories.

    Raises:
        NotFound: one of them is not there.
        InvalidInput: one of them is no directory, or is a store or lies in one.
    """
    tops = _tops(directories)
    checkpoints: list[CheckpointSeen] = []
    files: dict[str, FileSeen] = {}
    partial: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for top in tops:
        progress.begin(f"scan {top}", None)
        seen = _Walk(top)
        seen.descend("")
        problems += seen.problems
        files |= {f"{top}/{path}": file for path, file in seen.files.items()}
        partial |= {f"{top}/{path}": reason for path, reason in _partial(seen.files, now_ns).items()}
        whole = sorted(path for path in seen.files if f"{top}/{path}" not in partial and not _is_temporary(path))
        if whole:
            checkpoints += [_read(top, found, seen.files, whole) for found in find_checkpoints(whole)]
        progress.end()
    return Survey(tops, tuple(checkpoints), files, partial, tuple(problems))


def _tops(directories: Sequence[str]) -> tuple[str, ...]:
    tops: list[str] = []
    for stated in directories:
        path = os.path.realpath(stated)
        if not os.path.lexists(path):
            raise NotFound(f"{stated}: no such directory", hint="check the path: it is taken as it stands")
        if not os.path.isdir(path):
            raise InvalidInput(f"{stated}: no directory", hint="give the directory that it lies in")
        above = path
        while above != os.path.dirname(above):
            if is_store(above):
                raise InvalidInput(f"{stated} lies in the store {above}", hint="give directories of checkpoints")
            above = os.path.dirname(above)
        tops.append(path)
    inside = {path for path in tops for other in tops if path.startswith(f"{other}/")}
    return tuple(dict.fromkeys(path for path in tops if path not in inside))


@dataclass
class _Walk:
    """A walk below `top`: all regular files by relative path, and what could not be read."""

    top: str
    files: dict[str, FileSeen] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def descend(self, top_below: str) -> None:
        waiting = [top_below]
        while waiting:
            below = waiting.pop()
            directory = f"{self.top}/{below}" if below else self.top
            try:
                with os.scandir(directory) as found:
                    entries = sorted(found, key=lambda item: item.name)
            except OSError as error:
                self.problems.append((directory, error.strerror or str(error)))
                continue
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if self._take(entry, path):
                    waiting.append(path)

    def _take(self, entry: os.DirEntry[str], path: str) -> bool:
        """Note a file; tell whether it is a directory to be looked into."""
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError as error:
            self.problems.append((entry.path, error.strerror or str(error)))
            return False
        if stat.S_ISDIR(found.st_mode):
            return entry.name not in PASSED_OVER and not is_store(entry.path)
        if stat.S_ISREG(found.st_mode):
            if (problem := path_problem(path)) is not None:
                self.problems.append((entry.path, f"a name that cannot be kept: {problem}"))
            else:
                self.files[path] = file_seen(path, found)
        return False


def file_seen(path: str, found: os.stat_result) -> FileSeen:
    """A file as a scan knows it."""
    return FileSeen(
        path=path,
        size=found.st_size,
        allocated=found.st_blocks * 512,
        device=found.st_dev,
        inode=found.st_ino,
        links=found.st_nlink,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        mode=stat.S_IMODE(found.st_mode),
        stamp=stamp_of(found),
    )


def _is_temporary(path: str) -> bool:
    return any(_TEMPORARY.fullmatch(part) for part in path.split("/"))


def _partial(files: dict[str, FileSeen], now_ns: int) -> dict[str, str]:
    """What saves that ended early left: of those that are an hour old, for a younger one may still be going on."""
    marked = {os.path.dirname(path) for path in files if os.path.basename(path) == INCOMPLETE}
    groups: dict[str, tuple[str, list[str]]] = {}
    for path in files:
        inside = next((each for each in marked if not each or path.startswith(f"{each}/")), None) if marked else None
        if inside is not None:
            reason = f"partial save: {INCOMPLETE} stands in its directory"
            groups.setdefault(f"{inside}/", (reason, []))[1].append(path)
        elif _is_temporary(path):
            groups.setdefault(_temporary_top(path), ("partial save: a temporary name", []))[1].append(path)
    return {
        path: reason
        for reason, paths in groups.values()
        if all(now_ns - max(files[path].mtime_ns, files[path].ctime_ns) > _YOUNG_NS for path in paths)
        for path in paths
    }


def _temporary_top(path: str) -> str:
    parts = path.split("/")
    depth = next(index for index, part in enumerate(parts) if _TEMPORARY.fullmatch(part))
    return "/".join(parts[: depth + 1])


def _read(top: str, found: Found, files: dict[str, FileSeen], names: list[str]) -> CheckpointSeen:
    """Read one checkpoint; `names` are those of all files, sorted."""
    prefix = f"{found.root}/" if found.root else ""
    if found.files is not None:
        own = tuple(files[prefix + path] for path in found.files)
    else:
        begin, end = (bisect_left(names, prefix), bisect_left(names, f"{found.root}0")) if prefix else (0, len(names))
        own = tuple(files[path] for path in names[begin:end])
    seen = CheckpointSeen(top, found.root, found.name, found.layout, found.files, own, stage=found.stage)
    tree = _ScanTree(top, prefix, os.path.basename(f"{top}/{found.root}".rstrip("/")), own)
    try:
        reading = read_checkpoint(tree)
    except (CkptfmtError, OSError) as error:
        return replace(seen, problem=str(error))
    return replace(
        seen,
        layout=reading.layout,
        tensors=tuple(_tensors(reading, tree, prefix)),
        adapters=tuple(join(found.root, each.path) for each in reading.adapters if _has_file(each.path, own, prefix)),
        hints=tuple(dict.fromkeys(each.base_hint for each in reading.adapters if each.base_hint)),
    )


def _has_file(path: str, own: Sequence[FileSeen], prefix: str) -> bool:
    """Whether an adapter is a directory: one that lies inside a file of weights has that file as its path."""
    return f"{prefix}{path}" not in {file.path for file in own}


def _tensors(reading: Reading, tree: _ScanTree, prefix: str) -> Iterator[TensorSeen]:
    for tensor in reading.tensors:
        cut = tree.cut(tensor.path)
        if isinstance(cut, Cut):
            found = cut.tensors[tensor.index]
            span = cut.extents[found.extent]
            yield TensorSeen(
                name=tensor.name,
                role=tensor.role,
                dtype=found.dtype,
                shape=found.shape,
                path=prefix + tensor.path,
                offset=span.offset,
                length=span.length,
                plain=fills_extent(cut, found),
            )


class _ScanTree:
    """A `layouts.Tree` that opens weight files and small JSON alone."""

    def __init__(self, top: str, prefix: str, name: str, files: Sequence[FileSeen]) -> None:
        self.name = name
        self._at = f"{top}/{prefix}"
        self._sizes = {file.path[len(prefix) :]: file.size for file in files}
        self._cuts: dict[str, Cut | Opaque] = {}

    def paths(self) -> tuple[str, ...]:
        """See `Tree.paths`."""
        return tuple(sorted(self._sizes))

    def size(self, path: str) -> int:
        """See `Tree.size`."""
        return self._sizes[path]

    def json(self, path: str) -> Any:
        """See `Tree.json`."""
        name = path.rpartition("/")[2]
        if name in _UNREAD_JSON or self._sizes.get(path, _MAX_JSON_BYTES + 1) > _MAX_JSON_BYTES:
            return None
        with FileSource(self._at + path) as source:
            data = source.read(0, source.size)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None

    def read(self, path: str, offset: int, length: int) -> bytes:
        """See `Tree.read`."""
        with FileSource(self._at + path) as source:
            return source.read(offset, length)

    def cut(self, path: str) -> Cut | Opaque:
        """See `Tree.cut`."""
        if path not in self._cuts:
            self._cuts[path] = self._cut(path)
        return self._cuts[path]

    def _cut(self, path: str) -> Cut | Opaque:
        name = path.rpartition("/")[2]
        if not WEIGHTS.fullmatch(name) or TRAINING_STATE.fullmatch(name):
            return Opaque()
        with FileSource(self._at + path) as source:
            return cut_file(source, path)
