"""Every change that an import or a restore makes to the store or the target passes the seam, as the kernel sees it."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.storage import durable
from tests.faults import seam
from tests.faults.verbs import BY_NAME, Place, make_sources

NAMES: Final = ("init", "import-fresh", "import-sharing", "import-many", "restore", "base-add-copy", "rename")
ROOT: Final = Path(__file__).resolve().parents[2]

WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

AUDITED: Final = {
    "os.rename": "rename",
    "os.link": "link",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.symlink": "symlink",
    "os.chmod": "chmod",
    "os.utime": "set_mtime",
    "os.truncate": "truncate",
    "os.chown": "chown",
    "os.setxattr": "setxattr",
    "shutil.rmtree": "rmtree",
    "shutil.move": "move",
    "shutil.copyfile": "copyfile",
}

TRACED: Final = {
    "openat": "create",
    "open": "create",
    "creat": "create",
    "write": "write",
    "writev": "write",
    "pwrite64": "pwrite",
    "pwritev": "pwrite",
    "copy_file_range": "copy",
    "sendfile": "copy",
    "fallocate": "fallocate",
    "ftruncate": "truncate",
    "truncate": "truncate",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "link": "link",
    "linkat": "link",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rmdir": "rmdir",
    "symlink": "symlink",
    "symlinkat": "symlink",
    "chmod": "chmod",
    "fchmod": "chmod",
    "fchmodat": "chmod",
    "utimensat": "set_mtime",
    "fsync": "fsync",
    "fdatasync": "fsync",
}

PROGRAM: Final = """
import json, sys
from pathlib import Path
from ckptfmt.storage import durable
from tests.faults import seam
from tests.faults.verbs import BY_NAME, Place
counter = seam.Counter()
with durable.observed(counter):
    BY_NAME[sys.argv[1]].act(Place(Path(sys.argv[2]), Path(sys.argv[3])))
Path(sys.argv[4]).write_text(json.dumps(counter.calls))
"""


def start(quick: Path, name: str) -> Place:
    place = Place(quick / "sources", quick / "work")
    make_sources(place.sources)
    place.work.mkdir()
    BY_NAME[name].prepare(place)
    return place


@pytest.mark.parametrize("name", NAMES)
def test_every_audited_change_passes_the_seam(name: str, quick: Path) -> None:
    """Portable: what the interpreter reports of itself, path by path."""
    place = start(quick, name)
    report = quick / "report.json"

    def act() -> None:
        recorder = seam.Recorder()
        audited: list[tuple[str, str]] = []
        watching = [True]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if not watching[0]:
                return
            if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
                if arguments[2] & WRITING:
                    audited.append(("create", arguments[0]))
            elif event in AUDITED:
                audited.append((AUDITED[event], str(arguments[0])))

        sys.addaudithook(hook)
        with durable.observed(recorder):
            BY_NAME[name].act(place)
        watching[0] = False
        inside = [(call, path) for call, path in audited if path.startswith(str(place.work))]
        seen = [
            (event.call, event.other if event.call == "symlink" else event.path)
            for event in recorder.events
            if event.call not in ("write", "pwrite", "fsync", "fsync_directory")
        ]
        links = [(call, path) for call, path in audited if call == "symlink"]
        report.write_text(json.dumps([sorted(inside + links), sorted(seen)]))

    assert seam.in_child(act) == 0
    inside, seen = json.loads(report.read_text())
    assert len(seen) > 3
    assert inside == seen


def traced(trace: str, place: Place) -> collections.Counter[str]:
    """Mutating system calls that named, or wrote to a descriptor of, something below the work directory."""
    found: collections.Counter[str] = collections.Counter()
    for line in trace.splitlines():
        match = re.match(r"(?:\d+\s+)?(\w+)\((.*)\)\s+= (-?\d+)", line)
        if match is None or int(match[3]) < 0 or str(place.work) not in match[2]:
            continue
        call = TRACED[match[1]]
        if call == "create" and not re.search(r"O_CREAT|O_WRONLY|O_RDWR|O_TRUNC", match[2]):
            continue
        if match[1] == "unlinkat" and "AT_REMOVEDIR" in match[2]:
            call = "rmdir"
        found[call] += 1
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["import-sharing", "restore"])
def test_every_system_call_passes_the_seam(name: str, quick: Path, tmp_path: Path) -> None:
    place = start(quick, name)
    calls = tmp_path / "calls.json"
    output = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-qq", "-e", f"trace={','.join(TRACED)}", "-s", "0", "-o", str(output)]
    program = [sys.executable, "-c", PROGRAM, name, str(place.sources), str(place.work), str(calls)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip(f"this machine lets nobody trace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    seen = collections.Counter(json.loads(calls.read_text()))
    seen["fsync"] += seen.pop("fsync_directory")
    assert sum(seen.values()) > 20
    assert traced(output.read_text(), place) == seen
