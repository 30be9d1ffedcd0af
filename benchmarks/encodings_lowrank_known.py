"""Merges whose adapter is known: what `lowrank` leaves of them, and how fast they are read.

    python -m benchmarks.encodings_lowrank_known [--threads 2]
    python -m benchmarks.encodings_lowrank_known --checkpoint

Weights of 4096 x 4096, Gaussian, standard deviation 0.02, merged as PEFT merges on a CPU. Every frame is decoded and
compared. Rates are of decoded bytes, product, roundings and residual together: by the clock with several threads, and
by CPU time with one.

With `--checkpoint`: a whole model, merged by PEFT with one thread, with two, and with the terms of every product in
reverse, imported with its adapter where the base is stored already; what that adds to the store, against the adapter's
own bytes.
"""

from __future__ import annotations

import argparse
import math
import platform
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.prediction import Prediction, parse_prediction
from ckptfmt.encodings.protocol import Source

TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
SIDE = 4096
ROUNDS = 3


class Case(NamedTuple):
    name: str
    element: str
    merged: bytes
    prediction: Prediction
    sources: list[Source]


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def source(data: bytes) -> Source:
    return lambda begin, end: memoryview(data)[begin:end]


class Plan(NamedTuple):
    base: str
    adapter: str
    rank: int = 16
    scale: float = 2.0
    narrow: bool = False
    stages: int = 1

    @property
    def name(self) -> str:
        factors = f"{self.adapter}, merged as {self.base}" if self.narrow else self.adapter
        stages = f", {self.stages} stages" if self.stages > 1 else ""
        return f"{self.base}, adapter {factors}, r={self.rank}, s={self.scale:.4g}{stages}"


PLANS = [
    *(Plan(base, adapter) for base in TYPES for adapter in ("F32", "BF16") if (base, adapter) != ("F32", "BF16")),
    Plan("BF16", "F32", 8, 16 / math.sqrt(8)),
    Plan("BF16", "F32", 64, 16 / math.sqrt(64)),
    Plan("F16", "F32", 64),
    Plan("BF16", "F32", narrow=True),
    Plan("F16", "F32", narrow=True),
    *(Plan(base, "F32", stages=stages) for base in TYPES for stages in (2, 4)),
]


def cases() -> Iterator[Case]:
    for plan in PLANS:
        generator = torch.Generator().manual_seed(0)
        weight = (torch.randn(SIDE, SIDE, generator=generator) * 0.02).to(TYPES[plan.base])
        merged, tensors, texts, size = weight.clone(), [weight], [], 0.0
        # A 16-bit update is rounded to what its factors were multiplied as; in float32 it is not.
        held = plan.base if plan.narrow else plan.adapter
        read = f"{plan.adapter}>{held}" if plan.narrow else plan.adapter
        rule = "once" if held == "F32" else f"twice-{held}"
        for _ in range(plan.stages):
            left = (torch.randn(SIDE, plan.rank, generator=generator) * (0.02 / math.sqrt(plan.rank))).to(
                TYPES[plan.adapter]
            )
            right = (torch.randn(plan.rank, SIDE, generator=generator) / math.sqrt(SIDE)).to(TYPES[plan.adapter])
            update = (left.to(TYPES[held]).float() @ right.to(TYPES[held]).float()) * plan.scale
            merged += update.to(TYPES[held])
            tensors += [left, right]
            bits, size = struct.pack(">f", plan.scale).hex(), float(update.std())
            texts.append(f"0:product:{SIDE}x{plan.rank}x{SIDE}:{read}:{read}:{bits}:{rule}")
        # A float32 product is off by about 2^-24 of the update.
        noise = math.floor(math.log2(size)) - 24
        prediction = parse_prediction("|".join(("", f"{plan.base}:{plan.base}:{SIDE}x{SIDE}:{noise}", *texts)))
        yield Case(plan.name, plan.base, raw(merged), prediction, [source(raw(each)) for each in tensors])


def measure(case: Case, threads: int) -> None:
    length = len(case.merged)
    ranges = [(begin, min(begin + FRAME_BYTES, length)) for begin in range(0, length, FRAME_BYTES)]
    stored, missed = [], 0
    for begin, end in ranges:
        basis, frame = case.prediction.read(case.sources, begin, end), case.merged[begin:end]
        word = f"<u{4 if case.element == 'F32' else 2}"
        missed += int(np.count_nonzero(np.frombuffer(basis.words, word) != np.frombuffer(frame, word)))
        stored.append(bytes(LOWRANK.encode(frame, case.element, basis) or frame))

    def decode(index: int) -> bool:
        begin, end = ranges[index]
        basis = case.prediction.read(case.sources, begin, end)
        decoded = LOWRANK.decode(stored[index], end - begin, case.element, basis)
        return bytes(decoded) == case.merged[begin:end]

    clock, processor = math.inf, math.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            if not all(pool.map(decode, range(len(ranges)))):
                sys.exit(f"{case.name} did not come back")
        clock = min(clock, time.perf_counter() - began)
        spent = time.thread_time()
        if not all(map(decode, range(len(ranges)))):
            sys.exit(f"{case.name} did not come back")
        processor = min(processor, time.thread_time() - spent)
    count = length // (4 if case.element == "F32" else 2)
    print(
        f"| {case.name} | {100 * missed / count:.5f} | {8 * sum(map(len, stored)) / count:.5f}"
        f" | {length / clock / 1e6:.0f} | {length / processor / 1e6:.0f} |",
        flush=True,
    )


