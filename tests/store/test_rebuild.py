"""The catalog is made again while others look."""

from __future__ import annotations

import threading
from pathlib import Path

from ckptfmt.api import Store
from ckptfmt.format.manifest import objects_of
from ckptfmt.store.store import open_store
from tests.store import making


def test_a_reader_misses_nothing_meanwhile(tmp_path: Path) -> None:
    """Damage makes the catalog begin afresh; threads that read what is sound find it at any moment."""
    with Store.init(tmp_path / "store") as store:
        for seed in range(20):
            store.import_checkpoint(making.write_small(tmp_path / str(seed), {"w": seed}), f"run/{seed}")
    missed: list[str] = []
    for _ in range(10):
        engine = open_store(str(tmp_path / "store"))
        known = list(objects_of(engine.manifest(engine.resolve("run/7")[0])))
        catalog, looking, stop = engine.catalog(), threading.Event(), threading.Event()

        def look(find=catalog.find, known=known, looking=looking, stop=stop) -> None:  # type: ignore[no-untyped-def]
            while not stop.is_set():
                missed.extend(digest for digest in known if not find(digest))
                looking.set()

        thread = threading.Thread(target=look)
        thread.start()
        looking.wait()
        engine._look_again()
        stop.set()
        thread.join()
        engine.close()
    assert missed == []
