"""How long a user waits; bounds are three times what is aimed at, so that a busy machine fails none of them."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from pathlib import Path

from benchmarks.listing import HEADER_BYTES, Objects, write_checkpoint
from benchmarks.terminal import look, make_wide, started
from ckptfmt import Store

TRIES = 3
REFS = 10_000
_PROGRAM = "import sys; from ckptfmt.cli import main; sys.argv = ['ckptfmt', 'tui', '--store', {!r}]; sys.exit(main())"


def test_ten_thousand_refs_are_there_at_once(quick: Path) -> None:
    store = quick / "many"
    Store.init(store).close()
    objects = Objects(store)
    skeleton = objects.add_bytes(bytes(HEADER_BYTES))
    objects.flush()
    for number in range(REFS):
        write_checkpoint(store, f"runs/exp-{number // 100:03}/step-{number % 100:03}", number, skeleton, [])
    with Store.open(store) as opened:
        assert len(opened.list_refs()) == REFS
    words = [sys.executable, "-c", _PROGRAM.format(str(store))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    seen = [started(words, environment, shown="exp-000") for _ in range(TRIES)]
    assert min(start.frame for start in seen) < 3 * 0.5, seen
    assert min(start.rows for start in seen) < 3 * 1.0, seen


def test_a_hundred_thousand_tensors_open_filter_and_scroll(quick: Path) -> None:
    store = quick / "wide"
    make_wide(store, 100_000)
    seen = asyncio.run(look(str(store), 2, pages=10))
    assert min(seen["open"]) < 3 * 0.3, seen["open"]
    assert statistics.median(seen["filter"]) < 3 * 0.1, seen["filter"]
    assert statistics.median(seen["page"]) < 3 * 0.05, seen["page"]
    assert min(seen["order"]) < 0.5, seen["order"]
