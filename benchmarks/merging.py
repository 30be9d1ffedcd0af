"""Merging against `cp` and against PEFT: time, peak memory, and what six stages cost."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import peft_merging
from benchmarks.inputs import files_below
from benchmarks.measuring import (
    Figure,
    Timed,
    Workplace,
    command,
    in_turn,
    note,
    ratio,
    run_timed,
    settle,
    summary,
)
from benchmarks.merge_inputs import WIDTH, make_adapter, make_base

_COPY_AIM = 1.3
_PEFT_AIM = 0.25
_STAGES_AIM = 1.5
_MEMORY_AIM_MB = 400.0
_LAYERS_AIM_MB = 700.0
_STAGES = 6
_WIDE_VOCABULARY = (1 << 30) // (2 * WIDTH)


class Merges:
    """The runs that are compared, over one base.

    Args:
        place: where.
        size_bytes: of the base.
        single: the base is one file.
        vocabulary: rows of its embedding.
        stages: adapters, each continued from the one before.
        method: of the adapters.
    """

    def __init__(
        self,
        place: Workplace,
        size_bytes: int,
        *,
        single: bool = False,
        vocabulary: int = 32_000,
        stages: int = 1,
        method: str = "LORA",
    ) -> None:
        self._place = place
        self.top = place.directory / "merging"
        self.base, self.store = self.top / "base", self.top / "store"
        self.out, self.other = self.top / "out", self.top / "other"
        layer_count = make_base(self.base, size_bytes, single=single, vocabulary=vocabulary)
        self._call("init", str(self.store), stored=False)
        self._call("base", "add", "base", str(self.base))
        self.adapters = [self.top / f"adapter-{stage}" for stage in range(1, stages + 1)]
        for stage, adapter in enumerate(self.adapters, 1):
            make_adapter(adapter, layer_count, stage, method=method)
            before = ("--parent", f"stage-{stage - 1}", "--how", "continue") if stage > 1 else ()
            self._call("import", str(adapter), "--name", f"stage-{stage}", "--base", "base", *before)
        os.sync()

    def keep(self) -> None:
        """Copy the base into the store, and forget its files."""
        self._call("base", "keep", "base")
        self.base.rename(self.top / "elsewhere")

    def merge(self, stage: int = 1) -> Timed:
        """`ckptfmt merge`, durable at its end."""
        shutil.rmtree(self.out, ignore_errors=True)
        settle(self.base if self.base.exists() else self.store)
        return self._call("merge", f"stage-{stage}", str(self.out))

    def copy(self) -> Timed:
        """`cp -r` of the base, then fsync of every file."""
        shutil.rmtree(self.other, ignore_errors=True)
        settle(self.base)
        source, target = shlex.quote(str(self.base)), shlex.quote(str(self.other))
        return self._run("sh", "-c", f"cp -r {source} {target} && find {target} -type f -exec sync {{}} +")

    def peft(self, ending: str, stages: int = 1) -> Timed:
        """PEFT's load, merge_and_unload and save_pretrained; with `fsync` its files are made durable."""
        shutil.rmtree(self.other, ignore_errors=True)
        settle(self.base)
        words = (str(self.base), str(self.other), ending, *map(str, self.adapters[:stages]))
        return self._run(sys.executable, str(Path(peft_merging.__file__)), *words)

    def check_equal(self) -> None:
        """Every tensor of the merge has the bits of PEFT's."""
        from safetensors import safe_open

        theirs = {}
        for path in files_below(self.other):
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    theirs |= dict.fromkeys(file.keys(), path)
        for path in files_below(self.out):
            if path.suffix != ".safetensors":
                continue
            with safe_open(path, "pt") as ours:
                for name in ours.keys():  # noqa: SIM118 - it is no mapping
                    with safe_open(theirs.pop(name), "pt") as file:
                        if not bool((ours.get_tensor(name) == file.get_tensor(name)).all()):
                            raise SystemExit(f"{name} differs from PEFT's")
        if theirs:
            raise SystemExit(f"{min(theirs)} is missing")

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.top)

    def _call(self, *words: str, stored: bool = True) -> Timed:
        return self._run(*command(*words), *(("--store", str(self.store)) if stored else ()))

    def _run(self, *words: str) -> Timed:
        return run_timed(words, cache=self._place.cache)


def measure(place: Workplace) -> list[Figure]:
    """Time over a base in shards and one in a single file, stages, a kept base; then memory."""
    figures = _times(place) + _single(place)
    sizes = (0.3,) if place.quick else (0.5, 2.0, 8.0)
    for size in sizes:
        figures += _peak(place, f"{size:g} GB in shards", size)
    figures += _peak(place, f"{sizes[-1]:g} GB in one file", sizes[-1], single=True)
    if not place.quick:
        figures += _peak(place, "an embedding and a head of 1 GB each", 2.5, vocabulary=_WIDE_VOCABULARY)
    return figures + _layers_peak(place)


