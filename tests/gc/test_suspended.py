"""A writer that is suspended for longer than its claim counts: what it names is there, or it says what is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.api import Store, naming
from ckptfmt.errors import CkptfmtError
from ckptfmt.store import publish
from ckptfmt.store.refs import Refs
from ckptfmt.transfer import bases
from tests.store import making


@pytest.fixture
def store(quick: Path) -> Iterator[Store]:
    making.write_small(quick / "one", {"a": 1, "b": 2}, elements=3000)
    making.write_small(quick / "two", {"a": 1, "b": 3}, elements=3000)
    with Store.init(quick / "store") as store:
        yield store


def days_later(store: Store) -> None:
    """What happens while a writer sleeps: its claim is over, and two gcs go by."""
    with Store.open(store.path) as other:
        storage = other.engine.storage
        for pin in list(storage.list("pins/")):
            storage.delete(pin.key)
        for _ in range(2):
            other.gc(other.plan_gc(grace_hours=0, keep_history_days=0, apply=True))


def asleep_after(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, store: Store) -> None:
    """Let a writer sleep the first time that `name` has been called."""
    whole: Callable[..., Any] = getattr(place, name)
    slept = False

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal slept
        given = whole(*arguments, **named)
        if not slept:
            slept = True
            days_later(store)
        return given

    monkeypatch.setattr(place, name, called)


def test_an_import_that_sleeps_before_it_gives_the_name(
    store: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep_after(monkeypatch, publish, "confirm", store)
    store.import_path(quick / "one", name="runs/one")
    store.restore("runs/one", quick / "out")
    assert making.files_below(quick / "out") == making.files_below(quick / "one")
    assert store.verify().damaged == ()


def test_a_rollback_that_sleeps_names_nothing_that_is_gone(
    store: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_path(quick / "one", name="runs/one")
    store.drop("runs/one")
    asleep_after(monkeypatch, naming, "_still_there", store)
    with pytest.raises(CkptfmtError):
        store.rollback("runs/one@1")
    assert store.list_refs() == []
    assert store.fsck().problems == ()


def test_a_rollback_that_sleeps_after_the_name_says_what_is_gone(
    store: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_path(quick / "one", name="runs/one")
    store.drop("runs/one")
    whole = Refs.swap

    def later(self: Refs, *arguments: Any) -> Any:
        days_later(store)
        return whole(self, *arguments)

    monkeypatch.setattr(Refs, "swap", later)
    with pytest.raises(CkptfmtError):
        store.rollback("runs/one@1")


def test_a_base_that_is_copied_in_by_one_who_sleeps_is_there(
    store: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep_after(monkeypatch, bases, "_confirm_copy", store)
    store.add_base("small", quick / "one", keep="copy")
    assert store.verify().damaged == ()
    assert store.fsck(full=True).problems == ()


def test_a_base_that_is_kept_later_by_one_who_sleeps_is_there(
    store: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_base("small", quick / "one")
    asleep_after(monkeypatch, bases, "_confirm_copy", store)
    store.keep_base("small")
    assert store.fsck(full=True).problems == ()
    assert store.verify().damaged == ()
