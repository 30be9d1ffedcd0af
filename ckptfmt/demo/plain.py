"""Checkpoints of hand-written loops: one `.pt` file with everything in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ckptfmt.demo import text
from ckptfmt.demo.adapters import Tuned
from ckptfmt.demo.made import Size
from ckptfmt.demo.model import load_tokenizer, sequences


def save_universal(tuned: Tuned, path: Path, size: Size, *, rank: int) -> None:
    """Save a fine-tuned model the way nanoGPT does, with the adapters merged into plain `.weight` keys, in bf16."""
    merged = tuned.model.merge_and_unload().to(torch.bfloat16)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "model": merged.state_dict(),
            "optimizer": tuned.optimizer.state_dict(),
            "model_args": {
                "n_layer": size.layers,
                "n_head": 4,
                "n_embd": size.hidden,
                "block_size": size.context,
                "bias": False,
                "vocab_size": size.vocabulary,
                "attn_lora_rank": rank,
                "lora_alpha": float(2 * rank),
            },
            "iter_num": len(tuned.losses),
            "best_val_loss": tuned.after[0],
            "config": {"out_dir": path.parent.name, "batch_size": size.batch, "attn_lora_rank": rank},
        },
        path,
    )


class Bigram(torch.nn.Module):
    """The smallest language model worth a checkpoint: the next token from this one, through a narrow middle."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.token_embedding_table = torch.nn.Embedding(vocabulary, width)
        self.lm_head = torch.nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of shape (..., vocabulary) for int64 `tokens` of shape (...)."""
        logits: torch.Tensor = self.lm_head(self.token_embedding_table(tokens))
        return logits


def save_training(base: Path, directory: Path, part: str, size: Size, *, seed: int) -> list[Path]:
    """Train a bigram model from nothing and save it twice on the way, optimizer and all, the tokenizer beside it.

    Returns:
        The files, the earlier step first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base / "tokenizer.json", directory / "tokenizer.json")
    rows = sequences(load_tokenizer(base), text.sentences(part, size_bytes=10_000, seed=seed), size)
    torch.manual_seed(seed)
    model = Bigram(size.vocabulary, size.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps, saved = (10 * size.tune_steps) // 4, list[Path]()
    for step in range(1, 2 * steps + 1):
        batch = rows[torch.randint(len(rows), (size.batch,))]
        logits = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if step % steps == 0:
            path = directory / f"checkpoint_bigram_{part}_step{step:04d}_11102025_{230000 + step}.pt"
            torch.save(_training_state(model, optimizer, size, step=step), path)
            saved.append(path)
    return saved


def _training_state(model: Bigram, optimizer: torch.optim.Optimizer, size: Size, *, step: int) -> dict[str, Any]:
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "hyperparameters": {"model_type": "bigram", "learning_rate": 1e-2, "n_embd": size.hidden},
        "vocab_size": size.vocabulary,
        "block_size": size.context,
        "batch_size": size.batch,
        "step": step,
    }
