"""A disk that loses power: which states may be there afterwards, after a log of calls.

POSIX at its least: what a file holds is certain once it was synced, and a name once its directory was. Until then any
part of either may be there: data lost, cut off in the middle or zeros; each change of a name done or not done. One
thing more is taken for granted, which every journal gives: a rename never takes the old name away without giving the
new one. Of several files that were not synced, all meet the same fate, or one of them another than the rest.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ckptfmt.digest import digest_of
from tests.faults.seam import Event

Fate = Literal["all", "none", "torn early", "torn", "torn late", "zeros"]
FATES: tuple[Fate, ...] = ("all", "none", "torn early", "torn", "torn late", "zeros")

State = dict[str, bytes | None]
"""Files (and links, as `-> text`) by relative path; directories are None."""

MANY = 6
_UNIQUE = re.compile(r"\d+-[0-9a-f]{32}")


@dataclass
class File:
    data: bytes = b""
    synced: bytes = b""

    def after(self, fate: Fate) -> bytes:
        if self.data == self.synced or fate == "all":
            return self.data
        if fate == "none":
            return self.synced
        if fate == "zeros":
            return self.synced.ljust(len(self.data), b"\0")
        new = len(self.data) - len(self.synced)
        return self.data[: len(self.synced) + {"torn early": 1, "torn": new // 2, "torn late": new - 1}[fate]]


@dataclass(frozen=True, slots=True)
class Change:
    """A name given (`node`) or taken away (None). One that a rename takes away `needs` the one that it gives."""

    number: int
    name: str
    node: int | None
    needs: int | None = None


@dataclass
class Directory:
    entries: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def set(self, change: Change) -> None:
        _apply(self.entries, change)
        self.pending.append(change)

    def sync(self) -> set[int]:
        """Make all certain; the changes that are needed for that."""
        needed = {change.needs for change in self.pending if change.needs is not None}
        self.synced = dict(self.entries)
        self.pending.clear()
        return needed

    def sync_one(self, number: int) -> None:
        for change in [change for change in self.pending if change.number == number]:
            _apply(self.synced, change)
            self.pending.remove(change)

    def after(self, done: Callable[[Change], bool]) -> dict[str, int]:
        found = dict(self.synced)
        for change in self.pending:
            if done(change):
                _apply(found, change)
        return found


def _apply(entries: dict[str, int], change: Change) -> None:
    if change.node is None:
        entries.pop(change.name, None)
    else:
        entries[change.name] = change.node


class Disk:
    """What lies below `root`, as it is seen and as it is certain."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.nodes: dict[int, File | Directory | str] = {}
        self._changes = itertools.count()
        self._moved: dict[str, int] = {}
        """Directories by names that they had: a descriptor that is open knows them still."""
        self.top = self._load(root)

    def _add(self, node: File | Directory | str) -> int:
        number = len(self.nodes)
        self.nodes[number] = node
        return number

    def _load(self, path: Path) -> int:
        if path.is_symlink():
            return self._add(str(path.readlink()))
        if path.is_dir():
            entries = {entry.name: self._load(entry) for entry in sorted(path.iterdir())}
            return self._add(Directory(entries, dict(entries)))
        data = path.read_bytes()
        return self._add(File(data, data))

    def _directory(self, path: str) -> Directory:
        node: File | Directory | str = self.nodes[self.top]
        for part in [part for part in os.path.relpath(path, self.root).split("/") if part != "."]:
            assert isinstance(node, Directory)
            node = self.nodes[node.entries[part]]
        assert isinstance(node, Directory)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        return self._directory(os.path.dirname(path)), os.path.basename(path)

    def _open_directory(self, path: str) -> Directory:
        """A directory by the name it was opened by."""
        node = self.nodes[self._moved[path]] if path in self._moved else self._directory(path)
        assert isinstance(node, Directory)
        return node

    def _change(self, directory: Directory, name: str, node: int | None, needs: int | None = None) -> int:
        number = next(self._changes)
        directory.set(Change(number, name, node, needs))
        return number

    def _file(self, path: str) -> File:
        parent, name = self._parent(path)
        node = self.nodes[parent.entries[name]]
        assert isinstance(node, File)
        return node

    def play(self, event: Event) -> None:
        """Make one call."""
        call, path = event.call, event.path
        if call in ("chmod", "set_mtime"):
            return
        if call in ("write", "pwrite"):
            file = self._file(path)
            head = file.data[: event.offset].ljust(event.offset, b"\0")
            file.data = head + event.data + file.data[event.offset + len(event.data) :]
        elif call == "fsync":
            file = self._file(path)
            file.synced = file.data
        elif call == "fsync_directory":
            for needed in self._open_directory(path).sync():
                for other in self.nodes.values():
                    if isinstance(other, Directory):
                        other.sync_one(needed)
        elif call in ("create", "mkdir", "symlink"):
            made: File | Directory | str = {"create": File(), "mkdir": Directory(), "symlink": event.other}[call]
            parent, name = self._parent(path)
            self._change(parent, name, self._add(made))
        elif call in ("unlink", "rmdir"):
            parent, name = self._parent(path)
            self._change(parent, name, None)
        elif call in ("rename", "link"):
            parent, name = self._parent(path)
            target, target_name = self._parent(event.other)
            node = parent.entries[name]
            given = self._change(target, target_name, node)
            if call == "rename":
                self._change(parent, name, None, given)
                if isinstance(self.nodes[node], Directory):
                    self._moved[path] = node
        else:
            raise AssertionError(f"a call that the model does not know: {call}")

    def uncertain(self, path: str) -> set[str]:
        """Names and files at or below a directory that are there, and that power loss may take away now."""
        found: set[str] = set()

        def visit(number: int, below: str) -> None:
            node = self.nodes[number]
            if isinstance(node, File) and node.data != node.synced:
                found.add(below)
            if isinstance(node, Directory):
                found.update(f"{below}/{change.name}" for change in node.pending if change.name in node.entries)
                for name, child in node.entries.items():
                    visit(child, f"{below}/{name}")

        if path == self.root:
            visit(self.top, path)
            return found
        parent, name = self._parent(path)
        if name in parent.entries:
            visit(parent.entries[name], path)
        return found

    def seen(self) -> State:
        """What a process sees, and what there is when nothing is lost."""
        return self._state(self._pending(), dict.fromkeys(self.nodes, "all"))

    def states(self) -> Iterator[State]:
        """States that power loss may leave now."""
        pending = self._pending()
        dirty = [n for n, node in self.nodes.items() if isinstance(node, File) and node.data != node.synced]
        for done in _choices(pending):
            for fates in _fates(dirty):
                yield self._state(done, fates)

    def _pending(self) -> tuple[int, ...]:
        return tuple(
            change.number for node in self.nodes.values() if isinstance(node, Directory) for change in node.pending
        )

    def _state(self, done: tuple[int, ...], fates: dict[int, Fate]) -> State:
        state: State = {}
        undone = set(self._pending()) - set(done)

        def happened(change: Change) -> bool:
            return change.number not in undone and change.needs not in undone

        def visit(number: int, path: str) -> None:
            node = self.nodes[number]
            if isinstance(node, File):
                state[path] = node.after(fates.get(number, "all"))
            elif isinstance(node, str):
                state[path] = b"-> " + node.encode()
            else:
                if path:
                    state[path] = None
                for name, child in node.after(happened).items():
                    visit(child, f"{path}/{name}" if path else name)

        visit(self.top, "")
        return state


