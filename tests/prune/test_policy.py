"""What a policy keeps, against a plain model that looks at everything again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ckptfmt.errors import InvalidInput
from ckptfmt.store.retention import Best, Candidate, Decision, Policy, decide, metric_of


def ref(name: str, **known: object) -> Candidate:
    return Candidate(ref=name, target=f"m-{name}", time="2026-01-01T00:00:00Z", **known)  # type: ignore[arg-type]


def steps(run: str, *numbers: int, **known: object) -> list[Candidate]:
    return [ref(f"{run}/checkpoint-{number}", step=number, **known) for number in numbers]


def decided(policy: Policy, refs: Sequence[Candidate], others: Sequence[Candidate] = (), **parents: str) -> Decision:
    return decide(policy, refs, others, {key.replace("_", "-"): value for key, value in parents.items()}.get)


def kept(policy: Policy, refs: Sequence[Candidate], others: Sequence[Candidate] = (), **parents: str) -> set[str]:
    return set(decided(policy, refs, others, **parents).reasons)


def test_the_newest_of_each_run_by_number_and_not_by_name() -> None:
    refs = steps("a", 100, 200, 1000) + steps("b", 90, 1)
    assert kept(Policy(last=1), refs) == {"a/checkpoint-1000", "b/checkpoint-90"}
    assert kept(Policy(last=2), refs) == {"a/checkpoint-1000", "a/checkpoint-200", "b/checkpoint-90", "b/checkpoint-1"}


def test_every_so_manieth_step() -> None:
    assert kept(Policy(every=200), steps("a", 100, 200, 300, 400)) == {"a/checkpoint-200", "a/checkpoint-400"}


def test_the_best_by_a_metric_and_of_equals_the_newest() -> None:
    losses = {100: 0.5, 200: 0.3, 300: 0.3, 400: float("nan"), 500: 0.9}
    refs = [ref(f"a/checkpoint-{step}", step=step, metrics={"eval_loss": loss}) for step, loss in losses.items()]
    assert kept(Policy(best=(Best("eval_loss", largest=False),)), refs) == {"a/checkpoint-300"}
    assert kept(Policy(best=(Best("eval_loss", largest=False, count=2),)), refs) == {
        "a/checkpoint-300",
        "a/checkpoint-200",
    }
    assert kept(Policy(best=(Best("eval_loss", largest=True),)), refs) == {"a/checkpoint-500"}
    assert decided(Policy(best=(Best("eval_loss", largest=True),)), refs).reasons["a/checkpoint-500"] == (
        "best eval_loss 0.9",
    )


def test_a_metric_that_nobody_has_is_refused_and_a_run_without_it_is_kept_whole() -> None:
    refs = [ref("a/1", metrics={"loss": 1.0}), ref("b/1"), ref("b/2")]
    with pytest.raises(InvalidInput, match=r"no metric|has a metric 'los'.*loss"):
        kept(Policy(best=(Best("los", largest=False),)), refs)
    decision = decided(Policy(best=(Best("loss", largest=False),)), refs)
    assert decision.reasons["b/1"] == decision.reasons["b/2"] == ("nothing else of its run would be kept",)


def test_grouped_metrics_and_what_is_no_number() -> None:
    assert metric_of({"eval": {"loss": 2}}, "eval.loss") == 2
    assert metric_of({"eval.loss": 3, "eval": {"loss": 2}}, "eval.loss") == 3
    assert [metric_of({"m": value}, "m") for value in (True, None, "1", float("inf"), {"x": 1})] == [None] * 5


def test_pins_stages_and_tags() -> None:
    refs = [
        ref("a/stage-1", stage=1, pinned=True),
        ref("a/stage-2", stage=2),
        ref("a/stage-3", stage=3, labels=("paper", "x")),
        ref("a/stage-4", stage=4),
    ]
    decision = decided(Policy(stages=frozenset({2}), tags=frozenset({"paper"})), refs)
    assert decision.reasons == {"a/stage-1": ("pinned",), "a/stage-2": ("stage 2",), "a/stage-3": ("tag paper",)}


def test_no_rule_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without any --keep"):
        decided(Policy(), steps("a", 1))


def test_ancestors_are_kept_through_manifests_that_have_no_name() -> None:
    """3 was trained from an unnamed one, that from 1; and another run, which is not meant, from 2."""
    refs = [
        ref("a/1", step=1),
        ref("a/2", step=2),
        ref("a/3", step=3, parent="gone"),
        ref("a/0", step=0),
    ]
    other = [ref("b/final", parent="m-a/2")]
    decision = decide(Policy(last=1), refs, other, {"gone": "m-a/1"}.get)
    assert decision.reasons == {
        "a/3": ("last 1",),
        "a/1": ("ancestor of a/3",),
        "a/2": ("ancestor of b/final",),
    }


def test_a_run_that_is_kept_whole_keeps_its_ancestors_too() -> None:
    refs = [ref("a/1", parent="m-b/1"), ref("b/1"), ref("b/2", labels=("x",))]
    assert kept(Policy(tags=frozenset({"x"})), refs) == {"a/1", "b/1", "b/2"}


@pytest.mark.parametrize(
    ("refs", "order", "last"),
    [
        ([ref("r/a-2", step=5, stage=1), ref("r/a-1", step=7, stage=0)], "step", "r/a-1"),
        ([ref("r/a-2", stage=1), ref("r/a-1", stage=2, step=3)], "stage", "r/a-1"),
        ([ref("r/run_010"), ref("r/run_9")], "number", "r/run_010"),
        ([ref("r/first"), ref("r/late"), ref("r/x-1")], "time", "r/x-1"),
    ],
)
def test_by_what_a_run_is_ordered(refs: list[Candidate], order: str, last: str) -> None:
    decision = decided(Policy(last=1), refs)
    assert decision.orders == {"r": order}
    assert set(decision.reasons) == {last}


def test_what_has_no_place_in_the_order_is_kept() -> None:
    """`final` beside numbered checkpoints: whether it is the newest cannot be known."""
    decision = decided(Policy(last=1), [*steps("a", 1, 2, 3), ref("a/final")])
    assert decision.reasons == {
        "a/final": ("no step, by which its run is ordered",),
        "a/checkpoint-3": ("last 1",),
    }


names = st.builds(
    lambda run, leaf: f"{run}/{leaf}", st.sampled_from("abc"), st.sampled_from(["x-1", "x-2", "x-10", "y"])
)
candidates = st.lists(
    st.builds(
        Candidate,
        ref=names,
        target=st.sampled_from([f"t{number}" for number in range(6)]),
        time=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        step=st.none() | st.integers(0, 4),
        stage=st.none() | st.integers(0, 3),
        parent=st.none() | st.sampled_from([f"t{number}" for number in range(8)]),
        pinned=st.booleans(),
        labels=st.sampled_from([(), ("x",), ("y",)]),
        metrics=st.sampled_from([{}, {"loss": 1.0}, {"loss": 2}, {"loss": float("nan")}]),
    ),
    unique_by=lambda each: each.ref,
    max_size=10,
)
policies = st.builds(
    Policy,
    last=st.none() | st.integers(1, 3),
    every=st.none() | st.integers(1, 3),
    best=st.sampled_from([(), (Best("loss", largest=True),), (Best("loss", largest=False, count=2),)]),
    stages=st.sampled_from([frozenset(), frozenset({1, 2})]),
    tags=st.sampled_from([frozenset(), frozenset({"x"})]),
).filter(lambda policy: policy != Policy())


def lineage(parent: str | None, parents: Mapping[str, str | None]) -> set[str]:
    found: set[str] = set()
    while parent is not None and parent not in found:
        found.add(parent)
        parent = parents.get(parent)
    return found


@settings(max_examples=400, deadline=None)
@given(candidates, candidates, policies)
def test_against_the_plain_reading(chosen: list[Candidate], others: list[Candidate], policy: Policy) -> None:
    others = [each for each in others if each.ref not in {one.ref for one in chosen}]
    by_target: dict[str, str | None] = {}
    fixed = []
    for each in (*others, *chosen):  # One manifest has one parent.
        by_target.setdefault(each.target, each.parent)
    for each in chosen:
        fixed.append(Candidate(**{**_fields(each), "parent": by_target[each.target]}))
    others = [Candidate(**{**_fields(each), "parent": by_target[each.target]}) for each in others]
    if policy.best and fixed and all(metric_of(each.metrics, "loss") is None for each in fixed):
        with pytest.raises(InvalidInput):
            decide(policy, fixed, others, by_target.get)
        return
    decision = decide(policy, fixed, others, by_target.get)
    stays = set(decision.reasons)
    assert all(decision.reasons.values())
    assert {each.ref for each in fixed if each.pinned} <= stays
    runs = {each.run for each in fixed}
    assert {name.rpartition("/")[0] for name in stays} == runs, "no run is emptied"
    for each in (*others, *(each for each in fixed if each.ref in stays)):
        needed = lineage(each.parent, by_target)
        assert {one.ref for one in fixed if one.target in needed} <= stays, f"ancestors of {each.ref}"
    for each in fixed:
        if policy.tags & set(each.labels) or each.stage in policy.stages:
            assert each.ref in stays
    for run in runs:
        members = [each for each in fixed if each.run == run]
        if policy.last is not None:
            assert sum(each.ref in stays for each in members) >= min(policy.last, len(members))
        for best in policy.best:
            values = [(metric_of(each.metrics, "loss"), each.ref) for each in members]
            numbers = sorted((value for value, _ in values if value is not None), reverse=best.largest)
            for value, name in values:  # Better than the best that was dropped is always kept.
                if value is not None and numbers.index(value) + numbers.count(value) <= best.count:
                    assert name in stays


def _fields(each: Candidate) -> dict[str, object]:
    return {name: getattr(each, name) for name in each.__slots__}
