"""Size and speed of `delta` beside what others do with two versions of a tensor.

    python benchmarks/encodings_delta.py [--quick] [--threads 2] [--rounds 5]

Contenders take turns on the same frames of 4 MiB, by as many threads each; every result is decoded and compared.
Sizes are bits an element, rates MB/s of the tensor, the best of the rounds. Ratios say how many times as fast as
XOR + zstd-3 ours is in the same round (encode / decode, the median of the rounds), by the clock and by CPU time.
zstd-19 codes one frame only. zipnn takes part where it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pcodec
import torch
import zstandard

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.table import encoding_named

AIMS = {"rms 3e-06": 0.20, "rms 1e-05": 0.60, "rms 0.0001": 3.2, "rms 0.001": 6.8, "sparse, 1 % one step": 16 / 130}
"""Bits an element."""
REAL_AIMS = {"BF16": 1.5, "F16": 1.5, "F32": 1.25}
"""How many times smaller than XOR + zstd-3."""

Encode = Callable[[bytes, bytes], Any]
Decode = Callable[[Any, bytes], Any]


class Case(NamedTuple):
    name: str
    element: str
    frame: bytes
    reference: bytes


class Contender(NamedTuple):
    encode: Encode
    decode: Decode
    frames: int | None = None
    rounds: int | None = None


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def gaussians(count: int) -> Iterator[Case]:
    torch.manual_seed(0)
    base = (torch.randn(count) * 0.02).bfloat16()
    for rms in (3e-6, 1e-5, 1e-4, 1e-3):
        new = (base.float() + torch.randn(count) * rms).bfloat16()
        yield Case(f"rms {rms:g}", "BF16", as_bytes(new), as_bytes(base))
    words = np.frombuffer(as_bytes(base), "<u2").copy()
    generator = np.random.default_rng(0)
    chosen = generator.random(count) < 0.01
    words[chosen] += generator.choice(np.array([1, 0xFFFF], "<u2"), int(chosen.sum()))
    yield Case("sparse, 1 % one step", "BF16", words.tobytes(), as_bytes(base))


def trained(steps: int, width: int) -> Iterator[Case]:
    """Consecutive checkpoints of a small network that learns text with AdamW, all matrices together."""
    torch.manual_seed(1)
    text = torch.tensor(list(Path(__file__).read_bytes()))
    model = torch.nn.Sequential(
        torch.nn.Embedding(256, width),
        *(torch.nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, dropout=0.0) for _ in range(2)),
        torch.nn.Linear(width, 256),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(count: int) -> None:
        for _ in range(count):
            begins = torch.randint(0, len(text) - 65, (4,))
            batch = torch.stack([text[begin : begin + 65] for begin in begins])
            mask = torch.nn.Transformer.generate_square_subsequent_mask(64)
            hidden = model[0](batch[:, :-1])
            for layer in model[1:-1]:
                hidden = layer(hidden, src_mask=mask, is_causal=True)
            loss = torch.nn.functional.cross_entropy(model[-1](hidden).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def weights() -> torch.Tensor:
        return torch.cat([each.detach().flatten() for each in model.parameters() if each.dim() > 1])

    step(2 * steps)
    for group in optimizer.param_groups:
        group["lr"] = 2e-5
    before = weights()
    step(steps)
    after = weights()
    for element, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)):
        yield Case(f"trained, {steps} steps", element, as_bytes(after.to(dtype)), as_bytes(before.to(dtype)))


def contenders(case: Case) -> dict[str, Contender]:
    planes = encoding_named("planes")
    element = case.element

    def xored(frame: bytes, reference: bytes) -> Any:
        return (np.frombuffer(frame, np.uint8) ^ np.frombuffer(reference, np.uint8)).data

    def compressed(data: Any, level: int) -> bytes:
        return zstandard.ZstdCompressor(level=level).compress(data)

    def decompressed(stored: bytes) -> bytes:
        return zstandard.ZstdDecompressor().decompress(stored)

    def or_raw(stored: Any, frame: bytes) -> Any:
        return frame if stored is None else stored

    found = {
        "delta": Contender(
            lambda frame, reference: or_raw(DELTA.encode(frame, element, Basis(reference)), frame),
            lambda stored, reference: (
                stored
                if len(stored) == len(reference)
                else DELTA.decode(stored, len(reference), element, Basis(reference))
            ),
        ),
        "XOR + zstd-3": Contender(
            lambda frame, reference: compressed(xored(frame, reference), 3),
            lambda stored, reference: xored(decompressed(stored), reference),
        ),
        "XOR planes + zstd": Contender(
            lambda frame, reference: or_raw(planes.encode(xored(frame, reference), element), xored(frame, reference)),
            lambda stored, reference: xored(
                stored if len(stored) == len(reference) else planes.decode(stored, len(reference), element), reference
            ),
        ),
        "zstd-3": Contender(lambda frame, _: compressed(frame, 3), lambda stored, _: decompressed(stored), rounds=1),
        "zstd-19": Contender(lambda frame, _: compressed(frame, 19), lambda stored, _: decompressed(stored), 1, 1),
    }
    try:
        import zipnn
    except ImportError:
        return found
    dtype = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[element]
    coder = zipnn.ZipNN(bytearray_dtype=dtype, threads=1)
    found["zipnn"] = Contender(
        lambda frame, _: bytes(coder.compress(bytearray(frame))),
        lambda stored, _: bytes(coder.decompress(bytearray(stored))),
        rounds=1,
    )
    return found


def measure(case: Case, threads: int, rounds: int) -> None:
    pairs = [
        (case.frame[at : at + FRAME_BYTES], case.reference[at : at + FRAME_BYTES])
        for at in range(0, len(case.frame), FRAME_BYTES)
    ]
    elements = len(case.frame) // {"BF16": 2, "F16": 2, "F32": 4}[case.element]
    seconds: dict[str, list[tuple[float, float, float, float]]] = {}
    sizes: dict[str, float] = {}
    sides = contenders(case)
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(rounds):
            for name, side in sides.items():
                if turn >= (side.rounds or rounds):
                    continue
                frames, references = zip(*pairs[: side.frames], strict=True)
                times = [(time.perf_counter(), time.process_time())]
                stored = list(pool.map(side.encode, frames, references))
                times.append((time.perf_counter(), time.process_time()))
                decoded = list(pool.map(side.decode, stored, references))
                times.append((time.perf_counter(), time.process_time()))
                if [bytes(each) for each in decoded] != list(frames):
                    sys.exit(f"{name} did not give {case.name} back")
                part = sum(map(len, frames)) / len(case.frame)
                took = [[(b - a) / part for a, b in itertools.pairwise(column)] for column in zip(*times, strict=True)]
                seconds.setdefault(name, []).append((*took[0], *took[1]))
                sizes[name] = 8 * sum(map(len, stored)) / elements / part
    ours, theirs = seconds["delta"], seconds["XOR + zstd-3"]
    ratios = [statistics.median(b[way] / a[way] for a, b in zip(ours, theirs, strict=True)) for way in range(4)]
    for name in sides:
        best = [len(case.frame) / min(column) / 1e6 for column in zip(*seconds[name], strict=True)][:2]
        words = "| |"
        if name == "delta":
            words = "{:.2f} / {:.2f} | {:.2f} / {:.2f} | {}".format(*ratios, said(case, sizes))
        cells = (case.name, case.element, name, f"{sizes[name]:.4f}", f"{best[0]:.0f}", f"{best[1]:.0f}", words)
        print(f"| {' | '.join(cells)} |", flush=True)


def said(case: Case, sizes: dict[str, float]) -> str:
    if case.name in AIMS:
        aim, seen = AIMS[case.name], sizes["delta"]
        return f"aim {aim:.3g}: {'met' if seen <= aim else 'MISSED'}"
    aim, seen = REAL_AIMS[case.element], sizes["XOR + zstd-3"] / max(sizes["delta"], math.ulp(0))
    planes = sizes["delta"] <= sizes["XOR planes + zstd"]
    return f"{seen:.2f} times smaller, aim {aim}: {'met' if seen >= aim and planes else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = f"numpy {np.__version__}, zstandard {zstandard.__version__}, pcodec {pcodec.__version__}"
    print(f"{platform.machine()}, python {platform.python_version()}, {versions}, {options.threads} threads\n")
    print("| tensor | element | contender | bits an element | encode | decode | by the clock | by CPU time | |")
    print("|---|---|---|---:|---:|---:|---|---|---|")
    for case in gaussians(1 << 21 if options.quick else 4096 * 4096):
        measure(case, options.threads, options.rounds)
    for case in trained(2 if options.quick else 20, 64 if options.quick else 512):
        measure(case, options.threads, options.rounds)


if __name__ == "__main__":
    main()
