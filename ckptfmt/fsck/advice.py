"""What a person can do about what could not be repaired."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ckptfmt.format.refs import BASES
from ckptfmt.fsck.look import Found
from ckptfmt.fsck.problem import REPAIR, Problem

_ELSEWHERE: Final = f"{REPAIR} --from DIR, with a directory or another store that still has its files"
_SHOWN: Final = 3


def advised(problem: Problem, found: Found) -> Problem:
    """A problem that a repair has left, with what is left to do about it."""
    if problem.level == "note":
        return problem
    if problem.kind == "generation-damaged" and problem.harms:
        return replace(problem, hint=_of_name(problem.harms[0], found))
    if problem.hint and "--repair" not in problem.hint:
        return problem
    if problem.kind == "pin-damaged":
        return problem  # It is repaired when it is a day old, and says so.
    names = [name for name in problem.harms if not name.startswith(BASES)]
    if not problem.harms:
        return replace(problem, hint="nothing that has a name needs it: it is left where it is")
    return replace(problem, hint=_ELSEWHERE + (f"; or: ckptfmt import DIR --name {names[0]}" if names else ""))


def _of_name(name: str, found: Found) -> str:
    """No older generation is taken in the place of one that cannot be read: that is for a person to decide."""
    state = found.states[name]
    sound = max((number for number, item in state.sound.items() if item.target is not None), default=None)
    hint = f"ckptfmt rollback {name}@{sound}" if sound else f"ckptfmt import DIR --name {name}"
    unnamed = [digest[:16] for digest in found.documents.unnamed[:_SHOWN]]
    return hint + (f"; what it named may be one of these manifests: {', '.join(unnamed)}" if unnamed else "")