def new_model(directory: Path) -> None:
    """A Llama of 9 layers, 2048 wide, with random weights and a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=2048, intermediate_size=5632, num_hidden_layers=9, num_attention_heads=16
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"word{index}": index for index in range(8192)}, unk_token="word0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)


def new_adapter(base: Path, directory: Path) -> None:
    """A LoRA of rank 16 on every linear layer, with updates of about 3e-4."""
    import peft

    torch.manual_seed(1)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    model = peft.get_peft_model(_load(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # In full precision: a first A has that of the base.
                parameter.normal_(0, 3e-3 if "lora_B" in name else 1 / math.sqrt(3 * parameter.shape[1]))
    model.save_pretrained(directory)


def _load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)


def merge(base: Path, adapter: Path, directory: Path, threads: int, *, reverse: bool) -> None:
    """What trainers save: the merged weights beside the adapter, with the tokenizer."""
    import peft

    torch.set_num_threads(threads)
    model = peft.PeftModel.from_pretrained(_load(base), adapter)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if reverse and "lora_" in name:
                parameter.copy_(parameter.flip(1 if "lora_B" in name else 0))
    model.merge_and_unload().save_pretrained(directory)
    shutil.copytree(adapter, directory, dirs_exist_ok=True)
    for path in base.glob("*token*"):
        shutil.copy(path, directory)


def measure_checkpoint() -> None:
    from ckptfmt import Store

    with tempfile.TemporaryDirectory(prefix="ckptfmt-bench-") as name:
        work = Path(name)
        new_model(work / "base")
        new_adapter(work / "base", work / "adapter")
        own = (work / "adapter" / "adapter_model.safetensors").stat().st_size
        print(
            "| merge | other elements | adapter, bytes | checkpoint, bytes | added to the store | times the adapter |"
        )
        print("|---|---:|---:|---:|---:|---:|")
        first = work / "first.safetensors"
        for threads, reverse in ((1, False), (2, False), (2, True)):
            both, back, where = (work / kind for kind in ("merged", "back", "store"))
            merge(work / "base", work / "adapter", both, threads, reverse=reverse)
            weights = both / "model.safetensors"
            if not first.exists():
                shutil.copy(weights, first)
            other = int(np.count_nonzero(np.fromfile(weights, "<u2") != np.fromfile(first, "<u2")))
            store = Store.init(where)
            store.add_base("base", work / "base", keep="copy")
            began = time.perf_counter()
            done = store.import_checkpoint(both, "run", base="base")
            imported = time.perf_counter() - began
            began = time.perf_counter()
            store.restore("run", back)
            restored = time.perf_counter() - began
            files = sorted(path.relative_to(both) for path in both.rglob("*") if path.is_file())
            if not all((both / path).read_bytes() == (back / path).read_bytes() for path in files):
                sys.exit("a checkpoint did not come back")
            total = sum((both / path).stat().st_size for path in files)
            merged = f"threads: {threads}{', terms reversed' if reverse else ''}"
            print(
                f"| {merged} | {other} | {own} | {total} | {done.new_bytes} | {done.new_bytes / own:.4f} |", flush=True
            )
            parts = ", ".join(
                f"{encoding}: {part.logical_bytes} as {part.stored_bytes}"
                for encoding, part in sorted(done.encodings.items())
            )
            print(f"  {parts}; import {imported:.1f} s, restore {restored:.1f} s", file=sys.stderr, flush=True)
            for path in (both, back, where):
                shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", action="store_true")
    options = parser.parse_args()
    if options.checkpoint:
        warnings.simplefilter("ignore")
        measure_checkpoint()
        return
    print(
        f"{platform.machine()}, python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}\n"
    )
    print(
        f"| merge | mispredicted % | residual, bits an element | MB/s, {options.threads} threads | MB/s of CPU time |"
    )
    print("|---|---:|---:|---:|---:|")
    for case in cases():
        measure(case, options.threads)


if __name__ == "__main__":
    main()
