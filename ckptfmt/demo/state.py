"""What the steps of the demonstration share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ckptfmt.api import Store
from ckptfmt.demo.made import Made, Say, Size
from ckptfmt.demo.report import DemoCleanup, DemoMerge, DemoRow


@dataclass(slots=True)
class Demo:
    """What the steps have found out so far. A step may rely on what the steps before it filled in."""

    root: Path
    size: Size
    seed: int
    say: Say
    made: Made | None = None
    store: Store | None = None
    new_bytes: dict[str, int] = field(default_factory=dict)
    rows: list[DemoRow] = field(default_factory=list)
    objects: int = 0
    damaged: int = 0
    merge: DemoMerge | None = None
    cleanup: DemoCleanup | None = None

    @property
    def people(self) -> Made:
        """What was made."""
        if self.made is None:
            raise RuntimeError("this step comes after the making")
        return self.made

    @property
    def opened(self) -> Store:
        """The store."""
        if self.store is None:
            raise RuntimeError("this step comes after 'init'")
        return self.store


class Step(NamedTuple):
    """One step: a line for people, and what to do."""

    title: str
    run: Callable[[Demo], None]
