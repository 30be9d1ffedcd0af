"""What is taken in now comes back through the independent reader: the specification says what the code does."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.encodings.protocol import Effort
from ckptfmt.encodings.table import encoding_named
from ckptfmt.format.check import check_document
from ckptfmt.progress import SILENT
from ckptfmt.store.store import init_store
from ckptfmt.transfer.importing import Options, import_walked
from ckptfmt.transfer.walk import walk
from tests import independent_reader
from tests.encodings.special import ELEMENTS, frames
from tests.format.golden.make import digests_below, write_checkpoint


def _fixture(module: str, make: str = "make", **options: Any) -> Callable[[Path], object]:
    def write(directory: Path) -> object:
        fixtures = __import__(f"tests.fixtures.{module}", fromlist=[make])
        return getattr(fixtures, make)(directory, **options)

    return write


BESIDE = Path(independent_reader.__file__).parent
MADE = pytest.mark.fixtures
CHECKPOINTS = [
    pytest.param(lambda directory: write_checkpoint(directory, 7), id="golden"),
    pytest.param(_fixture("training_pt"), id="training_pt"),
    pytest.param(_fixture("nanogpt", lora=True, merged=False, compiled=True), id="nanogpt"),
    pytest.param(_fixture("hf"), id="hf", marks=MADE),
    pytest.param(_fixture("peft_adapters"), id="peft", marks=MADE),
    pytest.param(_fixture("trainer", "make_bloated"), id="trainer", marks=MADE),
]


@pytest.mark.parametrize("write", CHECKPOINTS)
def test_fixtures_come_back(write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "checkpoint"
    write(directory)
    assert digests_below(directory)
    source = str(directory)
    efforts: tuple[Effort, ...] = ("balanced", "fast")
    ids = set()
    for effort in efforts:
        store = init_store(str(tmp_path / effort))
        options = Options(effort=effort)
        taken = import_walked(store, walk(source), "runs/it", source=source, options=options, progress=SILENT)
        store.close()
        check_document(taken.manifest, where="manifest")
        ids.add(taken.digest)
        independent_reader.restore(tmp_path / effort, "runs/it", tmp_path / f"{effort}-restored")
        assert digests_below(tmp_path / f"{effort}-restored") == digests_below(directory)
    assert len(ids) == 1


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_it_decodes_what_we_encode(data: st.DataObject, element: str | None) -> None:
    frame = data.draw(frames(element))
    for name, decode in independent_reader.ENCODINGS.items():
        stored = encoding_named(name).encode(frame, element) if frame else None
        if stored is not None:
            assert decode(bytes(stored), len(frame), element) == frame


FILES = ("independent_reader", "independent_delta", "independent_encodings")


@pytest.mark.parametrize("name", FILES)
def test_it_imports_nothing_of_the_package(name: str) -> None:
    path = BESIDE / f"{name}.py"
    tree = ast.parse(path.read_text())
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    own = {*FILES, *(f"tests.{each}" for each in FILES)}
    standard = {"__future__", "argparse", "collections.abc", "functools", "hashlib", "json", "pathlib", "re", "typing"}
    assert names - own - standard <= {"blake3", "numpy", "pcodec", "xxhash", "zstandard"}
    assert len(path.read_text().splitlines()) <= 250


def test_it_runs_alone(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "v1"
    for name in FILES:
        shutil.copy(BESIDE / f"{name}.py", tmp_path)
    script = tmp_path / "independent_reader.py"
    command = [sys.executable, str(script), str(golden), "runs/exp1", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "5 files restored\n", done.stderr
