"""What is redundant among what a scan saw: rules over frozen data, which ask for evidence and read nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ckptfmt.layouts.listing import natural, split
from ckptfmt.layouts.trainer import CHECKPOINT
from ckptfmt.reclaim.claims import KnownBase
from ckptfmt.reclaim.evidence import Evidence
from ckptfmt.reclaim.finding import TRAINING_STATE, WEIGHTS
from ckptfmt.reclaim.found import CheckpointSeen, FileSeen, Survey, TensorSeen
from ckptfmt.reclaim.models import full_weights, main_file, model_of, resumes
from ckptfmt.reclaim.redundant_weights import claim_weights
from ckptfmt.reclaim.rows import KeepWeights, Row, freed_by, goes_under

STATE_FILE: Final = re.compile(r"(?:optimizer|scheduler|scaler|rng_state|random_states)[-\w.]*\.(?:pt|pth|bin|pkl)")
"""Files of a training's state beside the weights."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that a cleanup wants to take, and why. `shared` as in `Row`."""

    file: FileSeen
    reason: str
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What a scan found.

    Attributes:
        survey: all that was seen.
        rows: the redundant files, by path.
        relatives: for a checkpoint with redundant weights, by index, the one that it would be stored against.
        bases: checkpoints, by index, that always stay.
        protected: absolute paths of the files of bases that a store refers to: these always stay.
        origins: for a checkpoint with redundant weights, by index, the base of a store that it was made from.
        locked: absolute paths of directories in which nothing can be changed.
    """

    survey: Survey
    rows: tuple[Row, ...]
    relatives: dict[int, int]
    bases: frozenset[int]
    protected: frozenset[str] = frozenset()
    origins: Mapping[int, KnownBase] = field(default_factory=dict)
    locked: frozenset[str] = frozenset()

    def reclaimable(self, keep: KeepWeights) -> int:
        """Bytes that the file system gives back when a cleanup keeps `keep`."""
        return freed_by(
            (f"{self.survey.checkpoints[index].top}/{path}", each.file, each.shared)
            for index, files in self.wanted(keep).items()
            if self.obstacle(index, files) is None
            for path, each in files.items()
        )

    def wanted(self, keep: KeepWeights) -> dict[int, dict[str, Wanted]]:
        """The files that a cleanup wants to take, by index of their checkpoint and path."""
        wanted: dict[int, dict[str, Wanted]] = {}
        for row in self.rows:
            if row.checkpoint is not None and goes_under(row.goes, keep):
                wanted.setdefault(row.checkpoint, {})[row.file.path] = Wanted(row.file, row.reason, row.shared)
        if keep == "none":
            for index, each in enumerate(self.survey.checkpoints):
                for file in _all_weights(each) if index not in self.bases else ():
                    if f"{each.top}/{file.path}" not in self.protected:
                        own = wanted.setdefault(index, {})
                        own.setdefault(file.path, Wanted(file, "--keep-weights none"))
        return wanted

    def obstacle(self, index: int, paths: Iterable[str]) -> str | None:
        """Why nothing of a checkpoint can go, of which `paths` are wanted; None where nothing stands in the way."""
        each = self.survey.checkpoints[index]
        if each.problem is not None:
            return f"it cannot be read: {each.problem}"
        homes = {each.top, *(os.path.dirname(f"{each.top}/{path}") for path in paths)}
        if locked := sorted(homes & self.locked):
            return f"nothing can be moved: {locked[0]} cannot be written to"
        return None


def _all_weights(seen: CheckpointSeen) -> list[FileSeen]:
    """Files with tensors, the index of shards, and training state: no data set that lies beside them."""
    holding = {tensor.path for tensor in seen.tensors} | {file.path for file in full_weights(seen)}
    return [
        file
        for file in seen.files
        if file.path in holding or (holding and STATE_FILE.fullmatch(os.path.basename(file.path)))
    ]


def find_redundant(survey: Survey, evidence: Evidence, known: Sequence[KnownBase] = ()) -> Findings:
    """Find what is redundant.

    Args:
        survey: what was seen.
        evidence: compares contents.
        known: bases of a store.
    """
    claims = claim_weights(survey.checkpoints, evidence, known)
    rows = [*claims.rows, *_partial(survey)]
    rows += _old_optimizers(survey.checkpoints)
    rows += _shared_inside(survey.checkpoints, evidence, {row.path for row in rows})
    protected = frozenset(path for base in known for path in base.files)
    rows = [row for row in rows if row.path not in protected]
    rows = [_with_links(row, survey, rows) for row in rows]
    rows += _hard_links(survey, {row.path for row in rows})
    rows = [_with_shared(row, evidence) for row in rows]
    rows.sort(key=lambda row: natural(row.path))
    homes = {each.top for each in survey.checkpoints}
    homes |= {os.path.dirname(f"{each.top}/{file.path}") for each in survey.checkpoints for file in each.files}
    return Findings(
        survey=survey,
        rows=tuple(rows),
        relatives=claims.relatives,
        bases=frozenset(claims.bases),
        protected=protected,
        origins=claims.origins,
        locked=frozenset(home for home in homes if not evidence.can_change(home)),
    )


def _partial(survey: Survey) -> list[Row]:
    return [
        Row(path, survey.files[path], survey.files[path].size, "partial-save", reason, "names", None)
        for path, reason in survey.partial.items()
    ]


def _old_optimizers(seen: Sequence[CheckpointSeen]) -> list[Row]:
    """Training state of all steps of a run but the newest: a training resumes from that."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for index, each in enumerate(seen):
        match = CHECKPOINT.fullmatch(os.path.basename(each.path))
        if match and resumes(each):
            runs.setdefault(os.path.dirname(each.path), []).append((int(match[1]), index))
    rows = []
    for steps in runs.values():
        newest = max(steps)[0]
        for _, index in [step for step in steps if step[0] != newest]:
            each = seen[index]
            reason = f"training state of a step before checkpoint-{newest}, the newest of its run"
            rows += [
                Row(f"{each.top}/{f.path}", f, f.size, "old-optimizer", reason, "names", "none", checkpoint=index)
                for f in each.files
                if STATE_FILE.fullmatch(split(f.path)[1]) and split(f.path)[0] == each.root
            ]
    return rows


