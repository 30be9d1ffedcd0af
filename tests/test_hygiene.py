"""What holds for every module: what it may load, mention and weigh, and what the wheel holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "ckptfmt", ROOT / "tui" / "ckptfmt_tui")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
HEAVY = (
    *("accelerate", "datasets", "huggingface_hub", "numpy", "pandas", "pcodec", "peft", "textual", "torch"),
    *("transformers", "trl"),
)
MAX_LINES = 500

NEVER_MENTIONED = ("torch.load(", "pickle.load", "Unpickler", "allow_pickle=True")
"""Ways to run what a file says. Files from elsewhere are parsed, never executed."""


def loaded_by(statement: str) -> list[str]:
    """The heavy packages in `sys.modules` after `statement`, in a fresh interpreter."""
    program = (
        "import json, sys\n"
        f"{statement}\n"
        f"sys.stderr.write('\\nLOADED ' + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    paths = [str(ROOT), str(ROOT / "tui")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stderr.rsplit("LOADED ", 1)[1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import ckptfmt") == []


def test_the_verbs_load_nothing_heavy_until_they_need_it() -> None:
    """So that `ckptfmt ls` is quick: half of its time was once numpy's."""
    assert loaded_by("import ckptfmt.api") == []


def test_help_loads_nothing_heavy() -> None:
    statement = (
        "from ckptfmt.cli import main\n"
        "sys.argv = ['ckptfmt', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code"
    )
    assert loaded_by(statement) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_its_bounds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES, "think again: two concerns in one module"
    assert [word for word in NEVER_MENTIONED if word in text] == []


def test_the_tools_are_configured() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = project["tool"]
    # D: every public module, class and function has a docstring. S: bandit. BLE: no blind except.
    assert {"D", "S", "BLE", "I", "UP"} <= set(tools["ruff"]["lint"]["select"])
    assert tools["mypy"]["strict"] is True
    assert {contract["type"] for contract in tools["importlinter"]["contracts"]} == {"layers", "forbidden"}


def test_every_constraint_is_one_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        name, _, version = pin.partition("==")
        assert name, pin
        assert version, pin
        assert not set(version) & set("+@/; "), f"{pin}: a local version, an address or a marker"
    assert "torch==2.13.0" in pins


def test_the_wheel_holds_both_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert tops - info == {"ckptfmt", "ckptfmt_tui"}
    assert {"ckptfmt/py.typed", "ckptfmt_tui/py.typed"} <= names
    assert {f"{top}/licenses/LICENSE" for top in info} <= names
    sources = {str(path.relative_to(root.parent)) for root in PACKAGES for path in root.rglob("*.py")}
    assert sources <= names
