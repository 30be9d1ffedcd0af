"""Restores a checkpoint from a store by the specification alone: it imports nothing of ckptfmt.

    python tests/independent_reader.py STORE NAME TARGET

NAME is a ref or a manifest id. Every page of docs/format/ that it follows is named beside the code. It is written to
be read, not to be fast: whole objects are held in memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard
from blake3 import blake3
from pcodec import wrapped

FRAME = 4 << 20
VERSION = 1


class DamagedError(Exception):
    """What was read is not what the specification says it must be."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise DamagedError(message)


# ---------------------------------------------------------------------------------------------------------- documents


def unsealed(path: Path) -> dict[str, Any]:
    """ref.md, "Sealed documents": the last field is the XXH3-128 of all other bytes."""
    data = path.read_bytes()
    head, digits, tail = data[:-35], data[-35:-3], data[-3:]
    require(head.endswith(b',"xxh3":"') and tail == b'"}\n', f"{path}: not sealed")
    require(xxhash.xxh3_128_hexdigest(head + tail).encode() == digits, f"{path}: its seal is broken")
    return checked(json.loads(data), path)


def checked(document: dict[str, Any], path: Path) -> dict[str, Any]:
    require(document["version"] == VERSION, f"{path}: format version {document['version']}")
    return document


def newest_generation(store: Path, name: str) -> dict[str, Any]:
    """ref.md: the generation with the highest number counts; one without a target is a tombstone."""
    directory = store / "refs" / name.replace("/", ",")
    numbers = [int(path.stem) for path in directory.glob("*.json")] if directory.is_dir() else []
    require(numbers, f"no ref {name}")
    path = directory / f"{max(numbers)}.json"
    generation = unsealed(path)
    require((generation["name"], generation["number"]) == (name, max(numbers)), f"{path}: it is another's")
    require(generation["target"], f"ref {name} was dropped")
    return generation


def manifest_of(store: Path, name: str) -> dict[str, Any]:
    """manifest.md: a manifest's id is the BLAKE3-256 of its bytes."""
    is_id = len(name) == 64 and set(name) <= set("0123456789abcdef")
    identity = name if is_id else newest_generation(store, name)["target"]
    path = store / "manifests" / identity[:2] / f"{identity}.json"
    data = path.read_bytes()
    require(blake3(data).hexdigest() == identity, f"{path}: damaged")
    return checked(json.loads(data), path)


# ------------------------------------------------------------------------------------------------------------- shards


