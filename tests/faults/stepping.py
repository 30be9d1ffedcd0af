"""Several actors in one process, each a thread, of which one makes one call at a time, in an order that is chosen.

Between two calls of one actor any number of the others' may happen: what two hosts can do to one another, by a seed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from ckptfmt.errors import CkptfmtError
from ckptfmt.storage import durable
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store.outside import Bases
from tests.faults.seam import Abort

READS = ("read", "size", "list", "directories")


class Policy(Protocol):
    """Says who makes the next call."""

    def choose(self, ready: Sequence[int], step: int) -> int:
        """One of `ready`, which are the numbers of actors that have a call to make."""
        ...


@dataclass
class Randomly:
    """Anyone, at any step."""

    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def choose(self, ready: Sequence[int], step: int) -> int:
        return self._random.choice(ready)


@dataclass
class ByPriority:
    """Probabilistic concurrency testing: the first in a random order that changes at `changes` random steps.

    Finds whatever needs few switches at the right places (Burckhardt et al., ASPLOS 2010).
    """

    seed: int
    actors: int
    steps: int
    changes: int = 3

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        self._order = chance.sample(range(self.actors), self.actors)
        self._at = set(chance.sample(range(self.steps), min(self.changes, self.steps)))

    def choose(self, ready: Sequence[int], step: int) -> int:
        first = next(number for number in self._order if number in ready)
        if step in self._at:
            self._order.remove(first)
            self._order.append(first)
            first = next(number for number in self._order if number in ready)
        return first


@dataclass
class Switching:
    """Goes to the next actor at the given steps, and where one has ended: so all ways to switch are gone through."""

    first: int
    actors: int
    at: frozenset[int]

    def __post_init__(self) -> None:
        self._current = self.first

    def choose(self, ready: Sequence[int], step: int) -> int:
        if step in self.at or self._current not in ready:
            following = ((self._current + more) % self.actors for more in range(1, self.actors + 1))
            self._current = next(number for number in following if number in ready)
        return self._current


@dataclass
class Scripted:
    """Each phase runs one actor until the call it makes next is the one that is waited for; then anyone, in order.

    Args:
        phases: number of an actor, and what ends its phase.
    """

    phases: list[tuple[int, Callable[[str], bool]]]
    actors: Sequence[Running] = ()

    def choose(self, ready: Sequence[int], step: int) -> int:
        while self.phases:
            number, ends = self.phases[0]
            if number in ready and not ends(self.actors[number].pending):
                return number
            self.phases.pop(0)
        return ready[0]


@dataclass
class Running:
    """One actor: what it does, and where it stands: `pending` is the call that it makes next, with its paths."""

    act: Callable[[], object]
    cache: Path
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: bool = False
    waiting: str = ""
    pending: str = ""
    error: BaseException | None = None


class Stepper:
    """Runs actors to their ends, one call at a time. It is the observer of the seam meanwhile.

    Args:
        actors: what each does.
        policy: who is next.
        caches: a directory for each actor's catalog, as if it were another host.
        reads: take turns at reads of the store too, not only at changes.
        also: another observer, that sees the calls in the order in which they are made.
        stepped: called after each change of a name, while nobody runs.
        finished: told the number of an actor that has ended, while nobody runs.
    """

    def __init__(
        self,
        actors: Sequence[Callable[[], object]],
        policy: Policy,
        caches: Path,
        *,
        reads: bool = False,
        also: Any = None,
        stepped: Callable[[], None] = lambda: None,
        finished: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self.actors = [Running(act, caches / str(number)) for number, act in enumerate(actors)]
        self.taken: list[int] = []
        self._policy, self._reads, self._also = policy, reads, also
        if isinstance(policy, Scripted):
            policy.actors = self.actors
        self._stepped, self._finished = stepped, finished
        self._back = threading.Semaphore(0)
        self._here = threading.local()
        self._stopped = False

    def _actor(self) -> Running | None:
        return getattr(self._here, "actor", None)

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        actor = self._actor()
        assert actor is not None, f"{call} is made by a thread that is no actor's"
        self._wait(actor, call, arguments)
        if self._also is not None:
            self._also.before(call, arguments)

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        if self._also is not None:
            self._also.after(call, arguments, result)

    def at_read(self, call: str, arguments: tuple[object, ...]) -> None:
        """A read of the store is about to be made; those of threads that only help an actor take no turns."""
        actor = self._actor()
        if actor is not None:
            self._wait(actor, call, arguments)

    def _wait(self, actor: Running, call: str, arguments: tuple[object, ...]) -> None:
        if not self._stopped:
            actor.waiting, actor.pending = call, " ".join((call, *(x for x in arguments if isinstance(x, str))))
            self._back.release()
            actor.turn.acquire()
        if self._stopped:
            raise Abort

    def _body(self, actor: Running) -> None:
        self._here.actor = actor
        try:
            self._wait(actor, "", ())
            actor.act()
        except BaseException as error:  # noqa: BLE001 - who asked for it sees it
            actor.error = error
        finally:
            actor.ended = True
            self._back.release()

    def run(self) -> None:
        """Run all to their ends.

        Raises:
            Whatever `stepped` raises, after the actors were stopped.
        """
        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            stack.enter_context(durable.observed(self))
            if self._reads:
                stack.enter_context(_reads_taking_turns(patch, self))
            threads = [threading.Thread(target=self._body, args=(actor,), daemon=True) for actor in self.actors]
            for thread in threads:
                thread.start()
                self._back.acquire()
            stack.callback(self._stop, threads)
            changed = False
            while ready := [number for number, actor in enumerate(self.actors) if not actor.ended]:
                if changed:
                    self._stepped()
                number = self._policy.choose(ready, len(self.taken))
                actor = self.actors[number]
                changed = actor.waiting in ("rename", "link", "unlink")
                self.taken.append(number)
                patch.setenv("CKPTFMT_CACHE", str(actor.cache))
                actor.turn.release()
                assert self._back.acquire(timeout=60), f"actor {number} waits for another after {actor.waiting}"
                if actor.ended:
                    self._finished(number)

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        self._stopped = True
        for actor in self.actors:
            actor.turn.release()
        for thread in threads:
            thread.join(10)

    def outcomes(self, allowed: Mapping[int, Sequence[str]]) -> list[str | None]:
        """Each actor's error code, None where it did what it should.

        Raises:
            Whatever an actor raised that is none of the errors it may raise.
        """
        codes: list[str | None] = []
        for number, actor in enumerate(self.actors):
            error = actor.error
            if error is not None and not (isinstance(error, CkptfmtError) and error.code in allowed[number]):
                raise error
            codes.append(error.code if isinstance(error, CkptfmtError) else None)
        return codes


@contextmanager
def _reads_taking_turns(patch: pytest.MonkeyPatch, stepper: Stepper) -> Iterator[None]:
    def turning(call: str, original: Any) -> Any:
        def read(storage: LocalStorage, *arguments: object) -> Any:
            stepper.at_read(call, arguments)
            return original(storage, *arguments)

        return read

    with patch.context() as inner:
        # Until Python 3.12 such a property holds a lock, of all stores alike, while it reads; two hosts share none.
        inner.setattr(vars(Bases)["_others"], "lock", nullcontext(), raising=False)
        for call in READS:
            inner.setattr(LocalStorage, call, turning(call, getattr(LocalStorage, call)))
        yield
