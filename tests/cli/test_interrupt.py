"""Ctrl-C and SIGTERM in the middle of an import: nothing of it is left, and what was there still is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptfmt.cli import signals
from tests.cli.made import Shell, full

PROGRAM = [sys.executable, "-c", "from ckptfmt.cli import main; main()"]
ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 500


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    part = {f"layer.{index}": random.integers(0, 2**32, 5 << 20, dtype=np.uint32) for index in range(MEGABYTES // 20)}
    save_file(part, directory / "model.safetensors")
    (directory / "config.json").write_text("{}", encoding="utf-8")
    return directory


def test_the_first_signal_stops_and_the_third_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signals, "_received", 0)
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(KeyboardInterrupt):
        signals._stop(2, None)
    signals._stop(2, None)
    assert ended == []
    assert "once more to stop at once" in capfd.readouterr().err
    signals._stop(2, None)
    assert ended == [130]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    program = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ckptfmt.cli.signals import interruptible\n"
        "interruptible()\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "assert callable(signal.getsignal(signal.SIGTERM))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def files_below(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}


def stopped(
    words: list[str], store: Path, number: signal.Signals, *, before: set[str], until: str | None = None
) -> tuple[int, str, str]:
    """Run, wait until it has begun to write below `store`, or until `until` is there, and send the signal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (store / until).exists() if until is not None else files_below(store) != before:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    assert process.poll() is None, "it was over before it could be stopped"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_import_leaves_nothing(store: Shell, elsewhere: Path, large: Path, number: signal.Signals) -> None:
    path = elsewhere / ".ckptfmt"
    before = files_below(path)
    words = ["import", str(large), "--name", "large", "--effort", "balanced"]
    code, out, err = stopped(words, path, number, before=before)
    assert (code, out) == (130, ""), err
    assert "ckptfmt: error: interrupted; nothing half-published [interrupted]" in err
    assert "Traceback" not in err
    assert files_below(path) == before
    assert [row["ref"] for row in store.json("ls")] == ["full/other", "runs/stage-1"]
    assert store("show", "large").code == 1
    store.ok("verify", "--all")


def test_of_many_what_is_in_stays_and_is_told(store: Shell, elsewhere: Path, large: Path) -> None:
    (elsewhere / "many").mkdir()
    full(elsewhere / "many" / "checkpoint-1", seed=1)
    os.rename(large, elsewhere / "many" / "checkpoint-2")
    try:
        words = ["import", str(elsewhere / "many"), "--name", "m/{name}"]
        path = elsewhere / ".ckptfmt"
        code, _, err = stopped(words, path, signal.SIGINT, before=set(), until="refs/m,checkpoint-1")
    finally:
        os.rename(elsewhere / "many" / "checkpoint-2", large)
    assert code == 130, err
    assert "1 of 2 checkpoints taken in: m/checkpoint-1\n" in err
    assert [row["ref"] for row in store.json("ls", "m/*")] == ["m/checkpoint-1"]


def test_under_json_it_is_a_document(store: Shell, elsewhere: Path, large: Path) -> None:
    path = elsewhere / ".ckptfmt"
    before = files_below(path)
    words = ["import", str(large), "--name", "large", "--json"]
    code, out, err = stopped(words, path, signal.SIGINT, before=before)
    assert (code, err) == (130, "")
    assert json.loads(out)["error"]["code"] == "interrupted"


def test_a_stopped_restore_leaves_no_directory(store: Shell, elsewhere: Path, large: Path) -> None:
    store.ok("import", large, "--name", "large", "--effort", "fast")
    beside = elsewhere / "beside"
    beside.mkdir()
    code, _, err = stopped(["restore", "large", str(beside / "out")], beside, signal.SIGINT, before=set())
    assert code == 130, err
    assert list(beside.iterdir()) == []


def test_a_signal_after_the_end_changes_no_exit_code() -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "from ckptfmt.cli import main\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "sys.argv[1:] = ['version']\n"
        "main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
