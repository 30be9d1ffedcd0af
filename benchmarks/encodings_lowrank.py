"""What a merged matrix takes when its adapter is lost: factors that are found again, against XOR + zstd and zstd.

    python -m benchmarks.encodings_lowrank [--only TEXT] [--quick] [--threads 2]

Gaussian bases and adapters, six stages merged one after the other, and a small language model that is trained, tuned
with LoRA by PEFT and merged by PEFT. `lowrank` is all that is stored: factors, residual, and the prediction's text;
its rates are without the search for the factors. Contenders take turns on the same frames of 4 MiB, by as many threads
each; every result is decoded and compared. zstd-19 codes one frame only. zipnn takes part where it is installed.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.contenders import HEAD, XOR, Contender, Piece, compare, lines, others, pieces_of, versions
from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.prediction import Prediction, parse_prediction
from ckptfmt.encodings.references import parse_reference
from ckptfmt.optimize.probe import probe
from ckptfmt.optimize.recovery import recover

TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
ROUNDS = 3
RATE = 200e6
"""Bytes of BF16 a second that are to be decoded."""


class Case(NamedTuple):
    """A base and what was merged from it.

    Attributes:
        name: what it is.
        element: type of both.
        base: words, shape (m, n).
        merged: likewise.
        aim: how many times smaller than `against` it is to become.
        against: `raw` or a contender.
    """

    name: str
    element: str
    base: Any
    merged: Any
    aim: float
    against: str = "raw"


def words_of(tensor: torch.Tensor) -> Any:
    width = tensor.element_size()
    return tensor.detach().contiguous().view({2: torch.int16, 4: torch.int32}[width]).numpy().view(f"<u{width}")


def merge(base: torch.Tensor, update: torch.Tensor, *, twice: bool) -> torch.Tensor:
    if twice:
        update = update.to(base.dtype)
    return (base.float() + update.float()).to(base.dtype)


def gaussians(quick: bool) -> Iterator[Callable[[], Case]]:
    def case(shape: tuple[int, int, int], rms: float, element: str, twice: bool, aim: float) -> Case:
        rows, columns, rank = (each // 4 if quick else each for each in shape)
        torch.manual_seed(0)
        base = (torch.randn(rows, columns) * 0.02).to(TYPES[element])
        update = torch.randn(rows, rank) @ (torch.randn(rank, columns) * (rms / math.sqrt(rank)))
        merged = merge(base, update, twice=twice)
        name = f"{rows}x{columns} r={rank} rms {rms:g} {'twice' if twice else 'once'}"
        return Case(name, element, words_of(base), words_of(merged), aim)

    square, wide = (4096, 4096, 16), (2048, 5632, 64)
    plans = [
        (square, rms, "BF16", twice, 80.0 if twice else 90.0) for twice in (False, True) for rms in (1e-4, 3e-4, 1e-3)
    ]
    plans += [(square, rms, "F16", twice, 80.0) for twice in (False, True) for rms in (1e-4, 1e-3)]
    plans += [(square, rms, "F32", False, 80.0) for rms in (1e-4, 1e-3)]
    plans += [(square, 1e-5, "BF16", False, 90.0)]
    plans += [(wide, 3e-4, "BF16", twice, 22.0) for twice in (False, True)]
    for plan in plans:
        yield lambda plan=plan: case(*plan)


def stages(quick: bool) -> Iterator[Callable[[], Case]]:
    """Six updates, each merged into what the one before gave."""
    side, rank = (1024, 4) if quick else (4096, 16)

    def case(stage: int) -> Case:
        torch.manual_seed(1)
        now = (torch.randn(side, side) * 0.02).bfloat16()
        before = now
        for _ in range(stage):
            update = torch.randn(side, rank) @ (torch.randn(rank, side) * (3e-4 / math.sqrt(rank)))
            before, now = now, merge(now, update, twice=False)
        return Case(f"stage {stage} of 6 {side}x{side} r={rank}", "BF16", words_of(before), words_of(now), 50.0)

    for stage in range(1, 7):
        yield lambda stage=stage: case(stage)


def trained(quick: bool) -> Iterator[Callable[[], Case]]:
    """A language model of 1M elements a matrix and more, tuned with LoRA and merged by PEFT."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def tensors() -> dict[str, dict[str, torch.Tensor]]:
        return kept or kept.update(tuned(quick)) or kept

    names = ["layers.0.self_attn.q_proj", "layers.1.self_attn.v_proj", "layers.1.mlp.up_proj", "layers.0.mlp.down_proj"]
    for element, dtype in (("BF16", "bf16"), ("F16", "fp16"), ("F32", "fp32")):
        for name in names:

            def case(element: str = element, dtype: str = dtype, name: str = name) -> Case:
                found = tensors()
                base, merged = (found[f"{side} {dtype}"][name] for side in ("base", "merged"))
                shape = "x".join(map(str, base.shape))
                return Case(f"trained {name} {shape}", element, words_of(base), words_of(merged), 10.0, XOR)

            yield case


