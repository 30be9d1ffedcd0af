"""What a merged matrix takes when its adapter is lost: factors that are found again, against XOR + zstd and zstd.

    python -m benchmarks.encodings_lowrank [--only TEXT] [--quick] [--threads 2]

Gaussian bases and adapters, six stages merged one after the other, and a small language model that is trained, tuned
with LoRA by PEFT and merged by PEFT. `ours` is all that is stored: factors, residual, and the prediction's text. Every
contender's bytes are decoded and compared. zstd-19 sees the first 4 MiB.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zstandard

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.prediction import parse_prediction
from ckptfmt.encodings.references import parse_reference
from ckptfmt.optimize.probe import probe
from ckptfmt.optimize.recovery import Recovered, recover

TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
XOR = "XOR + zstd-3"


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
        print(f"<!-- loss {loss.item():.3f} after {steps} steps -->", flush=True)

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


def frames(data: bytes) -> list[bytes]:
    return [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)]


def coded(data: bytes, element: str) -> int:
    """Bytes of factors as the store keeps them."""
    total = 0
    for frame in frames(data):
        stored = PLANES.encode(frame, element)
        if stored is not None and bytes(PLANES.decode(stored, len(frame), element)) != frame:
            sys.exit("factors did not come back")
        total += len(frame) if stored is None else len(stored)
    return total


class Ours(NamedTuple):
    size: int
    factors: int
    mispredicted: int
    encode_seconds: float
    decode_seconds: float


def by_factors(case: Case, found: Recovered) -> Ours:
    prediction = parse_prediction(found.prediction(parse_reference("")).name)
    buffers = [each.tobytes() for each in (case.base, found.left, found.right)]
    sources = [lambda begin, end, data=data: memoryview(data)[begin:end] for data in buffers]
    merged = case.merged.tobytes()
    if prediction.length([len(each) for each in buffers]) != len(merged):
        sys.exit("a prediction has another length")
    began = time.perf_counter()
    stored, wrong = [], 0
    for index, frame in enumerate(frames(merged)):
        basis = prediction.read(sources, index * FRAME_BYTES, index * FRAME_BYTES + len(frame))
        stored.append(LOWRANK.encode(frame, case.element, basis) or frame)
        wrong += int(
            np.count_nonzero(np.frombuffer(basis.words, case.merged.dtype) != np.frombuffer(frame, case.merged.dtype))
        )
    encoded = time.perf_counter()
    for index, frame in enumerate(frames(merged)):
        basis = prediction.read(sources, index * FRAME_BYTES, index * FRAME_BYTES + len(frame))
        given = stored[index]
        if len(given) < len(frame) and bytes(LOWRANK.decode(given, len(frame), case.element, basis)) != frame:
            sys.exit(f"{case.name} did not come back")
    decoded = time.perf_counter()
    factors = sum(coded(each, found.factor_element) for each in buffers[1:])
    size = factors + sum(map(len, stored)) + len(prediction.name)
    return Ours(size, factors, wrong, encoded - began, decoded - encoded)


def by_zstd(case: Case, level: int, *, xor: bool, most: int | None = None) -> float:
    """Bytes, of the whole where only a part is looked at."""
    merged = case.merged.reshape(-1)[: most and most // case.merged.itemsize]
    base = case.base.reshape(-1)[: len(merged)]
    given = (merged ^ base if xor else merged).tobytes()
    stored = zstandard.ZstdCompressor(level=level).compress(given)
    again = np.frombuffer(zstandard.ZstdDecompressor().decompress(stored), merged.dtype)
    if not np.array_equal(again ^ base if xor else again, merged):
        sys.exit(f"zstd did not give {case.name} back")
    return len(stored) * case.merged.size / len(merged)


def measure(case: Case, device: str) -> None:
    raw = case.merged.nbytes
    sizes: dict[str, float] = {"raw": raw, XOR: by_zstd(case, 3, xor=True), "zstd-3": by_zstd(case, 3, xor=False)}
    sizes["zstd-19"] = by_zstd(case, 19, xor=False, most=FRAME_BYTES)
    began = time.perf_counter()
    probe(case.base, case.merged, case.element)
    probed = time.perf_counter()
    found = recover(case.base, case.merged, case.element, device=device)
    seconds = time.perf_counter() - probed
    if found is None:
        cells = [case.name, case.element, "nothing found", "", "", "", "", ""]
    else:
        ours = by_factors(case, found)
        ratio = sizes[case.against] / ours.size
        bits = 8 / case.merged.size
        cells = [
            *(case.name, case.element, f"{found.rank}, {found.rule}", f"{bits * ours.size:.4f}"),
            *(f"{bits * ours.factors:.4f}", f"{100 * ours.mispredicted / case.merged.size:.2f}"),
            f"**{raw / ours.size:.1f}**",
            f"{ratio:.1f} of {case.against}, aim {case.aim:g}: {'met' if ratio >= case.aim else 'MISSED'}",
        ]
        cells += [f"{1e3 * (probed - began):.0f}", f"{seconds:.1f}"]
        cells += [f"{raw / each / 1e6:.0f}" for each in (ours.encode_seconds, ours.decode_seconds)]
    cells += [f"{raw / sizes[name]:.2f}" for name in (XOR, "zstd-3", "zstd-19")]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything runs")
    parser.add_argument("--only", default="", help="cases whose kind has this in its name: gaussian, stages, trained")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.machine()}, python {platform.python_version()}, torch {torch.__version__},"
        f" {options.threads} threads\n"
    )
    print(
        "| matrix | element | rank, rule | bits an element | of these, factors | mispredicted % | smaller than raw"
        f" | aim | probe ms | search s | encode MB/s | decode MB/s | {XOR} | zstd-3 | zstd-19 |"
    )
    print("|---|---|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for kind, cases in (("gaussian", gaussians), ("stages", stages), ("trained", trained)):
        if options.only in kind:
            for make in cases(options.quick):
                measure(make(), options.device)


if __name__ == "__main__":
    main()
