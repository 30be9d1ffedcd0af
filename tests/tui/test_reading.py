"""What the pages read of the store: in threads, also while the application is being left."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ckptfmt_tui.reading import Answer, Reader

from ckptfmt.api import Store


def test_the_store_is_closed_by_the_last_that_reads_it(quick: Path) -> None:
    Store.init(quick / "store").close()
    reader = Reader(str(quick / "store"))
    asking, go_on = threading.Event(), threading.Event()
    answers: list[Answer[int]] = []

    def question(store: Store) -> int:
        asking.set()
        assert go_on.wait(10)
        return len(list(store.list_refs()))

    thread = threading.Thread(target=lambda: answers.append(reader.ask(question)))
    thread.start()
    assert asking.wait(10)
    reader.close()  # Waits for nobody: the window goes at once.
    late = reader.ask(lambda store: 0)
    assert late.value is None
    assert late.problem is not None
    go_on.set()
    thread.join(10)
    assert answers == [Answer(0, None)]
    assert reader._store is None


def test_a_disk_that_does_not_answer_holds_up_no_leaving(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.init(quick / "store").close()
    reader = Reader(str(quick / "store"))
    assert reader.ask(lambda store: len(list(store.list_refs()))).value == 0
    looking, answered = threading.Event(), threading.Event()
    exists = os.path.exists

    def slow(path: str) -> bool:
        if path.endswith("/store.json"):
            looking.set()
            assert answered.wait(20)
        return exists(path)

    answers: list[Answer[int]] = []
    asking = threading.Thread(target=lambda: answers.append(reader.ask(lambda store: len(list(store.list_refs())))))
    leaving = threading.Thread(target=reader.close)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "exists", slow)
        asking.start()
        try:
            assert looking.wait(10)
            leaving.start()
            leaving.join(10)
            assert not leaving.is_alive()
        finally:
            answered.set()
            asking.join(10)
    assert answers == [Answer(0, None)], "what is under way is answered"
    assert reader._store is None


def test_a_store_that_is_gone_is_not_an_empty_one(quick: Path) -> None:
    Store.init(quick / "store").close()
    reader = Reader(str(quick / "store"))
    assert reader.ask(lambda store: len(list(store.list_refs()))).value == 0
    (quick / "store").rename(quick / "away")
    answer = reader.ask(lambda store: len(list(store.list_refs())))
    assert answer.problem is not None
    assert "is not there any more" in answer.problem.message
    (quick / "away").rename(quick / "store")
    assert reader.ask(lambda store: len(list(store.list_refs()))).value == 0
    reader.close()
