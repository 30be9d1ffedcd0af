"""The tests themselves: bugs that are planted into a copy of the package must be caught."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.faults.figures import Tally, tally
from tests.planted.bug import Bug
from tests.planted.bugs import BUGS, IN_CI

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("ckptfmt", "tui", "tests", "docs")
BY_NAME: Final = {bug.name: bug for bug in BUGS}
TESTS_FAILED: Final = 1
"""pytest's exit status: neither an error of its own, nor nothing that was selected."""


@dataclass(frozen=True)
class Copy:
    """A copy of the project in which bugs are planted, one at a time."""

    root: Path

    def run(self, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        for cache in (self.root / "ckptfmt").rglob("__pycache__"):
            shutil.rmtree(cache)
        path = os.pathsep.join(map(str, (self.root, self.root / "tui")))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "CKPTFMT_CACHE": str(self.root / "cache"),
            "CKPTFMT_FIGURES": "",
        }
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "--no-header", "--tb=line", *tests],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def catches(self, bug: Bug) -> subprocess.CompletedProcess[str]:
        file = self.root / "ckptfmt" / bug.file
        sound = file.read_text()
        file.write_text(planted(bug, sound))
        try:
            return self.run(bug.tests)
        finally:
            file.write_text(sound)


def planted(bug: Bug, source: str) -> str:
    assert source.count(bug.old) == 1, f"{bug.name}: its place stands {source.count(bug.old)} times in {bug.file}"
    changed = source.replace(bug.old, bug.new)
    compile(changed, bug.file, "exec")
    return changed


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    root = tmp_path_factory.mktemp("planted")
    ignored = shutil.ignore_patterns("__pycache__", "planted")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    shutil.copy2(ROOT / "pyproject.toml", root / "pyproject.toml")
    path = os.pathsep.join(map(str, (root, root / "tui")))
    found = subprocess.run(
        [sys.executable, "-c", "import ckptfmt; print(ckptfmt.__file__)"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(root), "the tests would try another package"
    return Copy(root)


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("planted bugs", BY_NAME, caught=len(BUGS)) as counting:
        yield counting


def check(copy: Copy, name: str) -> None:
    done = copy.catches(BY_NAME[name])
    assert done.returncode == TESTS_FAILED, f"{name}: pytest ends with {done.returncode}\n{done.stdout[-2000:]}"


def test_every_bug_still_has_its_place() -> None:
    assert len(BY_NAME) == len(BUGS) >= 80
    assert set(IN_CI) <= BY_NAME.keys()
    for bug in BUGS:
        planted(bug, (ROOT / "ckptfmt" / bug.file).read_text())
        assert bug.tests
        for test in bug.tests:
            assert (ROOT / test.partition("::")[0]).exists(), test


@pytest.mark.parametrize("name", IN_CI)
def test_a_planted_bug_is_caught(name: str, copy: Copy) -> None:
    check(copy, name)


@pytest.mark.torture
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_planted_bug_is_caught(name: str, copy: Copy, counted_for_a_release: Tally) -> None:
    check(copy, name)
    counted_for_a_release.add(name, caught=1)


@pytest.mark.torture
def test_without_a_bug_all_of_them_pass(copy: Copy) -> None:
    tests = sorted({test for bug in BUGS for test in bug.tests})
    done = copy.run(tuple(tests))
    assert done.returncode == 0, done.stdout[-3000:]
