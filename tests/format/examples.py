"""Documents and shards that tests begin from."""

from __future__ import annotations

from msgspec import structs

from ckptfmt.digest import checksum_of, digest_of
from ckptfmt.format.manifest import Extent, File, Link, Manifest, Tensor
from ckptfmt.format.refs import Generation
from ckptfmt.format.shard import ALIGNMENT, ShardObject, Stored, build_header, raw_hint

A, B, C = (digest_of(letter) for letter in (b"a", b"b", b"c"))


def manifest(**changes: object) -> Manifest:
    """A checkpoint of one safetensors file, one opaque file and one link."""
    whole = Manifest(
        version=1,
        layout="hf-full",
        files=(
            File("config.json", 2, A, content=A),
            File("model.safetensors", 100, B, "safetensors", None, C, (Extent(40, 20, A), Extent(60, 40, B))),
        ),
        links=(Link("latest", "model.safetensors"),),
        tensors=(
            Tensor("w", "model", "F32", (5,), 1, 0),
            Tensor("v.T", "model", "BF16", (4, 5), 1, 1, strides=(1, 4), digest=C),
        ),
        settings={"lr": 0.001},
    )
    return structs.replace(whole, **changes)


def generation(**changes: object) -> Generation:
    """Generation 3 of a ref."""
    whole = Generation(
        version=1,
        name="runs/exp1",
        number=3,
        target=A,
        verb="import",
        time="2026-01-02T03:04:05Z",
        host="node-7",
        previous=2,
    )
    return structs.replace(whole, **changes)


def shard(objects: dict[bytes, tuple[str, tuple[int, ...]]], data_begin: int | None = None) -> bytes:
    """A shard of raw objects: content to dtype and shape."""
    items, data = [], b""
    for content, (dtype, shape) in objects.items():
        data += bytes(-len(data) % ALIGNMENT)
        stored = Stored("raw", len(content), checksum_of(content) if content else "")
        items.append(ShardObject(digest_of(content), stored, len(data), *raw_hint(dtype, shape, stored)))
        data += content
    return build_header(items, len(data), data_begin) + data
