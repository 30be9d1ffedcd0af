"""gc without a grace in a loop, on two hosts at once, against eight importers: nothing that was published is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ckptfmt.api import Store
from tests.faults.figures import tally
from tests.gc.actors import restored_other

ROOT = Path(__file__).resolve().parents[2]
IMPORTERS = 8
COLLECTORS = 2
LONG_SECONDS = float(os.environ.get("CKPTFMT_STRESS_SECONDS", "600"))
SHORT_SECONDS = 10.0


def test_importers_against_gc_for_a_moment(quick: Path) -> None:
    with tally("gc against importers", ["all"], shards=5, imports=10, checks=5) as counting:
        counting.add("all", **stress(quick, SHORT_SECONDS))


@pytest.mark.torture
def test_importers_against_gc(quick: Path) -> None:
    share = min(1.0, LONG_SECONDS / 600)
    least = {"shards": int(1000 * share), "brought_back": int(100 * share), "imports": int(1000 * share)}
    with tally("gc against importers, for a release", ["all"], **least) as counting:
        counting.add("all", **stress(quick, LONG_SECONDS))


def stress(place: Path, seconds: float) -> Counter[str]:
    """Let importers and collectors loose on a store; assert that nothing is lost; what they did."""
    store = place / "store"
    Store.init(store).close()
    roles = [("import", number) for number in range(IMPORTERS)] + [("gc", number) for number in range(COLLECTORS)]
    running = [(place / f"{role}{number}", _start(role, number, store, place, seconds)) for role, number in roles]
    try:
        for _, process in running:
            process.wait(seconds + 240)
    finally:
        for _, process in running:
            process.kill()
    told = [json.loads((home / "report.json").read_text()) for home, _ in running]
    assert [problem for each in told for problem in each["wrong"]] == []
    assert [process.returncode for _, process in running] == [0] * len(roles)
    counts: Counter[str] = Counter()
    for each in told:
        counts.update(each["counts"])
        counts.update(Counter("failed: " + failure.rpartition(": ")[2] for failure in each["failures"]))
    with Store.open(store) as opened:
        standing = {name: content for each in told for name, content in each["standing"].items()}
        assert {row.ref for row in opened.list_refs()} == set(standing)
        problems = [restored_other(opened, name, content, place / "check") for name, content in standing.items()]
        assert [problem for problem in problems if problem] == []
        assert opened.verify().damaged == ()
        opened.gc(opened.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
        assert opened.plan_gc(grace_hours=0, keep_history_days=0).leaving == ()
    return counts


def _start(role: str, number: int, store: Path, place: Path, seconds: float) -> subprocess.Popen[bytes]:
    home = place / f"{role}{number}"
    home.mkdir()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"CKPTFMT_CACHE": str(home / "cache"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.gc.actors", role, str(store), str(home), str(number), str(seconds)]
    return subprocess.Popen(words, env=environment, cwd=ROOT)
