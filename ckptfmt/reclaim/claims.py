"""What the rules about weights claim, and the bases of a store as they know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ckptfmt.reclaim.found import CheckpointSeen, FileSeen
from ckptfmt.reclaim.rows import KeepWeights, Kind, Proof, Row


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base that a store knows: digests of its tensors by name, dtype and shape; directories and files of it."""

    name: str
    record: str
    tensors: Mapping[tuple[str, str, tuple[int, ...]], str]
    places: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()


@dataclass(slots=True)
class Claims:
    """What the rules found.

    Attributes:
        rows: the redundant files.
        claimed: checkpoints, by index, whose full weights are among them.
        relatives: for a claimed checkpoint the one, by index, that it would be stored against; it stays.
        bases: checkpoints, by index, that others were made from or that a store refers to: these always stay.
        origins: for a claimed checkpoint, by index, the base of a store that it was made from.
    """

    rows: list[Row] = field(default_factory=list)
    claimed: set[int] = field(default_factory=set)
    relatives: dict[int, int] = field(default_factory=dict)
    bases: set[int] = field(default_factory=set)
    origins: dict[int, KnownBase] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Why:
    """Why files are claimed: fields as in `Row`."""

    kind: Kind
    reason: str
    proof: Proof
    goes: KeepWeights


def claim(claims: Claims, seen: Sequence[CheckpointSeen], index: int, files: Sequence[FileSeen], why: Why) -> None:
    """Claim files of a checkpoint."""
    claims.rows += [
        Row(f"{seen[index].top}/{f.path}", f, f.size, why.kind, why.reason, why.proof, why.goes, checkpoint=index)
        for f in files
    ]
    claims.claimed.add(index)


def base_at(seen: CheckpointSeen, known: Sequence[KnownBase]) -> KnownBase | None:
    """The base of the store whose files a checkpoint is."""
    return next((base for base in known if seen.path in base.places), None)
