"""Looks at every state that a loss of power may leave, of a disk of `disk.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.faults import seam
from tests.faults.disk import Disk, State, canonical, visible

DURABLE: Final = ("refs", "shards", "manifests", "bases", "store.json")
"""What is to be certain when a command says that it is done."""


@dataclass
class Looking:
    """Counts states once, and looks at each that a reader can tell from those before.

    Attributes:
        check: looks at what a reader sees of a state, and at what must hold already.
        each: looks at each `spread`-th of these states as it lies on the disk.
        seen, told: what was counted, and what a reader can tell apart.
    """

    check: Callable[[State, object], None]
    each: Callable[[State, object], None] = lambda _state, _done: None
    spread: int = 1
    seen: set[tuple[str, object]] = field(default_factory=set)
    told: set[tuple[str, object]] = field(default_factory=set)

    def look(self, disk: Disk, done: object) -> None:
        """`done` is what must hold already: states count once, whatever of it."""
        for state in disk.states():
            key = canonical(state)
            if (key, done) in self.seen:
                continue
            self.seen.add((key, done))
            shown = visible(state)
            sign = canonical(shown), done
            if sign in self.told:
                continue
            self.told.add(sign)
            self.check(shown, done)
            if len(self.told) % self.spread == 0:
                self.each(state, done)

    def found(self) -> dict[str, set[object]]:
        return {"states": {key for key, _ in self.seen}, "visible": {key for key, _ in self.told}}


def replay(looking: Looking, disk: Disk, events: list[seam.Event], *, drops: bool = False, ends: object = True) -> None:
    """Lose power after each prefix of a run; what it dropped when it was killed (`drops`) may stand again.

    `ends` is what must hold at the end: True where it is more than before.
    """
    for event in events:
        looking.look(disk, False)
        disk.play(event)
    looking.look(disk, ends)
    if not drops:
        for kind in DURABLE:
            assert disk.uncertain(f"{disk.root}/store/{kind}") == set(), "it says it is done, and it is not certain"
