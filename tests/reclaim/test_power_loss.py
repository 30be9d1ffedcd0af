"""Power lost after every mutating call of cleanup, undo and purge: each file is in its place, held, or stored."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptfmt.storage import durable
from tests.faults import seam
from tests.faults.disk import Disk, canonical, materialize, visible
from tests.reclaim.test_kill import BY_NAME, Act, Setting, check, prepared, setting

__all__ = ["setting"]


def lose_power(before: Setting, act: Act, quick: Path) -> int:
    """Look at every state that a reader can tell apart, after each prefix of what an act does. How many there are."""
    ready = prepared(before, act, quick)
    disk = Disk(ready.work)
    recorder = seam.Recorder()
    with durable.observed(recorder):
        act.act(ready)
    seen: set[str] = set()
    for event in [None, *recorder.events]:
        if event is not None:
            disk.play(event)
        for state in disk.states():
            shown = visible(state)
            key = canonical(shown)
            if key in seen:
                continue
            seen.add(key)
            materialize(shown, quick / "after")
            check(Setting(quick / "after", before.before), whole=False)
            shutil.rmtree(quick / "after")
    return len(seen)


@pytest.mark.parametrize("name", BY_NAME)
def test_power_lost_anywhere(setting: Setting, quick: Path, name: str) -> None:
    states = lose_power(setting, BY_NAME[name], quick)
    print(f"{name}: {states} states")
    assert states >= 5
