"""Executing a merge plan: read, prove, change, write, all at once and in blocks, so that no model is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import blake3
import torch

from ckptfmt.digest import Buffer
from ckptfmt.format.root import RootLeaf, model_root
from ckptfmt.merge.plan import MergePlan, Output, Step, row_bytes
from ckptfmt.merge.protocol import BLOCK_ROWS, Spec
from ckptfmt.merge.source import TensorSource, row_blocks
from ckptfmt.progress import Progress

_BLOCK_BYTES: Final = 4 << 20
_WRITES_AHEAD: Final = 3

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
    leaves: list[RootLeaf] = []
    groups = _Groups(plan, source, device)
    with ThreadPoolExecutor(2, "read") as readers, _Writing(writer, progress) as writing:
        for output in plan.outputs:
            writing.begin(output.name)
            if output.group is not None:
                tensor = groups.take(output)
                writing.write(_bytes_of(tensor.to(TORCH[output.spec.dtype])), hashed=True)
            elif _is_copy(output, plan.base):
                for frame in source.frames(output.name, readers):
                    writing.write(frame, hashed=False)
                leaves.append(_leaf(output, source.digest(output.name)))
                continue
            else:
                for block in _changed_rows(output, plan.base[output.name], source, readers, device):
                    writing.write(_bytes_of(block), hashed=True)
            leaves.append(_leaf(output, writing.digest()))
        writing.finish()
    # Everything the base has was proven: what no output begins with is read for its proof alone.
    progress.end()
    return Executed(model_root(leaves))


def _leaf(output: Output, digest: str) -> RootLeaf:
    return RootLeaf(output.name, output.spec.dtype, output.spec.shape, digest)


def _is_copy(output: Output, base: Mapping[str, Spec]) -> bool:
    return not output.steps and output.source is not None and base[output.source].dtype == output.spec.dtype


def _changed_rows(
    output: Output, spec: Spec, source: TensorSource, readers: Executor, device: str
) -> Iterator[torch.Tensor]:
    """The rows of an output, a block at a time: each step casts to the dtype it holds and changes them."""
    size = row_bytes(spec)
    rows = max(BLOCK_ROWS, _BLOCK_BYTES // max(size, 1))
    for begin, data in row_blocks(source.frames(output.name, readers), spec.shape, size, rows):
        block = torch.frombuffer(data, dtype=TORCH[spec.dtype]) if data else torch.empty(0, dtype=TORCH[spec.dtype])
        block = block.view(-1, *spec.shape[1:]) if spec.shape else block.view(())
        yield _apply_rows(block.to(device), output.steps, begin).to(TORCH[output.spec.dtype])


def _apply_rows(block: torch.Tensor, steps: tuple[Step, ...], begin: int) -> torch.Tensor:
    for step in steps:
        if step.row is not None:
            block = step.row.rows(block.to(TORCH[step.held]), begin)
    return block


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


class _Writing:
    """Writes and hashes in a thread of its own, a few blocks behind."""

    def __init__(self, writer: ModelWriter, progress: Progress) -> None:
        self._writer = writer
        self._progress = progress
        self._pool = ThreadPoolExecutor(1, "write")
        self._waiting: list[Future[None]] = []
        self._content = blake3.blake3()

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for future in self._waiting:
            future.cancel()
        self._pool.shutdown(wait=True)

    def begin(self, name: str) -> None:
        """The next bytes are those of tensor `name`."""
        self._submit(self._writer.begin, name)
        self._content = blake3.blake3()

    def write(self, data: Buffer, *, hashed: bool) -> None:
        """Append bytes; `hashed` counts them for `digest`."""
        self._submit(self._write, data, self._content if hashed else None)

    def _write(self, data: Buffer, content: blake3.blake3 | None) -> None:
        if content is not None:
            content.update(data)
        self._writer.write(data)
        self._progress.advance(len(data))

    def digest(self) -> str:
        """Digest of the hashed bytes since `begin`."""
        self._drain(0)
        return self._content.hexdigest()

    def finish(self) -> None:
        """Wait for all that was submitted, and let the writer finish."""
        self._drain(0)
        self._writer.finish()

    def _submit(self, function: Callable[..., None], *arguments: object) -> None:
        self._waiting.append(self._pool.submit(function, *arguments))
        self._drain(_WRITES_AHEAD)

    def _drain(self, limit: int) -> None:
        while len(self._waiting) > limit:
            self._waiting.pop(0).result()