def _times(place: Workplace) -> list[Figure]:
    merges = Merges(place, place.size_bytes, stages=_STAGES)
    size = f"{place.size_bytes / 1e9:.1f} GB bf16"
    note(f"{size}: merge against cp and PEFT")
    runs: list[Callable[[], Timed]] = [
        merges.merge,
        merges.copy,
        functools.partial(merges.merge, _STAGES),
        functools.partial(merges.peft, "plain"),
        functools.partial(merges.peft, "fsync"),
        lambda: _script(place, "import torch"),
        lambda: _script(place, "import ckptfmt.api.merging"),
    ]
    one, copied, six, plain, synced, torch, started = in_turn(runs, place.pairs)
    merges.merge()
    merges.check_equal()
    figures = [
        ratio(
            "merge",
            f"merge onto {size}, LoRA r=16 on all linear layers, against cp and fsync",
            one,
            copied,
            aim=_COPY_AIM,
        ),
        _without("merge, started", "the same without starting Python and torch", one, started, copied),
        ratio("merge, peft", "the same merge, against PEFT: load, merge, save", one, plain, aim=_PEFT_AIM),
        ratio("merge, peft fsync", "the same, against PEFT with its files fsynced", one, synced, aim=_PEFT_AIM),
        ratio("stages", f"{_STAGES} stages in one pass, against one stage", six, one, aim=_STAGES_AIM),
        summary("torch", "`python -c 'import torch'`, part of every merge", torch, aim=None),
        summary("loading", "the same with all that a merge loads", started, aim=None),
        _peak_of("memory, six stages", f"{size}, {_STAGES} stages", six, _MEMORY_AIM_MB),
        _peak_of("memory, peft", f"PEFT itself, {size}", plain, None),
    ]
    merges.keep()
    note(f"{size}: a base kept in the store")
    kept, taken = in_turn([merges.merge, functools.partial(_copied, merges)], place.pairs)
    figures.append(
        ratio("merge, kept", "the base kept in the store, against cp and fsync of it", kept, taken, aim=None)
    )
    merges.clear()
    return figures


def _single(place: Workplace) -> list[Figure]:
    merges = Merges(place, place.size_bytes, single=True)
    note("a base in one file")
    ours, copied, plain = in_turn([merges.merge, merges.copy, functools.partial(merges.peft, "plain")], place.pairs)
    merges.check_equal()
    merges.clear()
    return [
        ratio("merge, single", "the base in one single file, against cp and fsync", ours, copied, aim=_COPY_AIM),
        ratio("merge, single, peft", "the same, against PEFT", ours, plain, aim=_PEFT_AIM),
    ]


def _copied(merges: Merges) -> Timed:
    moved, merges.base = merges.base, merges.top / "elsewhere"
    try:
        return merges.copy()
    finally:
        merges.base = moved


def _peak(place: Workplace, label: str, size: float, *, single: bool = False, vocabulary: int = 32_000) -> list[Figure]:
    note(f"memory: {label}")
    merges = Merges(place, int(size * 1e9), single=single, vocabulary=vocabulary)
    figure = _peak_of(f"memory, {label}", label, [merges.merge()], _MEMORY_AIM_MB)
    merges.clear()
    return [figure]


def _layers_peak(place: Workplace) -> list[Figure]:
    """What has to go through PEFT's own classes."""
    note("memory: LoHa, through PEFT's layers")
    merges = Merges(place, 250_000_000 if place.quick else 500_000_000, method="LOHA")
    figures = [
        _peak_of("memory, layers", "LoHa through PEFT's own layers, 0.5 GB", [merges.merge()], _LAYERS_AIM_MB),
        _peak_of("memory, layers, peft", "PEFT itself, the same", [merges.peft("plain")], None),
    ]
    merges.clear()
    return figures


def _peak_of(name: str, label: str, runs: Sequence[Timed], aim: float | None) -> Figure:
    seen = sorted(timed.peak_bytes / 1e6 for timed in runs)
    return Figure(name, f"largest resident set, {label}", "MB", seen[-1], seen[0], seen[-1], aim)


def _without(name: str, what: str, ours: Sequence[Timed], started: Sequence[Timed], theirs: Sequence[Timed]) -> Figure:
    ratios = sorted((a.wall - b.wall) / c.wall for a, b, c in zip(ours, started, theirs, strict=True))
    return Figure(name, what, "ratio", ratios[len(ratios) // 2], ratios[0], ratios[-1], None)


def _script(place: Workplace, text: str) -> Timed:
    return run_timed([sys.executable, "-c", text], cache=place.cache)
