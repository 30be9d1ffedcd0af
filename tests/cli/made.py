"""Small checkpoints as people have them, made in milliseconds, and the command line run in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptfmt.cli.app import run

WIDTH = 64
LAYERS = 2
MODULES = ("q_proj", "v_proj")


def weight_name(layer: int, module: str) -> str:
    return f"model.layers.{layer}.self_attn.{module}.weight"


def full(directory: Path, seed: int = 0, width: int = WIDTH) -> Path:
    """A full model of Hugging Face's layout."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {
        weight_name(layer, module): random.standard_normal((width, width)).astype(np.float32)
        for layer in range(LAYERS)
        for module in MODULES
    }
    tensors["model.embed_tokens.weight"] = random.standard_normal((32, width)).astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def adapter(directory: Path, seed: int = 0, rank: int = 4, width: int = WIDTH) -> Path:
    """A PEFT adapter for `full`."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(1000 + seed)
    tensors = {}
    for layer in range(LAYERS):
        for module in MODULES:
            stem = f"base_model.model.{weight_name(layer, module).removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = random.standard_normal((rank, width)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = random.standard_normal((width, rank)).astype(np.float32)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "acme/tiny",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": list(MODULES),
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def lying(directory: Path) -> Path:
    """A model whose safetensors header points behind the end of its file."""
    full(directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return directory


@dataclass(frozen=True)
class Ran:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.document["error"])


class Shell:
    """Runs command lines in this process, in the current directory."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *words: str | Path) -> Ran:
        self._captured.readouterr()
        code = run([str(word) for word in words])
        out, err = self._captured.readouterr()
        return Ran(code, out, err)

    def ok(self, *words: str | Path) -> Ran:
        ran = self(*words)
        assert ran.code == 0, (words, ran)
        assert "Traceback" not in ran.err
        return ran

    def json(self, *words: str | Path) -> Any:
        ran = self.ok(*words, "--json")
        assert ran.err == "", "nothing but the document under --json"
        assert ran.out.count("\n") == 1
        return ran.document
