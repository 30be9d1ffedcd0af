"""What loading a checkpoint into a model did, told so that nobody has to guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptfmt.wording import few


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded, and what was not. Names are those of the model's `state_dict()`, but where it is said.

    Attributes:
        loaded: tensors that have the checkpoint's values now.
        remapped: those that the checkpoint calls otherwise, by its name for them.
        merged: main weights into which LoRA of the checkpoint was merged.
        cast: loaded tensors whose dtype differs, as `from -> to`.
        tied: tensors that were loaded because they share their storage with another, by that one's name.
        fresh: tensors left as they are: new adapters, computed buffers, all that an adapter alone does not bring.
        mismatched: tensors left as they are because the checkpoint's have another shape (only unless `strict`).
        missing: parameters that the checkpoint lacks (only unless `strict`).
        unexpected: tensors of the checkpoint that the model has no place for, by the checkpoint's names.
        optimizer: what became of the optimizer's state; None where none was asked for.
        notes: sentences that a user should know.
    """

    loaded: tuple[str, ...] = ()
    remapped: Mapping[str, str] = field(default_factory=dict)
    merged: tuple[str, ...] = ()
    cast: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    optimizer: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The report for people, a line a fact, with a few names each."""
        lines = [f"{len(self.loaded)} tensors loaded"]
        renamed = [f"{old} -> {new}" for old, new in self.remapped.items()]
        casts = [f"{name}: {how}" for name, how in self.cast.items()]
        ties = [f"{name} with {other}" for name, other in self.tied.items()]
        for count, what, names in (
            (len(renamed), "remapped", renamed),
            (len(self.merged), "with LoRA merged in", self.merged),
            (len(casts), "cast", casts),
            (len(ties), "tied", ties),
            (len(self.fresh), "left fresh", self.fresh),
            (len(self.mismatched), "of another shape, not loaded", self.mismatched),
            (len(self.missing), "missing in the checkpoint", self.missing),
            (len(self.unexpected), "unexpected in the checkpoint", self.unexpected),
        ):
            if count:
                lines.append(f"  {count} {what}: {few(names)}")
        if self.optimizer is not None:
            lines.append(f"  optimizer: {self.optimizer}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
