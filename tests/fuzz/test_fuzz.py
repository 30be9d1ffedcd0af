"""Every parser of what comes from elsewhere, fuzzed: data or one of our errors, soon and in bounded memory."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.figures import Tally, tally
from tests.fuzz.seeds import unpack
from tests.fuzz.targets import TARGETS

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
CHANGES: Final = 150
"""Inputs made of each one of the corpus without a look at coverage: on every machine."""
SLOWEST_SECONDS: Final = 5.0

RUNS: Final = {
    "pickle": 4_000,
    "delta": 10_000,
    "lowrank": 15_000,
    "zip": 15_000,
}
"""Guided by coverage in CI: a second or two of each; `RUNS_OF_OTHERS` where nothing is said."""
RUNS_OF_OTHERS: Final = 50_000
FOR_A_RELEASE: Final = 10_000_000

guided = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not there: it has wheels for Linux on x86-64 only"
)


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("fuzz, guided", TARGETS, runs=500_000) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("fuzz, guided, for a release", TARGETS, runs=FOR_A_RELEASE * len(TARGETS)) as counting:
        yield counting


def corpus(name: str) -> dict[str, bytes]:
    """What fuzzing kept, and what it once found."""
    found = {path.name: path.read_bytes() for path in sorted((HERE / "regressions" / name).glob("*"))}
    return {**unpack(name), **found}


def changed(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to four edits: bits, bytes, pieces taken out, doubled, put in from elsewhere."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(result) + 1)
        many = chance.choice((1, 1, 2, 4, 8, 32))
        kind = chance.randrange(5)
        if kind == 0 and at < len(result):
            result[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            result[at : at + many] = chance.randbytes(many)
        elif kind == 2:
            del result[at : at + many]
        elif kind == 3:
            result[at:at] = result[at : at + many] * chance.choice((1, 2, 50))
        else:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            result[at:at] = other[begin : begin + many * 2]
    return bytes(result)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_what_is_near_it(name: str) -> None:
    inputs = list(corpus(name).values())
    assert len(inputs) > 1
    chance = random.Random(name)
    target = TARGETS[name]
    for data in inputs:
        for trial in (data, *(changed(data, chance, inputs) for _ in range(CHANGES if len(inputs) < 50 else 20))):
            begin = time.monotonic()
            target.run(trial)
            assert time.monotonic() - begin < SLOWEST_SECONDS


def fuzz(name: str, runs: int, scratch: Path) -> int:
    """Fuzz in a process of its own, with limits of time and memory; how many inputs were run."""
    place, kept = scratch / "found", scratch / "kept"
    for directory in (place, kept):
        directory.mkdir()
    for each, data in corpus(name).items():
        (kept / each).write_bytes(data)
    arguments = [f"-runs={runs}", "-seed=1", f"-artifact_prefix={scratch}/", str(place), str(kept)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert found is not None, done.stderr[-2000:]
    return int(found[1])


@guided
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str, tmp_path: Path, counted: Tally) -> None:
    counted.add(name, runs=fuzz(name, RUNS.get(name, RUNS_OF_OTHERS), tmp_path))


@guided
@pytest.mark.torture
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage_for_long(name: str, tmp_path: Path, counted_for_a_release: Tally) -> None:
    counted_for_a_release.add(name, runs=fuzz(name, FOR_A_RELEASE, tmp_path))
