"""Restores a checkpoint from a store by the specification alone: it imports nothing of ckptfmt.

    python tests/independent_reader.py STORE NAME TARGET [--base DIRECTORY]

NAME is a ref or a manifest id; a directory is where the files of a base lie that is not in the store. Every page of
docs/format/ that it follows is named beside the code. It is written to be read, not to be fast: whole objects are held
in memory. It needs the files independent_encodings.py and independent_delta.py beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import xxhash
from blake3 import blake3

if __package__:
    from tests.independent_delta import decode_delta, reference_of
    from tests.independent_encodings import DamagedError, decode_planes, decode_zstd, require
else:  # The files lie beside each other, somewhere else.
    from independent_delta import decode_delta, reference_of
    from independent_encodings import DamagedError, decode_planes, decode_zstd, require

FRAME = 4 << 20
VERSION = 1
MAX_DEPTH = 8

ENCODINGS = {"zstd": decode_zstd, "planes": decode_planes}
RELATIVE = {"delta": (reference_of, decode_delta)}
"""Encodings that need other objects: what makes the reference of these, and what decodes a frame with it."""


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

Copy = tuple[Path, int, dict[str, Any]]
"""A file, the offset in it of an object's first stored byte, and how it is stored."""


def all_objects(store: Path) -> dict[str, list[Copy]]:
    """shard.md: every shard's header says which objects it holds, where and how."""
    found: dict[str, list[Copy]] = {}
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


def base_objects(store: Path, directories: Sequence[Path]) -> dict[str, list[tuple[Path, int, int]]]:
    """base-record.md: where objects may lie in a base's own files: path, offset and length of each."""
    found: dict[str, list[tuple[Path, int, int]]] = {}
    for record in sorted(store.glob("bases/*.json")):
        data = record.read_bytes()
        require(blake3(data).hexdigest() == record.stem, f"{record}: damaged")
        for file in checked(json.loads(data), record)["files"]:
            for directory in directories:
                path = inside(directory, file["path"])
                if "content" in file:
                    found.setdefault(file["content"], []).append((path, 0, file["size"]))
                for extent in file.get("extents", []):
                    found.setdefault(extent["digest"], []).append((path, extent["offset"], extent["length"]))
    return found


class Objects:
    """The objects of a store and of bases outside it; a digest is the BLAKE3-256 of an object's decoded bytes."""

    def __init__(self, store: Path, bases: Sequence[Path] = ()) -> None:
        self.copies = all_objects(store)
        self.outside = base_objects(store, bases)
        self.needed: dict[str, bytes] = {}

    def read(self, digest: str, above: tuple[str, ...] = ()) -> bytes:
        """shard.md, "Dependencies": any sound copy will do. `above` are the objects that this one is read for."""
        problem = f"object {digest} is not in the store, nor in a base that was named"
        require(digest not in above, f"object {digest} depends on itself")
        if digest in self.needed:
            return self.needed[digest]
        for path, begin, stored in self.copies.get(digest, []):
            try:
                data = b"".join(self.frames(path, begin, stored, (*above, digest)))
                require(blake3(data).hexdigest() == digest, f"{path}: {digest}: wrong content")
            except DamagedError as error:
                problem = str(error)
            else:
                break
        else:
            data = self.read_outside(digest, problem)
        if above:
            self.needed[digest] = data
        return data

    def read_outside(self, digest: str, problem: str) -> bytes:
        """base-record.md: what lies in a base's file may have changed, and is proven by its digest before use."""
        for path, begin, length in self.outside.get(digest, []):
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(begin)
                    data = file.read(length)
                if blake3(data).hexdigest() == digest:
                    return data
                problem = f"{path}: {digest} is not what was recorded"
        raise DamagedError(problem)

    def frames(self, path: Path, begin: int, stored: dict[str, Any], above: tuple[str, ...]) -> Iterator[bytes]:
        """shard.md, "Frames": each is checked over its stored bytes; one as long as it decodes to is raw."""
        length, name, element = stored["length"], stored["encoding"], stored.get("element")
        reference = cache(lambda: self.reference(stored, above))
        decoded = [min(FRAME, length - start) for start in range(0, length, FRAME)]
        position = begin
        for index, (take, give) in enumerate(zip(stored.get("frames", decoded), decoded, strict=True)):
            with path.open("rb") as file:
                file.seek(position)
                data = file.read(take)
            position += take
            require(
                xxhash.xxh3_128_hexdigest(data) == stored["sums"][32 * index : 32 * index + 32],
                f"{path}: byte {begin}, frame {index}: damaged",
            )
            if take == give:
                yield data
            elif name in RELATIVE:
                start = index * FRAME
                yield RELATIVE[name][1](data, give, element, reference()[start : start + give])
            else:
                require(name in ENCODINGS, f"{path}: byte {begin}: unknown encoding {name!r}")
                yield ENCODINGS[name](data, give, element)

    def reference(self, stored: dict[str, Any], above: tuple[str, ...]) -> bytes:
        """shard.md, "Dependencies": at most eight follow one another."""
        require(len(above) <= MAX_DEPTH, f"object {above[0]}: more than {MAX_DEPTH} dependencies in a row")
        make: Callable[[str, list[bytes]], bytes] = RELATIVE[stored["encoding"]][0]
        data = make(stored.get("reference", ""), [self.read(each, above) for each in stored["dependencies"]])
        require(len(data) == stored["length"], f"object {above[-1]}: its reference has {len(data)} bytes")
        return data


# -------------------------------------------------------------------------------------------------------------- files


def file_bytes(objects: Objects, file: dict[str, Any]) -> bytes:
    """manifest.md, "Files": the skeleton's bytes fill what the extents leave."""
    if "content" in file:
        return objects.read(file["content"])
    extents = file.get("extents", [])
    skeleton = objects.read(file["skeleton"]) if "skeleton" in file else b""
    parts, position, used = [], 0, 0
    for extent in extents:
        gap = extent["offset"] - position
        parts += [skeleton[used : used + gap], objects.read(extent["digest"])]
        used += gap
        position = extent["offset"] + extent["length"]
    return b"".join([*parts, skeleton[used:]])


def restore(store: Path, name: str, target: Path, bases: Sequence[Path] = ()) -> int:
    """Write every file, link and empty directory of a checkpoint below `target`; the number of files."""
    unsealed(store / "store.json")
    manifest = manifest_of(store, name)
    objects = Objects(store, bases)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("name")
    parser.add_argument("target", type=Path)
    parser.add_argument("--base", type=Path, action="append", default=[], help="where a referenced base's files lie")
    given = parser.parse_args()
    print(restore(given.store, given.name, given.target, given.base), "files restored")


if __name__ == "__main__":
    main()
