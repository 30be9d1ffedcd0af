"""What a job came to, in a sentence or a few, by what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ckptfmt.wording import count, size
from ckptfmt_tui.jobs import requests as ask
from ckptfmt_tui.jobs.requests import Job
from ckptfmt_tui.models.base_rows import verified_lines

_MOST: Final = 8


def outcome(request: Job, result: Any) -> list[str]:
    """Lines that say what a job that is done came to; none for one that has no words."""
    words = _WORDS.get(type(request))
    return words(result) if words is not None and result is not None else []


def _listed(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"and {len(lines) - _MOST:,} more"]


def _import(result: Any) -> list[str]:
    taken = count(len(result.checkpoints), "checkpoint")
    told = [f"{taken} taken in: {size(result.logical_bytes)}, of which {size(result.new_bytes)} are new"]
    told += [f"{each.ref}@{each.generation}  {each.layout}  {size(each.logical_bytes)}" for each in result.checkpoints]
    return _listed([*told, *(f"failed: {each.path}: {each.message}" for each in result.failed)])


def _verify(result: Any) -> list[str]:
    told = f"{count(result.objects, 'object')}, {size(result.bytes)} decoded and compared"
    if not result.damaged:
        return [f"{told}: all sound"]
    damaged = [f"{each.object}: {each.problem} (harms {', '.join(each.checkpoints)})" for each in result.damaged]
    return [f"{told}: {count(len(damaged), 'object')} damaged", *_listed(damaged)]


def _cleanup(result: Any) -> list[str]:
    told = [f"{size(result.freed_bytes)} freed, {size(result.held_bytes)} held"]
    if result.hold_until:
        told[0] += f" until {result.hold_until}"
    if result.receipt:
        told.append(f"receipt {result.receipt}: it can be undone until the hold is over")
    return [*told, *_refused(result)]


def _refused(result: Any) -> list[str]:
    return [f"{count(len(result.refused), 'file')} refused"] if result.refused else []


def _gc(result: Any) -> list[str]:
    return [f"{size(result.freed_bytes)} freed, {size(result.taken_out_bytes)} taken out"]


def _prune(result: Any) -> list[str]:
    told = f"{count(len(result.dropped), 'name')} dropped, {len(result.kept):,} kept; nothing is freed before a gc"
    return [told, *_listed([f"kept: {each.ref}: {each.message}" for each in result.failed])]


def _fsck(result: Any) -> list[str]:
    looked = f"{count(result.refs, 'ref')}, {count(result.shards, 'shard')}, {count(result.objects, 'object')}"
    sound = "no problems" if result.full else "no problems with the structure"
    return [f"{looked}: {count(len(result.problems), 'problem')}" if result.problems else f"{looked}: {sound}"]


def _merge(result: Any) -> list[str]:
    changed = f"{count(result.tensors_changed, 'tensor')} changed, {size(result.bytes)} written"
    return [f"{changed}: {result.out}", f"base {result.base} ({result.binding}), {count(result.stages, 'stage')}"]


def _base(result: Any) -> list[str]:
    kept = "its bytes are in the store" if result.kept else "its bytes stay where they are"
    return [f"{count(result.files, 'file')}, {count(result.tensors, 'tensor')}, {size(result.bytes)}; {kept}"]


def _verify_base(result: Any) -> list[str]:
    return [line.text for line in verified_lines(result, most=_MOST)]


def _look_at(result: Any) -> list[str]:
    copies, others = count(len(result.copies), "copy"), count(result.holding, "other")
    return [f"{result.name}: {size(result.size_bytes)}, {copies} in the store, needed by {others}"]


_WORDS: Final[dict[type[Job], Callable[[Any], list[str]]]] = {
    ask.Import: _import,
    ask.Restore: lambda result: [f"{count(result.files, 'file')}, {size(result.bytes)}, each compared: {result.path}"],
    ask.Merge: _merge,
    ask.Verify: _verify,
    ask.Scan: lambda result: [
        f"{count(len(result.checkpoints), 'checkpoint')}, {count(len(result.redundant), 'redundant file')}: "
        f"{size(result.reclaimable_bytes)} could be freed"
    ],
    ask.Cleanup: _cleanup,
    ask.Undo: lambda result: [f"{count(result.files, 'file')} put back", *_refused(result)],
    ask.Purge: lambda result: [f"{size(result.freed_bytes)} freed", *_refused(result)],
    ask.Gc: _gc,
    ask.Prune: _prune,
    ask.Fsck: _fsck,
    ask.AddBase: _base,
    ask.VerifyBase: _verify_base,
    ask.KeepBase: lambda result: [f"{size(result.bytes)} copied into the store"],
    ask.LookAt: _look_at,
}
