"""What other processes do: restore everything in a store, or take families in; prints the SHA-256 of each file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]


def sums(store_path: Path, work: Path) -> dict[str, dict[str, str]]:
    """Restore each checkpoint of a store below `work`."""
    from ckptfmt import Store
    from tests.exactness.made import sums_of

    with Store.open(store_path) as store:
        found = {}
        for row in store.list_refs():
            store.restore(row.ref, work / row.ref)
            found[row.ref] = sums_of(work / row.ref)
        assert store.verify().damaged == ()
        return found


def taken_in(sources: Path, store_path: Path) -> None:
    """Take in every family below `sources`."""
    from ckptfmt import Store
    from tests.exactness.made import fill

    with Store.init(store_path) as store:
        for directory in sorted(sources.iterdir()):
            places = {path.name: path for path in directory.iterdir()}
            fill(store, places, prefix=f"{directory.name}/")


def flushes_in_threads() -> bool:
    """Whether the threads that decode flush too: they begin as the one that starts them is."""
    from concurrent.futures import ThreadPoolExecutor

    from ckptfmt.encodings.rounding import Plain, floats_here

    with ThreadPoolExecutor(1) as pool:
        return isinstance(pool.submit(floats_here).result(), Plain) and isinstance(floats_here(), Plain)


def main(arguments: list[str]) -> None:
    options, (what, *paths) = arguments[0], arguments[1:]
    if "torch" in options:
        import torch

        if "flush" in options:
            assert torch.set_flush_denormal(True)
            assert flushes_in_threads()
    places = [Path(path) for path in paths]
    if what == "import":
        taken_in(places[0], places[1])
        places = places[1:]
    print(json.dumps(sums(places[0], places[1])))


def run(what: str, *paths: Path, options: str = "", environment: Mapping[str, str] | None = None) -> Any:
    """Run this module in a fresh process; what it prints."""
    program = [sys.executable, "-m", "tests.exactness.child", options or "-", what, *map(str, paths)]
    done = subprocess.run(
        program,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
