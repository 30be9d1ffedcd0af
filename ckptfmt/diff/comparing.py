"""One pass over the tensors that differ, in bounded memory.

The caller's thread takes frames from both sides in turn; two others decode ahead and compare. At any time there are at
most five decoded frames of 4 MiB of each side ahead, four blocks that are compared or wait for it (4 MiB of each side,
and up to 24 MiB while one is compared), and two projections of at most 32 MiB: under 300 MB. A tensor that is a view
with strides is held whole on top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Final

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.diff.elements import MATRICES, PACKED, width_of
from ckptfmt.diff.measures import Measured, Sums, block_elements, measure
from ckptfmt.diff.pairing import TensorPair
from ckptfmt.diff.ranks import Gram, Projection, plan_rank
from ckptfmt.diff.reading import Side, Told, in_blocks, size_of
from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.format.manifest import Tensor, tensor_digest

WORKERS: Final = 2
_WAITING: Final = 4
"""Blocks that are compared or wait for it."""

Content = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ComparedTensor:
    """Two tensors of one shape, compared. `rank` is the update's effective rank; `estimated`, not exact."""

    sums: Sums
    rank: float | None
    estimated: bool


@dataclass(slots=True)
class _Running:
    """A tensor whose blocks are being compared; `found` once all of them are."""

    projection: Projection | None
    sums: Sums = field(default_factory=Sums)
    grams: list[Gram] = field(default_factory=list)
    found: ComparedTensor | None = None

    def take(self, measured: Measured) -> None:
        self.sums = self.sums.joined(measured.sums)
        if measured.gram is not None:
            self.grams.append(measured.gram)

    def compared(self) -> ComparedTensor:
        """What came of it. Its blocks' matrices are let go: those of all tensors at once would be many."""
        if self.found is None:
            self.found = self._joined()
            self.grams.clear()
        return self.found

    def _joined(self) -> ComparedTensor:
        projection = self.projection
        rank = projection.rank(self.grams) if projection is not None and self.grams and self.sums.norm else None
        return ComparedTensor(self.sums, rank, rank is not None and projection is not None and not projection.exact)


def read_bytes(a: Side, b: Side, pairs: Sequence[TensorPair]) -> int:
    """Bytes that `compare_tensors` reads: tied tensors once."""
    unique = {_content(a, b, pair): pair for pair in pairs if _is_measurable(pair)}
    return sum(size_of(pair.a) + size_of(pair.b) for pair in unique.values())


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode and compare. After an error what waits is dropped, and what runs is waited for."""
    keep_freed_memory()
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="diff")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def compare_tensors(
    a: Side, b: Side, pairs: Sequence[TensorPair], told: Told, pool: Executor, *, ranks: bool
) -> list[ComparedTensor]:
    """Compare the tensors of each pair, which have one shape, in the order of the pairs.

    Args:
        a: the first checkpoint.
        b: the second one.
        pairs: what to compare; the same contents (of tied tensors) are compared once.
        told: told of the bytes read, of both sides; may raise to cancel.
        pool: as `workers` gives it.
        ranks: find effective ranks too.

    Raises:
        IntegrityError: what is read is not what was recorded, or not there.
    """
    running: dict[object, _Running] = {}
    waiting: deque[tuple[_Running, Future[Measured], int]] = deque()

    def settle(most: int) -> None:
        while len(waiting) > most:
            at, future, read = waiting.popleft()
            at.take(future.result())
            if read:
                told(read)
            # Blocks of a tensor stand in a row, and the last one waits until another tensor's are behind it.
            if waiting and waiting[0][0] is not at:
                at.compared()

    for pair in pairs:
        key = _content(a, b, pair)
        if key in running:
            continue
        if not _is_measurable(pair):
            running[key] = _Running(None)
            continue
        wanted = ranks and {pair.a.dtype, pair.b.dtype} <= MATRICES
        now = running[key] = _Running(plan_rank(pair.a.shape) if wanted else None)
        if max(size_of(pair.a), size_of(pair.b)) <= FRAME_BYTES:
            task = pool.submit(_read_and_measure, a, b, pair, now.projection)
            waiting.append((now, task, size_of(pair.a) + size_of(pair.b)))
            settle(_WAITING - 1)
            continue
        for begin, first, second in _blocks(a, b, pair, told, pool):
            dtypes = pair.a.dtype, pair.b.dtype
            task = pool.submit(measure, first, second, dtypes, begin=begin, projection=now.projection)
            waiting.append((now, task, 0))
            settle(_WAITING - 1)
    settle(0)
    return [running[_content(a, b, pair)].compared() for pair in pairs]


def _is_measurable(pair: TensorPair) -> bool:
    """Of a packed type and another one neither bits nor values can be compared, and nothing is read."""
    return pair.a.dtype == pair.b.dtype or not {pair.a.dtype, pair.b.dtype} & PACKED


def _read_and_measure(a: Side, b: Side, pair: TensorPair, projection: Projection | None) -> Measured:
    """Compare tensors of one frame at most, in the thread that reads them."""
    first, second = (side.read(tensor, _nobody) for side, tensor in ((a, pair.a), (b, pair.b)))
    return measure(first, second, (pair.a.dtype, pair.b.dtype), projection=projection)


def _nobody(_: int) -> None:
    """Told where whoever waits for the thread will tell."""


def _blocks(a: Side, b: Side, pair: TensorPair, told: Told, pool: Executor) -> Iterator[tuple[int, Buffer, Buffer]]:
    """The same elements of both tensors, block by block, with the index of the first."""
    elements = block_elements(pair.a.dtype, pair.b.dtype, FRAME_BYTES)
    with ExitStack() as opened:
        sides = [
            in_blocks(opened.enter_context(closing(side.frames(tensor, told, pool))), elements * width_of(tensor.dtype))
            for side, tensor in ((a, pair.a), (b, pair.b))
        ]
        for index, (first, second) in enumerate(zip(*sides, strict=True)):
            yield index * elements, first, second


def _content(a: Side, b: Side, pair: TensorPair) -> tuple[Content, Content]:
    def of(side: Side, tensor: Tensor) -> Content:
        return tensor.dtype, tensor_digest(side.checkpoint.manifest, tensor), tensor.shape

    return of(a, pair.a), of(b, pair.b)
