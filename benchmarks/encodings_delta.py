"""Size and speed of `delta` beside what others do with two versions of a tensor.

    python -m benchmarks.encodings_delta [--quick] [--threads 2] [--rounds 5]

Contenders take turns on the same frames of 4 MiB, by as many threads each; every result is decoded and compared.
Rates are the best of the rounds; how many times as fast as XOR + zstd-3 ours is, is the median of the rounds. zstd-19
codes one frame only. zipnn takes part where it is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pcodec
import torch

from benchmarks.contenders import (
    HEAD,
    WIDTHS,
    XOR,
    Contender,
    Piece,
    Seen,
    compare,
    lines,
    others,
    pieces_of,
    ratios,
    versions,
    xored,
)
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.table import encoding_named

PLANES = "XOR planes + zstd"
AIMS = {"rms 3e-06": 0.20, "rms 1e-05": 0.60, "rms 0.0001": 3.2, "rms 0.001": 6.8, "sparse, 1 % one step": 16 / 130}
"""Bits an element."""
REAL_AIMS = {"BF16": 1.5, "F16": 1.5, "F32": 1.25}
"""How many times smaller than XOR + zstd-3."""


class Case(NamedTuple):
    name: str
    element: str
    frame: bytes
    reference: bytes


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
    planes, element = encoding_named("planes"), case.element

    def ours(piece: Piece) -> Any:
        stored = DELTA.encode(piece.frame, element, Basis(piece.reference))
        return piece.frame if stored is None else stored

    def by_planes(piece: Piece) -> Any:
        given = xored(piece.frame, piece.reference)
        stored = planes.encode(given, element)
        return given if stored is None else stored

    def read(stored: Any, piece: Piece) -> Any:
        length = len(piece.reference)
        return stored if len(stored) == length else DELTA.decode(stored, length, element, Basis(piece.reference))

    def read_planes(stored: Any, piece: Piece) -> Any:
        length = len(piece.reference)
        return xored(stored if len(stored) == length else planes.decode(stored, length, element), piece.reference)

    rest = others(element)
    return {"delta": Contender(ours, read), XOR: rest.pop(XOR), PLANES: Contender(by_planes, read_planes), **rest}


def measure(case: Case, threads: int, rounds: int) -> None:
    seen = compare(case.name, contenders(case), pieces_of(case.frame, case.reference), threads, rounds)
    said = "; ".join((aim(case, seen), *speeds(ratios(seen["delta"], seen[XOR]))))
    print("\n".join(lines(case.name, case.element, len(case.frame), seen, {"delta": said})), flush=True)


def speeds(ratio: list[float]) -> list[str]:
    """How fast, against XOR + zstd-3. CPU time tells more where others use the machine as well."""
    said = "{}: {:.2f} of the rate of XOR + zstd-3 by the clock, {:.2f} by CPU time (aim 1: {})".format
    return [
        said(name, ratio[way], ratio[2 + way], "met" if ratio[way] >= 1 else "MISSED")
        for way, name in enumerate(("encode", "decode"))
    ]


def aim(case: Case, seen: dict[str, Seen]) -> str:
    ours = seen["delta"].size
    if case.name in AIMS:
        most, bits = AIMS[case.name], 8 * WIDTHS[case.element] * ours / len(case.frame)
        return f"aim {most:.3g} bits: {'met' if bits <= most else 'MISSED'}"
    least, times = REAL_AIMS[case.element], seen[XOR].size / ours
    met = times >= least and ours <= seen[PLANES].size
    return (
        f"{times:.2f} times smaller than {XOR}, aim {least}, and not larger than {PLANES}: {'met' if met else 'MISSED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(versions(options.threads, pcodec), "", *HEAD, sep="\n")
    for case in gaussians(1 << 21 if options.quick else 4096 * 4096):
        measure(case, options.threads, options.rounds)
    for case in trained(2 if options.quick else 20, 64 if options.quick else 512):
        measure(case, options.threads, options.rounds)


if __name__ == "__main__":
    main()
