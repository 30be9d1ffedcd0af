"""What a conversion is given, and what it tells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from ckptfmt.convert.checkpoint import Checkpoint
from ckptfmt.errors import BaseMismatch, IntegrityError, InvalidInput
from ckptfmt.format.manifest import Binding

_SHORTEST_ROOT = 16


@dataclass(frozen=True, slots=True)
class Ground:
    """A base to convert against: how it is known to be the right one, and the evidence for that."""

    checkpoint: Checkpoint
    name: str
    record: str
    root: str
    binding: Binding
    evidence: str


@dataclass(frozen=True, slots=True)
class Converted:
    """A conversion that was done.

    Attributes:
        out: absolute path of what was written.
        format: hf, peft or universal.
        exact: nothing was lost: of a factorization, merging it back gives the same bits.
        files: names of what was written, relative to `out`.
        key_map: the key map that was needed.
        rank: the largest rank of a factorization.
        elements_differing: elements of the model that merging back gives other bits.
        max_relative_error: the largest Frobenius error of a tensor that was merged back, over that of its update.
        saved_whole: modules that a factorization keeps whole.
        base: name of the base.
        base_root: its model root.
        binding: how the base is known to be the right one; none for one that nobody vouched for.
        notes: sentences that a user should know.
    """

    out: str
    format: Literal["hf", "peft", "universal"]
    exact: bool
    files: tuple[str, ...]
    key_map: str | None = None
    rank: int | None = None
    elements_differing: int | None = None
    max_relative_error: float | None = None
    saved_whole: tuple[str, ...] = ()
    base: str | None = None
    base_root: str | None = None
    binding: Binding | None = None
    notes: tuple[str, ...] = ()


def files_in(directory: str) -> tuple[str, ...]:
    """Every file below a directory, relative to it."""
    return tuple(
        sorted(
            os.path.relpath(os.path.join(place, name), directory)
            for place, _, names in os.walk(directory)
            for name in names
        )
    )


def stated_ground(checkpoint: Checkpoint, expected: str | None, *, unverified: bool) -> Ground:
    """A base that lies in a directory, held against the root that somebody expects of it.

    Args:
        checkpoint: the base.
        expected: its root, or at least 16 digits of it.
        unverified: take it for what it is where no root is expected.

    Raises:
        BaseMismatch: it has another root.
        InvalidInput: it has no model, or neither is given, or both.
    """
    root = checkpoint.manifest.root
    if root is None:
        raise InvalidInput(f"{checkpoint.name} holds no model weights that could be a base")
    if expected is not None and unverified:
        raise InvalidInput("--expect-root and --unverified-base contradict each other: give one")
    if expected is None and not unverified:
        raise IntegrityError(
            f"{checkpoint.name}: nothing says that this is the base the model was made from (its root is {root})",
            code="no-binding",
            hint=f"--expect-root {root[:_SHORTEST_ROOT]} if that is the root you know, else --unverified-base",
        )
    evidence = "--unverified-base: nobody said what its root should be"
    if expected is not None:
        if len(expected) < _SHORTEST_ROOT:
            raise InvalidInput(f"--expect-root {expected}: give at least {_SHORTEST_ROOT} digits of the root")
        if not root.startswith(expected.lower()):
            raise BaseMismatch(
                f"{checkpoint.name} is not the base that is expected: its root is {root}, not {expected}",
                tensors=(),
                hint="ckptfmt base ls  (the roots of the bases that a store knows)",
            )
        evidence = "--expect-root"
    return Ground(
        checkpoint, checkpoint.name, checkpoint.digest, root, "stated" if expected is not None else "none", evidence
    )
