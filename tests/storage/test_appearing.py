"""A directory that appears whole and at once: what is in it, and its name, are certain then."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptfmt.errors import Conflict
from ckptfmt.storage import durable
from ckptfmt.storage.appearing import appearing
from tests.faults import seam
from tests.faults.disk import Disk


def test_what_appeared_is_certain(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    recorder = seam.Recorder()
    with durable.observed(recorder), appearing(f"{tmp_path}/deep/target") as building:
        file = durable.WriteFile(f"{building}/file")
        file.write(b"data")
        file.sync()
        file.close()
        assert not (tmp_path / "deep" / "target").exists()
    for event in recorder.events:
        disk.play(event)
    assert disk.uncertain(str(tmp_path)) == set()
    assert disk.seen() == {"deep": None, "deep/target": None, "deep/target/file": b"data"}


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), appearing(f"{tmp_path}/target") as building:
        durable.mkdir(f"{building}/below")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_target_that_is_occupied_is_refused_before_anything_is_built(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("x")
    elif kind == "link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
        (target / "theirs").write_text("x")
    recorder = seam.Recorder()
    with (
        pytest.raises(Conflict) as caught,
        durable.observed(recorder),
        appearing(str(target)),
    ):
        raise AssertionError("it was begun")
    assert caught.value.code == "target-exists"
    assert recorder.events == []


def test_an_empty_directory_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with appearing(f"{tmp_path}/target") as building:
        durable.mkdir(f"{building}/below")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["below"]


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(Conflict), appearing(f"{tmp_path}/target") as building:
        durable.mkdir(f"{building}/below")
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "theirs").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "theirs").read_text() == "x"
