"""Which refs a policy keeps: pure. A run is what shares a ref's path up to its last '/'.

Inside a run, refs are ordered by the first of step, stage and trailing number of the name that more than half of them
have, else by time. A ref without that number has no place in the order; it is kept.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ckptfmt.errors import InvalidInput

Order = Literal["step", "stage", "number", "time"]

_TRAILING: Final = re.compile(r"([0-9]{1,18})$")
_BEST: Final = re.compile(r"(.+?):(min|max)(?::([1-9][0-9]{0,8}))?")
_KEPT_WHOLE: Final = "nothing else of its run would be kept"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ref that stands, with what policies ask for. `parent` is the manifest it was trained from."""

    ref: str
    target: str
    time: str
    step: int | None = None
    stage: int | None = None
    parent: str | None = None
    pinned: bool = False
    labels: tuple[str, ...] = ()
    metrics: Mapping[str, object] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The run it belongs to: its path up to the last '/', '' where it has none."""
        return self.ref.rpartition("/")[0]

    @property
    def number(self) -> int | None:
        """The number at the end of its name."""
        found = _TRAILING.search(self.ref)
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Best:
    """Keep the `count` refs of a run whose `metric` is the largest, or the smallest."""

    metric: str
    largest: bool
    count: int = 1

    def __str__(self) -> str:
        return f"{self.metric}:{'max' if self.largest else 'min'}{f':{self.count}' if self.count != 1 else ''}"


def best_of(text: str) -> Best:
    """A rule as it is written: `METRIC:min` or `METRIC:max`, and either with `:N`.

    Raises:
        InvalidInput: it is none.
    """
    found = _BEST.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text!r}: give a metric and min or max, as in eval_loss:min or accuracy:max:3")
    return Best(found[1], largest=found[2] == "max", count=int(found[3] or 1))


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep of each run; a ref that any rule keeps is kept.

    Attributes:
        last: so many of the newest.
        every: those whose number (step, stage, trailing number) it divides; in a run ordered by time each so-manieth.
        best: the best by a metric.
        stages: those with one of these stages.
        tags: those with one of these labels.
    """

    last: int | None = None
    every: int | None = None
    best: tuple[Best, ...] = ()
    stages: frozenset[int] = frozenset()
    tags: frozenset[str] = frozenset()

    def __str__(self) -> str:
        words = [f"--keep-last {self.last}"] if self.last is not None else []
        words += [f"--keep-every {self.every}"] if self.every is not None else []
        words += [f"--keep-best {best}" for best in self.best]
        words += [f"--keep-stage {stage}" for stage in sorted(self.stages)]
        words += [f"--keep-tag {tag}" for tag in sorted(self.tags)]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy comes to.

    Attributes:
        orders: by what each run is ordered.
        runs: the refs of each run, the newest last; those without a place in the order first.
        reasons: why each ref that is kept is; a ref that is not here is dropped.
    """

    orders: dict[str, Order]
    runs: dict[str, tuple[Candidate, ...]]
    reasons: dict[str, tuple[str, ...]]


def decide(
    policy: Policy,
    candidates: Sequence[Candidate],
    others: Iterable[Candidate],
    parent_of: Callable[[str], str | None],
) -> Decision:
    """Decide what to keep.

    What is kept keeps its lineage ancestors. Of a run of which nothing would be left, everything is kept.

    Args:
        policy: the rules; at least one.
        candidates: the refs it is about.
        others: refs that stay whatever it says.
        parent_of: gives the lineage parent of a manifest that no ref may name; None where there is none.

    Raises:
        InvalidInput: no rule; or a metric that no candidate has.
    """
    if policy == Policy():
        raise InvalidInput(
            "say what to keep: without any --keep-... everything would go", hint="ckptfmt prune --keep-last 3"
        )
    _check_metrics(policy, candidates)
    runs: dict[str, list[Candidate]] = {}
    for each in candidates:
        runs.setdefault(each.run, []).append(each)
    reasons: dict[str, list[str]] = {}
    orders: dict[str, Order] = {}
    sorted_runs: dict[str, tuple[Candidate, ...]] = {}
    for run, found in sorted(runs.items()):
        order = orders[run] = _order_of(found)
        placed = sorted((each for each in found if _has(order, each)), key=functools.partial(_key, order))
        unplaced = [each for each in found if not _has(order, each)]
        sorted_runs[run] = (*unplaced, *placed)
        for each in unplaced:
            reasons.setdefault(each.ref, []).append(f"no {order}, by which its run is ordered")
        _apply(policy, order, sorted_runs[run], placed, reasons)
    _keep_ancestors(candidates, others, parent_of, reasons)
    emptied = [members for members in sorted_runs.values() if not any(each.ref in reasons for each in members)]
    for members in emptied:
        reasons.update((each.ref, [_KEPT_WHOLE]) for each in members)
    if emptied:
        _keep_ancestors(candidates, (), parent_of, reasons)
    return Decision(orders, sorted_runs, {ref: tuple(told) for ref, told in reasons.items()})


def metric_of(metrics: Mapping[str, object], name: str) -> float | None:
    """A metric by its name, or by `outer.inner` where metrics are grouped; None where it is no finite number."""
    found = metrics.get(name)
    if found is None and "." in name:
        outer, _, inner = name.partition(".")
        group = metrics.get(outer)
        return metric_of(group, inner) if isinstance(group, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return found


def _check_metrics(policy: Policy, candidates: Sequence[Candidate]) -> None:
    for best in policy.best:
        if candidates and all(metric_of(each.metrics, best.metric) is None for each in candidates):
            known = sorted({name for each in candidates for name in _names(each.metrics)})
            raise InvalidInput(
                f"--keep-best {best}: no checkpoint here has a metric {best.metric!r} "
                f"(there are: {', '.join(known) or 'none'})",
                hint="ckptfmt ls shows the metrics of each checkpoint",
            )


def _names(metrics: Mapping[str, object], prefix: str = "") -> list[str]:
    names = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            names += _names(value, f"{prefix}{name}.")
        elif metric_of(metrics, name) is not None:
            names.append(prefix + name)
    return names


def _order_of(members: Sequence[Candidate]) -> Order:
    orders: tuple[Order, ...] = ("step", "stage", "number")
    return next((order for order in orders if 2 * sum(_has(order, each) for each in members) > len(members)), "time")


def _position(order: Order, each: Candidate) -> int | None:
    return {"step": each.step, "stage": each.stage, "number": each.number, "time": None}[order]


def _has(order: Order, each: Candidate) -> bool:
    return order == "time" or _position(order, each) is not None


def _key(order: Order, each: Candidate) -> tuple[object, ...]:
    """The order inside a run; what is equal in it follows the other numbers, the time and the name."""
    others = tuple(-1 if value is None else value for value in (each.step, each.stage, each.number))
    if order == "time":
        return (each.time, *others, each.ref)
    return (_position(order, each), *others, each.time, each.ref)


def _apply(
    policy: Policy,
    order: Order,
    members: Sequence[Candidate],
    placed: Sequence[Candidate],
    reasons: dict[str, list[str]],
) -> None:
    """Note why refs of one run are kept: pins, and every rule that keeps them."""
    for each in members:
        if each.pinned:
            reasons.setdefault(each.ref, []).append("pinned")
        if each.stage is not None and each.stage in policy.stages:
            reasons.setdefault(each.ref, []).append(f"stage {each.stage}")
        for label in each.labels:
            if label in policy.tags:
                reasons.setdefault(each.ref, []).append(f"tag {label}")
    if policy.last is not None:
        for each in placed[-policy.last :]:
            reasons.setdefault(each.ref, []).append(f"last {policy.last}")
    if policy.every is not None:
        for index, each in enumerate(placed):
            position = _position(order, each)
            if (index if position is None else position) % policy.every == 0:
                told = f"every {policy.every}" + ("" if order == "time" else f": {order} {position}")
                reasons.setdefault(each.ref, []).append(told)
    for best in policy.best:
        ranked = [(value, each) for each in members if (value := metric_of(each.metrics, best.metric)) is not None]
        ranked.reverse()  # Of equals the newest: members are in order, and sorting is stable.
        ranked.sort(key=lambda item: -item[0] if best.largest else item[0])
        for value, each in ranked[: best.count]:
            reasons.setdefault(each.ref, []).append(f"best {best.metric} {value:.6g}")


def _keep_ancestors(
    candidates: Sequence[Candidate],
    others: Iterable[Candidate],
    parent_of: Callable[[str], str | None],
    reasons: dict[str, list[str]],
) -> None:
    """Keep what anything kept was trained from, however far."""
    named: dict[str, list[Candidate]] = {}
    for each in candidates:
        named.setdefault(each.target, []).append(each)
    followed: set[str] = set()
    for kept in [*others, *(each for each in candidates if each.ref in reasons)]:
        # The manifest itself may have been reached from below already: then its parent was followed too.
        parent = kept.parent
        while parent is not None and parent not in followed:
            followed.add(parent)
            for ancestor in named.get(parent, ()):
                if ancestor.ref not in reasons:
                    reasons[ancestor.ref] = [f"ancestor of {kept.ref}"]
            parent = named[parent][0].parent if parent in named else parent_of(parent)
