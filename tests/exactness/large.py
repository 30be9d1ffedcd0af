"""One large tensor taken in against its base, in a process of its own, and the memory that this takes.

Run as a program it prints a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

CHUNK: Final = 64 << 20
NAME: Final = "model.layers.0.mlp.up_proj.weight"


def write(directory: Path, rows: int, columns: int, *, moved: bool, turned: bool = False) -> None:
    """A BF16 matrix of Gaussian weights; `moved`: one in twenty is a step or two off; `turned`: its transpose."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    words = (random.normal(0, 0.02, CHUNK // 2).astype("<f4").view("<u4") >> 16).astype("<u2")
    length = rows * columns * 2
    shape = [columns, rows] if turned else [rows, columns]
    header = json.dumps({NAME: {"dtype": "BF16", "shape": shape, "data_offsets": [0, length]}}).encode()
    header += b" " * (-len(header) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for number, begin in enumerate(range(0, length, CHUNK)):
            chunk = np.roll(words, 12_345 * number)
            if moved:
                chunk[random.integers(0, len(chunk), len(chunk) // 20)] += np.uint16(1 + number % 2)
            file.write(chunk[: min(CHUNK, length - begin) // 2].tobytes())
    if turned:
        _turn(directory / "model.safetensors", 8 + len(header), rows, columns)
    (directory / "config.json").write_text('{"model_type":"llama","architectures":["LlamaForCausalLM"]}')


def _turn(path: Path, begin: int, rows: int, columns: int) -> None:
    words = np.memmap(path, "<u2", "r+", begin, (rows * columns,))
    words[:] = np.ascontiguousarray(words.reshape(rows, columns).T).reshape(-1)
    words.flush()


def write_merged(place: Path, rows: int, columns: int) -> None:
    """A LoRA adapter as PEFT saves it, and the base of `write` with it merged in, in float32, rounded once."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(3)
    left, right = torch.randn(rows, 4, generator=random) * 1e-3, torch.randn(4, columns, generator=random)
    module = f"base_model.model.{NAME.removesuffix('.weight')}"
    (place / "adapter").mkdir()
    factors = {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left}
    save_file(factors, place / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4, "target_modules": ["up_proj"]}
    (place / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(place / "base", place / "run")
    path = place / "run" / "model.safetensors"
    words = np.memmap(path, "<i2", "r+", path.stat().st_size - 2 * rows * columns, (rows, columns))
    for begin in range(0, rows, 256):
        block = torch.from_numpy(words[begin : begin + 256]).view(torch.bfloat16).float()
        merged = (block + left[begin : begin + 256] @ right).bfloat16()
        words[begin : begin + 256] = merged.view(torch.int16).numpy()
    words.flush()


def write_log(directory: Path, length: int) -> None:
    """A file of text, which is kept whole."""
    directory.mkdir(parents=True)
    line = "".join(f"step {step} loss {1 / (step + 1):.6f}\n" for step in range(400_000)).encode()
    with (directory / "train.log").open("wb") as file:
        for begin in range(0, length, len(line)):
            file.write(line[: length - begin])


def peak() -> int:
    """The most memory that this process had, in bytes: not that of the one that started it, as getrusage has it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(verb: str, place: str) -> None:
    from ckptfmt import Store

    directory, before = Path(place), peak()
    begin = time.monotonic()
    with Store.open(directory / "store") as store:
        if verb == "base":
            store.add_base("base", directory / "base")
        elif verb == "import":
            store.import_checkpoint(directory / "run", "run", base="base")
        elif verb == "merged":
            store.import_checkpoint(directory / "run", "run", base="base", adapter=directory / "adapter")
        elif verb == "alone":
            store.import_checkpoint(directory / "run", "run")
        elif verb == "fast":
            store.import_checkpoint(directory / "run", "run", effort="fast")
        else:
            store.restore("run", directory / "back")
        found = {
            "before": before,
            "peak": peak(),
            "seconds": round(time.monotonic() - begin, 1),
            "encodings": {
                name: [each.logical_bytes, each.stored_bytes] for name, each in store.show("run").encodings.items()
            }
            if verb != "base"
            else {},
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
