"""Refs: every generation's seal, place and number, gaps, and names that a file system may fold into one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ckptfmt.digest import is_digest
from ckptfmt.errors import CkptfmtError, InvalidInput, NotFound
from ckptfmt.format.refs import Generation, check_name, directory_of, name_of
from ckptfmt.fsck.problem import REPAIR, Problem
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.refs import Refs
from ckptfmt.wording import few

ACKNOWLEDGED: Final = "fsck"
"""The verb of a generation that says what was found out below it. What lies below is history that was told."""

_PREFIX: Final = "refs/"
_FILE: Final = re.compile(r"([1-9][0-9]{0,17})\.json")
_TARGET: Final = re.compile(rb'"target":"([0-9a-f]{64})"')
_MAX_BYTES: Final = 256 << 20


@dataclass(slots=True)
class RefState:
    """What is known of one ref.

    Attributes:
        name: the ref.
        sound: its generations by number.
        damaged: the numbers of those that cannot be read, and why.
    """

    name: str
    sound: dict[int, Generation] = field(default_factory=dict)
    damaged: dict[int, CkptfmtError] = field(default_factory=dict)

    @property
    def top(self) -> int:
        """The highest number there is."""
        return max((*self.sound, *self.damaged))

    @property
    def newest(self) -> Generation | None:
        """The newest generation; None where that cannot be read."""
        return self.sound.get(self.top)

    @property
    def told(self) -> int:
        """The newest number that acknowledges what lies below it; 0 where none does."""
        return max((number for number, item in self.sound.items() if item.verb == ACKNOWLEDGED), default=0)


def generation_key(name: str, number: int) -> str:
    """The storage key of a generation."""
    return f"{_PREFIX}{directory_of(name)}/{number}.json"


def look_at_refs(storage: Storage, refs: Refs) -> tuple[dict[str, RefState], list[Problem]]:
    """Read every generation of every ref."""
    problems: list[Problem] = []
    states: dict[str, RefState] = {}
    for listed in storage.list(_PREFIX):
        directory, _, file = listed.key[len(_PREFIX) :].rpartition("/")
        name, number = name_of(directory), _FILE.fullmatch(file)
        if number is None or not _is_name(name) or directory_of(name) != directory:
            problems.append(Problem("stray", listed.key, "no generation of a ref"))
            continue
        state = states.setdefault(name, RefState(name))
        try:
            state.sound[int(number[1])] = refs.read(name, int(number[1]))
        except NotFound:
            continue
        except CkptfmtError as error:
            state.damaged[int(number[1])] = error
    states = {name: state for name, state in states.items() if state.sound or state.damaged}
    for name in sorted(states):
        problems += _problems_of(states[name])
    return states, problems + _folding(states)


def _problems_of(state: RefState) -> list[Problem]:
    problems = []
    for number, error in sorted(state.damaged.items()):
        key = generation_key(state.name, number)
        if number < state.told:
            problems.append(Problem("history", key, f"it was damaged, and generation {state.told} says so"))
            continue
        newest = number == state.top
        what = f"{error.message}; " + (
            f"what {state.name!r} stands for cannot be read" if newest else f"{state.name}@{number} cannot be read"
        )
        harms = (state.name,) if newest else ()
        problems.append(Problem("generation-damaged", key, what, harms, _way_out(state, number)))
    there = {*state.sound, *state.damaged}
    gone = [number for number in range(1, state.top) if number not in there]
    open_gaps = [number for number in gone if number > state.told]
    key = generation_key(state.name, state.top).rpartition("/")[0]
    if open_gaps:
        what = f"{_numbers(open_gaps)} of {state.name!r} gone; what it named is kept by no name"
        problems.append(Problem("generation-gone", key, what, (), REPAIR))
    elif gone:
        problems.append(Problem("history", key, f"{_numbers(gone)} gone, and generation {state.told} says so"))
    return problems


def _way_out(state: RefState, number: int) -> str | None:
    """What a user can do where a generation cannot be read: no older one is taken in its place by itself."""
    if number != state.top:
        return REPAIR
    before = max((each for each, item in state.sound.items() if item.target is not None), default=None)
    older = f"; {state.name}@{before} is the one before, and can be restored as such" if before else ""
    return f"{REPAIR}{older}; or put the file back from a copy of the store"


def _numbers(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"generation {numbers[0]} is"
    return f"generations {few([str(number) for number in numbers], 5)} are"


def _folding(names: Iterable[str]) -> list[Problem]:
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    return [
        Problem(
            "names-fold",
            f"{_PREFIX}{directory_of(same[0])}",
            f"{' and '.join(map(repr, sorted(same)))} would be one name on a file system that folds case",
            hint=f"ckptfmt rename {sorted(same)[0]} ANOTHER",
        )
        for same in folded.values()
        if len(same) > 1
    ]


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except InvalidInput:
        return False
    return True


def target_left(storage: Storage, name: str, number: int) -> str | None:
    """The target that a damaged generation still tells, as far as its bytes can be believed: not at all."""
    try:
        data = storage.read(generation_key(name, number), 0, _MAX_BYTES)
    except CkptfmtError:
        return None
    found = _TARGET.search(data)
    target = found[1].decode() if found else ""
    return target if is_digest(target) else None
