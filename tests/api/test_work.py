"""What verbs that look cost, in queries and storage calls: it grows with what they look at, not with its square."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptfmt import Store
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


def work_of_a_list(path: Path, count: int) -> int:
    """Storage calls, names listed and queries of a list that is in step with its store."""
    opened = open_store(str(path))
    storage = Counting(str(path))
    engine = Engine(storage, opened.document, str(path))
    opened.close()
    queries: list[str] = []
    with Store(engine) as store:
        store.list_refs()
        storage.work = 0
        engine.catalog()._connection.set_trace_callback(queries.append)
        rows = store.list_refs()
        assert [row.needs_base and row.needs_base.name for row in rows] == ["tiny"] * count
        assert all(row.needs_base and row.needs_base.last_seen for row in rows)
        assert all(row.base is None for row in rows)
    return storage.work + len(queries)


def test_a_list_costs_what_its_rows_cost(quick: Path) -> None:
    works = {}
    for count in (6, 12, 24):
        (quick / str(count)).mkdir()
        works[count] = work_of_a_list(filled(quick / str(count), count), count)
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
