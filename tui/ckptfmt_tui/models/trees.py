"""What a scan found, as a tree: directories of runs, their checkpoints, and what is redundant in these. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ckptfmt.api.results_reclaim import RedundantFile, ScannedCheckpoint, ScanReport
from ckptfmt.wording import count
from ckptfmt_tui.models.filters import fits, words_of

KeepWeights = Literal["full", "adapter", "none"]
KEEPS: Final[tuple[KeepWeights, ...]] = get_args(KeepWeights)
PROOFS: Final = {
    "names": "known by their names",
    "headers": "known by the headers of weight files",
    "samples": "known by samples of tensors",
    "identical": "all bytes are identical",
    "links": "known by its inode",
}
_KEEP_WORDS: Final = {
    "full": "goes in any case: an exact copy stays",
    "adapter": "goes unless full weights are to stay: the store rebuilds it",
    "none": "goes only with --keep-weights none: a Trainer resumes from it",
    None: "is only told: no cleanup takes it",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A run's directory, a checkpoint or a redundant file.

    Attributes:
        kind: which of the three.
        path: absolute; of a checkpoint as the scan shows it.
        name: what is shown.
        bytes: all bytes of it.
        children: of a run its checkpoints, of a checkpoint its redundant files.
        file: of a redundant file what the scan says.
        seen: of a checkpoint what the scan says.
    """

    kind: Literal["run", "checkpoint", "file"]
    path: str
    name: str
    bytes: int
    children: tuple[Node, ...] = ()
    file: RedundantFile | None = None
    seen: ScannedCheckpoint | None = None

    def going(self, keep: KeepWeights) -> int:
        """Redundant bytes that a cleanup that keeps `keep` takes."""
        if self.file is not None:
            return self.file.bytes if goes(self.file, keep) else 0
        return sum(child.going(keep) for child in self.children)

    def checkpoints(self) -> tuple[str, ...]:
        """Paths of the checkpoints at or below it."""
        if self.kind == "checkpoint":
            return (self.path,)
        return tuple(path for child in self.children for path in child.checkpoints())


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the tree: `depth` from 0, `owner` the path of its checkpoint, `open` None where it has no children."""

    depth: int
    node: Node
    owner: str
    open: bool | None


def goes(file: RedundantFile, keep: KeepWeights) -> bool:
    """Whether a cleanup that keeps `keep` takes a file."""
    return file.goes_with is not None and KEEPS.index(file.goes_with) <= KEEPS.index(keep)


def tree(report: ScanReport, directories: Sequence[str] = ()) -> tuple[Node, ...]:
    """Runs with their checkpoints, those that free most first; files of no checkpoint stand in runs of their own."""
    files: dict[str | None, list[RedundantFile]] = {}
    for each in report.redundant:
        files.setdefault(each.checkpoint, []).append(each)
    runs: dict[str, list[Node]] = {}
    for seen in report.checkpoints:
        runs.setdefault(os.path.dirname(seen.path), []).append(_checkpoint(seen, files.get(seen.path, ())))
    for each in files.get(None, ()):
        runs.setdefault(os.path.dirname(each.path), []).append(_file(each))
    made = [
        Node("run", path, below(path, directories), sum(node.bytes for node in nodes), tuple(nodes))
        for path, nodes in runs.items()
    ]
    return tuple(sorted(made, key=lambda node: (-node.going("none"), node.path)))


def _checkpoint(seen: ScannedCheckpoint, files: Iterable[RedundantFile]) -> Node:
    children = tuple(_file(each) for each in files)
    return Node("checkpoint", seen.path, os.path.basename(seen.path), seen.bytes, children, seen=seen)


def _file(each: RedundantFile) -> Node:
    inside = each.checkpoint is not None and each.path.startswith(f"{each.checkpoint}/")
    name = os.path.relpath(each.path, each.checkpoint) if inside else os.path.basename(each.path)
    return Node("file", each.path, name, each.bytes, file=each)


def below(path: str, directories: Sequence[str]) -> str:
    """A path as it is told below one of some directories; one that lies in none of them stays as it is."""
    for top in directories:
        if path == top or path.startswith(f"{top}/"):
            inner = path[len(top) + 1 :]
            return os.path.basename(top) + (f"/{inner}" if inner else "")
    return path


def lines(nodes: Sequence[Node], closed: frozenset[str], words: str = "") -> tuple[Line, ...]:
    """The tree's lines; those below what is closed are left out, and what `words` do not fit."""
    wanted = words_of(words)
    made: list[Line] = []
    for run in nodes:
        inner: list[Line] = []
        for child in run.children:
            owner = child.path if child.kind == "checkpoint" else ""
            files = [Line(2, file, owner, None) for file in child.children if _fits(file, wanted)]
            if not files and not _fits(child, wanted):
                continue
            folded = child.path in closed and not wanted
            inner.append(Line(1, child, owner, not folded if child.children else None))
            inner += [] if folded else files
        if inner or not wanted:
            folded = run.path in closed and not wanted
            made.append(Line(0, run, "", not folded))
            made += [] if folded else inner
    return tuple(made)


def _fits(node: Node, words: Sequence[str]) -> bool:
    return fits(f"{node.path} {node.file.reason if node.file else ''} {node.seen.layout if node.seen else ''}", words)


def why(node: Node) -> str:
    """One line about a node."""
    if node.file is not None:
        return node.file.reason
    if node.seen is not None:
        resumes = ", a Trainer resumes from it" if node.seen.resumes else ""
        return f"cannot be read: {node.seen.problem}" if node.seen.problem else f"{node.seen.layout}{resumes}"
    return count(len(node.checkpoints()), "checkpoint")


def details(node: Node) -> tuple[str, ...]:
    """All there is to say about a node."""
    if node.file is None:
        return (node.path, why(node))
    return (node.path, node.file.reason, f"{PROOFS[node.file.proof]}; {_KEEP_WORDS[node.file.goes_with]}")
