"""Bugs to plant, one at a time, into a copy of the package: whatever is listed beside one must fail with it.

`old` stands once in `file`. The tests were there before the bug was thought of, or were added because it survived.
"""

from __future__ import annotations

from typing import Final

from tests.planted.bug import Bug
from tests.planted.comparing import COMPARING
from tests.planted.reading import READING
from tests.planted.reclaiming import RECLAIMING
from tests.planted.writing import WRITING

BUGS: Final[tuple[Bug, ...]] = (*WRITING, *READING, *RECLAIMING, *COMPARING)

IN_CI: Final = (
    "a generation's directory is not synced",
    "what stands already is not settled by anyone",
    "a name is replaced, not created",
    "nothing is confirmed",
    "gc believes names that are not durable",
    "frames are not checked",
    "a pickle may end with bytes left",
    "a short write is taken for a whole one",
)
