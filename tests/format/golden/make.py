"""Makes `v1/`, the golden store of format version 1. It was run once; `v1/` never changes again.

python -m tests.format.golden.make DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from safetensors.torch import save_file

from ckptfmt.format import documents
from ckptfmt.format.refs import Generation
from ckptfmt.progress import SILENT
from ckptfmt.store.refs import draft
from ckptfmt.store.store import Store, init_store
from ckptfmt.transfer.importing import Options, import_walked
from ckptfmt.transfer.walk import walk


def write_checkpoint(directory: Path, step: int) -> None:
    """A model, its optimizer and what lies beside them: something for every encoding and every kind of entry."""
    generator = torch.Generator().manual_seed(step)

    def gauss(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    frozen = torch.Generator().manual_seed(0)
    embedding = (torch.randn(96, 64, generator=frozen) * 0.02).bfloat16()
    tensors: dict[str, torch.Tensor] = {
        "model.embed_tokens.weight": embedding,
        "model.layers.0.mlp.up_proj.weight": gauss(64, 48).bfloat16(),
        "model.layers.0.mlp.down_proj.weight": gauss(48, 64).bfloat16().float(),
        "model.layers.0.input_layernorm.weight": torch.ones(64),
        "model.norm.weight": gauss(64).double(),
        "position_ids": torch.arange(600),
        "noise": torch.randint(0, 256, (1500,), generator=generator, dtype=torch.uint8),
        "cache": torch.zeros(5 << 18, 2, dtype=torch.bfloat16),
        "scale": torch.tensor(step, dtype=torch.float16),
        "empty": torch.zeros(0, 4),
    }
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    moment = gauss(40, 40)
    state: dict[str, Any] = {
        "state": {0: {"step": step, "exp_avg": moment, "exp_avg_sq": moment**2, "view": moment.T}},
        "param_groups": [{"lr": 0.001, "params": [0]}],
    }
    torch.save(state, directory / "optimizer.pt")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "vocab_size": 96}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    log = [{"step": at, "loss": 2.5 - at / 100} for at in range(step + 40)]
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}, indent=2))
    (directory / "empty.txt").touch()
    (directory / "logs" / "none").mkdir(parents=True)
    (directory / "latest").symlink_to("model.safetensors")


def digests_below(directory: Path) -> dict[str, str]:
    """Every entry below a directory: a file's SHA-256, a link's text, and which directories are empty."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            found[name] = "empty directory"
    return found


def take(store: Store, directory: Path, ref: str) -> str:
    """Import a directory; the manifest's id."""
    options = Options(message="golden")
    return import_walked(
        store, walk(str(directory)), ref, source=str(directory), options=options, progress=SILENT
    ).digest


def forget_this_machine(store: Path) -> None:
    """Put names of nowhere into the generations."""
    for path in store.glob("refs/*/*.json"):
        generation = documents.unseal(path.read_bytes(), Generation, where=str(path))
        origin = f"/runs/{Path(generation.origin).name}" if generation.origin else None
        changed = structs.replace(generation, host="node-1", origin=origin)
        path.write_bytes(documents.seal(changed))


def main(work: Path) -> None:
    store = init_store(str(work / "v1"))
    expected: dict[str, dict[str, str]] = {}
    for ref, step in (("runs/exp1", 1), ("runs/exp1", 2), ("runs/exp-2/stage_1", 3), ("dropped", 4)):
        directory = work / f"checkpoint-{step}"
        write_checkpoint(directory, step)
        expected[take(store, directory, ref)] = digests_below(directory)
    store.refs.append("dropped", lambda _: draft(None, "rm"))
    store.refs.append("runs/exp1", lambda newest: newest and structs.replace(newest, verb="tag", labels=("best",)))
    refs = {generation.name: generation.target for generation in store.refs.standing()}
    store.close()
    forget_this_machine(work / "v1")
    (work / "v1.json").write_text(json.dumps({"refs": refs, "manifests": expected}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
