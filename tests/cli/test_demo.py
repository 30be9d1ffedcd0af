from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt.demo import run as demo_run
from ckptfmt.demo.report import DemoReport
from tests.cli.made import Shell

RAN: list[Path] = []


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let the demonstration find out that all is well, or not, without making anything."""

    def prepare(ok: bool) -> None:
        def run_demo(directory: Path, *, say: Callable[[str], None]) -> DemoReport:
            say("making")
            RAN.append(directory)
            return DemoReport(
                ok=ok,
                path=str(directory),
                store=str(directory / "store.ckptfmt"),
                base="demo-base",
                base_bytes=9_000_000,
                base_new_bytes=6_000_000,
                rows=(),
                disk_bytes=100_000_000,
                store_bytes=10_000_000,
                files=12,
                files_same=12 if ok else 11,
                objects=80,
                damaged=0,
                merge=None,
                cleanup=None,
                seconds=1.0,
            )

        monkeypatch.setattr(demo_run, "run_demo", run_demo)

    return prepare


def test_the_demonstration_is_told_and_drawn(sh: Shell, demo: Callable[[bool], None]) -> None:
    demo(True)
    ran = sh.ok("demo", "./there")
    assert RAN[-1] == Path("./there")
    assert "making" in ran.err
    assert "10.0 x" in ran.out
    assert "\x1b" not in ran.out
    sh.ok("demo")
    assert RAN[-1] == Path(demo_run.DEFAULT_DIRECTORY)
    assert sh.json("demo")["files_same"] == 12


def test_a_demonstration_that_lost_something_ends_with_3(sh: Shell, demo: Callable[[bool], None]) -> None:
    demo(False)
    assert sh("demo").code == 3
    ran = sh("demo", "--json")
    assert ran.code == 3
    assert ran.document["ok"] is False


def test_a_directory_with_something_in_it_is_refused(sh: Shell, elsewhere: Path) -> None:
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    ran = sh("demo", "./full")
    assert ran.code == 1
    assert "[target-exists]" in ran.err
