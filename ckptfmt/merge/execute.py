"""Executing a merge plan: read, prove, change, write, all at once and in blocks, so that no model is ever in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import blake3
import torch

from ckptfmt.digest import Buffer
from ckptfmt.format.root import RootLeaf, model_root
from ckptfmt.merge.buffers import Block, Buffers
from ckptfmt.merge.plan import MergePlan, Output, Step, row_bytes
from ckptfmt.merge.protocol import BLOCK_ROWS, Spec
from ckptfmt.merge.source import TensorSource
from ckptfmt.progress import Progress

_BLOCK_BYTES: Final = 1 << 20
"""With what is computed of it in fp32, a block stays in the cache."""
_READS_AHEAD: Final = 6
_WRITES_AHEAD: Final = 4
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


class ModelWriter(Protocol):
    """Takes a model's tensors in the order of a plan."""

    def begin(self, name: str) -> None:
        """The next bytes are those of this tensor."""
        ...

    def write(self, data: Buffer) -> None:
        """Append bytes of the tensor that was begun."""
        ...

    def finish(self) -> None:
        """All tensors were written: make them durable."""
        ...


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
    hashes: list[tuple[Output, blake3.blake3]] = []
    groups = _Groups(plan, source, device)
    buffers = Buffers(_BLOCK_BYTES)
    threads = torch.get_num_threads()
    lanes = min(threads, _MOST_LANES) if device == "cpu" else 1
    with (
        ThreadPoolExecutor(2, "decode") as decoders,
        _Ahead(_read(plan, source, buffers, decoders)) as reading,
        _lanes(lanes, device) as alone,
        ThreadPoolExecutor(1, "together") as together,
        _Writing(writer, progress, buffers, behind=lanes + _WRITES_AHEAD) as writing,
    ):
        for output in plan.outputs:
            content = writing.begin(output.name)
            hashes.append((output, content))
            if output.group is not None:
                writing.write(_done(groups.take(output).to(TORCH[output.spec.dtype])))
                continue
            copied = _is_copy(output, plan.base)
            computing = alone if computes_alone(output, threads) else together
            while (block := next(reading)) is not None:
                writing.write(block if copied else computing.submit(_changed, block, output, plan.base, device))
        writing.finish()
    # Everything the base has was proven: what no output begins with is read for its proof alone.
    progress.end()
    return Executed(model_root([_leaf(output, content.hexdigest()) for output, content in hashes]))


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


def _rows(spec: Spec) -> int:
    return max(BLOCK_ROWS, _BLOCK_BYTES // max(row_bytes(spec), 1))


def _changed(block: Block, output: Output, base: Mapping[str, Spec], device: str) -> _Result:
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
    return _Result(_bytes_of(rows.to(TORCH[output.spec.dtype])), block)


@dataclass(frozen=True, slots=True)
class _Result:
    """Bytes to write, and the block that they were made of."""

    data: Buffer
    block: Block | None


def _done(tensor: torch.Tensor) -> Future[_Result]:
    future: Future[_Result] = Future()
    future.set_result(_Result(_bytes_of(tensor), None))
    return future


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

    def take(self, output: Output) -> torch.Tensor:
        if output.name not in self._ready:
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
        spec = self._plan.base[name]
        data = bytearray(b"".join(self._source.frames(name)))
        tensor = torch.frombuffer(data, dtype=TORCH[spec.dtype]) if data else torch.empty(0, dtype=TORCH[spec.dtype])
        return tensor.view(spec.shape).to(self._device)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in C order; the memory lives as long as the view."""
    plain = tensor.detach().contiguous().cpu()
    if not plain.numel():
        return memoryview(b"")
    return plain.reshape(-1).view(torch.uint8).numpy().data


class _Ahead:
    """What an iterator gives, made in a thread of its own a few items ahead."""

    def __init__(self, items: Iterator[Block | None]) -> None:
        self._items = items
        self._ahead: deque[Future[Block | None]] = deque()

    def __enter__(self) -> _Ahead:
        self._pool = ThreadPoolExecutor(1, "read")
        for _ in range(_READS_AHEAD):
            self._submit()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __next__(self) -> Block | None:
        self._submit()
        return self._ahead.popleft().result()

    def _submit(self) -> None:
        self._ahead.append(self._pool.submit(next, self._items, None))


class _Writing:
    """Writes and hashes in a thread of its own, a few blocks behind."""

    def __init__(self, writer: ModelWriter, progress: Progress, buffers: Buffers, *, behind: int) -> None:
        self._writer = writer
        self._progress = progress
        self._buffers = buffers
        self._behind = behind
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Writing:
        self._pool = ThreadPoolExecutor(1, "write")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, name: str) -> blake3.blake3:
        """The next bytes are those of tensor `name`; what is given holds their digest after `finish`."""
        self._content = blake3.blake3()
        self._submit(self._writer.begin, name)
        return self._content

    def write(self, item: Block | Future[_Result]) -> None:
        """Append the bytes of a block, or what is computed of one."""
        self._submit(self._write, item, self._content)

    def _write(self, item: Block | Future[_Result], content: blake3.blake3) -> None:
        result = _Result(item.view, item) if isinstance(item, Block) else item.result()
        content.update(result.data)
        self._writer.write(result.data)
        self._progress.advance(len(result.data))
        if result.block is not None:
            self._buffers.give(result.block)

    def finish(self) -> None:
        """Wait for all that was submitted, and let the writer finish."""
        self._drain(0)
        self._writer.finish()

    def _submit(self, function: Callable[..., None], *arguments: object) -> None:
        self._waiting.append(self._pool.submit(function, *arguments))
        self._drain(self._behind)

    def _drain(self, limit: int) -> None:
        while len(self._waiting) > limit:
            self._waiting.popleft().result()
