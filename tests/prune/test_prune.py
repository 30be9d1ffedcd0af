"""`prune` on real stores: the plan is what is done, nothing is lost, everything comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError, InvalidInput
from ckptfmt.store.retention import Best, Policy
from tests.cli.made import Shell
from tests.faults import seam
from tests.prune.made import LOSSES, fill
from tests.store import making
from tests.store.making import files_below, standing, tree_of

from ckptfmt.storage import durable  # isort: skip


@pytest.fixture
def swept(store: Store, tmp_path: Path) -> Store:
    fill(store, tmp_path / "sources")
    return store


ALL = {f"{run}/checkpoint-{step}" for run, losses in LOSSES.items() for step in losses}


def test_a_plan_changes_nothing_and_is_what_is_done(swept: Store) -> None:
    before = files_below(swept.path)
    plan = swept.plan_prune(keep=Policy(last=1, best=(Best("eval_loss", largest=False),)))
    assert files_below(swept.path) == before
    assert {each.ref: each.reasons for each in plan.kept} == {
        "sweep/a/checkpoint-200": ("best eval_loss 0.4",),
        "sweep/a/checkpoint-1000": ("last 1",),
        "sweep/b/checkpoint-300": ("last 1", "best eval_loss 0.2"),
    }
    assert {each.ref for each in plan.dropped} | {each.ref for each in plan.kept} == ALL
    assert plan.orders == {"sweep/a": "step", "sweep/b": "step"}
    report = swept.prune(plan)
    assert (report.dropped, report.kept, report.failed) == (plan.dropped, plan.kept, ())
    assert standing(swept) == {each.ref for each in plan.kept}
    assert swept.verify().damaged == ()


def test_no_byte_is_freed_and_every_name_comes_back(swept: Store, tmp_path: Path) -> None:
    objects = {key for key in files_below(swept.path) if not key.startswith("refs/")}
    report = swept.prune(swept.plan_prune(keep=Policy(last=1)))
    assert {key for key in files_below(swept.path) if not key.startswith("refs/")} == objects
    assert len(report.dropped) == 5
    for each in report.dropped:
        newest = swept.log(each.ref).generations[0]
        assert (newest.verb, newest.target, newest.message) == ("prune", None, "prune --keep-last 1")
        swept.rollback(f"{each.ref}@{each.generation}")
    assert standing(swept) == ALL
    one = report.dropped[0].ref
    assert making.restored(swept, one, tmp_path / "back") == tree_of(tmp_path / "sources" / one)


def test_what_moved_on_meanwhile_is_kept_and_told(swept: Store) -> None:
    plan = swept.plan_prune(["sweep/a"], keep=Policy(last=1))
    moved = plan.dropped[0].ref
    swept.tag(moved, ("late",))
    swept.drop(plan.dropped[1].ref)
    report = swept.prune(plan)
    assert moved in standing(swept)
    assert [(part.ref, part.code, part.exit_code) for part in report.failed] == [
        (plan.dropped[0].ref, "moved-on", 11),
        (plan.dropped[1].ref, "moved-on", 11),
    ]
    assert {each.ref for each in report.dropped} == {plan.dropped[2].ref}
    assert moved in {each.ref for each in report.kept}


def test_a_second_prune_finds_nothing_left_to_drop(swept: Store) -> None:
    policy = Policy(every=200)
    swept.prune(swept.plan_prune(keep=policy))
    again = swept.plan_prune(keep=policy)
    assert again.dropped == ()
    assert standing(swept) == {"sweep/a/checkpoint-200", "sweep/a/checkpoint-1000", "sweep/b/checkpoint-200"}


def test_patterns_and_pins(swept: Store) -> None:
    swept.pin("sweep/b/checkpoint-200")
    plan = swept.plan_prune(["sweep/b", "nothing/*"], keep=Policy(last=1))
    assert {each.ref for each in plan.dropped} == {"sweep/b/checkpoint-100"}
    assert {each.run for each in (*plan.dropped, *plan.kept)} == {"sweep/b"}
    assert swept.plan_prune(["none/*"], keep=Policy(last=1)).kept == ()


def test_lineage_and_bases_stay(store: Store, tmp_path: Path) -> None:
    base = making.write_base(tmp_path / "base")
    store.add_base("tiny", base)
    parent = None
    for stage in (1, 2, 3):
        source = making.write_adapter(tmp_path / f"s{stage}", stage)
        store.import_path(source, name=f"boot/stage-{stage}", base="tiny", parent=parent, stage=stage)
        parent = f"boot/stage-{stage}"
    store.import_path(making.write_adapter(tmp_path / "s9", 9), name="boot/stage-0", base="tiny", stage=0)
    plan = store.plan_prune(keep=Policy(last=1))
    assert {each.ref: each.reasons for each in plan.kept} == {
        "boot/stage-1": ("ancestor of boot/stage-3",),
        "boot/stage-2": ("ancestor of boot/stage-3",),
        "boot/stage-3": ("last 1",),
    }
    store.prune(plan)
    assert [each.name for each in store.list_bases()] == ["tiny"]
    # Of a dropped ref in the middle, what lies behind it is found through its manifest.
    store.drop("boot/stage-2")
    assert "boot/stage-1" in {each.ref for each in store.plan_prune(keep=Policy(last=1)).kept}


def test_a_label_that_comes_later_makes_nothing_younger(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = iter(f"2026-01-{day:02}T00:00:00Z" for day in range(1, 20))
    monkeypatch.setattr("ckptfmt.store.refs.utc_now", lambda: next(days))
    for index, name in enumerate(("first", "second", "third")):
        store.import_path(making.write_small(tmp_path / name, {"a": index}), name=f"run/{name}")
    store.tag("run/first", ("old",))
    assert {each.ref for each in store.plan_prune(keep=Policy(last=1)).kept} == {"run/third"}


def test_a_damaged_manifest_is_not_planned_around(swept: Store) -> None:
    """What it was trained from cannot be known, so what would have to be kept cannot be either."""
    manifest = swept.show("sweep/b/checkpoint-100").id
    path = Path(swept.path) / "manifests" / manifest[:2] / f"{manifest}.json"
    path.write_bytes(path.read_bytes()[:-9])
    with Store.open(swept.path) as again, pytest.raises(CkptfmtError) as caught:
        again.plan_prune(["sweep/a"], keep=Policy(last=1))
    assert caught.value.exit_code == 3


def test_stopped_between_two_names(swept: Store) -> None:
    plan = swept.plan_prune(keep=Policy(last=1))
    with pytest.raises(seam.Abort), durable.observed(seam.Failing(8, seam.Abort)):
        swept.prune(plan)
    with Store.open(swept.path) as again:
        left = again.plan_prune(keep=Policy(last=1))
        assert 0 < len(left.dropped) < len(plan.dropped)
        again.prune(left)
        assert standing(again) == {each.ref for each in plan.kept}


def test_no_rule(swept: Store) -> None:
    with pytest.raises(InvalidInput):
        swept.plan_prune(keep=Policy())


class TestCommandLine:
    """What is printed, and how it ends."""

    @pytest.fixture
    def shell(self, swept: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
        monkeypatch.setenv("CKPTFMT_STORE", swept.path)
        return Shell(capsys)

    def test_the_plan_is_shown_and_nothing_done(self, shell: Shell, swept: Store) -> None:
        ran = shell.ok("prune", "sweep/a", "--keep-last", "2", "--keep-best", "eval_loss:min")
        assert "sweep/a: 3 of 4 checkpoints kept, ordered by step" in ran.out
        assert "drop  sweep/a/checkpoint-100" in ran.out
        assert "best eval_loss 0.4" in ran.out
        assert "--apply does it" in ran.err
        assert standing(swept) == ALL

    def test_apply(self, shell: Shell, swept: Store) -> None:
        ran = shell.ok("prune", "sweep/*", "--keep-every", "200", "--keep-tag", "x", "--apply")
        assert ran.out == "dropped 4 names, kept 3\n"
        assert "drop  sweep/a/checkpoint-100" in ran.err
        undo = next(line for line in ran.err.splitlines() if "rollback" in line).split("'")[1]
        shell.ok(*undo.split()[1:])
        assert len(standing(swept)) == 4

    def test_json(self, shell: Shell) -> None:
        plan = shell.json("prune", "--keep-last", "1")
        assert set(plan) == {"policy", "orders", "dropped", "kept", "unmatched"}
        done = shell.json("prune", "--keep-last", "1", "--apply")
        assert (done["dropped"], done["kept"]) == (plan["dropped"], plan["kept"])
        assert (done["applied"], done["failed"]) == (True, [])
        assert shell.json("prune", "--keep-last", "1", "--apply")["dropped"] == []

    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("--keep-last", "0"),
            ("--keep-best", "eval_loss"),
            ("--keep-best", "eval_loss:most"),
            ("--keep-best", "eval_loss:min:0"),
            ("--keep-best", "no_such:min"),
        ],
    )
    def test_words_that_cannot_be_meant(self, shell: Shell, swept: Store, words: tuple[str, ...]) -> None:
        ran = shell("prune", *words, "--apply")
        assert ran.code == 2 and "hint: " in ran.err
        assert standing(swept) == ALL

    def test_what_moved_on_ends_with_11(self, shell: Shell, swept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = Store.plan_prune

        def planned(store: Store, *words: object, **more: object) -> object:
            made = plan(store, *words, **more)  # type: ignore[arg-type]
            swept.pin("sweep/a/checkpoint-100")
            return made

        monkeypatch.setattr(Store, "plan_prune", planned)
        ran = shell("prune", "--keep-last", "1", "--apply", "--json")
        assert ran.code == 11
        assert [part["code"] for part in json.loads(ran.out)["failed"]] == ["moved-on"]
        assert "sweep/a/checkpoint-100" in standing(swept)


def test_what_another_name_needs_too_is_not_said_to_be_freed(store: Store, tmp_path: Path) -> None:
    source = making.write_small(tmp_path / "source", {"a": 1, "b": 2})
    other = making.write_small(tmp_path / "other", {"a": 3, "b": 4})
    for name in ("x/1", "x/2", "y/1"):
        store.import_path(other if name == "x/2" else source, name=name)
    (going,) = store.plan_prune(["x/*"], keep=Policy(last=1)).dropped
    assert (going.ref, going.exclusive_bytes) == ("x/1", 0)
    store.drop("y/1")
    (going,) = store.plan_prune(["x/*"], keep=Policy(last=1)).dropped
    assert going.exclusive_bytes > 0