def tuned(quick: bool) -> dict[str, dict[str, torch.Tensor]]:
    """Train, tune with LoRA r=16, merge in three types; matrices by layer name."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    width = 256 if quick else 1024
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=8,
        max_position_embeddings=128,
    )
    model: Any = LlamaForCausalLM(config)
    root = Path(__file__).resolve().parent.parent
    texts = [
        b"".join(path.read_bytes() for path in sorted(root.glob(glob))) for glob in ("docs/**/*.md", "ckptfmt/**/*.py")
    ]

    def train(network: Any, text: bytes, steps: int, rate: float) -> None:
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], lr=rate)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
            begins = torch.randint(0, len(data) - 65, (8,))
            batch = torch.stack([data[begin : begin + 65] for begin in begins])
            loss = network(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"loss {loss.item():.3f} after {steps} steps", file=sys.stderr, flush=True)

    train(model, texts[0], 4 if quick else 60, 3e-4)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
        ),
    )
    train(adapted, texts[1], 6 if quick else 150, 2e-4)
    adapter = {name: value.clone() for name, value in adapted.state_dict().items() if "lora" in name}
    result: dict[str, dict[str, torch.Tensor]] = {}
    for dtype in ("bf16", "fp16", "fp32"):
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
        fresh: Any = LlamaForCausalLM(config)
        fresh.load_state_dict(base)
        fresh.to(kind)
        before = {name: value.clone() for name, value in fresh.state_dict().items()}
        again: PeftModel = get_peft_model(fresh, adapted.peft_config["default"])
        again.load_state_dict(adapter, strict=False)
        after = again.merge_and_unload().state_dict()
        for side, state in (("base", before), ("merged", after)):
            result[f"{side} {dtype}"] = {
                name.removeprefix("model.").removesuffix(".weight"): value for name, value in state.items()
            }
    return result


def coded(data: bytes, element: str) -> int:
    """Bytes of factors as the store keeps them."""
    total = 0
    for begin in range(0, len(data), FRAME_BYTES):
        frame = data[begin : begin + FRAME_BYTES]
        stored = PLANES.encode(frame, element)
        if stored is not None and bytes(PLANES.decode(stored, len(frame), element)) != frame:
            sys.exit("factors did not come back")
        total += len(frame) if stored is None else len(stored)
    return total


def by_factors(case: Case, prediction: Prediction, tensors: list[bytes]) -> tuple[Contender, float]:
    """What stores residuals, and the share of elements that were predicted wrongly."""
    sources = [lambda begin, end, data=data: memoryview(data)[begin:end] for data in tensors]
    merged, word = case.merged.tobytes(), case.merged.dtype
    if prediction.length([len(each) for each in tensors]) != len(merged):
        sys.exit("a prediction has another length")

    def encode(piece: Piece) -> Any:
        basis = prediction.read(sources, piece.begin, piece.begin + len(piece.frame))
        return LOWRANK.encode(piece.frame, case.element, basis) or piece.frame

    def decode(stored: Any, piece: Piece) -> Any:
        length = len(piece.reference)
        if len(stored) == length:
            return stored
        basis = prediction.read(sources, piece.begin, piece.begin + length)
        return LOWRANK.decode(stored, length, case.element, basis)

    wrong = 0
    for piece in pieces_of(merged, tensors[0]):
        words = prediction.read(sources, piece.begin, piece.begin + len(piece.frame)).words
        wrong += int(np.count_nonzero(np.frombuffer(words, word) != np.frombuffer(piece.frame, word)))
    return Contender(encode, decode), wrong / case.merged.size


def measure(case: Case, device: str, threads: int) -> None:
    base, merged = case.base.tobytes(), case.merged.tobytes()
    began = time.perf_counter()
    probe(case.base, case.merged, case.element)
    probed = time.perf_counter()
    found = recover(case.base, case.merged, case.element, device=device)
    seconds = time.perf_counter() - probed
    sides, notes, own = others(case.element), {}, 0
    if found is not None:
        prediction = parse_prediction(found.prediction(parse_reference("")).name)
        factors = [found.left.tobytes(), found.right.tobytes()]
        side, wrong = by_factors(case, prediction, [base, *factors])
        sides = {"lowrank": side, **sides}
        kept = sum(coded(each, found.factor_element) for each in factors)
        own = kept + len(prediction.name)
    seen = compare(case.name, sides, pieces_of(merged, base), threads, ROUNDS)
    if found is None:
        notes[XOR] = f"no factors were found, aim {case.aim:g}: MISSED"
    else:
        seen["lowrank"] = ours = seen["lowrank"]._replace(size=seen["lowrank"].size + own)
        ratio = (len(merged) if case.against == "raw" else seen[case.against].size) / ours.size
        met = "met" if ratio >= case.aim else "MISSED"
        said = [
            f"{ratio:.1f} times smaller than {case.against} (aim {case.aim:g}: {met})",
            f"rank {found.rank}, {found.rule}",
            f"factors {8 * kept / case.merged.size:.4f} bits",
            f"{100 * wrong:.2f} % mispredicted",
            f"probe {1e3 * (probed - began):.0f} ms, search {seconds:.1f} s",
        ]
        if case.element == "BF16":
            said.append(f"decode (aim 200 MB/s): {'met' if len(merged) / ours.best(1) >= RATE else 'MISSED'}")
        said.append(f"{len(merged) / ours.best(3) / 1e6:.0f} MB/s of CPU time")
        notes["lowrank"] = "; ".join(said)
    print("\n".join(lines(case.name, case.element, len(merged), seen, notes)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything runs")
    parser.add_argument("--only", default="", help="cases whose kind has this in its name: gaussian, stages, trained")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(versions(options.threads, torch), "", *HEAD, sep="\n", flush=True)
    for kind, cases in (("gaussian", gaussians), ("stages", stages), ("trained", trained)):
        if options.only in kind:
            for make in cases(options.quick):
                measure(make(), options.device, options.threads)


if __name__ == "__main__":
    main()