def _choices(places: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Which changes of names happened: each subset of a few; of many, all, none, each prefix, each one, all but one."""
    if len(places) <= MANY:
        for size in range(len(places) + 1):
            yield from itertools.combinations(places, size)
        return
    yield places
    yield ()
    for index, place in enumerate(places):
        yield places[:index]
        yield (place,)
        yield tuple(other for other in places if other is not place)


def _fates(dirty: list[int]) -> Iterator[dict[int, Fate]]:
    """What becomes of files that were not synced."""
    for fate in FATES if dirty else FATES[:1]:
        yield dict.fromkeys(dirty, fate)
    if len(dirty) > 1:
        for one in dirty:
            for fate in FATES[1:]:
                yield {number: fate if number == one else "all" for number in dirty}
        for one in dirty:
            yield {number: "all" if number == one else "none" for number in dirty}


def canonical(state: State) -> str:
    """One text for states that differ in the names of temporary files only.

    Those names are random: they are numbered in the order of what the files hold.
    """
    named = [f"{path} {_sum(data)}" for path, data in state.items() if not _UNIQUE.search(path)]
    unnamed = [f"{_UNIQUE.sub('*', path)} {_sum(data)}" for path, data in state.items() if _UNIQUE.search(path)]
    return digest_of("\n".join([*sorted(named), *sorted(unnamed)]).encode())


@lru_cache(maxsize=4096)
def _sum(data: bytes | None) -> str:
    return "/" if data is None else digest_of(data)


def visible(state: State) -> State:
    """Without the temporary files of a store: nobody who reads looks there."""
    return {path: data for path, data in state.items() if not path.startswith("store/tmp/")}


def materialize(state: State, root: Path) -> None:
    """Write a state below `root`, which does not exist."""
    root.mkdir(parents=True)
    for path, data in sorted(state.items()):
        target = root / path
        if data is None:
            target.mkdir(exist_ok=True)
        elif data.startswith(b"-> "):
            target.symlink_to(data[3:].decode())
        else:
            target.write_bytes(data)
