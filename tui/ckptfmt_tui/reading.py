"""What the pages read of the store, in threads. The store is opened once; whatever fails becomes a `Problem`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ckptfmt.api import Store
from ckptfmt.api.results import RefRow
from ckptfmt.errors import CkptfmtError
from ckptfmt.problems import Problem, problem_of, storage_error

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Listing:
    """The refs that stand, and those that cannot be read."""

    rows: tuple[RefRow, ...]
    damaged: tuple[tuple[str, str], ...]


class Reader:
    """Reads a store for the pages. Every method may be called from any thread.

    Args:
        path: of the store.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._store: Store | None = None

    def store(self) -> Store:
        """The store, opened when it is first asked for.

        Raises:
            CkptfmtError: it cannot be opened.
        """
        with self._lock:
            if self._store is None:
                self._store = Store.open(self.path)
            return self._store

    def ask(self, question: Callable[[Store], Result]) -> Answer[Result]:
        """Ask the store something: the answer, or what went wrong."""
        try:
            return Answer(question(self.store()), None)
        except CkptfmtError as error:
            return Answer(None, problem_of(error))
        except OSError as error:
            return Answer(None, problem_of(storage_error(error)))

    def close(self) -> None:
        """Let go of the store."""
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def stamp(self) -> tuple[tuple[str, int], ...]:
        """Something cheap that changes whenever a ref or a shard does: their directories, and when these last changed.

        Refs lie in one directory each, side by side, and shards in a few; none of them has directories of its own.
        """
        seen: list[tuple[str, int]] = []
        for top in ("refs", "shards"):
            directory = os.path.join(self.path, top)
            try:
                seen.append((top, os.stat(directory).st_mtime_ns))
                with os.scandir(directory) as entries:
                    for entry in entries:
                        seen.append((f"{top}/{entry.name}", entry.stat(follow_symlinks=False).st_mtime_ns))
            except OSError:  # It is gone, which is a change as well.
                continue
        return tuple(sorted(seen))


@dataclass(frozen=True, slots=True)
class Answer(Generic[Result]):
    """What a question came to: `value`, or the `problem` that kept it from coming."""

    value: Result | None
    problem: Problem | None


def list_refs(store: Store) -> Listing:
    """Every ref that stands; one that cannot be read does not hide the others."""
    damaged: list[tuple[str, str]] = []
    rows = store.list_refs(damaged=lambda name, error: damaged.append((name, error.message)))
    return Listing(tuple(rows), tuple(damaged))
