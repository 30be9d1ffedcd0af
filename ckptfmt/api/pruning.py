"""The verb `prune`: drop refs by policy. What was planned is what is done; nothing else is looked at in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from msgspec import structs

from ckptfmt.api.results import FailedPart, PlannedRef, PrunePlan, PruneReport
from ckptfmt.api.shared import fits, standing_refs, usage_of
from ckptfmt.errors import CkptfmtError, Conflict, IntegrityError, InvalidInput, NotFound
from ckptfmt.format.refs import BASES, Generation
from ckptfmt.progress import Progress
from ckptfmt.store.refs import draft
from ckptfmt.store.retention import Candidate, Policy, best_of, decide
from ckptfmt.store.store import Store
from ckptfmt.store.usage import Used

_DROPPERS: Final = 8
_MANY: Final = 64
"""So many names are dropped by several threads: each waits for the disk, which takes what several wait for at once."""


def policy_of(
    *,
    last: int | None = None,
    every: int | None = None,
    best: Sequence[str] = (),
    stages: Sequence[int] = (),
    tags: Sequence[str] = (),
) -> Policy:
    """A policy from the words of the command line: `best` as in `eval_loss:min` or `accuracy:max:3`.

    Raises:
        InvalidInput: a number below 1, or a rule of `best` that is none.
    """
    for option, number in (("--keep-last", last), ("--keep-every", every)):
        if number is not None and number < 1:
            raise InvalidInput(f"{option} {number}: expected 1 or more", hint="ckptfmt prune --help")
    return Policy(last, every, tuple(map(best_of, best)), frozenset(stages), frozenset(tags))


def plan_prune(store: Store, patterns: Sequence[str], policy: Policy) -> PrunePlan:
    """Decide which of the checkpoints that fit any of `patterns` (none: all) are dropped. Changes nothing.

    Raises:
        InvalidInput: the policy has no rule, or names a metric that no checkpoint has.
        IntegrityError: a ref or a manifest cannot be read: what it was trained from cannot be known, and so not kept.
    """
    standing = [item for item in standing_refs(store) if item.target is not None]
    usage = usage_of(store, standing)
    chosen: list[Candidate] = []
    others: list[Candidate] = []
    generations: dict[str, Generation] = {}
    for item in standing:
        if item.name.startswith(BASES):
            continue
        generations[item.name] = item
        wanted = not patterns or any(fits(item.name, pattern) for pattern in patterns)
        (chosen if wanted else others).append(_candidate(store, item, usage))

    def parent_of(manifest: str) -> str | None:
        if manifest in usage:
            return usage[manifest].summary.parent
        try:
            lineage = store.manifest_uncached(manifest).lineage
        except NotFound:  # An ancestor that is in this store no longer.
            return None
        return lineage.parent if lineage else None

    decision = decide(policy, chosen, others, parent_of)
    names = Counter(each.target for each in (*chosen, *others))
    planned = [
        PlannedRef(
            ref=each.ref,
            run=run,
            generation=generations[each.ref].number,
            manifest=each.target,
            step=each.step,
            stage=each.stage,
            exclusive_bytes=usage[each.target].exclusive_bytes if names[each.target] == 1 else 0,
            reasons=decision.reasons.get(each.ref, ()),
        )
        for run, members in decision.runs.items()
        for each in members
    ]
    return PrunePlan(
        policy=str(policy),
        orders=dict(decision.orders),
        dropped=tuple(each for each in planned if not each.reasons),
        kept=tuple(each for each in planned if each.reasons),
        unmatched=tuple(pattern for pattern in patterns if not any(fits(name, pattern) for name in generations)),
    )


def _candidate(store: Store, item: Generation, usage: dict[str, Used]) -> Candidate:
    target = item.target or ""
    summary = usage[target].summary
    return Candidate(
        ref=item.name,
        target=target,
        time=_taken_in(store, item),
        step=summary.step,
        stage=summary.stage,
        parent=summary.parent,
        pinned=item.pinned,
        labels=item.labels,
        metrics=summary.metrics,
    )


def _taken_in(store: Store, item: Generation) -> str:
    """When a ref began to name what it names: a label that was added later makes no checkpoint younger."""
    if item.verb == "import":
        return item.time
    return min(each.time for each in (item, *store.refs.readable(item.name)) if each.target == item.target)


def prune(store: Store, plan: PrunePlan, progress: Progress) -> PruneReport:
    """Drop what a plan says, each by compare-and-swap: a ref that moved on since is kept, and told."""
    done: list[PlannedRef] = []
    stayed: list[PlannedRef] = []
    failed: list[FailedPart] = []
    message = f"prune {plan.policy}"

    def drop(each: PlannedRef) -> CkptfmtError | None:
        try:
            seen = store.refs.read(each.ref, each.generation)
            store.refs.swap(seen, structs.replace(draft(None, "prune"), message=message))
        except (Conflict, NotFound, IntegrityError) as error:
            return error
        return None

    progress.begin("prune", 0)
    with ThreadPoolExecutor(_DROPPERS if len(plan.dropped) >= _MANY else 1, "prune") as pool:
        told = list(pool.map(drop, plan.dropped))
    for each, problem in zip(plan.dropped, told, strict=True):
        if problem is not None:
            failed.append(
                FailedPart(each.ref, each.ref, problem.code, problem.message, problem.hint, problem.exit_code)
            )
            stayed.append(structs.replace(each, reasons=(problem.message,)))
            continue
        done.append(each)
    progress.end()
    return PruneReport(
        policy=plan.policy,
        applied=True,
        dropped=tuple(done),
        kept=(*plan.kept, *stayed),
        failed=tuple(failed),
        unmatched=plan.unmatched,
    )
