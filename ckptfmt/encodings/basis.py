"""What an object is coded against, for one frame."""

from __future__ import annotations

from dataclasses import dataclass

from ckptfmt.digest import Buffer


@dataclass(frozen=True, slots=True)
class Basis:
    """What both sides know of a frame before they see it: a pure function of other objects' bytes.

    Attributes:
        words: as many bytes as the frame decodes to, of the elements that stand in the same places.
        classes: one byte an element (`lowrank` only): where a prediction is likely to fail, and to which side.
    """

    words: Buffer
    classes: Buffer | None = None
