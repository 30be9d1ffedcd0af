from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from ckptfmt.cli.errors import guarded
from ckptfmt.errors import EXIT_CODES, BaseMismatch, CkptfmtError, StorageError
from tests.cli.made import Shell, adapter, full, lying

Prepare = Callable[[Path], object]


def nothing(_: Path) -> None:
    return


def damage_a_shard(here: Path) -> None:
    for shard in (here / ".ckptfmt" / "shards").rglob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[-200:] = bytes(byte ^ 0xFF for byte in data[-200:])
        shard.chmod(0o644)
        shard.write_bytes(data)


def change_the_base(here: Path) -> None:
    path = here / "base" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def newer_store(here: Path) -> None:
    from ckptfmt.format import documents
    from ckptfmt.format.refs import StoreDocument

    path = here / ".ckptfmt" / "store.json"
    path.chmod(0o644)
    document = StoreDocument(version=9, store_id="0" * 32, hash="blake3-256", created="2030-01-01T00:00:00Z")
    path.write_bytes(documents.seal(document))


BAD: list[tuple[str, Prepare, int, str]] = [
    ("show runs/none", nothing, 1, "not-found"),
    ("show runs/stage-1@9", nothing, 1, "not-found"),
    ("show ../escape", nothing, 2, "ref-name"),
    ("show runs//x", nothing, 2, "ref-name"),
    ("rollback runs/stage-1", nothing, 1, "not-found"),
    ("rollback runs/stage-1@x", nothing, 2, "usage"),
    ("import ./hollow --name x", lambda here: (here / "hollow" / "deep").mkdir(parents=True), 1, "not-found"),
    ("gc --grace -1", nothing, 2, "usage"),
    ("fsck ls", nothing, 2, "usage"),
    ("gc --keep-history soon", nothing, 2, "usage"),
    ("prune", nothing, 2, "usage"),
    ("prune --apply", nothing, 2, "usage"),
    ("prune --keep-best loss", nothing, 2, "usage"),
    ("rename runs/stage-1 full/other", nothing, 1, "target-exists"),
    ("import ./nowhere --name x", nothing, 1, "not-found"),
    ("import ./stage-1", nothing, 2, "usage"),
    ("import ./stage-1 --name bad//name", nothing, 2, "ref-name"),
    ("import ./stage-1 --name x --base none", nothing, 1, "not-found"),
    ("import ./stage-1 --name x --effort huge", nothing, 2, "usage"),
    ("import ./stage-1 --name x --jobs 0", nothing, 2, "usage"),
    ("import ./many --name one", lambda here: two(here / "many"), 2, "usage"),
    ("import ./many --name {name}x", lambda here: colliding(here / "many"), 2, "name-collision"),
    ("import ./lying --name x", lambda here: lying(here / "lying"), 5, "malformed"),
    ("restore runs/stage-1 ./base", nothing, 1, "target-exists"),
    ("restore runs/stage-1 ./base/config.json", nothing, 1, "target-exists"),
    ("restore full/other ./out", damage_a_shard, 3, "digest-mismatch damaged"),
    ("init", nothing, 1, "store-exists"),
    ("init ./base", nothing, 1, "target-exists"),
    ("init ./a --store ./b", nothing, 2, "usage"),
    ("ls --store ./base", nothing, 10, "no-store"),
    ("ls", newer_store, 1, "unsupported-version"),
    ("verify", nothing, 2, "usage"),
    ("verify --all runs/stage-1", nothing, 2, "usage"),
    ("verify --all --subset 8/7", nothing, 2, "usage"),
    ("verify --all --subset 1", nothing, 2, "usage"),
    ("base rm tiny", nothing, 1, "needed"),
    ("base rm none", nothing, 1, "not-found"),
    ("import ./stage-1 --name x --base tiny", change_the_base, 3, "base-mismatch"),
    ("ls --colour", nothing, 2, "usage"),
    ("ls a b", nothing, 2, "usage"),
    ("--store . ls", nothing, 2, "usage"),
    ("nonsense", nothing, 2, "usage"),
]


def two(directory: Path) -> None:
    full(directory / "a" / "checkpoint-1")
    full(directory / "a" / "checkpoint-2")


def colliding(directory: Path) -> None:
    full(directory / "run 1")
    full(directory / "run+1")


@pytest.mark.parametrize(("line", "prepare", "exit_code", "code"), BAD, ids=[line for line, *_ in BAD])
def test_bad_input_has_its_exit_code_and_its_words(
    store: Shell, elsewhere: Path, line: str, prepare: Prepare, exit_code: int, code: str
) -> None:
    prepare(elsewhere)
    ran = store(*line.split())
    assert ran.code == exit_code, ran
    assert ran.out == ""
    told, *rest = ran.err.splitlines()
    assert told.startswith("ckptfmt: error: ")
    assert told.rpartition("[")[2].rstrip("]") in code.split()
    assert "Traceback" not in ran.err
    assert all(each.startswith(("hint: ", "  ")) for each in rest)

    again = store(*line.split(), "--json")
    assert again.code == exit_code
    assert again.err == ""
    assert {"code", "message", "hint"} <= set(again.error)
    assert again.error["code"] in code.split()
    assert again.error["message"] in told


def test_no_store_hints_at_init(sh: Shell) -> None:
    ran = sh("ls")
    assert ran.code == 10
    assert ran.err.endswith("[no-store]\nhint: ckptfmt init\n")


