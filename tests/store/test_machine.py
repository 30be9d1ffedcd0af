"""A store beside a dictionary: imports, names, crashes, two handles, a catalog thrown away; compared each step."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError, Conflict, NotFound
from ckptfmt.storage import durable
from ckptfmt.store import refs
from ckptfmt.store.retention import Policy
from tests.faults import seam
from tests.store import making
from tests.store.making import content_of, files_of, tree_of

NAMES = ("a", "b", "runs/a", "runs/b")
TENSORS = st.dictionaries(st.sampled_from(["embed", "layer.0", "layer.1", "head"]), st.integers(1, 4), min_size=1)

Files = dict[str, bytes]


def directory() -> str:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.mkdtemp(prefix="ckptfmt-machine-", dir=memory)


class StoreMachine(RuleBasedStateMachine):
    """`model` holds, for each ref, its generations in order: files, or None for a tombstone."""

    checkpoints = Bundle("checkpoints")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(directory())
        self.cache = os.environ.get("CKPTFMT_CACHE")
        os.environ["CKPTFMT_CACHE"] = str(self.root / "cache")
        self.model: dict[str, list[Files | None]] = {}
        self.renamed: dict[str, tuple[str, int]] = {}
        self.forgotten: set[tuple[str, int]] = set()
        self.looked_at: set[tuple[str, int]] = set()
        """Until something else than a name changes: an import that is stopped, a gc."""
        self.made = 0
        # Prune goes by time: the same steps at another speed would be other steps.
        seconds = itertools.count(1)
        self.clock = pytest.MonkeyPatch()
        self.clock.setattr(refs, "utc_now", lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(next(seconds))))
        self.store = Store.init(self.root / "store")
        self.second = Store.open(self.root / "store")

    def teardown(self) -> None:
        self.clock.undo()
        self.store.close()
        self.second.close()
        if self.cache is None:
            del os.environ["CKPTFMT_CACHE"]
        else:
            os.environ["CKPTFMT_CACHE"] = self.cache
        shutil.rmtree(self.root)

    def current(self, name: str) -> Files | None:
        return self.model[name][-1] if name in self.model else None

    def append(self, name: str, files: Files | None) -> None:
        self.model.setdefault(name, []).append(files)

    def source(self, seeds: dict[str, int]) -> tuple[Path, Files]:
        self.made += 1
        path = making.write_small(self.root / "sources" / str(self.made), seeds, elements=8)
        return path, files_of(tree_of(path))

    @initialize(target=checkpoints, seeds=TENSORS)
    def first(self, seeds: dict[str, int]) -> Any:
        return multiple(self.source(seeds))

    @rule(target=checkpoints, seeds=TENSORS)
    def make(self, seeds: dict[str, int]) -> tuple[Path, Files]:
        return self.source(seeds)

    @rule(name=st.sampled_from(NAMES), checkpoint=checkpoints, second=st.booleans(), many=st.booleans())
    def import_one(self, name: str, checkpoint: tuple[Path, Files], second: bool, many: bool) -> None:
        path, files = checkpoint
        handle = self.second if second else self.store
        report = handle.import_path(path, name=name, effort="max" if many else "fast").checkpoints[0]
        if self.current(name) != files:
            self.append(name, files)
        assert report.generation == len(self.model[name])

    @rule(name=st.sampled_from(NAMES), checkpoint=checkpoints, at=st.integers(0, 60), clean=st.booleans())
    def crash(self, name: str, checkpoint: tuple[Path, Files], at: int, clean: bool) -> None:
        """Stop an import at a call: with the clean-up that follows an error, or (`clean` false) with none."""
        path, files = checkpoint
        self.looked_at.clear()
        fault = seam.Failing(at, seam.Abort, lasting=not clean)
        try:
            with durable.observed(fault):
                self.store.import_path(path, name=name)
        except seam.Abort:
            pass
        stood = len(self.model.get(name, []))
        there = len(self.store.log(name).generations) if self.known(name) else 0
        assert there in (stood, stood + 1)
        if there > stood:
            self.append(name, files)
        elif not fault.hit:
            assert self.current(name) == files

    def known(self, name: str) -> bool:
        return (self.root / "store" / "refs" / name.replace("/", ",")).is_dir() and bool(
            list((self.root / "store" / "refs" / name.replace("/", ",")).iterdir())
        )

    @rule(name=st.sampled_from(NAMES))
    def drop(self, name: str) -> None:
        if self.current(name) is None:
            with pytest.raises(NotFound):
                self.store.drop(name)
            return
        self.store.drop(name)
        self.append(name, None)

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, old: str, new: str) -> None:
        files = self.current(old)
        if files is None:
            with pytest.raises(NotFound):
                self.store.rename(old, new)
        elif self.current(new) == files and self.renamed.get(new) == (old, len(self.model[new])):
            self.store.rename(old, new)  # It looks like a rename that was stopped between its steps.
            self.append(old, None)
        elif self.current(new) is not None:
            with pytest.raises(Conflict):
                self.store.rename(old, new)
        else:
            self.store.rename(old, new)
            self.append(new, files)
            self.append(old, None)
            self.renamed[new] = (old, len(self.model[new]))

    @rule(name=st.sampled_from(NAMES), number=st.integers(1, 6))
    def rollback(self, name: str, number: int) -> None:
        generations = self.model.get(name, [])
        if number > len(generations) or generations[number - 1] is None:
            with pytest.raises(NotFound):
                self.store.rollback(f"{name}@{number}")
            return
        try:
            self.store.rollback(f"{name}@{number}")
        except CkptfmtError as error:
            assert (name, number) in self.forgotten
            assert error.code in ("not-found", "incomplete")
            return
        if self.current(name) != generations[number - 1]:
            self.append(name, generations[number - 1])

    @rule(second=st.booleans(), history=st.sampled_from([0, 30]), at=st.none() | st.integers(0, 60))
    def gc(self, second: bool, history: int, at: int | None) -> None:
        """Without grace; stopped at a call, or not. Without history, what is older than what stands may be gone."""
        handle = self.second if second else self.store
        self.looked_at.clear()
        plan = handle.plan_gc(grace_hours=0, keep_history_days=history, apply=True)
        if history == 0:
            self.forgotten.update((name, number) for name in self.model for number in range(1, len(self.model[name])))
        with suppress(seam.Abort), durable.observed(seam.Failing(10_000 if at is None else at, seam.Abort)):
            assert handle.gc(plan).problems == ()

    @rule(keep=st.sampled_from([Policy(last=1), Policy(tags=frozenset({"best"}))]), second=st.booleans())
    def prune(self, keep: Policy, second: bool) -> None:
        handle = self.second if second else self.store
        standing = {name for name in self.model if self.current(name) is not None}
        plan = handle.plan_prune(keep=keep)
        assert {each.ref for each in (*plan.dropped, *plan.kept)} == standing
        report = handle.prune(plan)
        assert report.failed == ()
        if keep.tags:
            kept = {name for name in standing if "best" in handle.log(name).generations[0].labels}
            assert kept <= {each.ref for each in report.kept}
        for each in report.dropped:
            self.append(each.ref, None)

    @rule(name=st.sampled_from(NAMES), label=st.sampled_from(["best", "old"]), second=st.booleans())
    def tag(self, name: str, label: str, second: bool) -> None:
        handle = self.second if second else self.store
        files = self.current(name)
        if files is None:
            with pytest.raises(NotFound):
                handle.tag(name, (label,))
            return
        before = handle.log(name).generations[0]
        handle.tag(name, (label,))
        if label not in before.labels:
            self.append(name, files)
        assert label in handle.log(name).generations[0].labels

    @precondition(lambda self: any(generations[-1] is not None for generations in self.model.values()))
    @rule(data=st.data(), second=st.booleans())
    def restore(self, data: st.DataObject, second: bool) -> None:
        name = data.draw(st.sampled_from(sorted(name for name in self.model if self.current(name) is not None)))
        handle = self.second if second else self.store
        out = self.root / "out"
        handle.restore(name, out)
        assert files_of(tree_of(out)) == self.current(name)
        shutil.rmtree(out)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.root / "store")

    @rule()
    def throw_the_catalog_away(self) -> None:
        self.store.close()
        self.second.close()
        shutil.rmtree(self.root / "cache", ignore_errors=True)
        self.store = Store.open(self.root / "store")
        self.second = Store.open(self.root / "store")

    @rule(second=st.booleans())
    def verify(self, second: bool) -> None:
        handle = self.second if second else self.store
        assert handle.verify().damaged == ()

    @rule()
    def list_refs(self) -> None:
        rows = {row.ref: row for row in self.store.list_refs()}
        assert rows.keys() == {name for name in self.model if self.current(name) is not None}
        for name, row in rows.items():
            assert row.logical_bytes == sum(map(len, (self.current(name) or {}).values()))
            assert 0 <= row.exclusive_bytes <= row.stored_bytes
        assert {row.ref: row.stored_bytes for row in self.second.list_refs()} == {
            name: row.stored_bytes for name, row in rows.items()
        }

    @invariant()
    def every_ref_is_what_the_model_says(self) -> None:
        engine = self.second._engine
        found = {generation.name: generation for generation in engine.refs.standing()}
        assert found.keys() == {name for name in self.model if self.current(name) is not None}
        for name, generation in found.items():
            assert generation.number == len(self.model[name])
            if (name, generation.number) not in self.looked_at:
                assert content_of(engine, generation.target or "") == self.current(name)
                self.looked_at.add((name, generation.number))

    @invariant()
    def history_is_what_the_model_says(self) -> None:
        for name, generations in self.model.items():
            numbers = self.store._engine.refs.numbers(name)
            assert numbers == list(range(1, len(generations) + 1))
            oldest = self.store._engine.refs.read(name, 1)
            assert (oldest.target is None) == (generations[0] is None)

    @invariant()
    def no_error_but_ours_tells_of_a_missing_ref(self) -> None:
        with pytest.raises(CkptfmtError):
            self.store._engine.resolve("never/there")


SETTINGS = settings(
    max_examples=200, stateful_step_count=75, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.mark.timeout(900)
class TestStore(StoreMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = SETTINGS


@pytest.mark.torture
@pytest.mark.timeout(7200)
class TestStoreLong(StoreMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(SETTINGS, max_examples=1000, stateful_step_count=500)
