"""`gc` and `prune` over 10,000 manifests: planning where nothing goes, dropping most names, freeing what they held."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.listing import make_store
from benchmarks.measuring import Figure, Timed, Workplace, command, note, run_timed, summary

_AIM_SECONDS = 60.0
_AIM_BYTES = 500e6
_WITHOUT_AIM = frozenset({"fsck"})
_KEPT = 3
_RUN = 100
"""Checkpoints that share a name up to the last '/': `prune` looks at each run by itself."""


def measure(place: Workplace) -> list[Figure]:
    """Plan over all; keep three of each hundred; plan and free what the rest held: each once, on one store."""
    count = 500 if place.quick else 10_000
    note(f"a store of {count:,} manifests of 500 tensors")
    store = place.directory / "reclaimed"
    make_store(store, count)
    try:
        return _measure(store, place.directory / "reclaimed-cache", count)
    finally:
        shutil.rmtree(store)


def _measure(store: Path, cache: Path, count: int) -> list[Figure]:
    def run(*words: str) -> Timed:
        note(" ".join(words))
        return run_timed([*command(*words), "--store", str(store)], cache=cache)

    now = ("--grace", "0", "--keep-history", "0")
    runs = {
        "gc cold": ("`ckptfmt gc`, all needed, the catalog thrown away", run("gc", *now)),
        "gc warm": ("`ckptfmt gc`, all needed", run("gc", *now)),
        "fsck": ("`ckptfmt fsck`", run("fsck")),
        "prune": ("`ckptfmt prune --keep-last 3 --apply`", run("prune", "--keep-last", str(_KEPT), "--apply", "--yes")),
        "gc plan": ("`ckptfmt gc`, 97 of 100 dropped", run("gc", *now)),
    }
    applied = run("gc", *now, "--apply", "--yes", "--json")
    runs["gc apply"] = ("`ckptfmt gc --apply --grace 0`, 97 of 100 dropped", applied)
    report = json.loads(applied.output)
    left = len(json.loads(run("ls", "--json").output))
    kept = count // _RUN * _KEPT
    if left != kept or report["plan"]["manifests"] != kept or report["unlinked"] < count - kept:
        raise SystemExit(f"{left} names are left, gc kept {report['plan']['manifests']}, unlinked {report['unlinked']}")
    shutil.rmtree(cache)
    return [
        figure
        for name, (what, timed) in runs.items()
        for figure in _figures(name, f"{what}; {count:,} manifests", timed)
    ]


def _figures(name: str, what: str, timed: Timed) -> list[Figure]:
    peak = timed.peak_bytes / 1e6
    seconds, megabytes = (None, None) if name in _WITHOUT_AIM else (_AIM_SECONDS, _AIM_BYTES / 1e6)
    return [
        summary(name, what, [timed], aim=seconds),
        Figure(f"{name} memory", f"{what}, largest resident set", "MB", peak, peak, peak, megabytes),
    ]
