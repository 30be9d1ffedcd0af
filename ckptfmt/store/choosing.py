"""Which copy of each object stays. Pure: a function of which copies there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ckptfmt.format.shard import MAX_DEPTH


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of an object: its shard, the bytes it takes, and the objects it is stored against."""

    shard: int
    size: int
    needs: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Choice:
    """The copies that stay.

    Attributes:
        shards: the shard of the chosen copy of each object that is needed.
        beyond: objects that are needed and lie outside the store.
        missing: objects that were wanted and cannot be decoded from any copies that are there.
    """

    shards: dict[bytes, int] = field(default_factory=dict)
    beyond: set[bytes] = field(default_factory=set)
    missing: set[bytes] = field(default_factory=set)


class Chooser:
    """Takes copies, then chooses.

    Of each object the smallest copy is preferred; of equal ones that in the shard with the lowest rank. A copy is
    chosen only when all that it is stored against has a chosen copy already, so the chosen ones make no circle, and no
    chain is longer than `MAX_DEPTH`. Where preferred copies wait for each other, the object with the lowest digest
    makes do with another one. Where they lead so far that what is stored against them would be lost, those that lead
    less far are taken instead. What shards hold alone goes before what leads outside the store.

    Args:
        rank: of a shard; lower is better.
    """

    def __init__(self, rank: Callable[[int], object]) -> None:
        self._rank = rank
        self._single: dict[bytes, int] = {}
        self._several: dict[bytes, list[Copy]] = {}

    def add(self, digest: bytes, copies: Collection[Copy]) -> None:
        """Take all copies of one object."""
        (first, *more) = copies
        if not more and not first.needs:
            self._single[digest] = first.shard
        else:
            self._several[digest] = sorted(copies, key=lambda copy: (copy.size, self._rank(copy.shard)))

    def choose(self, wanted: Iterable[bytes], outside: Callable[[bytes], bool]) -> Choice:
        """Choose a copy of each object that is wanted, and of what these are stored against."""
        wanted = frozenset(wanted)
        choice, there = self._choose(self._several, wanted, outside)
        lost: set[bytes] = set()
        while choice.missing - lost:  # What is nearer now may be preferred by others that were near before.
            lost |= choice.missing
            choice, there = self._choose({**self._several, **self._nearer(lost, there)}, wanted, outside)
        return choice

    def _choose(
        self, several: dict[bytes, list[Copy]], wanted: frozenset[bytes], outside: Callable[[bytes], bool]
    ) -> tuple[Choice, set[bytes]]:
        """What is chosen, and what of all that was asked for lies outside."""
        settling = _Settling(several, self._single)
        settling.settle()
        asked = {need for copies in several.values() for copy in copies for need in copy.needs} | wanted
        there = {digest for digest in asked if not settling.has(digest) and outside(digest)}
        if there:
            settling.take_outside(there)
            settling.settle()
        return _needed(wanted, self._single, settling.chosen, there), there

    def _nearer(self, lost: Iterable[bytes], there: set[bytes]) -> dict[bytes, list[Copy]]:
        """The copies of all that the lost objects are stored against, however far; those that lead least far first."""
        leading: set[bytes] = set()
        fresh = set(lost)
        while fresh:
            leading |= fresh
            fresh = {need for each in fresh for copy in self._several.get(each, ()) for need in copy.needs} - leading
        leading &= self._several.keys()
        steps = dict.fromkeys(self._single, 0)
        steps |= {digest: 0 for digest in leading if not all(copy.needs for copy in self._several[digest])}
        for more in (set(), there):
            steps.update((digest, 0) for digest in more if digest not in steps)
            count = 0
            while reached := [
                digest
                for digest in leading
                if digest not in steps
                and any(all(need in steps for need in copy.needs) for copy in self._several[digest])
            ]:
                count += 1
                steps.update((digest, count) for digest in reached)

        def distance(copy: Copy) -> int:
            return max((steps.get(need, len(steps)) + 1 for need in copy.needs), default=0)

        return {digest: sorted(self._several[digest], key=distance) for digest in leading}


class _Settling:
    """Chooses copies of the objects that have several, or whose copy is stored against others."""

    def __init__(self, several: Mapping[bytes, list[Copy]], single: Mapping[bytes, int]) -> None:
        self._several = several
        self._single = single
        self._outside: set[bytes] = set()
        self._waiting: dict[bytes, list[bytes]] = {}
        self._depth: dict[bytes, int] = {}
        self.chosen: dict[bytes, Copy] = {}
        for digest, copies in several.items():
            for need in copies[0].needs:
                self._waiting.setdefault(need, []).append(digest)

    def has(self, digest: bytes) -> bool:
        """Tell whether a copy of an object is chosen."""
        return digest in self._single or digest in self.chosen or digest in self._outside

    def take_outside(self, digests: set[bytes]) -> None:
        """From now on these are there, outside the store: no copy of theirs may be made of what is made of them."""
        self._outside |= digests

    def settle(self) -> None:
        """Choose until nothing more can be chosen."""
        rest = sorted(digest for digest in self._several if digest not in self.chosen and digest not in self._outside)
        self._spread(digest for digest in rest if self._is_ready(digest))
        while True:
            before = len(self.chosen)
            for digest in rest:
                if digest in self.chosen:
                    continue
                copy = next((copy for copy in self._several[digest] if self._depth_of(copy) is not None), None)
                if copy is not None:
                    self._choose(digest, copy)
                    self._spread(self._ready_after(digest))
            if len(self.chosen) == before:
                return
            rest = [digest for digest in rest if digest not in self.chosen]

    def _spread(self, ready: Iterable[bytes]) -> None:
        queue = deque(ready)
        while queue:
            digest = queue.popleft()
            if digest not in self.chosen and self._is_ready(digest):
                self._choose(digest, self._several[digest][0])
                queue.extend(self._ready_after(digest))

    def _ready_after(self, digest: bytes) -> list[bytes]:
        waiting = (each for each in self._waiting.get(digest, ()) if not self.has(each))
        return [each for each in waiting if self._is_ready(each)]

    def _is_ready(self, digest: bytes) -> bool:
        return self._depth_of(self._several[digest][0]) is not None

    def _choose(self, digest: bytes, copy: Copy) -> None:
        self.chosen[digest] = copy
        self._depth[digest] = self._depth_of(copy) or 0

    def _depth_of(self, copy: Copy) -> int | None:
        """How many objects the copy leads through; None where one has no chosen copy, or where they are too many."""
        deepest = -1
        for need in copy.needs:
            if not self.has(need):
                return None
            deepest = max(deepest, self._depth.get(need, 0))
        return deepest + 1 if deepest < MAX_DEPTH else None


def _needed(
    wanted: frozenset[bytes], single: Mapping[bytes, int], chosen: Mapping[bytes, Copy], there: set[bytes]
) -> Choice:
    choice = Choice()
    fresh = set(wanted)
    while fresh:
        further: set[bytes] = set()
        for digest in fresh:
            if digest in single:
                choice.shards[digest] = single[digest]
            elif digest in chosen:
                choice.shards[digest] = chosen[digest].shard
                further.update(chosen[digest].needs)
            elif digest in there:
                choice.beyond.add(digest)
            else:
                choice.missing.add(digest)
        fresh = {each for each in further if each not in choice.shards and each not in choice.beyond}
    return choice
