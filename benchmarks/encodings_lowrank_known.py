"""Merges whose adapter is known: what `lowrank` leaves of them, and how fast they are read.

    python -m benchmarks.encodings_lowrank_known [--quick] [--threads 2] [--only TEXT]

Weights of 4096 x 4096, Gaussian, standard deviation 0.02, merged as PEFT merges on a CPU. Contenders take turns on the
same frames of 4 MiB, by as many threads each; every result is decoded and compared. `lowrank` is what is stored beside
the adapter's factors, which the store has anyway; its rates hold product, roundings and residual. zstd-19 codes one
frame only. zipnn takes part where it is installed.

Then a whole model (`--only checkpoint`), merged by PEFT with one thread, with two, and with the terms of every product
in reverse, imported with its adapter where the base is stored already; what that adds to the store, against the
adapter's own bytes.
"""

from __future__ import annotations

import argparse
import math
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.contenders import HEAD, XOR, Contender, Piece, Seen, compare, lines, others, pieces_of, versions
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.prediction import Prediction, parse_prediction
from ckptfmt.encodings.protocol import Source

TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
ROUNDS = 3
RATE = 200e6
"""Bytes of BF16 a second that are to be decoded."""
MOST_WRONG = 1e-4
MOST = {False: 1.03, True: 1.1}
"""How many times its adapter a checkpoint may take; with the terms of its products in another order."""


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


def cases(side: int) -> Iterator[Case]:
    for plan in PLANS:
        generator = torch.Generator().manual_seed(0)
        weight = (torch.randn(side, side, generator=generator) * 0.02).to(TYPES[plan.base])
        merged, tensors, texts, size = weight.clone(), [weight], [], 0.0
        # A 16-bit update is rounded to what its factors were multiplied as; in float32 it is not.
        held = plan.base if plan.narrow else plan.adapter
        read = f"{plan.adapter}>{held}" if plan.narrow else plan.adapter
        rule = "once" if held == "F32" else f"twice-{held}"
        for _ in range(plan.stages):
            left = (torch.randn(side, plan.rank, generator=generator) * (0.02 / math.sqrt(plan.rank))).to(
                TYPES[plan.adapter]
            )
            right = (torch.randn(plan.rank, side, generator=generator) / math.sqrt(side)).to(TYPES[plan.adapter])
            update = (left.to(TYPES[held]).float() @ right.to(TYPES[held]).float()) * plan.scale
            merged += update.to(TYPES[held])
            tensors += [left, right]
            bits, size = struct.pack(">f", plan.scale).hex(), float(update.std())
            texts.append(f"0:product:{side}x{plan.rank}x{side}:{read}:{read}:{bits}:{rule}")
        # A float32 product is off by about 2^-24 of the update.
        noise = math.floor(math.log2(size)) - 24
        prediction = parse_prediction("|".join(("", f"{plan.base}:{plan.base}:{side}x{side}:{noise}", *texts)))
        yield Case(plan.name, plan.base, raw(merged), prediction, [source(raw(each)) for each in tensors])


