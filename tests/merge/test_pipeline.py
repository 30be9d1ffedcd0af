"""Reading ahead and writing behind: in order, few blocks at a time, and errors come through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import blake3
import pytest

from ckptfmt.digest import Buffer
from ckptfmt.merge.buffers import Block, Buffers
from ckptfmt.merge.pipeline import Ahead, Result, Writing, done
from ckptfmt.progress import SILENT

LARGE = 16 << 20


class Slow:
    """A `ModelWriter` that waits before every write until it is let."""

    def __init__(self) -> None:
        self.let = threading.Semaphore(0)
        self.data = b""
        self.finished = False

    def begin(self, name: str) -> None:
        self.data += name.encode()

    def write(self, data: Buffer) -> None:
        self.let.acquire()
        self.data += bytes(data)

    def finish(self) -> None:
        self.finished = True


def test_writes_come_in_order_and_are_hashed_where_asked() -> None:
    writer = Slow()
    writer.let.release(10)
    content = blake3.blake3()
    with Writing(writer, SILENT, Buffers(1), 2) as writing:
        writing.begin("a", content)
        writing.write(done(Result(b"12", None)), 2)
        later: Future[Result] = Future()
        writing.write(later, 2)
        writing.begin("b", None)
        writing.write(done(Result(b"56", None)), 2)
        later.set_result(Result(b"34", None))
        writing.finish()
    assert writer.finished and writer.data == b"a1234b56"
    assert content.digest() == blake3.blake3(b"1234").digest()


def submitted(size_bytes: int) -> int:
    """How many writes of `size_bytes` can be submitted to two lanes before one is done."""
    writer = Slow()
    count = 0

    def submit() -> None:
        nonlocal count
        with Writing(writer, SILENT, Buffers(1), 2) as writing:
            writing.begin("", None)
            for _ in range(30):
                writing.write(done(Result(b"", None)), size_bytes)
                count += 1
            writing.finish()

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join(0.3)
    seen = count
    writer.let.release(30)
    thread.join()
    assert count == 30
    return seen


def test_few_large_blocks_wait_and_some_more_small_ones() -> None:
    assert submitted(LARGE) < submitted(1 << 20) <= 8


def test_every_lane_may_have_a_block_whatever_its_size() -> None:
    assert submitted(1 << 40) >= 2


def test_an_error_of_a_write_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), Writing(Slow(), SILENT, Buffers(1), 2) as writing:
        writing.begin("", None)
        failed: Future[Result] = Future()
        failed.set_exception(ZeroDivisionError())
        writing.write(failed, 1)
        writing.wait()


@pytest.mark.parametrize(("block_bytes", "most"), [(1, 6), (4 << 20, 6), (12 << 20, 2), (1 << 40, 1)])
def test_fewer_are_read_ahead_where_they_are_large(block_bytes: int, most: int) -> None:
    given = 0

    def items() -> Iterator[Block | None]:
        nonlocal given
        for _ in range(20):
            given += 1
            yield None

    with Ahead(items(), block_bytes) as reading:
        assert next(reading) is None
        reading._pool.submit(int).result()  # Everything that was asked for is there.
        assert given == most + 1
