"""Executing a merge plan: read, prove, change, write, all at once and in blocks, so that no model is ever in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import blake3
import torch

from ckptfmt.format.dtypes import size_bytes
from ckptfmt.format.root import RootLeaf, model_root
from ckptfmt.merge.buffers import Block, Buffers, give_back_freed_memory
from ckptfmt.merge.pipeline import Ahead, ModelWriter, Result, Writing, done
from ckptfmt.merge.plan import MergePlan, Output, Step, row_bytes
from ckptfmt.merge.protocol import BLOCK_ROWS, Spec
from ckptfmt.merge.source import TensorSource
from ckptfmt.progress import Progress

_BLOCK_BYTES: Final = 1 << 20
"""With what is computed of it in fp32, a block stays in the cache."""
_FREED_BYTES: Final = 40 << 20
"""After so many bytes of whole tensors the memory that the allocator kept is given back."""
_TILE: Final = 16
_MANY: Final = 64
_MOST_LANES: Final = 4
"""More threads compute faster than one writes, and each holds memory of its own."""

TORCH: Final[dict[str, torch.dtype]] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""torch's dtypes by the names that safetensors gives them."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What an execution made: the root of the written model."""

    root: str


def execute(plan: MergePlan, source: TensorSource, writer: ModelWriter, *, device: str, progress: Progress) -> Executed:
    """Write the merged model, proving every base tensor on the way.

    Args:
        plan: what to do.
        source: the base.
        writer: takes the result. The caller lets it appear only after this returned.
        device: where the arithmetic is done, "cpu" or "cuda".
        progress: told of the bytes written.

    Raises:
        BaseMismatch: a tensor of the base is not what was recorded.
    """
    progress.begin("merge", plan.output_bytes())
    hashes: list[tuple[Output, blake3.blake3 | None]] = []
    groups = _Groups(plan, source, device)
    buffers = Buffers(_BLOCK_BYTES)
    threads = torch.get_num_threads()
    lanes = min(threads, _MOST_LANES) if device == "cpu" else 1
    with (
        ThreadPoolExecutor(2, "decode") as decoders,
        Ahead(_read(plan, source, buffers, decoders), _largest_block(plan)) as reading,
        _lanes(lanes, device) as alone,
        ThreadPoolExecutor(1, "together") as together,
        Writing(writer, progress, buffers, lanes) as writing,
    ):
        for output in plan.outputs:
            copied = output.group is None and _is_copy(output, plan.base)
            content = None if copied else blake3.blake3()
            hashes.append((output, content))
            writing.begin(output.name, content)
            if output.group is not None:
                writing.wait()  # A whole tensor at work is enough; none more waits to be written meanwhile.
                result = Result(_bytes_of(groups.take(output).to(TORCH[output.spec.dtype])), None)
                writing.write(done(result), len(result.data))
                continue
            computing = alone if computes_alone(output, threads) else together
            while (block := next(reading)) is not None:
                changed = (
                    done(Result(block.view, block))
                    if copied
                    else computing.submit(_changed, block, output, plan.base, device)
                )
                writing.write(changed, len(block.data))
        writing.finish()
    progress.end()
    # A copy was proven to be what was recorded when it was read.
    digests = (content.hexdigest() if content else source.digest(output.name) for output, content in hashes)
    return Executed(model_root([_leaf(output, digest) for (output, _), digest in zip(hashes, digests, strict=True)]))


def computes_alone(output: Output, threads: int) -> bool:
    """Tell whether one thread computes a block of a tensor with the bits that `threads` of torch's give the whole.

    BLAS gives each thread some columns of a product. Where they are few and no multiple of 16 its kernels come to lie
    otherwise, and so they do in fp64: there the threads compute a block together, as they do a whole.
    `tests/merge/test_execute.py` holds this at 2 to 16 threads.
    """
    if threads == 1 or len(output.spec.shape) < 2:
        return True
    if "F64" in (output.spec.dtype, *(step.held for step in output.steps)):
        return False
    return all(size % _TILE == 0 or size >= _MANY * threads for size in output.spec.shape)


def _leaf(output: Output, digest: str) -> RootLeaf:
    return RootLeaf(output.name, output.spec.dtype, output.spec.shape, digest)


def _is_copy(output: Output, base: Mapping[str, Spec]) -> bool:
    return not output.steps and output.source is not None and base[output.source].dtype == output.spec.dtype


