"""Every bit and every truncation of every file of a store that uses every encoding: noticed where it is read.

`test_rot.py` goes through whole commands, one bit a byte; here each bit is flipped, below the one place that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.refs import Generation, StoreDocument
from ckptfmt.format.safetensors import LENGTH_BYTES, header_length
from ckptfmt.format.shard import ShardObject
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store.objects import Objects
from ckptfmt.store.shards import read_header_at, read_shard_header, shard_of
from ckptfmt.store.store import Store as Engine
from tests.exactness import made
from tests.faults.figures import Tally, tally
from tests.faults.test_rot import opened
from tests.store.making import content_of, files_of, safetensors, tree_of

ENCODINGS = {"raw", "zstd", "planes", "delta", "lowrank"}
KINDS = ("store.json", "shards", "manifests", "bases", "refs")
EXITS = {1, 3, 5}
WHOLE = 64
"""Each so-manieth flip in a shard's data is looked at through a whole restore of everything too."""


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    parts = [f"{what} {kind}" for what in ("flips", "cuts") for kind in KINDS]
    with tally("rot", parts, flips=80_000, cuts=8_000) as counting:
        yield counting


@dataclass(frozen=True)
class Tiny:
    """A store: `values` by key, the files of each of its checkpoints, and what its shards hold."""

    values: Mapping[str, bytes]
    files: Mapping[str, Mapping[str, bytes]]
    shards: Mapping[str, tuple[ShardObject, ...]]

    def of_kind(self, kind: str) -> list[str]:
        return [key for key in self.values if key.partition("/")[0] == kind]


def write_sources(root: Path) -> dict[str, Path]:
    """A base, a step from it, a merge with its adapter, and what is no weights."""
    random = np.random.default_rng(3)
    base = random.normal(0, 0.02, (32, 48)).astype("<f4")
    left, right = random.normal(0, 0.003, (32, 1)).astype("<f4"), random.normal(0, 0.5, (1, 48)).astype("<f4")
    step = base + random.normal(0, 1e-4, base.shape).astype("<f4")
    both = made.numbers_of(made.words_of(base, "BF16"), "BF16") + made.product(left, right)

    def model(name: str, weight: made.Floats) -> Path:
        return made.write_model(root / name, {made.Q: weight}, "BF16")

    places = {"base": model("base", base), "step": model("step", step), "both": model("both", both)}
    module = f"base_model.model.{made.Q.removesuffix('.weight')}"
    made.write_adapter(places["both"], {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left})
    (places["step"] / "log.txt").write_text("step 1 loss 2.5\n" * 50)
    raw = {"n": ("U8", (5,), b"\1\2\3\4\5"), "m": ("F32", (4,), random.bytes(16))}
    (places["step"] / "extra.safetensors").write_bytes(safetensors(raw))
    return places


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("rot")
    places = write_sources(root / "sources")
    with Store.init(root / "store") as store:
        store.add_base("base", places["base"], keep="copy")
        for name in ("step", "both"):
            store.import_checkpoint(places[name], name, base="base")
    paths = [path for path in (root / "store").rglob("*") if path.is_file()]
    values = {path.relative_to(root / "store").as_posix(): path.read_bytes() for path in paths}
    storage = storage_of(values)
    shards = {key: read_shard_header(storage, shard) for key in values if (shard := shard_of(key)) is not None}
    assert {item.stored.encoding for objects in shards.values() for item in objects} == ENCODINGS
    assert {key.partition("/")[0] for key in values} == set(KINDS)
    return Tiny(values, {name: files_of(tree_of(places[name])) for name in ("step", "both")}, shards)


def storage_of(values: Mapping[str, bytes]) -> MemoryStorage:
    storage = MemoryStorage()
    for key, value in values.items():
        storage.put(key, value)
    return storage


def flips(value: bytes) -> Iterator[tuple[int, bytes]]:
    damaged = bytearray(value)
    for offset in range(len(value)):
        for bit in range(8):
            damaged[offset] ^= 1 << bit
            yield offset, bytes(damaged)
            damaged[offset] ^= 1 << bit


def cuts(value: bytes) -> Iterator[tuple[int, bytes]]:
    for length in range(len(value)):
        yield length, value[:length]


def refused(engine: Engine, key: str) -> None:
    """What reads a document says that it is damaged, and gives nothing."""
    kind, _, rest = key.partition("/")
    digest = rest.rpartition("/")[2].removesuffix(".json")
    with pytest.raises(CkptfmtError) as caught:
        if kind == "manifests":
            engine.manifest_uncached(digest)
        elif kind == "bases":
            engine._read_record(digest)
        elif kind == "refs":
            directory, _, number = rest.partition("/")
            engine.refs.read(directory.replace(",", "/"), int(number.removesuffix(".json")))
        else:
            documents.unseal(engine.storage.read(key, 0, 1 << 20), StoreDocument, where=key)
    assert caught.value.exit_code in EXITS


