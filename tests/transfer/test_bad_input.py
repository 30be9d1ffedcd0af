"""What lies, hides, changes or cannot be read is refused clearly; nothing is run, nothing is half-stored."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt import Store
from ckptfmt.errors import (
    CkptfmtError,
    Conflict,
    FormatError,
    IntegrityError,
    InvalidInput,
    NotFound,
    StorageError,
    UnsafeFile,
    UnsupportedVersion,
)
from ckptfmt.format import documents
from ckptfmt.format.refs import StoreDocument
from tests.transfer.headers import Written, file_of, noise
from tests.transfer.lies import GOOD, SAFETENSORS, SOUND, ZIPS
from tests.transfer.refusals import Meddling, refused
from tests.transfer.trees import files_of, nothing_unfinished, photograph, store_files, there_and_back

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with a checkpoint that was there before, and stays as it is."""
    place = tmp_path_factory.mktemp("stocked")
    (place / "good").mkdir()
    (place / "good" / WEIGHTS).write_bytes(file_of(Written("good", "F32", (4, 4), noise(64, 9))))
    with Store.init(place / "store") as store:
        store.import_checkpoint(place / "good", "good/one", effort="fast")
        yield store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sound checkpoint, to be spoiled."""
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.txt").write_text("a")
    (directory / WEIGHTS).write_bytes(GOOD)
    (directory / "sub" / "notes.txt").write_text("notes")
    return directory


# --- weight files that lie -------------------------------------------------------------------------------------------

LIES = {f"{name}.safetensors": value for name, value in SAFETENSORS.items()}
LIES |= {f"{name}.pt": value for name, value in ZIPS.items()}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_file(case: str, stocked: Store, source: Path, tmp_path: Path) -> None:
    data, place = LIES[case]
    name = "zz" + os.path.splitext(case)[1]  # After the sound files: those were read before.
    (source / "sub" / name).write_bytes(data)
    with refused(stocked, FormatError, "malformed", 5, f"{source}/sub/{name}", place):
        stocked.import_checkpoint(source, "bad")
    with Store.init(tmp_path / "other") as store:
        report = there_and_back(store, source, tmp_path / "back", damaged_as_opaque=True)
        [lying] = [file for file in store.show("back").manifest.files if file.path == f"sub/{name}"]
        assert lying.damaged and lying.container == "opaque" and place in (lying.reason or "")
        assert [each.path for each in report.opaque] == [lying.path]
        assert any(f"sub/{name}" in note and "damaged" in note for note in report.notes)
        assert not any(file.damaged for file in store.show("back").manifest.files if file is not lying)
        assert report.tensors == 2  # Those of the sound file.


def test_a_sound_file_is_not_marked(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "state.pt").write_bytes(SOUND)
    report = there_and_back(store, source, tmp_path / "back", damaged_as_opaque=True)
    assert report.opaque == () and not any(file.damaged for file in store.show("back").manifest.files)
    with Store.init(tmp_path / "other") as other:
        assert other.import_checkpoint(source, "x").manifest == report.manifest


HOSTILE_FILES = [
    "../../etc/passwd", "/etc/passwd", "sub/model.safetensors", "..", ".", "", "a\\b", "C:evil", "nul\0", "new\nline",
    3, None, ["model.safetensors"], {"a": 1}, True, "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE_FILES, ids=repr)
def test_a_hostile_weight_map(value: object, stocked: Store, source: Path, tmp_path: Path) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"first": WEIGHTS, "second": value}}
    (source / "config.json").write_text("{}")
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused(stocked, UnsafeFile, "unsafe-name", 5, "model.safetensors.index.json", "weight_map['second']"):
        stocked.import_checkpoint(source, "bad")
    with Store.init(tmp_path / "other") as store:
        report = there_and_back(store, source, tmp_path / "back", damaged_as_opaque=True)
        assert any("weight_map" in note for note in report.notes)


# --- names -----------------------------------------------------------------------------------------------------------

HOSTILE_REFS = [
    "", "/", "/abs", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a b", "a\nb", "a\0b", "é", "a,b",
    "a@1", "a\\b", "a:b", "~", "x" * 201, "a/" * 100 + "a", "*", "{x}", "\udcff", "bases/llama",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_REFS, ids=ascii)
def test_a_hostile_ref_name(name: str, stocked: Store, source: Path) -> None:
    acts: list[Callable[[], object]] = [
        lambda: stocked.import_path(source, name=name),
        lambda: stocked.plan_import(source, name=name),
        lambda: stocked.rename("good/one", name),
        lambda: stocked.tag("good/one", (name,)) if not name.startswith("bases/") else stocked.tag(name, ("x",)),
        lambda: stocked.drop(name),
        lambda: stocked.pin(name),
        lambda: stocked.bind(name, "x"),
    ]
    for act in acts:
        with refused(stocked, InvalidInput, "ref-name", 2, repr(name)):
            act()
    looks: list[Callable[[], object]] = [
        lambda: stocked.show(name),
        lambda: stocked.log(name),
        lambda: stocked.verify((name,)),
        lambda: stocked.restore(name, source / "back"),
        lambda: stocked.rollback(f"{name}@1"),
    ]
    for look in looks:
        with pytest.raises(CkptfmtError) as caught:
            look()
        assert caught.value.exit_code in (1, 2) and caught.value.message.isprintable()


def test_names_that_only_look_hostile(store: Store, source: Path, tmp_path: Path) -> None:
    for name in ("-", "-x", "...", "a..b", "x" * 200, "refs/refs", "A", "a", "1", "deadbeefdeadbeef", "tmp", "0.json"):
        store.import_checkpoint(source, name)
        assert store.show(name).ref == name
    assert len(store.list_refs()) == 12


BAD_FILE_NAMES = [b"new\nline", b"escape\x1b[31m", b"del\x7f", b"\xff\xfe not utf-8", b"c1\xc2\x85", b"tab\t"]


@pytest.mark.parametrize("name", BAD_FILE_NAMES, ids=repr)
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_name_that_cannot_be_kept(name: bytes, kind: str, stocked: Store, source: Path) -> None:
    path = os.fsencode(source) + b"/sub/" + name
    if kind == "file":
        with open(path, "wb"):
            pass
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.symlink(b"notes.txt", path)
    with refused(stocked, UnsafeFile, "unsafe-name", 5, str(source), "sub/"):
        stocked.import_checkpoint(source, "bad")


@pytest.mark.parametrize("target", [b"new\nline", b"\xff\xfe", b"esc\x1b"], ids=repr)
def test_a_link_text_that_cannot_be_kept(target: bytes, stocked: Store, source: Path) -> None:
    os.symlink(target, os.fsencode(source) + b"/sub/link")
    with refused(stocked, UnsafeFile, "unsafe-link", 5, f"{source}/sub/link"):
        stocked.import_checkpoint(source, "bad")


@pytest.mark.parametrize("name", BAD_FILE_NAMES, ids=repr)
def test_a_directory_above_with_any_name(name: bytes, store: Store, source: Path, tmp_path: Path) -> None:
    """What lies above is not restored: its name is nobody's business, and must not end in a traceback."""
    place = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    source.rename(place)
    try:
        store.import_checkpoint(place, "x")
    except UnsafeFile as error:
        assert error.code == "unsafe-name" and error.hint and error.message.isprintable()
        assert nothing_unfinished(Path(store.path)) and not store.list_refs()
    else:
        store.restore("x", tmp_path / "back")
        assert files_of(tmp_path / "back") == files_of(Path(place))


