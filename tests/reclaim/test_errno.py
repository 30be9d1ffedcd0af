"""A cleanup in which a system call fails: nothing is lost, what failed is reported, and the next run goes on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfmt.errors import CkptfmtError
from ckptfmt.storage import durable
from tests.faults import seam
from tests.reclaim.test_kill import BY_NAME, Setting, check, make, prepared, undo
from tests.store.making import tree_of

NUMBERS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ESTALE)


@pytest.fixture
def setting(quick: Path) -> Iterator[Setting]:
    yield from make(quick)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", ["cleanup", "cleanup at once", "undo", "purge"])
def test_any_call_fails(setting: Setting, quick: Path, name: str, lasting: bool) -> None:
    act = BY_NAME[name]
    at, hits = 0, 1
    while hits:
        if (quick / "ready").exists():
            shutil.rmtree(quick / "ready")
        ready = prepared(setting, act, quick)
        failing = seam.failing_with(NUMBERS[at % len(NUMBERS)], at, lasting=lasting)
        try:
            with durable.observed(failing):
                act.act(ready)
        except CkptfmtError:
            pass
        hits = failing.hit
        check(ready, whole=False)
        act.act(ready)
        check(ready, whole=name == "undo")
        if name == "cleanup":
            undo(ready)
            assert tree_of(ready.tree) == setting.before, f"call {at}"
        at += 5 if lasting else 3
    assert at > 10
