from __future__ import annotations

import os

import pytest

from ckptfmt.containers import BytesSource, FileSource
from ckptfmt.errors import FormatError, NotFound, StorageError


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(bytes(range(100)))
    return target


def test_reads_exactly_what_was_asked(path):
    with FileSource(path) as source:
        assert (source.size, source.where) == (100, str(path))
        assert source.read(10, 5) == bytes(range(10, 15))
        assert source.read(0, 100) == bytes(range(100))
        assert source.read(100, 0) == b""


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (99, 2), (100, 1), (-1, 1), (5, -1), (1 << 62, 1)])
def test_refuses_to_read_outside(path, offset, length):
    with FileSource(path) as source, pytest.raises(FormatError, match=r"file\.bin.*outside the file"):
        source.read(offset, length)
    with pytest.raises(FormatError, match="memory"):
        BytesSource(path.read_bytes()).read(offset, length)


def test_a_file_that_shrank_is_an_error_not_short_data(path):
    with FileSource(path) as source:
        os.truncate(path, 50)
        with pytest.raises(FormatError, match="ends at byte 50"):
            source.read(40, 20)


def test_short_reads_are_continued(path, monkeypatch):
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: real(descriptor, min(length, 7), offset))
    with FileSource(path) as source:
        assert source.read(3, 90) == bytes(range(3, 93))


def test_a_descriptor_stays_open_and_a_path_is_closed(path):
    descriptor = os.open(path, os.O_RDONLY)
    with FileSource(descriptor, where="given") as source:
        assert source.where == "given"
    assert os.pread(descriptor, 1, 0) == b"\0"
    os.close(descriptor)
    source = FileSource(path)
    source.close()
    source.close()
    with pytest.raises(StorageError):
        source.read(0, 1)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        FileSource(tmp_path / "absent")
    with pytest.raises(StorageError), FileSource(tmp_path) as source:
        source.read(0, 1)
