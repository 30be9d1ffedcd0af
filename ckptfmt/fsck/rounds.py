"""All repairs in their order: the store is looked at again after each that did something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ckptfmt.errors import NotFound
from ckptfmt.fsck import repair as repairs
from ckptfmt.fsck.exactly import repair_files, repair_names
from ckptfmt.fsck.look import Found, look
from ckptfmt.fsck.problem import Repair
from ckptfmt.progress import Progress
from ckptfmt.store.publish import settle_seen
from ckptfmt.store.store import DOCUMENT, Store

_ROUNDS: Final = 4
"""A manifest that can be read again tells of more: names that stood for it, what of its own lies in the trash only."""


class Rounds:
    """A look at a store, and the repairs that make it old.

    Args:
        store: where.
        full: whether to read every stored byte.
        progress: told of what is read.

    Attributes:
        found: what the last look found.
    """

    def __init__(self, store: Store, *, full: bool, progress: Progress) -> None:
        self._store = store
        self._full = full
        self._progress = progress
        self.found: Found = look(store, full=full, progress=progress)

    def close(self) -> None:
        """Let go of what the last look opened."""
        self.found.shards.close()

    def repair(self, directories: Sequence[str], others: Sequence[Store]) -> list[Repair]:
        """Repair what can be known for sure.

        Args:
            directories: where files of checkpoints may lie.
            others: stores that may have what is lost here.

        Raises:
            NotFound: others set aside what was looked at, each time anew.
        """
        store = self._store
        done = self._run(lambda: repair_names(store, self.found))
        for _ in range(_ROUNDS):
            this_round = self._run(lambda: repairs.repair_documents(store, self.found))
            this_round += self._run(lambda: repair_files(store, self.found, directories, others))
            done += this_round
            if not this_round:
                break
        last = self._run(lambda: repairs.repair_objects(store, self.found, directories, others))
        if not last and self.found.shards.bad:  # What was copied out of a damaged shard may harm nobody any more.
            self._look_again()
        return done + last

    def _run(self, step: Callable[[], list[Repair]]) -> list[Repair]:
        for others_were_quicker in range(_ROUNDS):
            try:
                done = step()
            except NotFound:  # Another repair set it aside, or gc took it, since it was looked at.
                if others_were_quicker == _ROUNDS - 1:
                    raise
                self._look_again()
            else:
                break
        if done:
            self._look_again()
        return done

    def _look_again(self) -> None:
        self.close()
        self.found = look(self._store, full=self._full, progress=self._progress)


def settle(store: Store) -> None:
    """Make durable what a repair sees: copies go where others are seen, and what is seen is said to stand."""
    settle_seen(store.storage, set())
    store.storage.settle([DOCUMENT])
