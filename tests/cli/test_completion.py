from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from ckptfmt.cli.app import COMPLETION_VARIABLE, PROGRAM, program, run
from ckptfmt.cli.table import VERBS
from tests.cli.made import Shell


def completed(*words: str) -> list[str]:
    """What follows the last of `words`, which is incomplete."""
    completion = BashComplete(program, {}, PROGRAM, COMPLETION_VARIABLE)
    return [item.value for item in completion.get_completions(list(words[:-1]), words[-1])]


def test_verbs() -> None:
    assert completed("") == list(VERBS)
    assert {"import", "init"} == set(completed("i"))
    assert completed("base", "v") == ["verify"]
    assert "--version" in completed("--v")


def test_options_and_their_values() -> None:
    assert "--damaged-as-opaque" in completed("import", "--d")
    assert completed("import", "--effort", "") == ["fast", "balanced", "max"]


def test_refs(store: Shell) -> None:
    assert completed("show", "") == ["full/other", "runs/stage-1"]
    assert completed("show", "ru") == ["runs/stage-1"]
    assert completed("import", "x", "--parent", "f") == ["full/other"]
    assert completed("bind", "runs/stage-1", "--base", "t") == ["tiny"]
    assert completed("base", "keep", "") == ["tiny"]


def test_refs_of_a_stated_store(store: Shell, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "away").mkdir()
    monkeypatch.chdir(elsewhere / "away")
    store.ok("init")
    assert completed("show", "") == []
    assert completed("show", "--store", "../.ckptfmt", "r") == ["runs/stage-1"]


def test_no_store_completes_nothing_and_says_nothing(sh: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert completed("show", "") == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(sh: Shell, shell: str) -> None:
    ran = sh.ok("completion", shell)
    assert f"{COMPLETION_VARIABLE}={shell}_complete" in ran.out
    assert "\x1b" not in ran.out
    assert f"ckptfmt completion {shell}" in ran.err
    assert sh.json("completion", shell)["script"].strip() == ran.out.strip()
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=ran.out, text=True, check=True)


def test_the_script_gets_its_answer(
    store: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPLETION_VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "ckptfmt show ru")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run([]) == 0
    assert capsys.readouterr().out == "plain,runs/stage-1\n"
