"""Planning a cleanup: from what a scan found to steps, the space they need and the bytes they free. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.layouts.listing import natural
from ckptfmt.reclaim.finding import TRAINING_STATE
from ckptfmt.reclaim.found import CheckpointSeen
from ckptfmt.reclaim.models import full_weights, main_file, model_of, resumes
from ckptfmt.reclaim.redundancy import Findings, Wanted
from ckptfmt.reclaim.rows import KeepWeights, freed_by, goes_under
from ckptfmt.reclaim.space import STEP_BYTES
from ckptfmt.transfer.build import touched

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._/-]+")


@dataclass(frozen=True, slots=True)
class Refused:
    """A path that stays, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Staying:
    """A path that a scan told of and that stays, how many of its bytes were redundant, and why it stays.

    A checkpoint that cannot be read is told of as a whole.
    """

    path: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """One checkpoint of a plan.

    Attributes:
        seen: the checkpoint.
        ref: the name it is to be taken in under.
        going: its files that are to go; none where it is only taken in for others to be stored against it.
        most_bytes: the most that taking it in may add to the store.
        known: names in the store that may be this checkpoint already, with their manifests.
        resumes: whether a Trainer resumes from it now, and whether it does afterwards.
        note: what else is to be said of it.
        base: name and record of the base of the store that it was made from, where that is known.
    """

    seen: CheckpointSeen
    ref: str
    going: tuple[Wanted, ...]
    most_bytes: int
    known: tuple[tuple[str, str], ...] = ()
    resumes: tuple[bool, bool] = (False, False)
    note: str | None = None
    base: tuple[str, str] | None = None

    @property
    def source(self) -> str:
        """Absolute path of its directory, or of the file that it is."""
        one = main_file(self.seen) if self.seen.name != self.seen.root else None
        return f"{self.seen.top}/{one.path}" if one is not None else self.seen.path


@dataclass(frozen=True, slots=True)
class BaseStep:
    """A base that is only referenced and may be copied in; `most_bytes` that this may add to the store."""

    name: str
    record: str
    forms: frozenset[tuple[str, tuple[int, ...]]]
    most_bytes: int


@dataclass(frozen=True, slots=True)
class CleanupPlan:
    """What a cleanup will do.

    Attributes:
        tops: the directories that are cleaned.
        keep: what stays in the tree.
        hold_seconds: how long files are held before they may be deleted.
        bases: bases that the steps may need and that are then copied in first.
        steps: what is only taken in first, then what is cleaned.
        needed_bytes: the most space that the store's file system must have.
        needed_at_once: the same with a hold of 0.
        freed_bytes: what the file system gives back at the end.
        refused: what stays although it was asked for.
        outside: whether bases may stay outside of the store.
        staying: files that were found to be redundant and stay.
    """

    tops: tuple[str, ...]
    keep: KeepWeights
    hold_seconds: int
    bases: tuple[BaseStep, ...]
    steps: tuple[Step, ...]
    needed_bytes: int
    needed_at_once: int
    freed_bytes: int
    refused: tuple[Refused, ...]
    outside: bool
    staying: tuple[Staying, ...] = ()


