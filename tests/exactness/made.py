"""Checkpoints that bring out every encoding, made by hand: a base, a step, merges with an adapter kept and lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ckptfmt import Store
from tests.store.making import safetensors

WEIGHTS: Final = "model.safetensors"
LAYER: Final = "model.layers.0"
Q: Final = f"{LAYER}.self_attn.q_proj.weight"
UP: Final = f"{LAYER}.mlp.up_proj.weight"
EMBED: Final = "model.embed_tokens.weight"
NORM: Final = "model.norm.weight"
SCALING: Final = 2.0
ROWS_OF_TINY: Final = 40
NAMES: Final = ("step", "both", "lost")
"""What `fill` takes in."""
ENCODINGS: Final = {"step": "delta", "both": "lowrank", "lost": "lowrank"}
"""What it must have been stored as for a test to mean anything."""

Floats = Any
"""numpy float32."""
Tensors = dict[str, Floats]


def words_of(numbers: Floats, element: str) -> Any:
    """float32 rounded to words of a type, ties to even: by integers for BF16, by numpy for F16."""
    if element == "F32":
        return numbers.astype("<f4").view("<u4")
    if element == "F16":
        return numbers.astype("<f2").view("<u2")
    bits = numbers.astype("<f4").view("<u4").astype("<u8")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def numbers_of(words: Any, element: str) -> Floats:
    """Words as float32."""
    if element == "F32":
        return words.view("<f4")
    if element == "F16":
        return words.view("<f2").astype("<f4")
    return (words.astype("<u4") << 16).view("<f4")


@dataclass(frozen=True)
class Family:
    """A base and what was made of it, all in one element type.

    Attributes:
        element: BF16, F16 or F32.
        base: what everything was made from.
        step: every weight moved a little.
        adapter: LoRA factors of q_proj, by the name that PEFT gives them.
        both: q_proj with the adapter merged into it; q_proj and the embedding differ from the base.
        lost: up_proj with another adapter merged into it, which nobody has.
    """

    element: str
    base: Tensors
    step: Tensors
    adapter: Tensors
    both: Tensors
    lost: Tensors

    def write(self, directory: Path) -> dict[str, Path]:
        """Write each as a checkpoint below `directory`; `both` has its adapter beside it."""
        for name in ("base", "step", "lost", "both"):
            write_model(directory / name, getattr(self, name), self.element)
        for name in ("adapter", "both"):
            write_adapter(directory / name, self.adapter)
        return {name: directory / name for name in ("base", "step", "lost", "adapter", "both")}


def family(
    element: str,
    *,
    size: float = 0.02,
    seed: int = 0,
    square: tuple[int, int] = (256, 256),
    embedding: tuple[int, int] = (300, 256),
    tall: tuple[int, int] = (384, 256),
    rank: int = 4,
    tiny: float = 1.0,
) -> Family:
    """Gaussian weights.

    Args:
        element: their type.
        size: their standard deviation.
        seed: of all.
        square: shape of q_proj.
        embedding: of the embedding.
        tall: of up_proj.
        rank: of both adapters.
        tiny: what the last rows of q_proj and of its update are multiplied by: to subnormal numbers perhaps.
    """
    random = np.random.default_rng(seed)
    shapes = {EMBED: embedding, Q: square, UP: tall, NORM: (256,)}

    def normal(shape: tuple[int, ...], deviation: float) -> Floats:
        return (random.normal(0, 1, shape) * deviation).astype(np.float32)

    def rounded(numbers: Floats) -> Floats:
        return numbers_of(words_of(numbers, element), element)

    base = {name: rounded(normal(shape, size)) for name, shape in shapes.items()}
    base[Q][-ROWS_OF_TINY:] = rounded(base[Q][-ROWS_OF_TINY:] * np.float32(tiny))
    step = {name: rounded(numbers + normal(numbers.shape, size / 100)) for name, numbers in base.items()}

    def factors(name: str) -> tuple[Floats, Floats]:
        rows, columns = shapes[name]
        return normal((rows, rank), size / 40), normal((rank, columns), 0.5)

    left, right = factors(Q)
    left[-ROWS_OF_TINY:] *= np.float32(tiny)
    module = f"base_model.model.{Q.removesuffix('.weight')}"
    adapter = {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left}
    both = {**base, Q: rounded(base[Q] + product(left, right)), EMBED: step[EMBED]}
    lost_left, lost_right = factors(UP)
    lost = {**base, UP: rounded(base[UP] + product(lost_left, lost_right))}
    return Family(element, base, step, adapter, both, lost)


def product(left: Floats, right: Floats) -> Floats:
    """What a merge in float32 adds: exact, then rounded, as one BLAS or another nearly does."""
    return ((left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32) * np.float32(SCALING)).astype("<f4")


def write_words(directory: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    """A model of tensors given as dtype, shape and bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS).write_bytes(safetensors(tensors, {"format": "pt"}))
    (directory / "config.json").write_text('{"model_type":"llama","architectures":["LlamaForCausalLM"]}')
    return directory


def write_model(directory: Path, tensors: Tensors, element: str) -> Path:
    return write_words(
        directory,
        {name: (element, each.shape, words_of(each, element).tobytes()) for name, each in tensors.items()},
    )


def write_adapter(directory: Path, tensors: Tensors) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    rank = min(next(iter(tensors.values())).shape)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank * SCALING,
        "target_modules": ["q_proj"],
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    written = {name: ("F32", each.shape, each.astype("<f4").tobytes()) for name, each in tensors.items()}
    (directory / "adapter_model.safetensors").write_bytes(safetensors(written, {"format": "pt"}))
    return directory


def fill(store: Store, places: Mapping[str, Path], *, keep: str = "copy", prefix: str = "") -> None:
    """Take a family in so that every encoding is in use: planes, delta, lowrank with an adapter known and lost."""
    base = f"{prefix}base".replace("/", "-")
    store.add_base(base, places["base"], keep=keep)  # type: ignore[arg-type]
    for name in NAMES:
        store.import_checkpoint(places[name], prefix + name, base=base)
    store.optimize([f"{prefix}lost"])


def used(store: Store, name: str) -> set[str]:
    return set(store.show(name).encodings)


def sums_of(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