def test_an_option_before_the_verb_hints_at_its_place(sh: Shell) -> None:
    assert "hint: put --store after the verb" in sh("--store", ".", "ls").err


@pytest.mark.parametrize("code", EXIT_CODES)
def test_an_error_of_ours_ends_with_its_code(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise CkptfmtError("it is so", code=code, hint="do that")

    assert guarded(work, as_json=False) == EXIT_CODES[code]
    assert capsys.readouterr().err == f"ckptfmt: error: it is so [{code}]\nhint: do that\n"


def test_the_tensors_of_a_base_mismatch_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"layer.{index}" for index in range(13))

    def work() -> int:
        raise BaseMismatch("they differ: layer.0", tensors=names)

    assert guarded(work, as_json=False) == 3
    told = capsys.readouterr().err.splitlines()
    assert told[1:] == [*(f"  layer.{index}" for index in range(1, 11)), "  and 2 more"]
    guarded(work, as_json=True)
    assert '"layer.12"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EROFS, "read-only"), (errno.EIO, "io")]
)
def test_an_escaped_os_error_is_a_storage_error(number: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise OSError(number, os.strerror(number), "/data/x")

    assert guarded(work, as_json=False) == StorageError("", code=code).exit_code == 1
    assert capsys.readouterr().err.startswith(f"ckptfmt: error: /data/x: {os.strerror(number)} [{code}]\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_says_what_it_left(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise error

    assert guarded(work, as_json=False) == 130
    assert "interrupted; nothing half-published [interrupted]" in capsys.readouterr().err


def test_a_bug_is_one_line_and_a_traceback_only_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> int:
        raise KeyError("surprise")

    assert guarded(work, as_json=False) == 1
    told = capsys.readouterr().err
    assert told.startswith("ckptfmt: error: a bug in ckptfmt: KeyError: 'surprise' [bug]\nhint: please report it")
    assert "Traceback" not in told
    assert guarded(work, as_json=True) == 1
    assert '"code":"bug"' in capsys.readouterr().out
    monkeypatch.setenv("CKPTFMT_TRACEBACK", "1")
    guarded(work, as_json=False)
    assert "Traceback" in capsys.readouterr().err


def test_a_message_stays_on_its_line_and_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise CkptfmtError("a\nb\x1b[2Jc\u202ed", code="malformed")

    guarded(work, as_json=False)
    assert capsys.readouterr().err == "ckptfmt: error: a b\\x1b[2Jc\\u202ed [malformed]\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_under_stdout_is_told(store: Shell) -> None:
    command = [sys.executable, "-c", "from ckptfmt.cli import main; main()", "ls"]
    with open("/dev/full", "w") as full_device:
        done = subprocess.run(command, check=False, stdout=full_device, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "[disk-full]" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_is_gone_is_no_error(store: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from ckptfmt.cli import main; main()", "show", "runs/stage-1"]
    done = subprocess.run(command, check=False, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_name_that_is_no_text_is_told_and_stops_nothing(store: Shell, elsewhere: Path) -> None:
    words = [b"import", b"./bad\xffname", b"--name", b"x"]
    command = [os.fsencode(sys.executable), b"-c", b"from ckptfmt.cli import main; main()"]
    done = subprocess.run([*command, *words], check=False, capture_output=True)
    assert done.returncode == 5
    assert b"bad\\udcffname" in done.stderr
    assert b"[unsafe-name]" in done.stderr
    done = subprocess.run([*command, *words, b"--json"], check=False, capture_output=True)
    assert done.returncode == 5
    assert "bad\\udcffname" in json.loads(done.stdout)["error"]["message"]


def test_the_exit_code_tells_of_the_work_and_not_of_the_reader(store: Shell, elsewhere: Path) -> None:
    damage_a_shard(elsewhere)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from ckptfmt.cli import main; main()", "verify", "--all"]
    done = subprocess.run(command, check=False, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 3, done.stderr


def test_an_adapter_with_a_base_that_it_is_not_for_is_refused_before_any_work(store: Shell, elsewhere: Path) -> None:
    adapter(elsewhere / "wide", width=8)
    full(elsewhere / "narrow", width=8)
    assert store("import", "./wide", "--name", "x", "--base", "nobody").code == 1
    assert "x" not in [row["ref"] for row in store.json("ls")]


@pytest.mark.parametrize("weights", [["a=nan"], ["a=inf"], ["a="], ["=0.5"], ["a=1", "a=2"]])
def test_weights_of_adapters_are_finite_numbers_each_once(store: Shell, weights: list[str]) -> None:
    words = [word for weight in weights for word in ("--adapter", weight)]
    ran = store("merge", "runs/stage-1", "./out", *words)
    assert ran.code == 2 and "hint: " in ran.err
    assert not Path("out").exists()


def test_messages_are_one_line_and_always_say_what_next(store: Shell) -> None:
    ran = store("export", "runs/stage-1", "./out")
    assert ran.code == 2 and "\\x09" not in ran.err and "one of hf, peft, universal" in ran.err
    ran = store("merge", "runs/stage-1", "./" + "x" * 300)
    assert ran.code == 1 and "hint: " in ran.err
    ran = store("export", "runs/stage-1", "./out", "--format", "peft", "--tolerance", "abc")
    assert ran.code == 2 and "hint: " in ran.err
