"""`fsck` on the command line: another store to take from, a store that cannot be opened, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.made import Shell
from tests.fsck.damaging import World


@pytest.fixture
def shell(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CKPTFMT_STORE", str(world.store))
    return Shell(capsys)


def test_from_a_backup(shell: Shell, world: World) -> None:
    shutil.copytree(world.store, world.root / "backup")
    world.without_originals()
    world.shard_of("full/model").unlink()
    ran = shell("fsck", "--full", "--repair")
    assert ran.code == 3 and "harms full/model" in ran.out
    assert "--from DIR" in ran.out and "ckptfmt import DIR --name full/model" in ran.out
    ran = shell.ok("fsck", "--full", "--repair", "--from", world.root / "backup")
    assert "repaired: " in ran.out and "no problems" in ran.out
    assert shell.json("fsck", "--full")["problems"] == []
    world.check_sound()


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_a_store_that_cannot_be_opened(how: str, shell: Shell, world: World) -> None:
    document = world.store / "store.json"
    if how == "torn":
        document.write_bytes(document.read_bytes()[:70])
    else:
        document.unlink()
    ran = shell("fsck")
    assert ran.code == 3 and "hint: ckptfmt fsck --repair" in ran.out
    assert document.exists() is (how == "torn"), "looking writes nothing"
    assert [each["kind"] for each in shell.json("fsck", "--repair")["repaired"]] == ["store-document"]
    shell.ok("ls")
    world.check_sound()


def test_what_is_no_store_is_none(shell: Shell, world: World, tmp_path: Path) -> None:
    ran = shell("fsck", "--repair", "--store", tmp_path)
    assert (ran.code, list(tmp_path.iterdir())) == (10, [])
    for place in (world.store, world.root / "nowhere"):
        ran = shell("fsck", "--repair", "--from", place)
        assert ran.code == 2 and "hint: " in ran.err


def test_a_newer_store_is_not_made_an_old_one(shell: Shell, world: World) -> None:
    document = world.store / "store.json"
    damaged = document.read_bytes().replace(b'"version":1', b'"version":12')
    document.write_bytes(damaged)
    assert shell("fsck", "--repair").code == 1
    assert document.read_bytes() == damaged
