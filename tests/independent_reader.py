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


def decode_delta(data: bytes, length: int, element: str | None, reference: bytes) -> bytes:
    """encodings/delta.md, element by element where that is simplest."""
    kind, width = word_of(element)
    if element and element.startswith("F8_") and element != "F8_E8M0":
        kind = "float"
    count, spare = divmod(length, width)
    require(len(reference) == length, "delta: wrong reference")
    if data[0] == 0:
        require(len(data) == 1, "delta: trailing bytes")
        return reference
    tail = data[1 : 1 + spare]
    basis = np.frombuffer(reference, f"<u{width}", count)
    if data[0] == 2:
        words = np.frombuffer(decode_planes(data[1 + spare :], count * width, element), basis.dtype)
        return (words ^ basis).tobytes() + tail
    require(data[0] == 1, "delta: unknown form")
    stream = Stream(data[1 + spare :], max(width, 2))
    rest, bands, symbol_bits, dropped, pivot = np.frombuffer(stream.take(6), "<u2,u1,u1,u1,u1")[0].tolist()
    group = delta_classes(basis, element)
    difference = np.zeros(count, np.int64)
    chosen = np.flatnonzero(group < rest)
    if len(chosen):
        planes = [stream.coded(len(chosen)) for _ in range(dropped)]
        values = stream.symbols(len(chosen), symbol_bits)
        widths = np.clip(pivot - group[chosen].astype(int), 0, 8)
        tiles = [widths[begin : begin + (1 << 18)] for begin in range(0, len(widths), 1 << 18)]
        values = (values << widths) + np.array([each for tile in stream.bits(tiles) for each in tile])
        for plane in reversed(planes):
            values = values << 8 | plane
        difference[chosen] = values
    for band in range(bands):
        chosen = np.flatnonzero(group == rest + band)
        chosen = chosen[stream.places()]
        difference[chosen] = stream.symbols(len(chosen), 8)
    if rest < 256:
        chosen = stream.places()
        difference[chosen] = stream.symbols(len(chosen), 8)
    require(stream.position == len(stream.data), "delta: trailing bytes")
    signed = basis.view(f"<i{width}").astype(np.int64)
    low = (1 << (8 * width - 1)) - 1
    if kind == "float":
        signed = np.where(signed < 0, signed ^ low, signed)
    total = (signed + difference).astype(f"<i{width}")
    if kind == "float":
        total = np.where(total < 0, total ^ total.dtype.type(low), total)
    return total.tobytes() + tail


def delta_classes(basis: Any, element: str | None) -> Any:
    """encodings/delta.md, "Classes"."""
    fields = {"BF16": (7, 8), "F16": (10, 5), "F32": (23, 8), "C64": (23, 8), "F64": (52, 11), "C128": (52, 11)}
    fields |= {"F8_E4M3": (3, 4), "F8_E5M2": (2, 5), "F8_E4M3FNUZ": (3, 4), "F8_E5M2FNUZ": (2, 5)}
    if element not in fields:
        return np.zeros(len(basis), int)
    low, bits = fields[element]
    field = (basis.astype(np.uint64) >> np.uint64(low)).astype(int) & ((1 << bits) - 1)
    return np.clip(field - 800, 0, 255) if bits == 11 else field


class Stream:
    """encodings/delta.md, "Streams"."""

    def __init__(self, data: bytes, escape_width: int) -> None:
        self.data, self.position, self.escape_width = data, 0, escape_width

    def take(self, count: int) -> bytes:
        require(self.position + count <= len(self.data), "delta: too short")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def coded(self, count: int) -> Any:
        if not count:
            return np.zeros(0, np.int64)
        stored = self.take(self.number())
        plane = stored if len(stored) == count else decode_zstd(stored, count, None)
        return np.frombuffer(plane, np.uint8).astype(np.int64)

    def symbols(self, count: int, bits: int) -> Any:
        half = -(-count // 2)
        if bits == 4:
            pairs = self.coded(half)
            symbols = np.concatenate([pairs & 15, pairs >> 4])[:count]
        else:
            symbols = self.coded(count)
        escapes = self.number()
        values = symbols - (1 << (bits - 1))
        planes = np.array([self.coded(escapes) for _ in range(self.escape_width)]).T.astype(np.uint8)
        values[symbols == 0] = np.ascontiguousarray(planes).reshape(-1).view(f"<i{self.escape_width}")
        return values

    def places(self) -> Any:
        place, places = -1, []
        for gap in self.coded(self.number()).tolist():
            place += gap
            if gap < 255:
                place += 1
                places.append(place)
        return np.array(places, np.int64)

    def bits(self, tiles: list[Any]) -> list[list[int]]:
        """Sums of eights; their whole bytes, tile by tile; then, in the same way, the bits that are left over."""
        lanes, columns = [], []
        for tile in tiles:
            eights = -(-len(tile) // 8)
            widths = np.append(tile, np.zeros(-len(tile) % 8, int)).reshape(8, eights)[[0, 4, 2, 6, 1, 5, 3, 7]]
            total = widths.sum(axis=0)
            values = [0] * eights
            for column in range(int((total // 8).max(initial=0))):
                for eight in np.flatnonzero(total // 8 > column).tolist():
                    values[eight] |= self.take(1)[0] << (8 * column)
            lanes.append((widths, values))
            columns.append(total % 8)
        left = np.concatenate(columns) if columns else np.zeros(0, int)
        extra = self.bits([left])[0] if len(left) > 1024 else list(self.take(len(left)))
        result = []
        for tile, (widths, values) in zip(tiles, lanes, strict=True):
            numbers = [0] * widths.size
            for eight, value in enumerate(values):
                joined = value << int(widths[:, eight].sum() % 8) | extra.pop(0)
                for lane in (7, 3, 5, 1, 6, 2, 4, 0):
                    width = int(widths[[0, 4, 2, 6, 1, 5, 3, 7].index(lane), eight])
                    numbers[lane * len(values) + eight] = joined & ((1 << width) - 1)
                    joined >>= width
            result.append(numbers[: len(tile)])
        return result


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
