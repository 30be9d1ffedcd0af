"""Reading a walked directory: what it means, and its content once every file was read."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from msgspec import structs

from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.digest import FRAME_BYTES
from ckptfmt.errors import CkptfmtError, FormatError, UnsafeFile
from ckptfmt.format.manifest import File, Link
from ckptfmt.layouts import read_checkpoint
from ckptfmt.layouts.protocol import Reading
from ckptfmt.layouts.unknown import UNKNOWN
from ckptfmt.progress import Progress
from ckptfmt.transfer.build import Content, place_tensors, wants_view
from ckptfmt.transfer.sinks import HashSink, Place, Sink
from ckptfmt.transfer.take import fills_extent, take_file
from ckptfmt.transfer.walk import Walked, WalkedTree, reading_errors

LYING_HINT: Final = "download or save it again"
"""What to do about a structurally lying file, for every verb that reads one."""


@dataclass(frozen=True, slots=True)
class ReadCheckpoint:
    """A checkpoint read but not yet taken in."""

    walked: Walked
    reading: Reading
    cuts: dict[str, Cut | Opaque]
    damaged: dict[str, str]

    def head(self, place: Place) -> bytes:
        """The first frame of an extent, as it is in its file now."""
        path, index = place
        cut = self.cuts[path]
        if not isinstance(cut, Cut):
            raise ValueError(f"{path} has no extents")
        span = cut.extents[index]
        [entry] = [entry for entry in self.walked.of_kind("file") if entry.path == path]
        with reading_errors(entry.real), open(entry.real, "rb") as file:
            file.seek(span.offset)
            return file.read(min(span.length, FRAME_BYTES))


def read_walked(
    walked: Walked, name: str, *, damaged_as_opaque: bool = False, lying_hint: str = LYING_HINT
) -> ReadCheckpoint:
    """Find out what a walked directory means.

    Args:
        walked: the directory.
        name: what it is called.
        damaged_as_opaque: keep structurally lying files whole.
        lying_hint: what to do about one, where that is refused.

    Raises:
        FormatError, UnsafeFile: a file of it is structurally lying.
    """
    tree = WalkedTree(walked, name, damaged_as_opaque=damaged_as_opaque)
    notes = []
    try:
        try:
            reading = read_checkpoint(tree)
        except (FormatError, UnsafeFile) as error:
            if not damaged_as_opaque:
                raise
            reading = UNKNOWN.read(tree)
            notes.append(f"kept whole although it is damaged: {error.message.replace(f'{walked.root}/', '')}")
        cuts = {path: tree.cut(path) for path in tree.paths()}
    except CkptfmtError as error:
        error.hint = error.hint or (lying_hint if isinstance(error, FormatError | UnsafeFile) else LYING_HINT)
        raise
    notes += [f"{path}: kept whole although it is damaged: {reason}" for path, reason in tree.damaged.items()]
    outside = [link.path for link in walked.of_kind("link") if link.outside]
    notes += [f"{path}: a link out of the checkpoint; what it names was not taken in" for path in outside]
    return ReadCheckpoint(walked, _with_notes(reading, notes), cuts, dict(tree.damaged))


def _with_notes(reading: Reading, notes: list[str]) -> Reading:
    return replace(reading, notes=(*reading.notes, *notes)) if notes else reading


def take_content(checkpoint: ReadCheckpoint, sink: Sink, pool: Executor, progress: Progress) -> Content:
    """Read every file of a checkpoint once and put what it is made of into `sink`.

    Raises:
        IntegrityError: the directory changed meanwhile.
    """
    walked = checkpoint.walked
    wanted: dict[str, list[int]] = {}
    for tensor in checkpoint.reading.tensors:
        cut = checkpoint.cuts[tensor.path]
        if isinstance(cut, Cut):
            found = cut.tensors[tensor.index]
            if wants_view(found, tensor.role, fills=fills_extent(cut, found)):
                wanted.setdefault(tensor.path, []).append(tensor.index)
    files: list[File] = []
    views: dict[tuple[str, int], str] = {}
    adapters = {tensor.path for tensor in checkpoint.reading.tensors if tensor.role == "adapter"}
    # Adapters first: what they were merged into may be stored against them.
    for entry in sorted(walked.of_kind("file"), key=lambda entry: entry.path not in adapters):
        if adapters and entry.path not in adapters:
            sink.settle()
            adapters = set()
        file, digests = take_file(
            entry, checkpoint.cuts[entry.path], wanted.get(entry.path, []), sink, pool=pool, progress=progress
        )
        files.append(structs.replace(file, damaged=True) if entry.path in checkpoint.damaged else file)
        views.update(((entry.path, index), digest) for index, digest in digests.items())
    order = {entry.path: index for index, entry in enumerate(walked.of_kind("file"))}
    taken = tuple(sorted(files, key=lambda file: order[file.path]))
    return Content(
        files=taken,
        directories=_empty_directories(walked),
        links=tuple(Link(entry.path, entry.target) for entry in walked.of_kind("link")),
        tensors=place_tensors(checkpoint.reading, taken, checkpoint.cuts, views),
    )


def hash_content(checkpoint: ReadCheckpoint, progress: Progress) -> Content:
    """As `take_content`, keeping nothing."""
    with ThreadPoolExecutor(1, "sha256") as pool:
        return take_content(checkpoint, HashSink(), pool, progress)


def _empty_directories(walked: Walked) -> tuple[str, ...]:
    parents = {os.path.dirname(entry.path) for entry in walked.entries}
    return tuple(entry.path for entry in walked.of_kind("directory") if entry.path != "." and entry.path not in parents)
