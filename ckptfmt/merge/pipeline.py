"""Reading ahead and writing behind: threads of their own, and few blocks that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import blake3

from ckptfmt.digest import Buffer
from ckptfmt.merge.buffers import Block, Buffers
from ckptfmt.progress import Progress

_READS_AHEAD: Final = 6
_WRITES_AHEAD: Final = 4
_WAITING_BYTES: Final = 24 << 20
"""About how many bytes wait to be computed, and how many to be written, where blocks are large."""


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
class Result:
    """Bytes to write, and the block that they were made of, whose memory may be used again once they are written."""

    data: Buffer
    block: Block | None


def done(result: Result) -> Future[Result]:
    """A result that is there already."""
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class Ahead:
    """What an iterator gives, made in a thread of its own a few items ahead.

    Args:
        items: gives blocks.
        block_bytes: of a large one.
    """

    def __init__(self, items: Iterator[Block | None], block_bytes: int) -> None:
        self._items = items
        self._count = max(1, min(_READS_AHEAD, _WAITING_BYTES // max(block_bytes, 1)))
        self._ahead: deque[Future[Block | None]] = deque()

    def __enter__(self) -> Ahead:
        self._pool = ThreadPoolExecutor(1, "read")
        for _ in range(self._count):
            self._submit()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __next__(self) -> Block | None:
        self._submit()
        return self._ahead.popleft().result()

    def _submit(self) -> None:
        self._ahead.append(self._pool.submit(next, self._items, None))


class Writing:
    """Writes and hashes in a thread of its own, a few blocks behind."""

    def __init__(self, writer: ModelWriter, progress: Progress, buffers: Buffers, lanes: int) -> None:
        self._writer = writer
        self._progress = progress
        self._buffers = buffers
        self._lanes = lanes
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._waiting_bytes = 0

    def __enter__(self) -> Writing:
        self._pool = ThreadPoolExecutor(1, "write")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, name: str, content: blake3.blake3 | None) -> None:
        """The next bytes are those of tensor `name`; `content` holds their digest after `finish`."""
        self._content = content
        self._submit(0, self._writer.begin, name)

    def write(self, result: Future[Result], size_bytes: int) -> None:
        """Append what will be there, about `size_bytes`; every lane may have one to compute."""
        self._submit(size_bytes, self._write, result, self._content)
        while len(self._waiting) > self._lanes + 1 and self._waiting_bytes > _WAITING_BYTES:
            self._wait_for_first()

    def _write(self, future: Future[Result], content: blake3.blake3 | None) -> None:
        result = future.result()
        if content is not None:
            content.update(result.data)
        self._writer.write(result.data)
        self._progress.advance(len(result.data))
        if result.block is not None:
            self._buffers.give(result.block)

    def wait(self) -> None:
        """Wait until all that was submitted is written."""
        while self._waiting:
            self._wait_for_first()

    def finish(self) -> None:
        """Wait for all that was submitted, and let the writer finish."""
        self.wait()
        self._writer.finish()

    def _submit(self, size_bytes: int, function: Callable[..., None], *arguments: object) -> None:
        self._waiting.append((self._pool.submit(function, *arguments), size_bytes))
        self._waiting_bytes += size_bytes
        while len(self._waiting) > self._lanes + _WRITES_AHEAD:
            self._wait_for_first()

    def _wait_for_first(self) -> None:
        first, size_bytes = self._waiting.popleft()
        first.result()
        self._waiting_bytes -= size_bytes
