"""Peak memory of import and restore: one bound, whatever the size of the model, its shards and its tensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.inputs import files_below, make_sharded, make_single_tensor
from benchmarks.measuring import Figure, Workplace, command, note, run_timed
from ckptfmt.api import Store

_AIM_MB = 300.0
_COMPARED_BYTES = 16 << 20


def measure(place: Workplace) -> list[Figure]:
    """Import (`fast`, `balanced`) and restore of models of several sizes; the largest also as one single tensor."""
    sizes = (0.1, 0.2) if place.quick else (0.5, 2.0, 8.0)
    cases: list[tuple[str, float, Callable[[Path, int], int]]] = [
        *((f"{size:g} GB in shards", size, make_sharded) for size in sizes),
        (f"{sizes[-1]:g} GB, one tensor", sizes[-1], make_single_tensor),
    ]
    figures = []
    for label, size, make in cases:
        source = place.directory / "large"
        make(source, int(size * 1e9))
        for effort in ("fast", "balanced"):
            note(f"memory: {label}, {effort}")
            figures += _peaks(place, source, label, effort)
        shutil.rmtree(source)
    return figures


def _peaks(place: Workplace, source: Path, label: str, effort: str) -> list[Figure]:
    store, target = place.directory / "store", place.directory / "target"
    Store.init(store).close()
    options = ("--name", "large", "--effort", effort, "--store", str(store), "--json")
    taken = run_timed(command("import", str(source), *options), cache=place.cache)
    restored = run_timed(command("restore", "large", str(target), "--store", str(store), "--json"), cache=place.cache)
    for path in files_below(source):
        if not _equal(path, target / path.relative_to(source)):
            raise SystemExit(f"{path.name} came back changed")
    shutil.rmtree(target)
    shutil.rmtree(store)
    return [
        _figure(f"memory {verb}, {label}, {effort}", verb, label, effort, timed.peak_bytes)
        for verb, timed in (("import", taken), ("restore", restored))
    ]


def _figure(name: str, verb: str, label: str, effort: str, peak_bytes: int) -> Figure:
    seen = peak_bytes / 1e6
    return Figure(name, f"largest resident set, {verb}, {label}, `{effort}`", "MB", seen, seen, seen, _AIM_MB)


def _equal(first: Path, second: Path) -> bool:
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as one, second.open("rb") as two:
        while part := one.read(_COMPARED_BYTES):
            if part != two.read(_COMPARED_BYTES):
                return False
    return True
