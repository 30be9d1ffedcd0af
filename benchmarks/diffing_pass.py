"""In one process: read two checkpoints, then compare them. Prints seconds as JSON.

python -m benchmarks.diffing_pass STORE A B COUNT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from ckptfmt.api import Store
from ckptfmt.api.diffing import _side
from ckptfmt.diff.comparing import workers
from ckptfmt.diff.reading import size_of
from ckptfmt.progress import SILENT


def main() -> None:
    """Read, compare, and compare without ranks, in turn; the first round warms up."""
    path, a, b, count = sys.argv[1:]
    rounds = []
    with Store.open(path) as store:
        for _ in range(int(count) + 1):
            rounds.append(
                {
                    "read": _seconds(lambda: _read(store, (a, b))),
                    "diff": _seconds(lambda: store.diff(a, b)),
                    "without ranks": _seconds(lambda: store.diff(a, b, ranks=False)),
                }
            )
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


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