def all_objects(store: Path) -> dict[str, list[tuple[Path, int, dict[str, Any]]]]:
    """shard.md: every shard's header says which objects it holds, where and how."""
    found: dict[str, list[tuple[Path, int, dict[str, Any]]]] = {}
    for path in sorted(store.glob("shards/??/*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length)
        require(blake3(header).hexdigest() == path.stem, f"{path}: its header is damaged")
        document = json.loads(header)
        metadata = document.pop("__metadata__")
        require(metadata["ckptfmt"] == "shard/1", f"{path}: {metadata['ckptfmt']}")
        for digest, entry in document.items():
            if not digest.startswith("pad-"):
                begin = 8 + length + entry["data_offsets"][0]
                found.setdefault(digest, []).append((path, begin, json.loads(metadata[digest])))
    return found


def frames(path: Path, begin: int, stored: dict[str, Any]) -> Iterator[bytes]:
    """shard.md, "Frames": each is checked over its stored bytes; one as long as it decodes to is raw."""
    length = stored["length"]
    decoded = [min(FRAME, length - start) for start in range(0, length, FRAME)]
    with path.open("rb") as file:
        file.seek(begin)
        for index, (take, give) in enumerate(zip(stored.get("frames", decoded), decoded, strict=True)):
            data = file.read(take)
            require(
                xxhash.xxh3_128_hexdigest(data) == stored["sums"][32 * index : 32 * index + 32],
                f"{path}: byte {begin}, frame {index}: damaged",
            )
            yield data if take == give else ENCODINGS[stored["encoding"]](data, give, stored.get("element"))


def object_bytes(objects: dict[str, list[tuple[Path, int, dict[str, Any]]]], digest: str, length: int) -> bytes:
    """shard.md: a digest is the BLAKE3-256 of the decoded bytes; any sound copy will do."""
    problem = f"object {digest} is not in the store (a referenced base holds it?)"
    for path, begin, stored in objects.get(digest, []):
        try:
            data = b"".join(frames(path, begin, stored))
            require(len(data) == length and blake3(data).hexdigest() == digest, f"{path}: {digest}: wrong content")
        except DamagedError as error:
            problem = str(error)
        else:
            return data
    raise DamagedError(problem)


# ---------------------------------------------------------------------------------------------------------- encodings


def decode_zstd(data: bytes, length: int, element: str | None) -> bytes:
    """encodings/zstd.md."""
    require(zstandard.frame_content_size(data) == length, "zstd: wrong content size")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=length, allow_extra_data=False)


def decode_planes(data: bytes, length: int, element: str | None) -> bytes:
    """encodings/planes.md, followed step by step in unsigned 64-bit integers."""
    kind, width = word_of(element)
    count, spare = divmod(length, width)
    form, dropped, tail, body = data[0], data[1], data[2 : 2 + spare], data[2 + spare :]
    bits = 8 * width - dropped
    mask = np.uint64((1 << bits) - 1)
    one, last = np.uint64(1), np.uint64(max(bits - 1, 0))
    if form == 1:
        number = -(-bits // 8)
        value = np.zeros(count, np.uint64)
        lengths = np.frombuffer(body[: 4 * number], "<u4").tolist()
        position = 4 * number
        for size in lengths:
            plane = body[position : position + size]
            position += size
            plane = plane if size == count else decode_zstd(plane, count, None)
            value = value << np.uint64(8) | np.frombuffer(plane, np.uint8).astype(np.uint64)
        require(position == len(body), "planes: trailing bytes")
        value >>= np.uint64(8 * number - bits)
        if kind != "unsigned" and bits:
            sign = value & one
            if kind == "signed":
                value = value ^ np.where(sign == one, mask ^ one, np.uint64(0))
            value = (value >> one | sign << last) & mask
    else:
        require(
            form == 2 and body[:2] in (b"\x04\x00", b"\x04\x01") and body[2] in (0x00, 0x10), "planes: unknown form"
        )
        size = 16 if bits <= 16 else 32 if bits <= 32 else 64
        numbers = np.empty(count, f"<u{size // 8}")
        file, _ = wrapped.FileDecompressor.new(body[:2])
        chunk, taken = file.chunk_decompressor(body[2:], f"u{size}")
        progress, read = chunk.read_page_into(body[2 + taken :], count, numbers)
        require(progress.finished and 2 + taken + read == len(body), "planes: damaged pcodec page")
        value = numbers.astype(np.uint64)
        top = one << last
        if kind == "signed":
            value = value ^ top
        elif kind == "float":
            value = np.where(value & top, value ^ top, value ^ mask)
    words = value << np.uint64(dropped) if bits else value
    return words.astype(f"<u{width}").tobytes() + tail


def word_of(element: str | None) -> tuple[str, int]:
    """encodings/planes.md, "Words"."""
    if element in ("F16", "BF16", "F32", "F64", "C64", "C128"):
        return "float", {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 4, "C128": 8}[element]
    if element in ("I16", "I32", "I64", "U16", "U32", "U64"):
        return "signed" if element[0] == "I" else "unsigned", int(element[1:]) // 8
    return "unsigned", 1


ENCODINGS = {"zstd": decode_zstd, "planes": decode_planes}


# -------------------------------------------------------------------------------------------------------------- files


def file_bytes(objects: dict[str, list[tuple[Path, int, dict[str, Any]]]], file: dict[str, Any]) -> bytes:
    """manifest.md, "Files": the skeleton's bytes fill what the extents leave."""
    if "content" in file:
        return object_bytes(objects, file["content"], file["size"])
    extents = file.get("extents", [])
    rest = file["size"] - sum(extent["length"] for extent in extents)
    skeleton = object_bytes(objects, file["skeleton"], rest) if "skeleton" in file else b""
    parts, position, used = [], 0, 0
    for extent in extents:
        gap = extent["offset"] - position
        parts += [skeleton[used : used + gap], object_bytes(objects, extent["digest"], extent["length"])]
        used += gap
        position = extent["offset"] + extent["length"]
    return b"".join([*parts, skeleton[used:]])


def restore(store: Path, name: str, target: Path) -> int:
    """Write every file, link and empty directory of a checkpoint below `target`; the number of files."""
    unsealed(store / "store.json")
    manifest = manifest_of(store, name)
    objects = all_objects(store)
    for path in manifest.get("directories", []):
        inside(target, path).mkdir(parents=True, exist_ok=True)
    for file in manifest["files"]:
        data = file_bytes(objects, file)
        require(hashlib.sha256(data).hexdigest() == file["sha256"], f"{file['path']}: wrong SHA-256")
        inside(target, file["path"]).parent.mkdir(parents=True, exist_ok=True)
        inside(target, file["path"]).write_bytes(data)
    for link in manifest.get("links", []):
        inside(target, link["path"]).parent.mkdir(parents=True, exist_ok=True)
        inside(target, link["path"]).symlink_to(link["target"])
    return len(manifest["files"])


def inside(target: Path, path: str) -> Path:
    """manifest.md, "Paths"."""
    require(not {"", ".", ".."} & set(path.split("/")), f"unsafe path {path!r}")
    return target / path


if __name__ == "__main__":
    print(restore(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])), "files restored")
