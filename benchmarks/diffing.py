"""`diff` of two models of which every tensor differs: time against reading both, and memory."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.inputs import make_sharded
from benchmarks.measuring import Figure, Workplace, command, note, run_timed
from ckptfmt.api import Store

_AIM_RATIO = 2.0
_AIM_MB = 300.0
_PART_BYTES = 16 << 20
_STEP = 4
"""How far, in steps of bf16, an element of the tuned model is from the base's at most."""


def measure(place: Workplace) -> list[Figure]:
    """A model and one tuned from it: stored against it, and stored as it is; and the memory of the command."""
    base, tuned, store = (place.directory / name for name in ("diff-base", "diff-tuned", "diff-store"))
    size = make_sharded(base, place.size_bytes)
    shutil.copytree(base, tuned)
    for path in sorted(tuned.glob("*.safetensors")):
        _tune(path)
    with Store.init(store) as opened:
        note("import: fast, balanced")
        opened.import_checkpoint(base, "base", effort="fast")
        opened.import_checkpoint(tuned, "alone", effort="fast")
    figures = _ratios(place, store, "base", "alone", f"{size / 1e9:.1f} GB against {size / 1e9:.1f} GB, `fast`")
    shutil.rmtree(store)
    with Store.init(store) as opened:
        opened.import_checkpoint(base, "base", effort="balanced")
        opened.import_checkpoint(tuned, "tuned", effort="balanced", parent="base")
    what = f"{size / 1e9:.1f} GB against {size / 1e9:.1f} GB, `balanced`"
    figures += _ratios(place, store, "base", "tuned", what)
    figures += _memory(place, store, what)
    for directory in (base, tuned, store):
        shutil.rmtree(directory)
    return figures


def _tune(path: Path) -> None:
    """Move every element of a file of bf16 numbers by one to `_STEP` steps."""
    generator = np.random.default_rng(1)
    with path.open("r+b") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        words = np.memmap(file, np.uint16, "r+", offset=begin)
        for at in range(0, len(words), _PART_BYTES):
            part = words[at : at + _PART_BYTES]
            part += generator.integers(1, _STEP + 1, len(part), np.uint16)
        words.flush()


def _ratios(place: Workplace, store: Path, a: str, b: str, what: str) -> list[Figure]:
    note(f"diff: {what}")
    words = [sys.executable, "-m", "benchmarks.diffing_pass", str(store), a, b, str(place.pairs)]
    done = subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).resolve().parent.parent)
    found = json.loads(done.stdout)
    if found["same"] or not found["changed"]:
        raise SystemExit(f"{found['changed']} tensors differ, {found['same']} are the same")
    rounds: Sequence[Mapping[str, float]] = found["rounds"]
    return [
        _ratio(f"diff {what}", f"diff, {what}, against reading both", rounds, "diff", _AIM_RATIO),
        _ratio(f"diff without ranks {what}", "the same without ranks", rounds, "without ranks", None),
        _ratio(f"diff from disk {what}", "the same, from disk", rounds, "diff", _AIM_RATIO, of=" from disk"),
        _ratio(
            f"diff without ranks from disk {what}",
            "the same without ranks, from disk",
            rounds,
            "without ranks",
            None,
            of=" from disk",
        ),
    ]


def _ratio(
    name: str, what: str, rounds: Sequence[Mapping[str, float]], key: str, aim: float | None, *, of: str = ""
) -> Figure:
    ratios = [each[key + of] / each["read" + of] for each in rounds]
    walls = (statistics.median(each[word + of] for each in rounds) for word in (key, "read"))
    words = "{:.2f} s against {:.2f} s".format(*walls)
    return Figure(name, what, "ratio", statistics.median(ratios), min(ratios), max(ratios), aim, words)


def _memory(place: Workplace, store: Path, what: str) -> list[Figure]:
    """The largest resident set of the command, less that of a comparison of a checkpoint with itself."""
    peaks = [
        run_timed(command("diff", "base", other, "--store", str(store), "--json"), cache=place.cache).peak_bytes / 1e6
        for other in ("base", "tuned")
    ]
    seen = peaks[1] - peaks[0]
    words = f"{peaks[1]:.0f} MB in all"
    return [Figure("diff memory", f"memory of `ckptfmt diff`, {what}", "MB", seen, seen, seen, _AIM_MB, words)]
