"""What verbs that look cost, in queries and storage calls: it grows with what they look at, not with its square."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.errors import Conflict
from ckptfmt.storage.local import LocalStorage
from ckptfmt.storage.protocol import Listed
from ckptfmt.store.store import Store as Engine
from ckptfmt.store.store import open_store
from tests.store import making


class Counting(LocalStorage):
    """Counts what is read, asked for and listed."""

    work = 0

    def read(self, key: str, offset: int, length: int) -> bytes:
        self.work += 1
        return super().read(key, offset, length)

    def size(self, key: str) -> int | None:
        self.work += 1
        return super().size(key)

    def list(self, prefix: str) -> Iterator[Listed]:
        for each in super().list(prefix):
            self.work += 1
            yield each

    def directories(self, prefix: str) -> Iterator[Listed]:
        for each in super().directories(prefix):
            self.work += 1
            yield each


def filled(root: Path, count: int) -> Path:
    """Checkpoints that share tensors with a base that is only referenced, and are bound to none."""
    shared = {
        "layers.0.q_proj.weight": ("F32", (8, 8), making.noise(7, 256)),
        "layers.0.k_proj.weight": ("F32", (8, 8), making.noise(8, 256)),
        "embed.weight": ("F32", (16, 8), making.noise(9, 512)),
    }
    with Store.init(root / "store") as store:
        store.add_base("tiny", making.write_base(root / "base"))
        for number in range(count):
            source = root / f"source-{number}"
            source.mkdir()
            tensors = {**shared, f"own.{number}": ("F32", (8,), making.noise(number + 100, 32))}
            (source / "model.safetensors").write_bytes(making.safetensors(tensors))
            (source / "config.json").write_text('{"model_type":"llama"}')
            store.import_path(source, name=f"runs/{number}")
    return root / "store"


def work_of(path: Path, act: Callable[[Store], object]) -> int:
    """Storage calls, names listed and queries of what is done to a store whose catalog is in step with it."""
    opened = open_store(str(path))
    storage = Counting(str(path))
    engine = Engine(storage, opened.document, str(path))
    opened.close()
    queries: list[str] = []
    with Store(engine) as store:
        store.list_refs()
        storage.work = 0
        engine.catalog()._connection.set_trace_callback(queries.append)
        act(store)
    return storage.work + len(queries)


def listed(store: Store) -> None:
    rows = store.list_refs()
    assert rows
    for row in rows:
        assert row.base is None
        assert row.needs_base is not None
        assert (row.needs_base.name, bool(row.needs_base.last_seen)) == ("tiny", True)


def refused(store: Store) -> None:
    with pytest.raises(Conflict):
        store.drop_base("tiny")


@pytest.mark.parametrize("act", [listed, refused])
def test_many_cost_what_each_costs(quick: Path, act: Callable[[Store], object]) -> None:
    works = {}
    for count in (6, 12, 24):
        (quick / str(count)).mkdir()
        works[count] = work_of(filled(quick / str(count), count), act)
    assert works[24] - works[12] <= 2.2 * (works[12] - works[6]), works


def test_show_looks_each_object_up_once(quick: Path) -> None:
    """However much it says of them: a checkpoint may have 100,000."""
    source = making.write_model(quick / "model", {f"layers.{number}.weight": number for number in range(9)})
    with Store.init(quick / "store") as store:
        store.import_path(source, name="one")
        queries: list[str] = []
        store.engine.catalog()._connection.set_trace_callback(queries.append)
        shown = store.show("one")
        assert shown.stored_bytes == sum(each.stored_bytes for each in shown.encodings.values())
        looks = [query for query in queries if "FROM objects" in query]
        assert len(looks) == 1, looks
