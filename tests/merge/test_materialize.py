"""Temporary merged models: there while they are used, shared, gone afterwards, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.merge.materialize import sweep
from tests.merge.comparing import differing


def test_it_is_there_meanwhile_and_gone_afterwards(chained: Any, chain: Path) -> None:
    with chained.materialized("run/stage-2") as path:
        assert differing(Path(path), chain / "continue_2") == 0
    assert not os.path.exists(path)


def test_it_is_gone_after_an_exception(chained: Any) -> None:
    with pytest.raises(ZeroDivisionError), chained.materialized("run/stage-1") as path:
        raise ZeroDivisionError
    assert not os.path.exists(path)


def test_users_of_the_same_model_share_it(chained: Any) -> None:
    with chained.materialized("run/stage-1") as first:
        inode = os.stat(first).st_ino
        with type(chained).open(chained.path).materialized("run/stage-1") as second:
            assert (second, os.stat(second).st_ino) == (first, inode)
        assert os.path.isdir(first)
        with chained.materialized("run/stage-1", dtype="fp16") as other:
            assert other != first
    assert not os.path.exists(first)


def test_after_a_kill_the_next_command_sweeps(chained: Any) -> None:
    program = (
        "import sys, time, ckptfmt\n"
        "with ckptfmt.Store.open(sys.argv[1]).materialized('run/stage-1') as path:\n"
        "    print(path, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, chained.path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        path = child.stdout.readline().strip()
        assert os.path.isdir(path)
        top = str(Path(path).parent.parent)
        assert sweep(top) == []  # Its lease lives.
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert os.path.isdir(path)
    with chained.materialized("run/stage-2"):
        pass
    assert not os.path.exists(path)


def test_a_lease_of_another_host_lives_while_it_is_touched(chained: Any) -> None:
    with chained.materialized("run/stage-1") as path:
        place = Path(path).parent
        foreign = place / "leases" / "elsewhere-1-0123456789abcdef"
        foreign.touch()
    assert os.path.isdir(path)
    os.utime(foreign, (1, 1))
    assert sweep(str(place.parent)) == [str(place)]
    assert not os.path.exists(path)
