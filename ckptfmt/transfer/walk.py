"""Walking a directory that is to be taken in: every entry looked at once, no link followed out of it."""

from __future__ import annotations

import errno
import json
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.errors import FormatError, IntegrityError, NotFound, StorageError, UnsafeFile
from ckptfmt.format.check import path_problem
from ckptfmt.format.refs import STORE_TAG
from ckptfmt.store.stat_cache import stamp_of
from ckptfmt.store.store import DOCUMENT

_MAX_JSON_BYTES: Final = 64 << 20
_STORE_HEAD_BYTES: Final = 4096
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_CHANGED: Final = "changed-while-read"
_AGAIN: Final = "wait until it is written, then run the same command again"
HOLD: Final = ".ckptfmt-hold"
"""The directory into which `cleanup` moves what it took in, until the hold is over."""
PASSED_OVER: Final = frozenset({".git", HOLD})
"""Histories of the very files beside them, and what a cleanup holds: taking them in would double every byte."""
_BLOBS: Final = "blobs"
_SNAPSHOTS: Final = "snapshots"

Kind = Literal["file", "directory", "link"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry below the walked directory.

    Attributes:
        path: relative, with '/'; '.' for the directory itself.
        kind: what it is, after a Hub link was followed.
        real: absolute path to open.
        stamp: what changes when the file does.
        size, mode, mtime_ns: as `lstat` gives them, of the target for a followed link.
        target: text of a link.
        outside: for a link, that what it names is not taken in.
    """

    path: str
    kind: Kind
    real: str
    stamp: str
    size: int
    mode: int
    mtime_ns: int
    target: str = ""
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Walked:
    """A directory as it was at one moment: entries sorted by path.

    Attributes:
        root: absolute path of the directory.
        entries: what is in it, with the directory itself as '.'.
        chosen: the only files that belong to it; None for all.
        around: whether the links and empty directories beside the chosen files belong to it too.
        passed_over: directories that were not looked into: Git's own, and stores.
    """

    root: str
    entries: tuple[Entry, ...]
    chosen: frozenset[str] | None = None
    around: bool = False
    passed_over: tuple[str, ...] = ()

    def of_kind(self, kind: Kind) -> tuple[Entry, ...]:
        """The entries of one kind."""
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def below(self, root: str, files: Iterable[str] | None, *, around: bool = False) -> Walked:
        """The part below the relative directory `root`; of its files, only `files` where they are given.

        With `around`, links and empty directories come along, but for those in directories of other files.
        """
        prefix = f"{root}/" if root else ""
        entries = []
        for entry in self.entries:
            path = "." if entry.path == (root or ".") else entry.path.removeprefix(prefix)
            if path == "." or not prefix or entry.path.startswith(prefix):
                entries.append(_renamed(entry, path))
        top = f"{self.root}/{root}" if root else self.root
        if files is None:
            return Walked(top, tuple(entries))
        chosen = frozenset(files)
        return Walked(top, tuple(_chosen_entries(entries, chosen, around=around)), chosen, around)

    def again(self) -> Walked:
        """The same directory as it is now."""
        if self.chosen is None:
            return walk(self.root)
        if not self.around:
            return walk_files(self.root, self.chosen)
        return walk(self.root).below("", self.chosen, around=True)


def _chosen_entries(entries: Iterable[Entry], chosen: frozenset[str], *, around: bool) -> Iterator[Entry]:
    """The chosen files, the directories they lie in, and with `around` links and empty directories there."""
    every = list(entries)
    holding = _directories(chosen)
    occupied = _directories(entry.path for entry in every if entry.kind == "file")
    kept = {"."}
    for entry in every:  # A directory stands before what is in it.
        beside = around and (os.path.dirname(entry.path) or ".") in kept
        if entry.kind == "directory":
            if entry.path in holding or (beside and entry.path not in occupied):
                kept.add(entry.path)
                yield entry
        elif entry.path in chosen or (beside and entry.kind == "link"):
            yield entry


def _directories(paths: Iterable[str]) -> set[str]:
    """The directories that hold any of `paths`, at any depth."""
    found = {"."}
    for path in paths:
        directory = os.path.dirname(path)
        while directory and directory not in found:
            found.add(directory)
            directory = os.path.dirname(directory)
    return found


def walk(path: str) -> Walked:
    """Look at everything below `path`; where it is a file, at that file alone.

    Git's own directories, stores and what a cleanup holds are passed over, and it is said that they were.

    Raises:
        NotFound: there is nothing.
        UnsafeFile: a name that could not be restored.
        FormatError: an entry that is neither file, directory nor link.
        StorageError: a part cannot be read.
    """
    path = os.path.realpath(path)
    if not _is_text(path):
        raise UnsafeFile(f"{path!r}: a path that is no UTF-8", hint="rename it, then run the same command again")
    with reading_errors(path):
        if not os.path.lexists(path):
            raise NotFound(f"{path}: no such file or directory", hint="check the path: it is taken as it stands")
        if not os.path.isdir(path):
            return walk_files(os.path.dirname(path), [os.path.basename(path)])
        entries = [_entry(path, ".", os.stat(path), path)]
        passed_over: list[str] = []
        _descend(path, "", entries, passed_over)
        entries.sort(key=lambda entry: entry.path.encode())
        return Walked(path, tuple(entries), passed_over=tuple(sorted(passed_over)))


def _is_text(path: str) -> bool:
    """Tell whether JSON can hold a path; records say where files came from."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def walk_files(root: str, files: Iterable[str], *, follow: bool = False) -> Walked:
    """Look at some files below the directory `root`, and at the directories they lie in, and at nothing else.

    A file that is not there is left out. With `follow`, a link is what it leads to, wherever that is.

    Raises:
        UnsafeFile, FormatError, StorageError: as `walk`.
    """
    chosen = frozenset(files)
    with reading_errors(root):
        entries = [
            _entry(root, path, os.stat(f"{root}/{path}"), os.path.realpath(f"{root}/{path}"))
            if follow or path == "."
            else _look(root, path, f"{root}/{path}")
            for path in sorted({*chosen, *_directories(chosen)}, key=str.encode)
            if (os.path.exists if follow else os.path.lexists)(f"{root}/{path}")
        ]
    return Walked(root, tuple(entries), chosen)


@contextmanager
def reading_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` about what is to be taken in into the error a person can act on."""
    try:
        yield
    except OSError as error:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else what
        if error.errno in _GONE:
            raise _vanished(path) from None
        hint = "make it readable, or run as its owner" if isinstance(error, PermissionError) else None
        raise StorageError(f"{path}: {error.strerror or error}", hint=hint) from error


def _vanished(path: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: vanished, or became a link, while the checkpoint was read", code=_CHANGED, hint=_AGAIN
    )


def same_still(before: Walked, again: Walked) -> None:
    """Compare two walks of one directory.

    Raises:
        IntegrityError: something changed meanwhile; the message names the first.
    """
    first = {entry.path: entry for entry in before.entries if entry.path != "."}
    second = {entry.path: entry for entry in again.entries if entry.path != "."}
    for path in sorted(first.keys() | second.keys()):
        old, new = first.get(path), second.get(path)
        if old is None or new is None or (old.kind, old.stamp, old.target) != (new.kind, new.stamp, new.target):
            what = "appeared" if old is None else "vanished" if new is None else "changed"
            raise IntegrityError(
                f"{before.root}/{path}: {what} while the checkpoint was read",
                code=_CHANGED,
                hint=_AGAIN,
            )


def _descend(root: str, below: str, entries: list[Entry], passed_over: list[str]) -> None:
    directory = f"{root}/{below}" if below else root
    with os.scandir(directory) as found:
        names = [item.name for item in found]
    for name in names:
        path = f"{below}/{name}" if below else name
        entry = _look(root, path, f"{root}/{path}")
        if entry.kind == "directory" and (name in PASSED_OVER or is_store(entry.real)):
            passed_over.append(path)
            continue
        entries.append(entry)
        if entry.kind == "directory":
            _descend(root, path, entries, passed_over)


def is_store(directory: str) -> bool:
    """Tell whether a directory is a store of ours: what it holds is no checkpoint, and it changes while we write."""
    try:
        with open(f"{directory}/{DOCUMENT}", "rb") as file:
            return STORE_TAG.encode() in file.read(_STORE_HEAD_BYTES)
    except OSError:
        return False


def _look(root: str, path: str, real: str) -> Entry:
    check_path(path, root)
    found = os.lstat(real)
    if stat.S_ISLNK(found.st_mode):
        return _link(root, path, real, found)
    return _entry(root, path, found, real)


def _entry(root: str, path: str, found: os.stat_result, real: str) -> Entry:
    if stat.S_ISDIR(found.st_mode):
        # A directory's own stamp is its name: that its entries stay the same is compared entry by entry.
        return Entry(path, "directory", real, "", 0, stat.S_IMODE(found.st_mode), found.st_mtime_ns)
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(
            f"{root}/{path}: neither a file, a directory nor a link; it cannot be taken in",
            hint="move it out of the way, or import a directory without it",
        )
    mode = stat.S_IMODE(found.st_mode)
    return Entry(path, "file", real, stamp_of(found), found.st_size, mode, found.st_mtime_ns)


def _link(root: str, path: str, real: str, found: os.stat_result) -> Entry:
    """Follow a link once if it leads into the Hub's `blobs` beside `snapshots`; keep all others as links."""
    target = os.readlink(real)
    check_target(target, f"{root}/{path}")
    reached = os.path.normpath(os.path.join(os.path.dirname(real), target))
    if _in_hub_blobs(real, reached):
        try:
            blob = os.lstat(reached)
        except FileNotFoundError:
            raise FormatError(
                f"{root}/{path}: links to a Hub blob that is not there", hint="download the model again"
            ) from None
        if stat.S_ISREG(blob.st_mode):
            return _entry(root, path, blob, reached)
    inside = reached == root or reached.startswith(root + "/")
    mode = stat.S_IMODE(found.st_mode)
    return Entry(path, "link", reached, "", 0, mode, found.st_mtime_ns, target, not inside)


def _in_hub_blobs(link: str, reached: str) -> bool:
    """Tell whether a link below a repository's `snapshots/<commit>` leads into that repository's own `blobs`."""
    parts = os.path.dirname(link).split("/")
    if _SNAPSHOTS not in parts:
        return False
    repository = "/".join(parts[: len(parts) - 1 - parts[::-1].index(_SNAPSHOTS)])
    return os.path.dirname(reached) == f"{repository}/{_BLOBS}"


def _renamed(entry: Entry, path: str) -> Entry:
    return Entry(
        path, entry.kind, entry.real, entry.stamp, entry.size, entry.mode, entry.mtime_ns, entry.target, entry.outside
    )


def check_path(path: str, where: str) -> None:
    """Refuse a relative path that could not, or should not, be created again.

    Raises:
        UnsafeFile: it is absolute, has an empty, '.' or '..' part, control characters or bytes that are no UTF-8.
    """
    problem = path_problem(path)
    if problem is not None:
        raise UnsafeFile(
            f"{where}: a file name that cannot be kept: {path!r} ({problem})",
            hint="rename it, then run the same command again",
        )


def check_target(target: str, where: str) -> None:
    """Refuse a link text that JSON cannot hold.

    Raises:
        UnsafeFile: it has control characters or bytes that are no UTF-8.
    """
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in target):
        raise UnsafeFile(
            f"{where}: a link that cannot be kept: {target!r}",
            code="unsafe-link",
            hint="remove it, then run the same command again",
        )


class WalkedTree:
    """A `layouts.Tree` over a walked directory. Files are cut once; a link to a file of the tree is no file of its own.

    Args:
        walked: what is there.
        name: base name of the checkpoint.
        damaged_as_opaque: keep structurally lying weight files whole, and remember why, where else they are refused.
    """

    def __init__(self, walked: Walked, name: str, *, damaged_as_opaque: bool = False) -> None:
        self.name = name
        self.damaged: dict[str, str] = {}
        self._as_opaque = damaged_as_opaque
        self._cuts: dict[str, Cut | Opaque] = {}
        self._files = {entry.path: entry for entry in walked.of_kind("file")}
        by_real = {entry.real: entry for entry in self._files.values()}
        self._alias = {link.path: by_real[link.real] for link in walked.of_kind("link") if link.real in by_real}

    def paths(self) -> tuple[str, ...]:
        """See `Tree.paths`."""
        return tuple(sorted(self._files))

    def size(self, path: str) -> int:
        """See `Tree.size`."""
        return self._files[path].size

    def json(self, path: str) -> Any:
        """See `Tree.json`."""
        entry = self._files.get(path) or self._alias.get(path)
        if entry is None or entry.size > _MAX_JSON_BYTES:
            return None
        with _opened(entry) as source:
            data = source.read(0, source.size)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None

    def read(self, path: str, offset: int, length: int) -> bytes:
        """See `Tree.read`."""
        with _opened(self._files[path]) as source:
            return source.read(offset, length)

    def cut(self, path: str) -> Cut | Opaque:
        """See `Tree.cut`."""
        if path not in self._cuts:
            self._cuts[path] = self._cut(self._files[path])
        return self._cuts[path]

    def _cut(self, entry: Entry) -> Cut | Opaque:
        try:
            with _opened(entry) as source:
                return cut_file(source, entry.path)
        except (FormatError, UnsafeFile) as error:
            if not self._as_opaque:
                raise
            # Manifests hold no absolute path: equal contents have equal ids wherever they lay.
            reason = error.message.replace(entry.real, entry.path)
            self.damaged[entry.path] = reason
            return Opaque(reason)


def _opened(entry: Entry) -> FileSource:
    try:
        return FileSource(entry.real)
    except NotFound:
        raise _vanished(entry.real) from None
