"""Where truth values are true: what numpy finds slowly where few are true, found by ways that it is quick at."""

from __future__ import annotations

from typing import Final

import numpy as np

from ckptfmt.encodings.words import Words, word_type

_HARDLY_ANY: Final = 100
_SOME: Final = 32
_MANY: Final = 15
"""Parts of all elements."""


def room_for(count: int) -> Words:
    """Room for `count` truth values that `places_of` will be asked for."""
    return np.empty(count + count // 8, np.bool_)


def places_of(room: Words, count: int) -> Words:
    """Where the first `count` truth values of `room_for(count)` are true, ascending: `np.flatnonzero`.

    numpy looks for one after the other where less than a tenth of all is true, which takes twice as long and more until
    it is hardly any. So what a tenth lacks is set behind, or, where that is much, four or eight values at once are
    looked at first, and then those among which one is true.
    """
    chosen = room[:count]
    found = int(np.count_nonzero(chosen))
    lacking = count // 10 - found
    if lacking <= 0 or found < count // _HARDLY_ANY:
        places: Words = np.flatnonzero(chosen)
    elif found > count // _MANY or count % 8:
        end = count + lacking + lacking // 8 + 1
        room[count:end] = True
        places = np.flatnonzero(room[:end])[:found]
    else:
        step = 2 if found > count // _SOME else 3
        parts = chosen.view(word_type(1 << step))
        hits = np.flatnonzero(parts != 0)
        places = np.flatnonzero(parts.take(hits).view(np.bool_))
        # What begins at 2^step * h among the parts that were hit begins at 2^step * hits[h] among all.
        hits -= np.arange(len(hits))
        hits <<= step
        places += hits.take(places >> step)
    return places
