"""A small Llama-style model with its own tokenizer, really trained: the base, and how all others are trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from ckptfmt.demo import text
from ckptfmt.demo.made import Size

END: Final = "<|end|>"
"""The one special token: begin, end and padding."""

WHOLE_BYTES: Final = 50_000_000_000
"""Largest weight file that transformers writes unless told otherwise: all of any model made here."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and peft from writing progress and advice while they work."""
    from transformers.utils import logging as chatter

    level, loud = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.set_verbosity(level)
        if loud:
            chatter.enable_progress_bar()


def make_tokenizer(size: Size, *, seed: int) -> Any:
    """A byte-level BPE tokenizer of at most `size.vocabulary` tokens, trained on the text that ships with the project.

    Returns:
        A `transformers.PreTrainedTokenizerFast`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.all_text(seed=seed).splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def sequences(tokenizer: Any, words: str, size: Size) -> torch.Tensor:
    """`words` cut into training sequences: int64 of shape (n, `size.context`), n at least `size.batch`."""
    tokens = torch.tensor(tokenizer.encode(words), dtype=torch.int64)
    wanted = size.batch * size.context
    tokens = tokens.repeat(-(-wanted // len(tokens)))
    return tokens[: len(tokens) // size.context * size.context].reshape(-1, size.context)


def train(model: Any, rows: torch.Tensor, *, steps: int, rate: float, batch: int, seed: int) -> tuple[list[float], Any]:
    """Train what is trainable in `model` on `rows` of tokens, shape (n, context), with AdamW.

    Returns:
        The loss of each step, and the optimizer.
    """
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm))
    losses: list[float] = []
    model.train()
    for _ in range(steps):
        picked = rows[torch.randint(len(rows), (batch,), generator=draw)]
        loss = model(input_ids=picked, labels=picked).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    return losses, optimizer


def score(model: Any, rows: torch.Tensor) -> tuple[float, float]:
    """Mean loss of `model` on `rows`, and the share of next tokens that it gets right."""
    with torch.no_grad():
        out = model(input_ids=rows, labels=rows)
    right = out.logits[:, :-1].argmax(dim=-1) == rows[:, 1:]
    return float(out.loss), float(right.float().mean())


def make_base(directory: Path, size: Size, *, seed: int) -> tuple[float, float]:
    """Train a base from nothing and save it in bf16 with its tokenizer, as people find one on the Hub.

    Returns:
        The loss of the first and of the last step.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(size, seed=seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=size.vocabulary,
            max_position_embeddings=4 * size.context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rows = sequences(tokenizer, text.base_text(seed=seed), size)
    losses, _ = train(model, rows, steps=size.base_steps, rate=2e-3, batch=size.batch, seed=seed)
    save_full(model.to(torch.bfloat16), tokenizer, directory)
    return losses[0], losses[-1]


def load(directory: Path, dtype: torch.dtype) -> Any:
    """The model saved in `directory`, in `dtype`."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer saved in `directory`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def save_full(model: Any, tokenizer: Any, directory: Path, *, shard_bytes: int = WHOLE_BYTES) -> None:
    """Save a full model with its tokenizer; no weight file is larger than `shard_bytes`."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, max_shard_size=shard_bytes)
    tokenizer.save_pretrained(directory)
