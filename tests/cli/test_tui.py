"""`ckptfmt tui`: when it opens, when it refuses; and what is loaded without it and with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptfmt import Store
from tests.cli.made import Shell

TOLD = "import sys; print('loaded:', *sorted(name for name in {names!r} if name in sys.modules))"


@pytest.mark.parametrize(
    ("words", "told", "hint"),
    [
        ((), "needs a terminal", "ckptfmt tui --web"),
        (("--json",), "leave --json out", "ckptfmt ls --json"),
        (("--port", "8000"), "belong to --web", "ckptfmt tui --web"),
        (("--write",), "belong to --web", "ckptfmt tui --web"),
        (("--web", "--write", "--read-only"), "contradict", "leave one of them out"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    sh: Shell, tmp_path: Path, words: tuple[str, ...], told: str, hint: str
) -> None:
    Store.init(tmp_path / "store").close()
    ran = sh("tui", *words, "--store", str(tmp_path / "store"))
    assert ran.code == 2
    assert told in ran.out + ran.err
    assert hint in ran.out + ran.err


def test_without_a_store_it_says_so(sh: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("tui",), ("tui", "--web")):
        ran = sh(*words)
        assert ran.code == 10
        assert "ckptfmt init" in ran.err


def loaded(program: str, *words: str, names: tuple[str, ...] = ("numpy", "textual", "torch", "transformers")) -> str:
    """Which of some modules are loaded after a program."""
    code = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\n{TOLD.format(names=names)}"
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return ran.stdout.rpartition("loaded:")[2].strip()


def test_nothing_but_the_terminal_ui_loads_what_it_needs(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    Store.init(path).close()
    main = "from ckptfmt.cli import main; main()"
    assert loaded("import ckptfmt") == ""
    assert loaded(main, "--help") == ""
    assert loaded(main, "tui", "--help") == ""
    assert "textual" not in loaded(main, "ls", "--store", path)


def test_the_terminal_ui_starts_without_numpy_and_torch(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    Store.init(path).close()
    shown = (
        "import asyncio; from ckptfmt_tui.app import CkptfmtApp; app = CkptfmtApp(sys.argv[1])\n"
        "    async def go():\n"
        "        async with app.run_test(size=(120, 40)) as pilot:\n"
        "            await pilot.pause(0.5)\n"
        "            for key in ('2', '8', '1'):\n"
        "                await pilot.press(key)\n"
        "            await pilot.pause(0.2)\n"
        "    asyncio.run(go())"
    )
    assert loaded(shown, path) == "textual"
