"""The same bytes from every machine: other thread counts, other vector instructions, another BLAS kernel, flushing."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from ckptfmt import Store
from tests.exactness import child, made

FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "BF16": {"square": (1100, 1024), "rank": 16},
    "F16": {"size": 1e-4},
    "F32": {"square": (1100, 1024), "rank": 16, "tiny": 1e-37},
}
"""Tensors of several frames; fp16 subnormals with ties; fp32 subnormals."""

KERNELS: Final = ("Nehalem", "Prescott", "Haswell", "Zen", "SkylakeX")


def threads(count: int) -> dict[str, str]:
    return {name: str(count) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def disabled() -> str:
    """Every instruction set that numpy looks for while it runs, and finds."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])


X86: Final = platform.machine() in ("x86_64", "AMD64")
MACHINES: Final[dict[str, dict[str, str]]] = {
    "one-thread": threads(1),
    "two-threads": threads(2),
    "four-threads": threads(4),
    "oldest": {**threads(4), "OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": disabled()},
    "haswell": {**threads(2), "OPENBLAS_CORETYPE": "Haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


class Filled:
    """A store of all families, and what its files are."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.sources, self.store = directory, directory / "sources", directory / "store"
        self.expected: dict[str, dict[str, str]] = {}
        for element, options in FAMILIES.items():
            places = made.family(element, **options).write(self.sources / element)
            self.expected |= {f"{element}/{name}": made.sums_of(places[name]) for name in made.NAMES}

    def check_encodings(self) -> None:
        with Store.open(self.store) as store:
            for name in self.expected:
                assert made.ENCODINGS[name.partition("/")[2]] in made.used(store, name), name
            assert "planes" in made.used(store, "BF16/step")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Taken in by a process of one thread and the oldest instructions, so that most others differ from it."""
    found = Filled(tmp_path_factory.mktemp("machines"))
    environment = {**MACHINES["oldest"], **threads(1), "CKPTFMT_CACHE": str(found.directory / "cache")}
    assert child.run("import", found.sources, found.store, found.directory / "out", environment=environment) == (
        found.expected
    )
    found.check_encodings()
    return found


@pytest.mark.parametrize("name", MACHINES if X86 else ["one-thread", "two-threads", "four-threads"])
def test_every_machine_restores_the_same_bytes(filled: Filled, tmp_path: Path, name: str) -> None:
    assert child.run("restore", filled.store, tmp_path / "out", environment=MACHINES[name]) == filled.expected


def test_torch_with_no_vector_instructions_is_of_no_matter(filled: Filled, tmp_path: Path) -> None:
    environment = {**threads(2), "ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem"}
    assert child.run("restore", filled.store, tmp_path / "out", options="torch", environment=environment) == (
        filled.expected
    )


def test_a_process_that_flushes_subnormals_restores_the_same_bytes(filled: Filled, tmp_path: Path) -> None:
    environment = {**threads(4), "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    assert child.run("restore", filled.store, tmp_path / "out", options="torch,flush", environment=environment) == (
        filled.expected
    )


def test_a_process_that_flushes_subnormals_takes_in_what_others_restore(filled: Filled, tmp_path: Path) -> None:
    """Its own restore and one of this process, which flushes nothing."""
    store = tmp_path / "store"
    assert child.run("import", filled.sources, store, tmp_path / "out", options="torch,flush") == filled.expected
    filled.store = store
    filled.check_encodings()
    assert child.sums(store, tmp_path / "again") == filled.expected


@pytest.mark.torture
@pytest.mark.skipif(not X86, reason="names of x86 kernels")
def test_every_combination_restores_the_same_bytes(filled: Filled, tmp_path: Path) -> None:
    """Torture: dozens of processes, a second or more each."""
    features = disabled().split()
    switched_off = ["", *(" ".join(features[index:]) for index in range(len(features)))]
    cases = itertools.product((1, 2, 4), KERNELS, switched_off)
    for index, (count, kernel, features_off) in enumerate(cases):
        environment = {**threads(count), "OPENBLAS_CORETYPE": kernel, "NPY_DISABLE_CPU_FEATURES": features_off}
        assert child.run("restore", filled.store, tmp_path / str(index), environment=environment) == filled.expected
    print(f"{index + 1} combinations, numpy {np.__version__}")


@pytest.mark.torture
@pytest.mark.parametrize("version", ["2.0.2", "2.2.6"])
def test_another_numpy_restores_the_same_bytes(filled: Filled, tmp_path: Path, version: str) -> None:
    """Torture: a download of 20 MB. One version writes, each reads what the other wrote."""
    target = tmp_path / "numpy"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), f"numpy=={version}"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"numpy {version} cannot be had here")
    environment = {"PYTHONPATH": f"{target}{os.pathsep}{child.ROOT}"}
    command = [sys.executable, "-c", "import numpy; print(numpy.__version__)"]
    found = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == version
    assert child.run("restore", filled.store, tmp_path / "out", environment=environment) == filled.expected
    store = tmp_path / "store"
    assert child.run("import", filled.sources, store, tmp_path / "own", environment=environment) == filled.expected
    assert child.run("restore", store, tmp_path / "again") == filled.expected
