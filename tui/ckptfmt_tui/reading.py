"""What the pages read of the store, in threads. The store is opened once; whatever fails becomes a `Problem`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from ckptfmt.api import Store
from ckptfmt.api.results import RefRow
from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.problems import Problem, problem_of, storage_error

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Listing:
    """The refs that stand, and those that cannot be read."""

    rows: tuple[RefRow, ...]
    damaged: tuple[tuple[str, str], ...]

    @property
    def manifests(self) -> dict[str, str]:
        """What each ref that stands stands for."""
        return {row.ref: row.manifest for row in self.rows}


class Reader:
    """Reads a store for the pages. Every method may be called from any thread.

    Args:
        path: of the store.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._asking = 0
        self._closed = False

    def ask(self, question: Callable[[Store], Result]) -> Answer[Result]:
        """Ask the store something: the answer, or what went wrong."""
        try:
            with self._open() as store:
                return Answer(question(store), None)
        except CkptfmtError as error:
            return Answer(None, problem_of(error))
        except OSError as error:
            return Answer(None, problem_of(storage_error(error)))

    @contextmanager
    def _open(self) -> Iterator[Store]:
        """The store, opened when it is first asked for. Whoever is the last to leave a closed reader closes it."""
        with self._lock:
            if self._closed:
                raise CkptfmtError("the terminal UI is being left", code="interrupted")
            if self._store is None:
                self._store = Store.open(self.path)
            store = self._store
            self._asking += 1
        try:
            if not store.is_there():
                # What is opened would go on as if nothing had ever been in it.
                raise NotFound(
                    f"the store {self.path} is not there any more", code="no-store", hint="bring it back, then F5"
                )
            yield store
        finally:
            with self._lock:
                self._asking -= 1
            self._leave()

    def close(self) -> None:
        """Answer no more questions, and let go of the store when those under way are answered. Waits for none."""
        with self._lock:
            self._closed = True
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            if not self._closed or self._asking:
                return
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