def plan_cleanup(
    findings: Findings,
    *,
    keep: KeepWeights,
    hold_seconds: int,
    name: str,
    outside: bool,
    bases: Sequence[BaseStep],
    known: Callable[[CheckpointSeen], tuple[tuple[str, str], ...]],
    most_needed: Callable[[CheckpointSeen], int],
    devices: Mapping[str, int],
    same_device: bool,
    only: frozenset[str] | None = None,
    stands: Callable[[str], bool] = lambda ref: False,
) -> CleanupPlan:
    """Plan a cleanup.

    Args:
        findings: what a scan found.
        keep: what is to stay in the tree.
        hold_seconds: how long files are to be held.
        name: names of the checkpoints: `{name}` stands for the path below the directory, `{dir}` for its base name.
        outside: whether bases may stay outside of the store.
        bases: the store's bases that are only referenced.
        known: names in the store that may be a checkpoint already.
        most_needed: the most that taking a checkpoint in may add.
        devices: device of each directory that was scanned: files on others cannot be moved into the hold.
        same_device: whether store and directories share a file system, so that what is freed can be written again.
        only: absolute paths of the checkpoints from which files may go, as a scan shows them; None for all.
        stands: whether the store has, or ever had, a name: what is taken in gets another.
    """
    seen = findings.survey.checkpoints
    going, refused = _going(findings, keep, devices, only)
    order = sorted(going, key=lambda index: (seen[index].stage or 0, natural(seen[index].shown)))
    supports = _supports(seen, order, findings)
    names: set[str] = set()
    steps = []
    for index in (*supports, *order):
        each = seen[index]
        same = known(each)
        ref = _ref(each, name, lambda ref: ref in names or stands(ref))
        origin = findings.origins.get(index)
        names.add(ref)
        steps.append(
            Step(
                seen=each,
                ref=ref,
                going=tuple(going.get(index, ())),
                most_bytes=STEP_BYTES if same else most_needed(each),
                known=same,
                resumes=(resumes(each), _resumes_still(each, going.get(index, ()))),
                note=_resumes_by(each, going.get(index, ())),
                base=(origin.name, origin.record) if origin is not None else None,
            )
        )
    wanted = {(tensor.dtype, tensor.shape) for step in steps for tensor in model_of(step.seen) if len(tensor.shape) > 1}
    needed_bases = tuple(base for base in bases if not outside and not base.forms.isdisjoint(wanted))
    base_bytes = sum(base.most_bytes for base in needed_bases)
    at_once = _needed_at_once(steps) if same_device else sum(step.most_bytes for step in steps)
    needed = sum(step.most_bytes for step in steps)
    return CleanupPlan(
        tops=findings.survey.tops,
        keep=keep,
        hold_seconds=hold_seconds,
        bases=needed_bases if order else (),
        steps=tuple(steps),
        needed_bytes=(base_bytes + needed) if order else 0,
        needed_at_once=(base_bytes + at_once) if order else 0,
        freed_bytes=freed(steps),
        refused=tuple(refused),
        outside=outside,
        staying=tuple(_staying(findings, keep, going, {each.path for each in refused}, only)),
    )


def freed(steps: Sequence[Step]) -> int:
    """What the file system gives back for all that goes in `steps`."""
    return freed_by(
        (f"{step.seen.top}/{each.file.path}", each.file, each.shared) for step in steps for each in step.going
    )


def _needed_at_once(steps: Sequence[Step]) -> int:
    """The most that is taken at any time where each step gives its files back before the next begins."""
    taken = most = 0
    for step in steps:
        taken += step.most_bytes
        most = max(most, taken)
        taken -= freed([step])
    return most


def _going(
    findings: Findings, keep: KeepWeights, devices: Mapping[str, int], only: frozenset[str] | None
) -> tuple[dict[int, list[Wanted]], list[Refused]]:
    """What goes, by index of its checkpoint, and what cannot go although it should."""
    seen = findings.survey.checkpoints
    wanted = findings.wanted(keep)
    refused: list[Refused] = []
    for index in list(wanted):
        each = seen[index]
        if only is not None and each.shown not in only:
            del wanted[index]  # Before links are counted: a name that stays keeps its file.
        elif (obstacle := findings.obstacle(index, wanted[index])) is not None:
            refused.append(Refused(each.shown, obstacle))
            del wanted[index]
    _drop_linked(seen, wanted)
    going: dict[int, list[Wanted]] = {}
    for index, files in wanted.items():
        top = seen[index].top
        for item in sorted(files.values(), key=lambda item: natural(item.file.path)):
            path = f"{top}/{item.file.path}"
            if item.file.device != devices[top]:
                refused.append(Refused(path, "it lies on another file system than the directory that holds it"))
            else:
                going.setdefault(index, []).append(item)
    return going, refused


