"""Large tensors, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptfmt import Store
from tests.exactness import large
from tests.exactness.child import ROOT

ONE_GB = 1 << 30


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Gone afterwards: it holds gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def run(verb: str, place: Path) -> Any:
    program = [sys.executable, "-m", "tests.exactness.large", verb, str(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"{verb}: {found['peak'] / 2**20:.0f} MiB at most, {found['seconds']} s, {found['encodings']}")
    return found


def there_and_back(place: Path, rows: int, columns: int, *, turned: bool = False) -> dict[str, Any]:
    with Store.init(place / "store"):
        pass
    large.write(place / "base", rows, columns, moved=False)
    large.write(place / "run", rows, columns, moved=True, turned=turned)
    found = {verb: run(verb, place) for verb in ("base", "import", "restore")}
    came_back(place)
    logical, stored = found["import"]["encodings"]["delta"]
    assert logical == 2 * rows * columns and stored < logical / 4
    return found


def came_back(place: Path) -> None:
    for path in (place / "run").iterdir():
        assert large.sha256_of(place / "back" / path.name) == large.sha256_of(path)


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_tensor_of_one_gigabyte_takes_less_memory_than_it_has(place: Path) -> None:
    """Torture: writes 3 GB."""
    found = there_and_back(place, 16384, 32768)
    assert found["import"]["peak"] <= ONE_GB
    assert found["restore"]["peak"] <= ONE_GB


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_transposed_tensor_of_one_gigabyte(place: Path) -> None:
    """Torture: writes 3 GB. Frame by frame its base would be read 256 times, in a minute and more each way."""
    found = there_and_back(place, 16384, 32768, turned=True)
    assert found["import"]["peak"] <= 800 << 20
    assert found["restore"]["peak"] <= 600 << 20
    assert found["import"]["seconds"] + found["restore"]["seconds"] < 60


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_tensor_of_more_than_four_gigabytes_comes_back(place: Path) -> None:
    """Torture: writes 16 GB."""
    found = there_and_back(place, 40960, 65536 + 3)
    assert found["import"]["peak"] <= ONE_GB
    assert found["restore"]["peak"] <= ONE_GB


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("encoding", "verb"),
    [("raw", "fast"), ("planes", "alone"), ("zstd", "alone"), ("delta", "import"), ("lowrank", "merged")],
)
def test_every_encoding_beyond_four_gigabytes(place: Path, encoding: str, verb: str) -> None:
    """Torture: writes up to 16 GB. `delta` against a transpose; a file of text as `zstd`."""
    rows, columns = 40960, 65536 + 3
    Store.init(place / "store").close()
    if encoding in ("delta", "lowrank"):
        large.write(place / "base", rows, columns, moved=False)
        run("base", place)
    if encoding == "zstd":
        large.write_log(place / "run", 2 * rows * columns + 1)
    elif encoding == "lowrank":
        large.write_merged(place, rows, columns)
    else:
        large.write(place / "run", rows, columns, moved=True, turned=encoding == "delta")
    found = {each: run(each, place) for each in (verb, "restore")}
    came_back(place)
    assert found[verb]["encodings"][encoding][0] > 2 * rows * columns - (1 << 20)
    assert max(each["peak"] for each in found.values()) <= ONE_GB


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_tensor_of_many_frames_takes_the_memory_of_a_few(place: Path) -> None:
    """96 MiB: whoever held all of the tensor, of its base and of what they are made into would take twice as much."""
    found = there_and_back(place, 4096, 12288)
    assert found["import"]["peak"] < 400 << 20