def _read(plan: MergePlan, source: TensorSource, buffers: Buffers, decoders: Executor) -> Iterator[Block | None]:
    """The blocks of every output that is no member of a group, in order; None after the last of each, proven then."""
    for output in plan.outputs:
        if output.group is None:
            rows = None if _is_copy(output, plan.base) else _rows(plan.base[output.name])
            yield from source.blocks(output.name, rows, buffers, decoders)
            yield None


def _largest_block(plan: MergePlan) -> int:
    """Bytes of the largest block that is computed, but for those that a short rest was joined to."""
    specs = (plan.base[item.source] for item in plan.outputs if item.steps and item.source is not None)
    return max((_rows(spec) * row_bytes(spec) for spec in specs), default=1)


def _rows(spec: Spec) -> int:
    return max(BLOCK_ROWS, _BLOCK_BYTES // max(row_bytes(spec), 1))


def _changed(block: Block, output: Output, base: Mapping[str, Spec], device: str) -> Result:
    """The rows of a block after every step, as bytes: each step casts to the dtype it holds and changes them."""
    spec = base[output.name]
    rows = torch.from_numpy(block.data).view(TORCH[spec.dtype])
    if spec.shape:
        height = len(block.data) // max(row_bytes(spec), 1) if rows.numel() else spec.shape[0]
        rows = rows.view(height, *spec.shape[1:])
    else:
        rows = rows.view(())
    rows = rows.to(device)
    for step in output.steps:
        if step.row is not None:
            rows = step.row.rows(rows.to(TORCH[step.held]), block.begin)
    return Result(_bytes_of(rows.to(TORCH[output.spec.dtype])), block)


@contextmanager
def _lanes(count: int, device: str) -> Iterator[Executor]:
    """Threads that compute, each with one of torch's threads: threads that wait for each other waste a busy machine."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(count, "compute") as pool:
        started = threading.Barrier(count + 1)
        try:
            if device == "cpu":
                for _ in range(count):
                    pool.submit(_compute_alone, started)
                started.wait()
                torch.set_num_threads(before)  # For threads that are started later: it is kept for each.
            yield pool
        finally:
            started.abort()
            pool.shutdown(cancel_futures=True)


def _compute_alone(started: threading.Barrier) -> None:
    torch.get_num_threads()  # Until a thread has asked, what it is given is overwritten.
    torch.set_num_threads(1)
    started.wait()


class _Groups:
    """Tensors that some change needs whole: computed when the first of a group is written, dropped after the last."""

    def __init__(self, plan: MergePlan, source: TensorSource, device: str) -> None:
        self._plan = plan
        self._source = source
        self._device = device
        self._ready: dict[str, torch.Tensor] = {}
        self._freed_bytes = 0

    def take(self, output: Output) -> torch.Tensor:
        if output.name not in self._ready:
            self._freed_bytes += size_bytes(output.spec.dtype, output.spec.shape) or 0
            if self._freed_bytes > _FREED_BYTES:
                give_back_freed_memory()
                self._freed_bytes = 0
            self._compute(self._plan.groups[output.group or 0].names, self._plan.groups[output.group or 0].steps)
        return self._ready.pop(output.name)

    def _compute(self, names: tuple[str, ...], steps: tuple[Step, ...]) -> None:
        tensors = {name: self._whole(name) for name in names if name in self._plan.base}
        for step in steps:
            held = TORCH[step.held]
            if step.module is not None:
                inputs = {
                    name: tensors[name].to(held) if tensors[name].is_floating_point() else tensors[name]
                    for name in step.module.targets
                    if name in tensors
                }
                tensors.update(step.module.apply(inputs))
            elif step.row is not None:
                tensors[step.row.target] = step.row.rows(tensors[step.row.target].to(held), 0)
        wanted = {output.name for output in self._plan.outputs}
        self._ready.update((name, tensor) for name, tensor in tensors.items() if name in wanted)

    def _whole(self, name: str) -> torch.Tensor:
        tensor = torch.empty(self._plan.base[name].shape, dtype=TORCH[self._plan.base[name].dtype])
        data, filled = _bytes_of(tensor), 0
        for frame in filter(len, self._source.frames(name)):
            data[filled : filled + len(frame)] = memoryview(frame).cast("B")
            filled += len(frame)
        return tensor.to(self._device)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in C order; the memory lives as long as the view."""
    plain = tensor.detach().contiguous().cpu()
    if not plain.numel():
        return memoryview(b"")
    return plain.reshape(-1).view(torch.uint8).numpy().data