def _staying(
    findings: Findings,
    keep: KeepWeights,
    going: Mapping[int, Sequence[Wanted]],
    refused: set[str],
    only: frozenset[str] | None,
) -> Iterator[Staying]:
    """What was found to be redundant and stays, and what cannot be judged, each with the reason."""
    seen = findings.survey.checkpoints
    gone = {f"{seen[index].top}/{item.file.path}" for index, items in going.items() for item in items}
    names: dict[tuple[int, int], list[str]] = {}
    for path, file in findings.survey.files.items():
        if file.links > 1:
            names.setdefault(file.node, []).append(path)
    for row in findings.rows:
        if row.path in gone or row.path in refused:
            continue
        reason = row.reason
        if goes_under(row.goes, keep):
            shown = seen[row.checkpoint].shown if row.checkpoint is not None else ""
            if shown in refused:
                continue
            if only is not None and shown not in only:
                reason = "its checkpoint was not picked"
            else:
                others = [path for path in names.get(row.file.node, ()) if path != row.path and path not in gone]
                other = sorted(others, key=natural)[0] if others else "a name outside of these directories"
                reason = f"a hard link to {other}, which stays: taking it would free nothing"
        elif row.goes is not None:
            reason = f"--keep-weights {keep} keeps it; goes with {row.goes}: {row.reason}"
        yield Staying(row.path, row.bytes, reason)
    for each in seen:
        if each.problem is not None and each.shown not in refused:
            yield Staying(each.shown, sum(file.size for file in each.files), f"it cannot be read: {each.problem}")
        for file in full_weights(each):
            path = f"{each.top}/{file.path}"
            if path in findings.protected:
                yield Staying(path, file.size, "a base of the store is read from here: what is bound to it needs it")


def _drop_linked(seen: Sequence[CheckpointSeen], wanted: Mapping[int, dict[str, Wanted]]) -> None:
    """Leave names of files that keep another name: taking them frees nothing."""
    names: dict[tuple[int, int], int] = {}
    for files in wanted.values():
        for item in files.values():
            names[item.file.node] = names.get(item.file.node, 0) + 1
    for files in wanted.values():
        for path, item in list(files.items()):
            if names[item.file.node] < item.file.links:
                del files[path]


def _supports(seen: Sequence[CheckpointSeen], order: Sequence[int], findings: Findings) -> list[int]:
    """What is taken in first, so that the others take less: the models they share with, adapters that lie beside."""
    first = {findings.relatives[index] for index in order if index in findings.relatives}
    adapters: set[int] = set()
    beside: dict[str, list[int]] = {}
    for index, each in enumerate(seen):
        if each.adapters and not model_of(each):
            beside.setdefault(os.path.dirname(each.path), []).append(index)
    for index in order:
        if not seen[index].adapters:
            names = {tensor.name for tensor in model_of(seen[index])}
            for other in beside.get(os.path.dirname(seen[index].path), ()):
                factors = [tensor.name for tensor in seen[other].tensors if tensor.role == "adapter"]
                if factors and all(touched(name, names) is not None for name in factors):
                    adapters.add(other)
    return [index for index in (*sorted(first), *sorted(adapters - first)) if index not in set(order)]


def _ref(seen: CheckpointSeen, name: str, is_taken: Callable[[str], bool]) -> str:
    """The name of a checkpoint, the first that is not taken."""
    stated = name.replace("{dir}", os.path.basename(seen.top) or "root").replace("{name}", seen.name)
    plain = "/".join(part for part in _NOT_IN_NAMES.sub("-", stated).split("/") if part not in ("", ".", ".."))
    ref, number = plain or "checkpoint", 1
    while is_taken(ref):
        number += 1
        ref = f"{plain}.{number}"
    return ref


def _resumes_still(seen: CheckpointSeen, going: Sequence[Wanted]) -> bool:
    """Whether a Trainer resumes from a directory when `going` is gone: weights or adapters stay, and the state."""
    if not resumes(seen):
        return False
    gone = {item.file.path for item in going}
    lost = [path for path in gone if TRAINING_STATE.fullmatch(os.path.basename(path))]
    whole = [file for file in full_weights(seen) if file.path not in gone]
    adapters = {tensor.path for tensor in seen.tensors if tensor.role == "adapter"} - gone
    return not lost and bool(whole or adapters)


def _resumes_by(seen: CheckpointSeen, going: Sequence[Wanted]) -> str | None:
    """What to say where only adapters stay, and lie deeper than transformers' Trainer looks: the directory and below.

    Source: `Trainer._load_from_checkpoint` of transformers 5.
    """
    gone = {item.file.path for item in going}
    if not _resumes_still(seen, going) or any(file.path not in gone for file in full_weights(seen)):
        return None
    prefix = f"{seen.root}/" if seen.root else ""
    adapters = {tensor.path for tensor in seen.tensors if tensor.role == "adapter"} - gone
    left = [path.removeprefix(prefix) for path in adapters]
    if any(path.count("/") <= 1 for path in left):
        return None
    return "resumes by the code that wrote it; transformers' Trainer looks for adapters at most one directory down"