def test_tensor_names_that_no_parser_should_meet(store: Store, tmp_path: Path) -> None:
    """A lone surrogate in a header's JSON: taken or refused, but said."""
    source = tmp_path / "source"
    source.mkdir()
    header = b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (source / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    try:
        there_and_back(store, source, tmp_path / "back")
    except FormatError as error:
        assert error.code == "malformed" and error.hint
        assert not store.list_refs() and nothing_unfinished(Path(store.path))
    assert json.dumps([row.ref for row in store.list_refs()])


# --- pickles ---------------------------------------------------------------------------------------------------------


def test_pickles_that_would_run_code(tmp_path: Path) -> None:
    """Hundreds of them, imported and restored by a process that ends at the first sign of anything being done."""
    command = [sys.executable, "-m", "tests.transfer.canary", str(tmp_path)]
    environment = {**os.environ, "CKPTFMT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["files"] > 300 and answer["restored"] == answer["files"] and answer["damaged"] == 0
    assert answer["modules"] == []
    proof = subprocess.run(
        [*command, "--prove"], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert proof.returncode == 66 and "CANARY" in proof.stderr


# --- what changes while it is read -----------------------------------------------------------------------------------

LARGE = file_of(*(Written(f"w{n}", "U8", (3 << 20,), noise(3 << 20, n)) for n in range(3)))


def _append(root: Path) -> None:
    with (root / WEIGHTS).open("ab") as file:
        file.write(b"more")


def _edit(root: Path) -> None:
    found = (root / WEIGHTS).stat()
    with (root / WEIGHTS).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"other")
    os.utime(root / WEIGHTS, ns=(found.st_atime_ns, found.st_mtime_ns))


def _replace(root: Path) -> None:
    (root / "new").write_bytes(LARGE[::-1])
    (root / "new").rename(root / WEIGHTS)


def _replace_by_a_link(root: Path) -> None:
    shutil.copy(root / WEIGHTS, root.parent / "elsewhere")
    (root / WEIGHTS).unlink()
    (root / WEIGHTS).symlink_to(root.parent / "elsewhere")


def _another_directory(root: Path) -> None:
    shutil.move(root / "zz", root.parent / "elsewhere")
    (root / "zz").symlink_to(root.parent / "elsewhere")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "append": (_append, WEIGHTS),
    "edit, times restored": (_edit, WEIGHTS),
    "replace": (_replace, WEIGHTS),
    "replace by a link": (_replace_by_a_link, WEIGHTS),
    "truncate": (lambda root: os.truncate(root / WEIGHTS, 100), WEIGHTS),
    "remove": (lambda root: (root / WEIGHTS).unlink(), WEIGHTS),
    "remove what was read": (lambda root: (root / "a.txt").unlink(), "a.txt"),
    "edit what was read": (lambda root: (root / "a.txt").write_text("b"), "a.txt"),
    "remove what comes": (lambda root: (root / "zz" / "tail.txt").unlink(), "zz/tail.txt"),
    "edit what comes": (lambda root: (root / "zz" / "tail.txt").write_text("other"), "zz/tail.txt"),
    "add": (lambda root: (root / "sub" / "new.txt").write_text("new"), "sub/new.txt"),
    "add a directory": (lambda root: (root / "sub" / "empty").mkdir(), "sub/empty"),
    "add a link": (lambda root: (root / "link").symlink_to("a.txt"), "link"),
    "turn a link": (lambda root: ((root / "old").unlink(), (root / "old").symlink_to("sub")), "old"),
    "file becomes directory": (lambda root: ((root / "a.txt").unlink(), (root / "a.txt").mkdir()), "a.txt"),
    "directory becomes link": (_another_directory, "zz"),
    "rename": (lambda root: (root / "sub").rename(root / "sub2"), "sub"),
    "all gone": (shutil.rmtree, ""),
}


@pytest.mark.parametrize("after_bytes", [1, 5 << 20, len(LARGE) + 1])
@pytest.mark.parametrize("case", CHANGES)
def test_a_directory_that_changes(
    case: str, after_bytes: int, stocked: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first byte, within the large file, and behind it."""
    (source / WEIGHTS).write_bytes(LARGE)
    (source / "zz").mkdir()
    (source / "zz" / "tail.txt").write_text("tail")
    (source / "old").symlink_to("a.txt")
    change, where = CHANGES[case]
    meddling = Meddling(after_bytes, lambda: change(source))
    with refused(stocked, IntegrityError, "changed-while-read", 3, f"{source}/{where}".rstrip("/")):
        stocked.import_checkpoint(source, "bad", effort="fast", progress=meddling)
    assert meddling.acted


def test_what_comes_and_goes_meanwhile_changes_nothing(store: Store, source: Path, tmp_path: Path) -> None:
    """A temporary file, and a directory's own times: what is there at the end is what was there at first."""

    def act() -> None:
        (source / "sub" / "temporary").write_text("x")
        (source / "sub" / "temporary").unlink()
        (source / "a.txt").read_text()

    meddling = Meddling(1, act)
    store.import_checkpoint(source, "x", progress=meddling)
    assert meddling.acted
    store.restore("x", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(source)


def test_a_writer_that_never_rests(store: Store, source: Path, tmp_path: Path) -> None:
    """A thread replaces the file as quickly as it can: an import succeeds with one of its versions, or says so."""
    versions = [file_of(Written("w", "U8", (n + 1,), noise(n + 1, n))) for n in range(8)]
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (tmp_path / "next").write_bytes(versions[number % len(versions)])
            (tmp_path / "next").rename(source / WEIGHTS)
            stop.wait(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    done = 0
    try:
        for number in range(25):
            try:
                store.import_checkpoint(source, f"x/{number}")
            except IntegrityError as error:
                assert error.code == "changed-while-read" and error.hint
            else:
                done += 1
    finally:
        stop.set()
        thread.join()
    refs = [row.ref for row in store.list_refs()]
    assert len(refs) == done
    for ref in refs:
        store.restore(ref, tmp_path / "back" / ref.replace("/", "-"))
        assert (tmp_path / "back" / ref.replace("/", "-") / WEIGHTS).read_bytes() in versions
    assert nothing_unfinished(Path(store.path))


def test_a_progress_that_cancels(stocked: Store, source: Path) -> None:
    class CancelledError(Exception):
        pass

    def cancel() -> None:
        raise CancelledError

    before = store_files(Path(stocked.path))
    (source / WEIGHTS).write_bytes(LARGE)
    for after_bytes in (1, 5 << 20, len(LARGE)):
        with pytest.raises(CancelledError):
            stocked.import_checkpoint(source, "bad", progress=Meddling(after_bytes, cancel))
        assert store_files(Path(stocked.path)) == before and nothing_unfinished(Path(stocked.path))
    target = source.parent / "back"
    with pytest.raises(CancelledError):
        stocked.restore("good/one", target, progress=Meddling(1, cancel))
    assert not target.exists() and not list(target.parent.glob(".*partial*"))


# --- special files and links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_a_special_file(
    kind: str, stocked: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source / "sub")  # A socket's path is short.
    if kind == "fifo":
        os.mkfifo("special")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("special")
    for path in (source, source / "sub" / "special"):
        with refused(stocked, FormatError, "malformed", 5, f"{source}/sub/special"):
            stocked.import_checkpoint(path, "bad")
    with refused(stocked, FormatError, "malformed", 5, f"{source}/sub/special"):
        stocked.add_base("bad", source)


def test_gits_own_directories_and_stores_are_passed_over(store: Store, source: Path, tmp_path: Path) -> None:
    """Whatever lies in them: and it is said that they were. Other hidden directories are a checkpoint's own."""
    (source / ".git").mkdir()
    os.mkfifo(source / ".git" / "fsmonitor.ipc")
    (source / "sub" / ".hydra").mkdir(parents=True)
    (source / "sub" / ".hydra" / "config.yaml").write_text("lr: 1e-4")
    (source / ".hidden-file").write_text("kept")
    with Store.init(source / "runs.ckptfmt") as inner:
        inner.import_checkpoint(source / WEIGHTS, "inner")
        report = inner.import_path(source, name="whole")
        assert report.left == (".git/", "runs.ckptfmt/")
        assert inner.plan_import(source, name="whole").left == report.left
        inner.restore("whole", tmp_path / "back")
    kept = {"a.txt", WEIGHTS, "sub/notes.txt", "sub/.hydra/config.yaml", ".hidden-file"}
    assert files_of(tmp_path / "back").keys() == kept
    assert store.import_checkpoint(source, "again").manifest == report.checkpoints[0].manifest


def test_a_store_into_itself(stocked: Store, store: Store, source: Path) -> None:
    with refused(stocked, InvalidInput, "usage", 2, stocked.path):
        stocked.import_path(stocked.path, name="itself/{name}")
    with refused(stocked, InvalidInput, "usage", 2, store.path):
        stocked.import_path(store.path, name="another")


def test_links_of_every_kind(store: Store, source: Path, tmp_path: Path) -> None:
    """None is followed, all are kept as they are, and those that lead out are said to."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    links = {
        "out": "../secret.txt",
        "sub/out-too": "../../secret.txt",
        "absolute": str(secret),
        "etc": "/etc/passwd",
        "dangling": "nowhere",
        "loop": "loop",
        "round-1": "round-2",
        "round-2": "round-1",
        "sub/top": "..",
        "here": ".",
        "inside": "sub/notes.txt",
        "absolute-inside": str(source / "a.txt"),
        "weights.safetensors": WEIGHTS,
        "out.safetensors": "../elsewhere.safetensors",
    }
    (tmp_path / "elsewhere.safetensors").write_bytes(b"lies")
    for name, target in links.items():
        (source / name).symlink_to(target)
    report = there_and_back(store, source, tmp_path / "back")
    assert {link.path: link.target for link in store.show("back").manifest.links} == links
    assert report.files == 3 and report.tensors == 2
    said = {note.split(":")[0] for note in report.notes if "link out of" in note}
    assert said == {"out", "sub/out-too", "absolute", "etc", "out.safetensors"}
    assert secret.read_text() == "secret"


def test_a_restore_never_follows_what_lies_in_its_way(stocked: Store, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link-to-empty").symlink_to("empty")
    (tmp_path / "plain-parent").write_text("x")
    for name in ("full", "file", "link", "link-to-empty"):
        before = photograph(tmp_path)
        with refused(stocked, Conflict, "target-exists", 1, str(tmp_path / name)):
            stocked.restore("good/one", tmp_path / name)
        assert photograph(tmp_path) == before
    with pytest.raises(StorageError) as caught:
        stocked.restore("good/one", tmp_path / "plain-parent" / "below")
    assert (caught.value.code, caught.value.exit_code) == ("io", 1) and "plain-parent" in caught.value.message
    with refused(stocked, NotFound, "not-found", 1, "'nobody'"):
        stocked.restore("nobody", tmp_path / "new")
    stocked.restore("good/one", tmp_path / "new" / "deep" / "er")
    assert files_of(tmp_path / "new" / "deep" / "er").keys() == {WEIGHTS}


# --- paths and plans -------------------------------------------------------------------------------------------------


def test_paths_that_are_not_there(stocked: Store, source: Path) -> None:
    for path in (source / "nowhere", source / "a.txt" / "below", "nowhere at all"):
        with refused(stocked, NotFound, "not-found", 1, str(path)):
            stocked.import_path(path, name="bad")
    (source / "dangling").symlink_to("nowhere")
    with refused(stocked, NotFound, "not-found", 1, "nowhere"):
        stocked.import_path(source / "dangling", name="bad")


def test_collisions_and_many_without_a_name(stocked: Store, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("run 1", "run-1", "run_2"):
        (runs / name).mkdir(parents=True)
        (runs / name / WEIGHTS).write_bytes(GOOD)
        (runs / name / "config.json").write_text("{}")
    with refused(stocked, InvalidInput, "name-collision", 2, "run 1", "run-1", "'x/run-1'"):
        stocked.import_path(runs, name="x/{name}")
    with refused(stocked, InvalidInput, "usage", 2, "3 checkpoints"):
        stocked.import_path(runs, name="x")
    with pytest.raises(InvalidInput) as caught:
        stocked.import_path(runs, name="x")
    assert caught.value.hint == f"ckptfmt import {runs} --name 'x/{{name}}'"
    with refused(stocked, InvalidInput, "usage", 2, "3 checkpoints", "--stage"):
        shutil.rmtree(runs / "run 1")
        (runs / "run_3").mkdir()
        shutil.copy(runs / "run_2" / WEIGHTS, runs / "run_3")
        shutil.copy(runs / "run_2" / "config.json", runs / "run_3")
        stocked.import_path(runs, name="x/{name}", stage=2)


def test_words_that_mean_nothing(stocked: Store, source: Path) -> None:
    bad: list[tuple[type[CkptfmtError], str, int, dict[str, Any]]] = [
        (InvalidInput, "usage", 2, {"effort": "extreme"}),
        (InvalidInput, "usage", 2, {"how": "sideways", "parent": "good/one"}),
        (InvalidInput, "usage", 2, {"how": "stack"}),
        (InvalidInput, "usage", 2, {"stage_dtype": "fp12"}),
        (NotFound, "not-found", 1, {"base": "nobody"}),
        (NotFound, "not-found", 1, {"parent": "nobody"}),
        (InvalidInput, "ref-name", 2, {"base": "../x"}),
    ]
    for kind, code, exit_code, options in bad:
        before = store_files(Path(stocked.path))
        with pytest.raises(kind) as caught:
            stocked.import_path(source, name="bad", **options)
        assert (caught.value.code, caught.value.exit_code) == (code, exit_code), options
        assert store_files(Path(stocked.path)) == before


# --- stores that cannot be written, or read --------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def open_ground(own_cache: Path) -> Iterator[Path]:
    """A directory that any user may enter: pytest's own are private."""
    place = Path(tempfile.mkdtemp(prefix="ckptfmt-open-"))
    place.chmod(0o755)
    yield place
    for path in place.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(place)


def as_nobody(script: str, *arguments: object, env: dict[str, str] | None = None) -> Any:
    """What `script` prints as JSON, run by a user who owns nothing here (or, where we are nobody special, by us)."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to be somebody else")
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    if done.returncode == 126 or "Permission denied: '" + sys.prefix in done.stderr:
        pytest.skip("somebody else may not run this Python")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


READ_ONLY = """
import json, sys
from pathlib import Path
from ckptfmt import Store
from ckptfmt.errors import CkptfmtError
path, source, out = sys.argv[1:]
store = Store.open(path)
answer = {"refs": [row.ref for row in store.list_refs()], "layout": store.show("good/one").manifest.layout}
answer["log"] = len(store.log("good/one").generations)
answer["checkpoints"] = store.stats().checkpoints
answer["damaged"] = len(store.verify().damaged)
answer["restored"] = store.restore("good/one", out).files
answer["bases"] = [base.name for base in store.list_bases()]
answer["base ok"] = store.verify_base("llama", full=True).ok
answer["plan"] = len(store.plan_import(source, name="x").checkpoints)
failed = {}
writes = {
    "import": lambda: store.import_checkpoint(source, "x"),
    "import again": lambda: store.import_checkpoint(source, "good/one"),
    "tag": lambda: store.tag("good/one", ("a",)),
    "pin": lambda: store.pin("good/one"),
    "drop": lambda: store.drop("good/one"),
    "rename": lambda: store.rename("good/one", "b"),
    "add_base": lambda: store.add_base("x", source),
    "keep_base": lambda: store.keep_base("llama"),
    "drop_base": lambda: store.drop_base("llama"),
    "init": lambda: Store.init(path + "/inner"),
}
for name, act in writes.items():
    try:
        act()
    except CkptfmtError as error:
        failed[name] = [error.code, error.exit_code, error.message, error.hint]
answer["failed"] = failed
answer["writes"] = len(writes)
print(json.dumps(answer))
"""


@pytest.mark.parametrize("cache", ["writable", "none"])
def test_a_read_only_store(cache: str, open_ground: Path) -> None:
    """Every verb that reads works and writes nothing; every verb that writes fails clearly."""
    source, path, out = open_ground / "source", open_ground / "store", open_ground / "out"
    source.mkdir()
    (source / WEIGHTS).write_bytes(GOOD)
    with Store.init(path) as store:
        store.import_checkpoint(source, "good/one")
        (open_ground / "base").mkdir()
        (open_ground / "base" / WEIGHTS).write_bytes(LARGE)
        (open_ground / "base" / "config.json").write_text("{}")
        store.add_base("llama", open_ground / "base")
    (source / WEIGHTS).write_bytes(LARGE)
    out.mkdir()
    out.chmod(0o777)
    (open_ground / "cache").mkdir()
    (open_ground / "cache").chmod(0o777)
    for entry in sorted(path.rglob("*"), reverse=True):
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    path.chmod(0o555)
    before = photograph(path)
    env = {"CKPTFMT_CACHE": str(open_ground / "cache" / "own") if cache == "writable" else str(path / "no" / "place")}
    answer = as_nobody(READ_ONLY, path, source, out / "back", env=env)
    assert photograph(path) == before
    failed = answer.pop("failed")
    assert len(failed) == answer.pop("writes")
    for name, (code, exit_code, message, hint) in failed.items():
        assert (code, exit_code) == ("read-only", 1), (name, code, message)
        assert str(path) in message and hint, (name, message)
    assert answer == {
        "refs": ["good/one"], "layout": answer["layout"], "log": 1, "checkpoints": 1, "damaged": 0, "restored": 1,
        "bases": ["llama"], "base ok": True, "plan": 1,
    }  # fmt: skip


UNREADABLE = """
import json, sys
from ckptfmt import Store
from ckptfmt.errors import CkptfmtError
store = Store.init(sys.argv[1])
try:
    store.import_checkpoint(sys.argv[2], "x")
except CkptfmtError as error:
    print(json.dumps([error.code, error.exit_code, error.message, error.hint, len(store.list_refs())]))
"""


@pytest.mark.parametrize("name", ["a.txt", WEIGHTS, "state.pt", "config.json", "sub"])
def test_an_unreadable_file(name: str, open_ground: Path) -> None:
    source = open_ground / "source"
    (source / "sub").mkdir(parents=True)
    for file in ("a.txt", "config.json", "sub/x"):
        (source / file).write_text("{}")
    (source / WEIGHTS).write_bytes(GOOD)
    (source / "state.pt").write_bytes(SOUND)
    (source / name).chmod(0)
    (open_ground / "stores").mkdir()
    (open_ground / "stores").chmod(0o777)
    env = {"CKPTFMT_CACHE": str(open_ground / "stores" / "cache")}
    code, exit_code, message, hint, refs = as_nobody(UNREADABLE, open_ground / "stores" / "s", source, env=env)
    assert (code, exit_code, refs) == ("io", 1, 0)
    assert f"{source}/{name}" in message and "Permission denied" in message and "readable" in hint
    assert nothing_unfinished(open_ground / "stores" / "s")
    assert not list((open_ground / "stores" / "s" / "shards").rglob("*.safetensors"))


# --- newer versions --------------------------------------------------------------------------------------------------


def _newer_store(path: Path) -> None:
    document = documents.unseal((path / "store.json").read_bytes(), StoreDocument, where="x")
    newer = json.loads(documents.seal(document))
    del newer["xxh3"]
    (path / "store.json").write_bytes(documents.seal(_as_struct({**newer, "version": 2, "shelves": []})))


def _as_struct(document: dict[str, Any]) -> Any:
    import msgspec

    return msgspec.defstruct("Newer", [(key, Any) for key in document])(*document.values())


def test_a_newer_store(store: Store, source: Path) -> None:
    store.import_checkpoint(source, "x")
    _newer_store(Path(store.path))
    with pytest.raises(UnsupportedVersion) as caught:
        Store.open(store.path)
    assert (caught.value.code, caught.value.exit_code) == ("unsupported-version", 1)
    assert f"{store.path}/store.json" in caught.value.message and "version 2" in caught.value.message
    assert caught.value.hint and "upgrade" in caught.value.hint


def test_a_newer_ref_and_a_newer_manifest(store: Store, source: Path, tmp_path: Path) -> None:
    """A store that a newer ckptfmt wrote into: what it wrote is refused, what was there before still works."""
    from ckptfmt.digest import digest_of

    first = store.import_checkpoint(source, "old")
    manifest = Path(store.path, "manifests", first.manifest[:2], f"{first.manifest}.json")
    newer = json.dumps({**json.loads(manifest.read_bytes()), "version": 2, "aura": "blue"}).encode()
    name = digest_of(newer)
    (Path(store.path) / "manifests" / name[:2]).mkdir(exist_ok=True)
    (Path(store.path) / "manifests" / name[:2] / f"{name}.json").write_bytes(newer)
    ref = json.loads(Path(store.path, "refs", "old", "1.json").read_bytes())
    del ref["xxh3"]
    for directory, changes in (("young", {"target": name}), ("younger", {"version": 2, "mood": "good"})):
        (Path(store.path) / "refs" / directory).mkdir()
        sealed = documents.seal(_as_struct({**ref, "name": directory, **changes}))
        (Path(store.path) / "refs" / directory / "1.json").write_bytes(sealed)
    for ref_name in ("young", "younger"):
        with pytest.raises(UnsupportedVersion) as caught:
            store.restore(ref_name, tmp_path / "back")
        assert "version 2" in caught.value.message and ".json" in caught.value.message and caught.value.hint
        assert not (tmp_path / "back").exists()
    store.restore("old", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(source)


def test_no_store(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "nowhere", source, source / "a.txt", None):
        with pytest.raises(NotFound) as caught:
            Store.open(path)
        assert (caught.value.code, caught.value.exit_code) == ("no-store", 10)
        assert caught.value.hint and caught.value.hint.startswith("ckptfmt init")
    for path in (source, source / "a.txt"):
        with pytest.raises(Conflict) as conflict:
            Store.init(path)
        assert conflict.value.code == "target-exists" and conflict.value.hint
    Store.init(tmp_path / "s").close()
    with pytest.raises(Conflict) as conflict:
        Store.init(tmp_path / "s")
    assert conflict.value.code == "store-exists" and conflict.value.hint


def test_the_torch_file_that_says_most(stocked: Store, source: Path) -> None:
    """Of several lying files the first by name is named, with its full path."""
    torch.save({"w": torch.ones(100)}, source / "sub" / "state.pt")
    data = (source / "sub" / "state.pt").read_bytes()
    (source / "sub" / "state.pt").write_bytes(data[:-10])
    (source / "sub" / "zz.safetensors").write_bytes(b"")
    with refused(stocked, FormatError, "malformed", 5, f"{source}/sub/state.pt"):
        stocked.import_checkpoint(source, "bad")
