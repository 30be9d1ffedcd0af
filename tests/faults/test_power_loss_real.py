"""Power lost for real: an ext4 on a loop device is shut down without flushing its journal, mounted again, looked at."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.errors import CkptfmtError
from ckptfmt.storage import durable
from ckptfmt.store import shards
from tests.faults import seam
from tests.faults.figures import Tally, tally
from tests.faults.verbs import BY_NAME, Expected, Place, Verb, check_place, make_sources, run_again
from tests.store.making import files_below

FS_IOC_SHUTDOWN: Final = 0x8004587D
NOLOGFLUSH: Final = 2
IMAGE_BYTES: Final = 12 << 20

IN_CI: Final = ("import-sharing", "import-again-changed", "base-add-copy", "rename", "restore", "import-encoded")
CYCLES: Final = 12
"""Of each verb in CI, spread over its calls; for a release every call, in each of `OPTIONS`."""
OPTIONS: Final = ("data=ordered", "data=writeback")


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("power loss, real", IN_CI, cycles=50, lossy=20) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    parts = [f"{name}, {options}" for name in BY_NAME for options in OPTIONS]
    with tally("power loss, real, for a release", parts, cycles=2_000, lossy=500) as counting:
        yield counting


@dataclass
class Switch:
    """Turns the power off after call `at`; before the first where it is 0."""

    disk: Path
    at: int
    calls: int = 0
    off: bool = False

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        if self.at == 0 and not self.off:
            self.turn_off()
            raise seam.Abort

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        self.calls += 1
        if self.calls == self.at and not self.off:
            self.turn_off()
            if call == "create" and isinstance(result, int):
                os.close(result)  # Nobody else knows of it.
            raise seam.Abort

    def turn_off(self) -> None:
        self.off = True
        descriptor = os.open(self.disk, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)


def run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def mounted(image: Path, at: Path, options: str) -> Iterator[None]:
    if not run("mount", "-t", "ext4", "-o", f"loop,{options}", str(image), str(at)):
        pytest.skip("this machine mounts no ext4 on a loop device")
    try:
        yield
    finally:
        if not run("umount", str(at)):
            run("umount", "-l", str(at))
            raise AssertionError("something on the disk is still open")


@dataclass
class Machine:
    """A disk with a store on it, as it is before each cycle."""

    verb: Verb
    place: Place
    expected: Expected
    before: Path
    image: Path
    options: str

    @property
    def disk(self) -> Path:
        return self.place.work.parent

    def power_cycle(self, at: int | None) -> bool:
        """Run the verb until the power goes after call `at` (None: when it is done); whether anything seen was lost."""
        self._as_before()
        switch = Switch(self.disk, -1 if at is None else at)
        with mounted(self.image, self.disk, self.options):
            try:
                with durable.observed(switch):
                    self.verb.act(self.place)
            except (seam.Abort, CkptfmtError):
                assert switch.off
            seen = files_below(self.place.work)
            if not switch.off:
                switch.turn_off()
        with mounted(self.image, self.disk, self.options):
            lost = files_below(self.place.work) != seen
            check_place(self.verb, self.place, self.expected, done=at is None)
            if self.verb.restores is not None and self.place.out.exists():
                shutil.rmtree(self.place.out)  # Its attributes are set when all is there, and need not be durable.
            run_again(self.verb, self.place, self.expected)
        return lost

    def _as_before(self) -> None:
        """The disk; and no catalog that remembers what was done on another. It outlives the power loss itself."""
        shutil.copyfile(self.before, self.image)
        shutil.rmtree(os.environ["CKPTFMT_CACHE"], ignore_errors=True)

    def calls(self) -> int:
        self._as_before()
        counter = seam.Counter()
        with mounted(self.image, self.disk, self.options), durable.observed(counter):
            self.verb.act(self.place)
        return len(counter.calls)


def machine(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, options: str) -> Machine:
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None or not os.path.exists("/dev/loop-control"):
        pytest.skip("shutting a file system down needs root, loop devices and mkfs.ext4")
    if name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)
    disk = quick / "disk"
    disk.mkdir()
    before = quick / "before.img"
    with before.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    assert run("mkfs.ext4", "-q", "-F", "-b", "1024", "-J", "size=1", "-N", "2000", str(before))
    place = Place(quick / "sources", disk / "work")
    make_sources(place.sources)
    with mounted(before, disk, options):
        place.work.mkdir()
        BY_NAME[name].prepare(place)
        (place.work / "out").mkdir()
    return Machine(BY_NAME[name], place, Expected(place.sources), before, quick / "run.img", options)


def cycle(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, options: str) -> dict[str, int]:
    here = machine(name, quick, monkeypatch, options)
    calls = here.calls()
    stride = 1 if count is None else max(1, calls // count)
    points = [*range(0, calls, stride), calls, None]
    return {"cycles": len(points), "lossy": sum(here.power_cycle(at) for at in points)}


@pytest.mark.parametrize("name", IN_CI)
def test_the_power_goes(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted: Tally) -> None:
    counted.add(name, **cycle(name, quick, monkeypatch, CYCLES, OPTIONS[0]))


@pytest.mark.torture
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_the_power_goes_at_every_call(
    name: str, options: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted_for_a_release: Tally
) -> None:
    counted_for_a_release.add(f"{name}, {options}", **cycle(name, quick, monkeypatch, None, options))