def _shared_inside(seen: Sequence[CheckpointSeen], evidence: Evidence, claimed: set[str]) -> list[Row]:
    """Weights inside checkpoints of one file that another checkpoint holds too: frozen ones, mostly those of a base."""
    models = [(index, each) for index, each in enumerate(seen) if model_of(each)]
    holders: dict[tuple[str, str, tuple[int, ...]], int] = {}
    for _, each in models:
        for form in {tensor.form for tensor in model_of(each)}:
            holders[form] = holders.get(form, 0) + 1
    first: dict[tuple[object, str], str] = {}
    rows = []
    # Full models first: a file that shares with one of them is what is told.
    for index, each in sorted(models, key=lambda item: (main_file(item[1]) is not None, item[0])):
        file = main_file(each)
        if file is None and not full_weights(each):
            continue
        shared: dict[tuple[str, int], TensorSeen] = {}
        others: dict[str, int] = {}
        for tensor in model_of(each):
            if holders[tensor.form] < 2 or not tensor.plain:
                continue
            found = evidence.tensor(each.top, tensor)
            if found is None:
                continue
            other = first.setdefault((tensor.form, found), each.shown)
            if other != each.shown and (tensor.path, tensor.offset) not in shared:
                shared[tensor.path, tensor.offset] = tensor
                others[other] = others.get(other, 0) + tensor.length
        path = f"{each.top}/{file.path}" if file is not None else ""
        if file is not None and shared and path not in claimed:
            size = sum(tensor.length for tensor in shared.values())
            most = max(others, key=lambda name: (others[name], name))
            reason = (
                f"{len(shared)} frozen tensors inside the file are those of {most}: they cannot be taken out of it, "
                "and take no room in a store"
            )
            rows.append(Row(path, file, size, "shared-tensors", reason, "samples", None, checkpoint=index))
    return rows


def _with_links(row: Row, survey: Survey, rows: Sequence[Row]) -> Row:
    """A row of a file with several names: it frees nothing unless all of them go."""
    if row.goes is None or row.file.links == 1:
        return row
    names = {path for path, file in survey.files.items() if file.node == row.file.node}
    going = {each.path for each in rows if each.path in names and each.goes is not None}
    if len(going) == row.file.links:
        return row
    other = sorted(names - {row.path})
    where = f"{other[0]}" if other else "elsewhere"
    return replace(
        row,
        goes=None,
        kind="hard-link",
        proof="links",
        reason=f"{row.reason}; a hard link ({where}) that frees nothing",
    )


def _hard_links(survey: Survey, told: set[str]) -> list[Row]:
    """Second names of weight files that no other row tells of."""
    places = {f"{each.top}/{file.path}": index for index, each in enumerate(survey.checkpoints) for file in each.files}
    groups: dict[tuple[int, int], list[str]] = {}
    for path, file in survey.files.items():
        name = split(path)[1]
        if file.links > 1 and WEIGHTS.fullmatch(name) and not TRAINING_STATE.fullmatch(name):
            groups.setdefault(file.node, []).append(path)
    rows = []
    for names in groups.values():
        first, *others = sorted(names, key=natural)
        for path in others:
            if path not in told:
                file, reason = survey.files[path], f"a hard link to {first}: it frees nothing"
                rows.append(Row(path, file, file.size, "hard-link", reason, "links", None, checkpoint=places.get(path)))
    return rows


def _with_shared(row: Row, evidence: Evidence) -> Row:
    """A row of a file that shares extents with others: these stay."""
    if row.goes is None or not (shared := evidence.shared_bytes(row.path, row.file)):
        return row
    return replace(row, shared=shared, reason=f"{row.reason}; {shared} of its bytes are reflinks, which free nothing")