def measure(case: Case, threads: int) -> None:
    element, word = case.element, np.dtype(f"<u{4 if case.element == 'F32' else 2}")
    base = bytes(case.sources[0](0, len(case.merged)))

    def encode(piece: Piece) -> Any:
        basis = case.prediction.read(case.sources, piece.begin, piece.begin + len(piece.frame))
        return LOWRANK.encode(piece.frame, element, basis) or piece.frame

    def decode(stored: Any, piece: Piece) -> Any:
        length = len(piece.reference)
        if len(stored) == length:
            return stored
        basis = case.prediction.read(case.sources, piece.begin, piece.begin + length)
        return LOWRANK.decode(stored, length, element, basis)

    pieces, total = pieces_of(case.merged, base), len(case.merged)
    wrong = 0
    for piece in pieces:
        basis = case.prediction.read(case.sources, piece.begin, piece.begin + len(piece.frame))
        wrong += int(np.count_nonzero(np.frombuffer(basis.words, word) != np.frombuffer(piece.frame, word)))
    share = wrong * word.itemsize / total
    seen = compare(case.name, {"lowrank": Contender(encode, decode), **others(element)}, pieces, threads, ROUNDS)
    ours = seen["lowrank"]
    said = [f"{100 * share:.5f} % of the elements in the residual"]
    if element == "BF16":
        said[0] += f" (aim 0.01: {'met' if share <= MOST_WRONG else 'MISSED'})"
        said.append(f"decode (aim 200 MB/s): {'met' if total / ours.best(1) >= RATE else 'MISSED'}")
    said.append(f"{total / ours.best(3) / 1e6:.0f} MB/s of CPU time")
    said.append(f"{seen[XOR].size / ours.size:.3g} times smaller than {XOR}")
    print("\n".join(lines(case.name, element, total, seen, {"lowrank": "; ".join(said)})), flush=True)


def new_model(directory: Path, *, quick: bool) -> None:
    """A Llama of 9 layers, 2048 wide, with random weights and a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    width, inner, layers = (512, 1408, 2) if quick else (2048, 5632, 9)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=16,
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


def measure_checkpoint(threads: int, *, quick: bool) -> None:
    """Bits are those of the weights' elements; rates of `ckptfmt` are those of a whole import and restore, on disk."""
    from ckptfmt import Store

    print(*HEAD, sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="ckptfmt-bench-") as name:
        work = Path(name)
        new_model(work / "base", quick=quick)
        new_adapter(work / "base", work / "adapter")
        own = (work / "adapter" / "adapter_model.safetensors").stat().st_size
        first = work / "first.safetensors"
        for merging, reverse in ((1, False), (2, False), (2, True)):
            both, back, where = (work / kind for kind in ("merged", "back", "store"))
            merge(work / "base", work / "adapter", both, merging, reverse=reverse)
            weights = both / "model.safetensors"
            if not first.exists():
                shutil.copy(weights, first)
            other = int(np.count_nonzero(np.fromfile(weights, "<u2") != np.fromfile(first, "<u2")))
            store = Store.init(where)
            store.add_base("base", work / "base", keep="copy")
            times = [time.perf_counter()]
            done = store.import_checkpoint(both, "run", base="base")
            times.append(time.perf_counter())
            store.restore("run", back)
            times.append(time.perf_counter())
            files = sorted(path.relative_to(both) for path in both.rglob("*") if path.is_file())
            if not all((both / path).read_bytes() == (back / path).read_bytes() for path in files):
                sys.exit("a checkpoint did not come back")
            took = [times[1] - times[0], times[2] - times[1]]
            seen = {"ckptfmt": Seen(done.new_bytes, [took + took])}
            total, before = weights.read_bytes(), (work / "base" / "model.safetensors").read_bytes()
            if merging == 1:
                seen |= compare(name, others("BF16"), pieces_of(total, before), threads, 1)
            most, ratio = MOST[reverse], done.new_bytes / own
            said = (
                f"{done.new_bytes} bytes, {ratio:.4f} times the adapter's {own} (aim {most}:"
                f" {'met' if ratio <= most else 'MISSED'}); {other} elements are not those of one thread"
            )
            title = f"checkpoint merged by {merging} threads{', terms reversed' if reverse else ''}"
            print("\n".join(lines(title, "BF16", len(total), seen, {"ckptfmt": said})), flush=True)
            for path in (both, back, where):
                shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["tensors", "checkpoint"], help="one of both tables")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(versions(options.threads, torch), "", sep="\n")
    if options.only != "checkpoint":
        print(*HEAD, sep="\n", flush=True)
        for case in cases(1024 if options.quick else 4096):
            measure(case, options.threads)
    if options.only is None:
        print()
    if options.only != "tensors":
        warnings.simplefilter("ignore")
        measure_checkpoint(options.threads, quick=options.quick)


if __name__ == "__main__":
    main()
