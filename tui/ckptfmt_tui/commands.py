"""The command line that does the same as an action: shown for every one, to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final

from ckptfmt_tui.jobs import requests as ask
from ckptfmt_tui.jobs.requests import Job

_Words = tuple[str, Sequence[str], Sequence[str]]
"""A verb, its names, its options."""


def line(store: str, verb: str, names: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """A command line of `ckptfmt` in this store, quoted for a shell.

    Args:
        store: its path.
        verb: one word or two.
        names: refs and paths. One that begins with a dash would be taken for an option: all then stand behind `--`.
        options: with their values.
    """
    chosen = [*options, "--store", store]
    words = [*chosen, "--", *names] if any(name.startswith("-") for name in names) else [*names, *chosen]
    return shlex.join(["ckptfmt", *verb.split(), *words])


def of_job(store: str, job: Job) -> str:
    """The command line that does what a job does."""
    return line(store, *_WORDS[type(job)](job))


def _options(*pairs: tuple[str, object]) -> list[str]:
    """Options whose value is neither None nor False; True stands for a flag."""
    words: list[str] = []
    for name, value in pairs:
        if value is None or value is False:
            continue
        words += [name] if value is True else [name, f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def _import(job: ask.Import) -> _Words:
    effort = job.effort if job.effort != "balanced" else None
    stated = _options(
        ("--base", job.base), ("--parent", job.parent), ("--stage", job.stage), ("--how", job.how), ("--effort", effort)
    )
    return "import", [job.path], ["--name", job.name, *stated]


def _merge(job: ask.Merge) -> _Words:
    form = job.format if job.format != "hf" else None
    return "merge", [job.ref, job.out], _options(("--format", form), ("--dtype", job.dtype))


def _cleanup(job: ask.Cleanup) -> _Words:
    keep = job.keep_weights if job.keep_weights != "adapter" else None
    hold = job.hold_days if job.hold_days != 7 else None
    only = [word for path in job.only or () for word in ("--only", path)]
    chosen = _options(("--keep-weights", keep), ("--hold", hold), ("--apply", job.apply))
    return "cleanup", job.directories, [*only, *chosen]


def _gc(job: ask.Gc) -> _Words:
    grace = job.grace_hours if job.grace_hours != 24 else None
    history = job.keep_history_days if job.keep_history_days != 30 else None
    return "gc", (), _options(("--grace", grace), ("--keep-history", history), ("--apply", job.apply))


def _prune(job: ask.Prune) -> _Words:
    several = [("--keep-best", best) for best in job.best]
    several += [("--keep-stage", str(stage)) for stage in job.stages]
    several += [("--keep-tag", tag) for tag in job.tags]
    keeps = _options(("--keep-last", job.last), ("--keep-every", job.every), *several)
    return "prune", job.patterns, [*keeps, "--apply"]


_WORDS: Final[dict[type[Job], Callable[[Any], _Words]]] = {
    ask.Import: _import,
    ask.Restore: lambda job: ("restore", [job.ref, job.target], ()),
    ask.Merge: _merge,
    ask.Verify: lambda job: ("verify", job.refs, () if job.refs else ["--all"]),
    ask.Diff: lambda job: ("diff", [job.first, job.second], ()),
    ask.Scan: lambda job: ("scan", job.directories, ()),
    ask.Cleanup: _cleanup,
    ask.Undo: lambda job: ("cleanup", (), ["--undo", job.receipt]),
    ask.Purge: lambda job: ("cleanup", (), ["--purge", *([job.receipt] if job.receipt else []), "--apply"]),
    ask.Gc: _gc,
    ask.Prune: _prune,
    ask.Fsck: lambda job: ("fsck", (), _options(("--full", job.full))),
    ask.AddBase: lambda job: ("base add", [job.name, job.source], _options(("--keep", "copy" if job.copy else None))),
    ask.VerifyBase: lambda job: ("base verify", [job.name], _options(("--path", job.path), ("--full", job.full))),
    ask.LookAt: lambda job: ("show", [job.ref], ["--tensors"]),
    ask.KeepBase: lambda job: ("base keep", [job.name], ()),
}
