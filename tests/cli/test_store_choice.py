from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.made import Shell


@pytest.fixture
def three(sh: Shell, elsewhere: Path) -> dict[str, str]:
    return {name: sh.json("init", elsewhere / name / ".ckptfmt")["store"] for name in ("stated", "env", "near")}


def stores_ref(sh: Shell, three: dict[str, str], name: str) -> None:
    """Mark a store, so that a later listing tells which one was used."""
    from tests.cli.made import adapter

    made = Path(three[name]).parent / "adapter"
    sh.ok("import", adapter(made), "--name", name, "--store", three[name])


def test_stated_before_environment_before_nearest(
    sh: Shell, elsewhere: Path, three: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in three:
        stores_ref(sh, three, name)
    below = elsewhere / "near" / "deep" / "down"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    def used(*words: str) -> str:
        return str(sh.json("ls", *words)[0]["ref"])

    assert used() == "near"
    monkeypatch.setenv("CKPTFMT_STORE", three["env"])
    assert used() == "env"
    assert used("--store", three["stated"]) == "stated"
    assert sh.json("ls", f"--store={three['stated']}")[0]["ref"] == "stated"


def test_an_environment_that_names_no_store_is_an_error(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    sh.ok("init")
    monkeypatch.setenv("CKPTFMT_STORE", "./elsewhere")
    ran = sh("ls")
    assert ran.code == 10
    assert "elsewhere" in ran.err


def test_init_follows_store_and_environment(sh: Shell, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sh.json("init", "--store", "./a")["store"] == str(elsewhere / "a")
    monkeypatch.setenv("CKPTFMT_STORE", str(elsewhere / "b"))
    assert sh.json("init")["store"] == str(elsewhere / "b")
    assert sh.json("ls") == []
    assert sh.json("init", "./c")["store"] == str(elsewhere / "c")
