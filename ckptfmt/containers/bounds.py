"""How much of a torch file is read at most. What goes beyond is kept whole, as an opaque file."""

from __future__ import annotations

from typing import Final

MAX_DIRECTORY_BYTES: Final = 256 << 20
"""Central directory of a zip file: about four million entries."""

MAX_PICKLE_BYTES: Final = 256 << 20
MAX_OPCODES: Final = 10_000_000
"""Opcodes of a pickle, about a microsecond each; a tensor takes about 35."""

MAX_CONTAINERS: Final = 4_000_000
"""Lists, tuples, dicts and objects made while a pickle is read, and elements copied from one into another, in units
of about 100 bytes; a tensor takes about 8."""

MAX_MEMO: Final = 4_000_000

MAX_MARKS: Final = 10_000
"""Open MARK opcodes: how deeply the pickle's own stack nests."""

MAX_DEPTH: Final = 100
"""Levels of dicts, lists and objects within each other: readers of the tree may recurse."""

MAX_NODES: Final = 2_000_000
"""Values of the tree, one that is reached by two ways counted twice."""

MAX_TEXT: Final = 64 << 20
"""Characters of the tree's strings, keys and tensor names, counted likewise."""

MAX_INTEGER_BITS: Final = 1024
MAX_NUMBER_CHARACTERS: Final = 400
MAX_NAME_CHARACTERS: Final = 1000
MAX_RANK: Final = 64

MAX_EXPANSION: Final = 16
MAX_EXPANDED_BYTES: Final = 1 << 30
"""A view that shows its record's bytes more than `MAX_EXPANSION` times over (strides of 0) and so takes more than
this many bytes is inert: whoever hashes it in logical order would pay for bytes that nobody stored."""


class NotInterpreted(Exception):  # noqa: N818
    """The file is well-formed as far as it was read, but not one that we interpret: it is kept whole.

    It never leaves this folder: `cut` turns it into `Opaque(reason)`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