@pytest.mark.parametrize("kind", ["store.json", "manifests", "bases", "refs"])
@pytest.mark.parametrize("what", [flips, cuts])
def test_documents(what: object, kind: str, tiny: Tiny, counted: Tally) -> None:
    count = 0
    engine = opened(tiny.values)
    for key in tiny.of_kind(kind):
        for _, damaged in (flips if what is flips else cuts)(tiny.values[key]):
            engine.storage.put(key, damaged)
            refused(engine, key)
            count += 1
        engine.storage.put(key, tiny.values[key])
    engine.close()
    name = "flips" if what is flips else "cuts"
    counted.add(f"{name} {kind}", **{name: count})


def data_begin(value: bytes) -> int:
    return LENGTH_BYTES + header_length(value[:LENGTH_BYTES], file_size=len(value), where="shard")


def check_all(engine: Engine, tiny: Tiny) -> None:
    """Each checkpoint comes back to the byte, or there is an error."""
    for name, files in tiny.files.items():
        try:
            found = content_of(engine, engine.refs.current(name).target or "")
        except CkptfmtError as error:
            assert error.exit_code in EXITS
        else:
            assert found == files


def read_object(objects: Objects, item: ShardObject) -> bytes | CkptfmtError:
    try:
        return b"".join(map(bytes, objects.frames(item.digest, item.stored.length)))
    except CkptfmtError as error:
        return error


def test_every_bit_of_the_shards(tiny: Tiny, counted: Tally) -> None:
    """In a header: the shard is none. In an object: that object is not given back. Beside: nothing changes."""
    count = 0
    engine = opened(tiny.values)
    objects = engine.objects()
    for key, items in tiny.shards.items():
        value = tiny.values[key]
        begin = data_begin(value)
        sound = {item.digest: read_object(objects, item) for item in items}
        shard = shard_of(key) or ""
        for offset, damaged in flips(value):
            count += 1
            engine.storage.put(key, damaged)
            if offset < begin:
                with pytest.raises(CkptfmtError) as caught:
                    read_header_at(engine.storage, key, shard)
                assert caught.value.exit_code in EXITS
                continue
            for item in items:
                if item.begin <= offset < item.begin + item.stored.stored_bytes():
                    found = read_object(objects, item)
                    assert isinstance(found, CkptfmtError), f"{key}, byte {offset}: the flip was not noticed"
                    assert found.exit_code == 3
            if count % WHOLE == 0:
                check_all(engine, tiny)
        engine.storage.put(key, value)
        engine.catalog(refresh=True)
        assert sound == {item.digest: read_object(objects, item) for item in items}
    engine.close()
    counted.add("flips shards", flips=count)


def test_every_truncation_of_the_shards(tiny: Tiny, counted: Tally) -> None:
    """Whoever opens it sees that it is none; whoever knew it gives back what is before the cut, and nothing wrong."""
    count = 0
    engine = opened(tiny.values)
    objects = engine.objects()
    for key, items in tiny.shards.items():
        value = tiny.values[key]
        sound = {item.digest: read_object(objects, item) for item in items}
        for length, damaged in cuts(value):
            count += 1
            engine.storage.put(key, damaged)
            with pytest.raises(CkptfmtError) as caught:
                read_header_at(engine.storage, key, shard_of(key) or "")
            assert caught.value.exit_code in EXITS
            if count % 8 == 0:
                for item in items:
                    found = read_object(objects, item)
                    assert isinstance(found, CkptfmtError) or found == sound[item.digest]
                    assert isinstance(found, CkptfmtError) or item.begin + item.stored.stored_bytes() <= length
                check_all(engine, tiny)
        engine.storage.put(key, value)
        engine.catalog(refresh=True)
    engine.close()
    counted.add("cuts shards", cuts=count)


def test_generations_of_others_are_not_taken(tiny: Tiny) -> None:
    """Whole, sealed and in the wrong place: a file system that folds names, or a copy gone astray."""
    engine = opened(tiny.values)
    for key in tiny.of_kind("refs"):
        for other in tiny.of_kind("refs"):
            if other != key:
                engine.storage.put(key, tiny.values[other])
                refused(engine, key)
        documents.unseal(tiny.values[key], Generation, where=key)
        engine.storage.put(key, tiny.values[key])
    engine.close()
