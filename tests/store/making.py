"""Tiny checkpoints made by hand, and comparing what came back with what went in."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptfmt.api import Store
from ckptfmt.format.manifest import Manifest
from ckptfmt.store.objects import Objects
from ckptfmt.store.outside import all_outside
from ckptfmt.store.store import Store as Engine
from ckptfmt.transfer.restoring import file_bytes

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]


@dataclass(frozen=True, slots=True)
class Node:
    """One entry below a directory: `content` is a file's bytes, a link's text, or None for a directory."""

    kind: str
    content: bytes | str | None
    mode: int
    mtime_ns: int


Tree = dict[str, Node]


def safetensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of `tensors`, in the order given."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def noise(seed: int, size: int) -> bytes:
    """Bytes that no encoding makes smaller, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def weights(seeds: Mapping[str, int], elements: int = 64) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """F32 tensors by name; equal seeds give equal tensors."""
    return {name: ("F32", (elements,), noise(seed, elements * 4)) for name, seed in seeds.items()}


def write_model(directory: Path, seeds: Mapping[str, int], *, elements: int = 64, extra: str = "") -> Path:
    """An HF full checkpoint with a directory below, an empty one, a link and an executable."""
    (directory / "logs" / "empty").mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(safetensors(weights(seeds, elements), {"format": "pt"}))
    (directory / "notes").mkdir(exist_ok=True)
    (directory / "notes" / "only.txt").write_text("the last name in its directory")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "note": extra}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "logs" / "train.sh").write_text("#!/bin/sh\n# " + "epoch loss " * 80 + extra)
    (directory / "logs" / "train.sh").chmod(0o755)
    if not (directory / "latest").is_symlink():
        (directory / "latest").symlink_to("model.safetensors")
    settle_times(directory)
    return directory


def write_small(directory: Path, seeds: Mapping[str, int], *, elements: int = 16) -> Path:
    """One safetensors file and its configuration, a few hundred bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(safetensors(weights(seeds, elements)))
    (directory / "config.json").write_text('{"model_type":"llama"}')
    settle_times(directory)
    return directory


def write_adapter(directory: Path, seed: int, modules: tuple[str, ...] = ("layers.0.q_proj",)) -> Path:
    """A PEFT LoRA adapter on `modules`."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for index, module in enumerate(modules):
        for half, shape in (("lora_A", (2, 8)), ("lora_B", (8, 2))):
            content = noise(seed * 100 + index * 2 + (half == "lora_B"), 64)
            tensors[f"base_model.model.{module}.{half}.weight"] = ("F32", shape, content)
    (directory / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    settle_times(directory)
    return directory


def write_base(directory: Path, seed: int = 7) -> Path:
    """A base that `write_adapter` fits."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        "layers.0.q_proj.weight": ("F32", (8, 8), noise(seed, 256)),
        "layers.0.k_proj.weight": ("F32", (8, 8), noise(seed + 1, 256)),
        "embed.weight": ("F32", (16, 8), noise(seed + 2, 512)),
    }
    (directory / "model.safetensors").write_bytes(safetensors(tensors))
    (directory / "config.json").write_text('{"model_type":"llama","base":true}')
    settle_times(directory)
    return directory


def settle_times(directory: Path) -> None:
    """Give everything a mtime of its own, so that a forgotten one shows."""
    for index, path in enumerate(sorted(directory.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, ns=(1, 1_600_000_000_123_456_789 + index * 1_000_000_007))
    os.utime(directory, ns=(1, 1_600_000_555_000_000_001))


def tree_of(directory: str | Path) -> Tree:
    """All that is in a directory, itself as '.'."""
    root = Path(directory)
    tree: Tree = {}
    for path in [root, *sorted(root.rglob("*"))]:
        name = path.relative_to(root).as_posix()
        found = path.lstat()
        if path.is_symlink():
            tree[name] = Node("link", os.readlink(path), 0, 0)
        elif path.is_dir():
            tree[name] = Node("directory", None, found.st_mode & 0o7777, found.st_mtime_ns)
        else:
            tree[name] = Node("file", path.read_bytes(), found.st_mode & 0o7777, found.st_mtime_ns)
    return tree


def files_of(tree: Tree) -> dict[str, bytes]:
    """The regular files of a tree."""
    return {path: node.content for path, node in tree.items() if isinstance(node.content, bytes)}


def content_of(engine: Engine, target: str) -> dict[str, bytes]:
    """Every file of a manifest, as a restore would write it."""
    manifest: Manifest = engine.manifest(target)
    objects: Objects = engine.objects(all_outside(engine, manifest.base))
    return {file.path: b"".join(map(bytes, file_bytes(objects, file))) for file in manifest.files}


def restored(store: Store, name: str, target: Path) -> Tree:
    """What a restore of `name` into `target` gives."""
    store.restore(name, target)
    return tree_of(target)


def standing(store: Store) -> set[str]:
    """Names of the checkpoint refs that stand."""
    return {row.ref for row in store.list_refs()}


def files_below(directory: str | Path) -> set[str]:
    """Relative paths of all files below a directory; empty where it is not there."""
    root = Path(directory)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
