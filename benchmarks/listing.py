"""`ls` over 10,000 manifests: warm, and cold with the catalog thrown away."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from benchmarks.measuring import Figure, Workplace, command, note, run_timed, summary
from ckptfmt.api import Store
from ckptfmt.digest import checksum_of, digest_of
from ckptfmt.format import documents
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.manifest import Extent, File, Manifest, Tensor
from ckptfmt.format.refs import Generation, directory_of
from ckptfmt.format.safetensors import LENGTH_BYTES
from ckptfmt.format.shard import MAX_SHARD_OBJECTS, ShardObject, Stored, build_header
from ckptfmt.store.shards import shard_key
from ckptfmt.store.store import manifest_key

_TENSORS = 500
_OWN = 50
_OBJECT_BYTES = 64
_WARM_AIM_SECONDS = 0.5
HEADER_BYTES = 4096


def measure(place: Workplace) -> list[Figure]:
    """List `count` checkpoints of 500 tensors, of which 450 are the same in all and 50 its own."""
    count = 500 if place.quick else 10_000
    note(f"a store of {count:,} manifests of {_TENSORS} tensors")
    store = place.directory / "listed"
    make_store(store, count)
    cache = place.directory / "listed-cache"
    list_all = [*command("ls"), "--store", str(store)]
    cold, warm = [], []
    for _ in range(1 if place.quick else 3):
        shutil.rmtree(cache, ignore_errors=True)
        cold.append(run_timed(list_all, cache=cache))
    rows = json.loads(run_timed([*list_all, "--json"], cache=cache).output)
    sizes = {(row["stored_bytes"], row["exclusive_bytes"]) for row in rows}
    if len(rows) != count or sizes != {(_TENSORS * _OBJECT_BYTES + HEADER_BYTES, _OWN * _OBJECT_BYTES)}:
        raise SystemExit(f"ls gave {len(rows)} rows, sizes {sizes}")
    for _ in range(3 if place.quick else 11):
        warm.append(run_timed(list_all, cache=cache))
    shutil.rmtree(store)
    shutil.rmtree(cache)
    what = f"`ckptfmt ls` over {count:,} manifests"
    return [
        summary("ls warm", f"{what}, whole command", warm, aim=_WARM_AIM_SECONDS),
        summary("ls cold", f"{what}, the catalog thrown away", cold, aim=None),
    ]


def make_store(path: Path, count: int) -> None:
    """Write documents and shards as an import would, without making each of them durable."""
    Store.init(path).close()
    objects = Objects(path)
    skeleton = objects.add_bytes(bytes(HEADER_BYTES))
    shared = [objects.add(f"shared {index}") for index in range(_TENSORS - _OWN)]
    for number in range(count):
        digests = shared + [objects.add(f"{number} {index}") for index in range(_OWN)]
        write_checkpoint(path, f"runs/exp-{number // 100:03}/step-{number % 100:03}", number, skeleton, digests)
    objects.flush()
    os.sync()


class Objects:
    """Small raw objects, 50,000 a shard."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._objects: list[ShardObject] = []
        self._data: list[bytes] = []
        self._end = 0

    def add(self, text: str) -> str:
        return self.add_bytes(text.encode().ljust(_OBJECT_BYTES))

    def add_bytes(self, data: bytes) -> str:
        digest = digest_of(data)
        stored = Stored("raw", len(data), checksum_of(data))
        self._objects.append(ShardObject(digest, stored, self._end, "U8", (len(data),)))
        self._data.append(data)
        self._end += len(data)
        if len(self._objects) == MAX_SHARD_OBJECTS:
            self.flush()
        return digest

    def flush(self) -> None:
        if self._objects:
            head = build_header(self._objects, self._end, None)
            path = self._store / shard_key(digest_of(head[LENGTH_BYTES:]))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join([head, *self._data]))
        self._objects, self._data, self._end = [], [], 0


def write_checkpoint(store: Path, name: str, number: int, skeleton: str, digests: list[str]) -> None:
    """A checkpoint with a tensor for each object, and a name for it."""
    extents = tuple(
        Extent(HEADER_BYTES + index * _OBJECT_BYTES, _OBJECT_BYTES, digest) for index, digest in enumerate(digests)
    )
    tensors = tuple(
        Tensor(f"model.layers.{index:03}.weight", "model", "BF16", (_OBJECT_BYTES // 2,), 0, index)
        for index in range(len(digests))
    )
    file = File(
        path="model.safetensors",
        size=HEADER_BYTES + len(digests) * _OBJECT_BYTES,
        sha256="0" * 64,
        container="safetensors",
        skeleton=skeleton,
        extents=extents,
    )
    manifest = Manifest(
        version=FORMAT_VERSION,
        layout="hf-full",
        files=(file,),
        tensors=tensors,
        step=number,
        metrics={"eval_loss": 1.0 / (number + 1), "accuracy": number / 10_000},
    )
    data = documents.encode(manifest)
    digest = digest_of(data)
    _write(store / manifest_key(digest), data)
    generation = Generation(
        version=FORMAT_VERSION,
        name=name,
        number=1,
        target=digest,
        verb="import",
        time="2026-11-20T00:00:00Z",
        host="benchmark",
    )
    _write(store / "refs" / directory_of(name) / "1.json", documents.seal(generation))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
