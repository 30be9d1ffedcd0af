"""Size and speed of `planes` on tensors as they occur in checkpoints, beside zstd and pcodec alone.

    python benchmarks/encodings_planes.py

One thread, one frame of 4 MiB a tensor, the best of five runs; contenders take turns on the same bytes, and every
result is decoded and compared. Sizes are per cent of the tensor, rates MB/s of the tensor.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pcodec
import torch
import zstandard
from pcodec import ChunkConfig, standalone

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.table import encoding_named
from ckptfmt.encodings.words import kind_of, to_ordered, word_type

ROUNDS = 5


def tensors() -> dict[str, tuple[str, bytes]]:
    """Name to (element, bytes): weights, LoRA factors, optimizer moments, ids and degenerate ones."""
    torch.manual_seed(0)

    def of(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().view(torch.uint8).numpy().tobytes()[:FRAME_BYTES]

    half, single = FRAME_BYTES // 2, FRAME_BYTES // 4
    gauss = torch.randn(half) * 0.02
    moment = torch.randn(single) * torch.exp(torch.randn(single)) * 1e-4
    rank_b = torch.randn(single // 16, 16) * torch.exp(torch.randn(single // 16, 1)) * 1e-3
    return {
        "weights, std 0.02": ("BF16", of(gauss.bfloat16())),
        "weights, std 0.02 ": ("F16", of(gauss.half())),
        "weights, std 0.02  ": ("F32", of(gauss[:single])),
        "export of bf16 weights": ("F32", of(gauss[:single].bfloat16().float())),
        "export of fp16 weights": ("F32", of(gauss[:single].half().float())),
        "fp8 weights": ("F8_E4M3", of((torch.randn(FRAME_BYTES) * 8).to(torch.float8_e4m3fn))),
        "LoRA A (uniform)": ("F32", of((torch.rand(single) * 2 - 1) / 64)),
        "LoRA A (uniform) ": ("BF16", of(((torch.rand(half) * 2 - 1) / 64).bfloat16())),
        "LoRA B, trained": ("F32", of(rank_b)),
        "LoRA B, trained ": ("BF16", of(torch.cat([rank_b, rank_b.flip(0)]).bfloat16())),
        "embeddings, rows scaled": ("BF16", of((torch.randn(1024, 2048) * torch.rand(1024, 1) * 0.05).bfloat16())),
        "Adam exp_avg": ("F32", of(moment)),
        "Adam exp_avg_sq": ("F32", of(moment**2)),
        "complex": ("C64", of(torch.view_as_real(torch.polar(torch.ones(single // 2), torch.rand(single // 2))))),
        "zeros": ("F32", bytes(FRAME_BYTES)),
        "ones": ("BF16", of(torch.ones(half, dtype=torch.bfloat16))),
        "position ids": ("I64", of(torch.arange(single // 2))),
        "token ids": ("I64", of(torch.randint(0, 32_000, (single // 2,)))),
        "int8 weights": ("I8", of((torch.randn(FRAME_BYTES) * 30).clamp(-127, 127).to(torch.int8))),
    }


def contenders(element: str) -> dict[str, tuple[Callable[[bytes], Any], Callable[[Any, int], Any]]]:
    planes = encoding_named("planes")
    kind, width = kind_of(element)
    config = ChunkConfig(compression_level=8, enable_8_bit=True)
    return {
        "planes": (
            lambda frame: planes.encode(frame, element),
            lambda stored, length: frame_of(planes.decode(stored, length, element)),
        ),
        "zstd-3": (
            lambda frame: zstandard.ZstdCompressor(level=3).compress(frame),
            lambda stored, length: zstandard.ZstdDecompressor().decompress(stored, max_output_size=length),
        ),
        "pcodec-8": (
            lambda frame: standalone.simple_compress(
                to_ordered(np.frombuffer(frame, word_type(width)), 8 * width, kind), config
            ),
            lambda stored, _: standalone.simple_decompress(stored),
        ),
    }


def frame_of(decoded: bytes | memoryview) -> bytes:
    return decoded if isinstance(decoded, bytes) else decoded.tobytes()


def fastest(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    print(f"{platform.machine()}, python {platform.python_version()}, numpy {np.__version__}, ", end="")
    print(f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, pcodec {pcodec.__version__}\n")
    print(
        f"| {'tensor':<24} | element |   planes |  encode |  decode |   zstd-3 |  encode |  decode | pcodec-8 |  enc. |"
    )
    print(f"|{'-' * 26}|---------|{'---------:|' * 8}")
    for name, (element, frame) in tensors().items():
        cells = []
        entries = contenders(element)
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in entries}
        sizes = {}
        for _ in range(ROUNDS):
            for label, (encode, decode) in entries.items():
                stored = encode(frame)
                sizes[label] = len(frame if stored is None else stored)
                took = fastest(lambda: encode(frame))  # noqa: B023
                back = fastest(lambda: decode(stored, len(frame))) if stored is not None else 0.0  # noqa: B023
                times[label].append((took, back))
                if label != "pcodec-8" and stored is not None and decode(stored, len(frame)) != frame:
                    sys.exit(f"{label} did not give {name} back")
        for label in entries:
            took, back = (min(column) for column in zip(*times[label], strict=True))
            size = 100 * sizes[label] / len(frame)
            cells.append(f"{size:6.2f} % | {len(frame) / took / 1e6:7.0f}")
            if label != "pcodec-8":
                cells[-1] += f" | {len(frame) / back / 1e6 if back else 0:7.0f}"
        print(f"| {name.strip():<24} | {element:<7} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
