"""A copy that would stay and is damaged: everything that any other copy is made of stays with it, however far."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.api.reclaiming import GcReport
from ckptfmt.digest import digest_of
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.object_writer import Against, Incoming
from ckptfmt.store.shards import ShardWriter, shard_key
from ckptfmt.store.store import Store as Engine
from tests.store import making
from tests.store.test_against import moved, weights

HOUR = 3600.0
FAR, NEAR = 0.5, 0.02
"""Share of the words in which one tensor differs from another: what is stored against a far one takes more."""


def write_copy(engine: Engine, data: bytes, on: Sequence[bytes] = (), beside: bytes = b"") -> Path:
    """Another host's copy of an object, in a shard with at most one other, stored against others; where it lies."""
    digests = tuple(map(digest_of, on))
    basis = engine.objects().basis(BasisOf("delta", "", digests, len(data))) if on else None
    against = (Against("delta", "", digests, basis, frozenset(digests)),) if basis else ()
    written: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        writer = ShardWriter(
            engine.storage,
            effort="balanced",
            pool=pool,
            remaining=lambda: 0,
            written=lambda shard, size, objects: written.append(shard),
        )
        item = writer.begin(Incoming(len(data), "BF16", (len(data) // 2,), against=against))
        item.append(data)
        item.finish()
        if beside:
            other = writer.begin(Incoming(len(beside), "BF16", (len(beside) // 2,)))
            other.append(beside)
            other.finish()
        writer.flush()
    engine.catalog(refresh=True)
    (copy,) = (copy for copy in engine.catalog().find(digest_of(data)) if copy.shard == written[0])
    assert copy.stored.dependencies == digests
    return Path(engine.path or "") / shard_key(written[0])


def write_tensor(directory: Path, data: bytes) -> Path:
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(making.safetensors({"w": ("BF16", (len(data) // 2,), data)}))
    making.settle_times(directory)
    return directory


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def age(store: Store, seconds: float, but: Path | None = None) -> None:
    for path in Path(store.path).rglob("*"):
        if path != but:
            found = path.lstat()
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))


def gc(store: Store, grace: float = 0.0) -> GcReport:
    return store.gc(store.plan_gc(grace_hours=grace, keep_history_days=0, apply=True))


class Scene:
    """`one` is stored against `near`, which stays, in a copy that is damaged; and against `far`, which was dropped."""

    def __init__(self, quick: Path) -> None:
        one = weights(1)
        near, self.far_data = moved(one, 2, NEAR), moved(one, 3, FAR)
        tensors = {"one": one, "near": near, "far": self.far_data}
        self.sources = {name: write_tensor(quick / name, data) for name, data in tensors.items()}
        self.store = Store.init(quick / "store")
        for name in ("near", "far"):
            self.store.import_path(self.sources[name], name=name, effort="fast")
        engine = self.store._engine
        self.small = write_copy(engine, one, [near])
        self.large = write_copy(engine, one, [self.far_data])
        assert self.small.stat().st_size < self.large.stat().st_size
        report = self.store.import_path(self.sources["one"], name="one", effort="fast")
        assert report.checkpoints[0].new_bytes < len(one) // 2
        self.store.drop("far")
        damage(self.small)


@pytest.fixture
def scene(quick: Path) -> Scene:
    return Scene(quick)


def test_what_the_other_copy_is_stored_against_stays(scene: Scene, quick: Path) -> None:
    assert gc(scene.store).problems
    assert making.restored(scene.store, "one", quick / "out") == making.tree_of(scene.sources["one"])
    assert scene.large.exists()
    assert gc(scene.store).problems
    assert making.restored(scene.store, "one", quick / "out2") == making.tree_of(scene.sources["one"])


def test_what_the_other_copy_is_stored_against_goes_only_when_what_stays_is_sound(scene: Scene, quick: Path) -> None:
    """The shard of that copy is young, and that of what it is stored against is not."""
    age(scene.store, 2 * HOUR, but=scene.large)
    gc(scene.store, grace=1)
    age(scene.store, 2 * HOUR, but=scene.large)
    assert gc(scene.store, grace=1).problems
    assert making.restored(scene.store, "one", quick / "out") == making.tree_of(scene.sources["one"])


def test_copies_that_are_sound_let_it_go(scene: Scene, quick: Path) -> None:
    damage(scene.small)  # The same bit once more.
    report = gc(scene.store)
    assert report.problems == ()
    assert not scene.large.exists()
    assert scene.store._engine.catalog().find(digest_of(scene.far_data)) == []
    assert making.restored(scene.store, "one", quick / "out") == making.tree_of(scene.sources["one"])


def test_a_copy_that_hangs_in_the_air_is_no_damage(quick: Path) -> None:
    """It lies in a shard of which most is needed, another copy stays, and what it is stored against is freed."""
    one = weights(1)
    near, far, most = moved(one, 2, NEAR), moved(one, 3, FAR), weights(4, 80_000)
    data = {"one": one, "near": near, "far": far, "most": most}
    sources = {name: write_tensor(quick / name, each) for name, each in data.items()}
    with Store.init(quick / "store") as store:
        for name in ("near", "far"):
            store.import_path(sources[name], name=name, effort="fast")
        write_copy(store._engine, one, [near])
        hanging = write_copy(store._engine, one, [far], beside=most)
        for name in ("one", "most"):
            store.import_path(sources[name], name=name, effort="fast")
        store.drop("far")
        assert gc(store).shards == 1
        assert hanging.exists()
        assert store._engine.catalog().find(digest_of(far)) == []
        assert store.verify().damaged == ()
        assert store.fsck(full=True).problems == ()
        for name in ("one", "near", "most"):
            assert making.restored(store, name, quick / "out" / name) == making.tree_of(sources[name])
        (report,) = store.import_path(sources["one"], name="again", effort="fast").checkpoints
        assert report.new_bytes < 2000
        assert store.optimize(["one"]).checkpoints
        assert gc(store).problems == ()
        assert store.verify().damaged == ()
