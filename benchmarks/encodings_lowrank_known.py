"""Merges whose adapter is known: what `lowrank` leaves of them, and how fast they are read.

    python -m benchmarks.encodings_lowrank_known [--threads 2]

Weights of 4096 x 4096, Gaussian, standard deviation 0.02, merged as PEFT merges on a CPU. Every frame is decoded and
compared. Rates are of decoded bytes, product, roundings and residual together: by the clock with several threads, and
by CPU time with one.
"""

from __future__ import annotations

import argparse
import math
import platform
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

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


def cases() -> Iterator[Case]:
    plans = [
        (base, adapter, 16, 2.0) for base in TYPES for adapter in ("F32", "BF16") if (base, adapter) != ("F32", "BF16")
    ]
    plans += [("BF16", "F32", 8, 16 / math.sqrt(8)), ("BF16", "F32", 64, 16 / math.sqrt(64)), ("F16", "F32", 64, 2.0)]
    for base, adapter, rank, scale in plans:
        generator = torch.Generator().manual_seed(0)
        weight = (torch.randn(SIDE, SIDE, generator=generator) * 0.02).to(TYPES[base])
        left = (torch.randn(SIDE, rank, generator=generator) * (0.02 / math.sqrt(rank))).to(TYPES[adapter])
        right = (torch.randn(rank, SIDE, generator=generator) / math.sqrt(SIDE)).to(TYPES[adapter])
        update = (left.float() @ right.float()) * scale
        merged = weight.clone()
        merged += update.to(TYPES[adapter])
        rule = "once" if adapter == "F32" else f"twice-{adapter}"
        bits = struct.pack(">f", scale).hex()
        # A float32 product is off by about 2^-24 of the update.
        noise = math.floor(math.log2(float(update.std()))) - 24
        stage = f"0:product:{SIDE}x{rank}x{SIDE}:{adapter}:{adapter}:{bits}:{rule}"
        prediction = parse_prediction(f"|{base}:{base}:{SIDE}x{SIDE}:{noise}|{stage}")
        sources = [source(raw(each)) for each in (weight, left, right)]
        yield Case(f"{base}, adapter {adapter}, r={rank}, s={scale:.4g}", base, raw(merged), prediction, sources)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
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
