"""Figures that a test must reach, counted while it runs: none can shrink unnoticed."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What the parts of one test count together.

    Attributes:
        what: name of the figures.
        parts: all that have to run for the sum to mean anything; of a selection (`-k`) nothing is asked.
        least: name of a count to the least it must come to.
        distinct: what counts once, whatever part it turned up in.
    """

    what: str
    parts: frozenset[str]
    least: dict[str, int]
    counts: Counter[str] = field(default_factory=Counter)
    distinct: dict[str, set[object]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def add(self, part: str, **counts: int) -> None:
        assert part in self.parts, part
        self.ran.add(part)
        self.counts.update(counts)

    def add_distinct(self, part: str, **found: Iterable[object]) -> None:
        self.add(part)
        for name, keys in found.items():
            self.distinct.setdefault(name, set()).update(keys)
            self.counts[name] = len(self.distinct[name])

    def close(self) -> None:
        figures = {
            "what": self.what,
            "parts": len(self.ran),
            "of": len(self.parts),
            **dict(self.counts),
            "seconds": round(time.monotonic() - self.began, 1),
        }
        print(json.dumps(figures))
        place = os.environ.get("CKPTFMT_FIGURES")
        if place:
            with open(place, "a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")
        if self.ran == self.parts:
            for name, least in self.least.items():
                assert self.counts[name] >= least, f"{self.what}: {self.counts[name]} {name}, of {least} at the least"


@contextmanager
def tally(what: str, parts: Iterable[str], **least: int) -> Iterator[Tally]:
    """Counts together what several tests do; at the end, if all of them ran, it must be enough."""
    counting = Tally(what, frozenset(parts), least)
    yield counting
    counting.close()
