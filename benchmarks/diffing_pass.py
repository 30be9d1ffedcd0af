"""In one process: read two checkpoints, then compare them; then both again from disk. Prints seconds as JSON.

python -m benchmarks.diffing_pass STORE A B COUNT
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ckptfmt.api import Store
from ckptfmt.api.diffing import _side
from ckptfmt.diff.comparing import workers
from ckptfmt.diff.reading import size_of
from ckptfmt.progress import SILENT


def main() -> None:
    """Read, compare, and compare without ranks, in turn, from memory and from disk; the first round warms up."""
    path, a, b, count = sys.argv[1:]
    rounds = []
    with Store.open(path) as store:
        works: dict[str, Callable[[], object]] = {
            "read": lambda: _read(store, (a, b)),
            "diff": lambda: store.diff(a, b),
            "without ranks": lambda: store.diff(a, b, ranks=False),
        }
        for _ in range(int(count) + 1):
            found = {name: _seconds(work) for name, work in works.items()}
            for name, work in works.items():
                _leave_memory(Path(path))
                found[f"{name} from disk"] = _seconds(work)
            rounds.append(found)
        report = store.diff(a, b)
    changed, same = len(report.tensors.changed), report.tensors.same
    print(json.dumps({"rounds": rounds[1:], "changed": changed, "same": same, "bytes": report.summary.read_bytes}))


def _read(store: Store, names: tuple[str, str]) -> None:
    """Every tensor of both, decoded ahead in the threads that a comparison uses, and looked at by nobody."""
    seen = 0
    sides = [_side(store.engine, "", name, SILENT) for name in names]
    wanted = sum(size_of(tensor) for side in sides for tensor in side.checkpoint.manifest.tensors)
    with workers() as pool:
        for pair in zip(*(side.checkpoint.manifest.tensors for side in sides), strict=True):
            for side, tensor in zip(sides, pair, strict=True):
                for frame in side.frames(tensor, lambda _: None, pool):
                    seen += len(frame)
    if seen != wanted:
        raise SystemExit(f"{seen} bytes were read, not {wanted}")


def _leave_memory(directory: Path) -> None:
    """Let the page cache forget the files below a directory, as if the machine had just started."""
    for file in directory.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)  # Only what is written can be forgotten.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
