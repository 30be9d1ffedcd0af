"""What an object is coded against, for one frame."""

from __future__ import annotations

from typing import Any, Protocol

from ckptfmt.digest import Buffer


class Late(Protocol):
    """Computes a basis when it is asked for; all that it is made of has been read.

    Attributes:
        length: bytes of the words.
        count: how many classes there are; None where there are none.
    """

    length: int
    count: int | None

    def make(self, *, classes: bool, again: bool) -> tuple[Buffer, Buffer | None]:
        """Words and, if they are wanted or come at no cost, classes.

        Args:
            classes: whether classes are wanted.
            again: whether words have been made before, without classes.
        """
        ...

    def classes_at(self, places: Any) -> Any:
        """The classes of the elements at these ascending places, uint8."""
        ...


class _Given:
    """A basis whose bytes are there."""

    def __init__(self, words: Buffer, classes: Buffer | None) -> None:
        self.length = len(words)
        self.count = None if classes is None else len(classes)
        self._words, self._classes = words, classes

    def make(self, *, classes: bool, again: bool) -> tuple[Buffer, Buffer | None]:
        return self._words, self._classes

    def classes_at(self, places: Any) -> Any:
        return _taken(self._classes or b"", places)


class Basis:
    """What both sides know of a frame before they see it: a pure function of other objects' bytes.

    Classes cost more than words and few frames need them all, so both are made when they are asked for: in the thread
    that read the basis. Whoever needs both asks for the classes first.

    Attributes:
        length: as many bytes as the frame decodes to.
        count: how many classes there are; None where there are none.
    """

    __slots__ = ("_classes", "_late", "_words", "count", "length")

    def __init__(self, words: Buffer | Late, classes: Buffer | None = None) -> None:
        """A basis of these bytes, or of those that will be made."""
        self._late: Late = _Given(words, classes) if isinstance(words, (bytes, bytearray, memoryview)) else words
        self._words: Buffer | None = None
        self._classes: Buffer | None = None
        self.length, self.count = self._late.length, self._late.count

    @property
    def words(self) -> Buffer:
        """The elements that stand in the same places as the frame's."""
        words = self._words
        if words is None:
            words, self._classes = self._late.make(classes=False, again=False)
            self._words = words
        return words

    @property
    def classes(self) -> Buffer | None:
        """One byte an element (`lowrank` only): where a prediction is likely to fail, and to which side."""
        if self._classes is None and self.count is not None:
            self._words, self._classes = self._late.make(classes=True, again=self._words is not None)
        return self._classes

    def classes_at(self, places: Any) -> Any:
        """The classes of a few elements at ascending places, uint8; zeros where there are none."""
        if self.count is None:
            return _taken(b"\0", places * 0)
        if self._classes is not None:
            return _taken(self._classes, places)
        return self._late.classes_at(places)


def _taken(classes: Buffer, places: Any) -> Any:
    import numpy as np  # noqa: PLC0415  (not for what only looks)

    return np.frombuffer(classes, np.uint8).take(places)
