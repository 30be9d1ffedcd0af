"""Bases from the Hub, through the real client: its cache, its links, the SHA-256s that it publishes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptfmt import Store
from ckptfmt.errors import FormatError, NotFound
from tests.bases.hub import COMMIT, REPO, Hub, serving
from tests.conftest import Made
from tests.fixtures import hf, peft_adapters
from tests.transfer.trees import files_of, sha256

pytestmark = pytest.mark.fixtures
SHARDS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


@pytest.fixture(scope="module")
def hub(checkpoint: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub") / "repository"
    shutil.copytree(checkpoint(hf.make, sharded=True), root)
    (root / "original").mkdir()
    (root / "original" / "params.json").write_text('{"dim": 32}')
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def filled(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hub cache that the real client filled."""
    home = tmp_path_factory.mktemp("home")
    with Store.init(home / "store") as store:
        [snapshot] = client(store, hub.url, home / "hf", ["download", REPO])
    assert snapshot == str(home / "hf" / "hub" / "models--acme--tiny-llama" / "snapshots" / COMMIT)
    assert Path(snapshot, "config.json").is_symlink()
    return home / "hf"


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(filled, tmp_path / "hf", symlinks=True)
    return tmp_path / "hf"


def client(store: Store, url: str, home: Path, *steps: list[Any], offline: bool = False) -> list[Any]:
    environment = {
        key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and "HF_" not in key
    }
    environment |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-m", "tests.bases.client", store.path, *map(json.dumps, steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == len(steps)
    return answers


def snapshot_in(home: Path) -> Path:
    return home / "hub" / "models--acme--tiny-llama" / "snapshots" / COMMIT


def lfs_files(hub: Hub) -> int:
    return sum(name.endswith(".safetensors") for name in hub.files())


def test_add_and_verify_against_what_is_published(hub: Hub, filled: Path, store: Store) -> None:
    added, verified, by_commit = client(
        store, hub.url, filled, ["add", "llama", REPO], ["full", "llama"], ["add", "same", REPO, COMMIT]
    )
    assert (added["repo"], added["revision"], added["kept"]) == (REPO, COMMIT, False)
    assert added["path"] == str(snapshot_in(filled)) and added["files"] == len(hub.files())
    assert by_commit["record"] == added["record"]
    assert verified["ok"] and verified["mismatched"] == [] and verified["how"] == "read"
    assert verified["published"] == lfs_files(hub) > 1
    # A record is the same wherever the files lie; the place on the Hub is part of it.
    assert store.add_base("local", hub.root).root == added["root"]


def test_a_published_sha256_that_differs(hub: Hub, filled: Path, store: Store) -> None:
    """The local files are what was recorded, and yet not what the Hub has: not ok, and it says which."""
    name = next(name for name in hub.files() if name.endswith(".safetensors"))
    hub.published[name] = "0" * 64
    try:
        _, verified = client(store, hub.url, filled, ["add", "llama", REPO], ["verify", "llama"])
    finally:
        hub.published.clear()
    assert not verified["ok"] and verified["mismatched"] == [name] and verified["published"] == lfs_files(hub)


@pytest.mark.parametrize("how", ["down", "offline", "gone", "failing", "babble"])
def test_a_hub_that_does_not_answer(how: str, hub: Hub, filled: Path, store: Store) -> None:
    """What cannot be asked is not said; what is here is compared all the same."""
    store.add_base("llama", snapshot_in(filled))
    asked = len(hub.asked)
    answers = {"gone": (404, b'{"error":"x"}'), "failing": (500, b"sorry"), "babble": (200, b"<html>hello</html>")}
    hub.broken = answers.get(how)
    url = "http://127.0.0.1:9" if how == "down" else hub.url
    try:
        [verified] = client(store, url, filled, ["full", "llama"], offline=how == "offline")
    finally:
        hub.broken = None
    assert verified.get("ok") and verified["published"] is None and verified["mismatched"] == [], verified
    assert (len(hub.asked) > asked) == (how in answers)


def test_not_in_the_cache(hub: Hub, filled: Path, tmp_path: Path, store: Store) -> None:
    """Nothing is downloaded by us, and the hint says who does it."""
    asked = len(hub.asked)
    empty, revision, never, odd = client(
        store, hub.url, tmp_path / "nothing", ["add", "a", REPO], ["add", "b", REPO, "v2"], ["add", "c", "acme/none"],
        ["add", "d", "no such thing at all"],
    )  # fmt: skip
    assert empty["error"][0] == "not-found" and empty["error"][3] == f"hf download {REPO}"
    assert revision["error"][3] == f"hf download {REPO} --revision v2"
    assert never["error"][1] == odd["error"][1] == 1
    assert len(hub.asked) == asked and store.list_bases() == []


def test_an_incomplete_snapshot(hub: Hub, tmp_path: Path, store: Store) -> None:
    """One file of a repository was fetched: that is no base."""
    answers = client(store, hub.url, tmp_path / "hf", ["download-file", REPO, "config.json"], ["add", "llama", REPO])
    assert "error" in answers[1] and store.list_bases() == []


def test_a_snapshot_imports_and_restores(filled: Path, store: Store, tmp_path: Path) -> None:
    """All links in it lead into the cache: their files are taken, and files come back."""
    snapshot = snapshot_in(filled)
    report = store.import_checkpoint(snapshot, "hub")
    assert report.tensors > 10 and not report.notes
    assert store.show("hub").manifest.links == ()
    store.restore("hub", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(snapshot)
    assert not any(path.is_symlink() for path in (tmp_path / "back").rglob("*"))
    # Above it, the same: the whole repository, the whole cache.
    for place in (filled / "hub" / "models--acme--tiny-llama", filled / "hub"):
        many = store.import_path(place, name=f"{place.name}/{{name}}")
        assert [each.manifest for each in many.checkpoints] == [report.manifest] and many.new_bytes == 0


def test_links_of_a_snapshot_are_followed_into_its_own_blobs_only(cache: Path, store: Store, tmp_path: Path) -> None:
    snapshot = snapshot_in(cache)
    other = cache / "hub" / "models--acme--other" / "blobs"
    other.mkdir(parents=True)
    (other / "abc").write_text("another repository's")
    (snapshot / "foreign.txt").symlink_to("../../../models--acme--other/blobs/abc")
    (snapshot / "out.txt").symlink_to(cache / "hub" / "version.txt")
    (snapshot / "twice.txt").symlink_to("config.json")
    report = store.import_checkpoint(snapshot, "hub")
    assert {link.path for link in store.show("hub").manifest.links} == {"foreign.txt", "out.txt", "twice.txt"}
    assert {note.split(":")[0] for note in report.notes} == {"foreign.txt", "out.txt"}
    store.restore("hub", tmp_path / "back")
    assert (tmp_path / "back" / "twice.txt").read_text() == (snapshot / "config.json").read_text()


def test_a_blob_that_is_gone(cache: Path, store: Store) -> None:
    snapshot = snapshot_in(cache)
    (snapshot / "config.json").resolve().unlink()
    with pytest.raises(FormatError) as caught:
        store.import_checkpoint(snapshot, "hub")
    assert caught.value.exit_code == 5 and "config.json" in caught.value.message and caught.value.hint
    assert store.list_refs() == []


def test_a_base_in_the_cache_that_was_pruned_and_edited(
    cache: Path, checkpoint: Made, store: Store, tmp_path: Path
) -> None:
    """Blobs have no suffix and are shared by links: they are read as what the snapshot calls them."""
    snapshot = snapshot_in(cache)
    store.add_base("llama", snapshot)
    report = store.import_checkpoint(checkpoint(hf.make, sharded=True), "run", base="llama")
    assert report.needs_base is not None and "base" in report.encodings
    store.restore("run", tmp_path / "back")
    name = next(path.name for path in sorted(snapshot.iterdir()) if path.suffix == ".safetensors")
    weights = (snapshot / name).resolve()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    verified = store.verify_base("llama", full=True)
    assert not verified.ok and len(verified.mismatched) == 1
    assert verified.mismatched[0] in {tensor.name for tensor in store.show("run").manifest.tensors}
    shutil.rmtree(snapshot)
    assert store.import_checkpoint(checkpoint(peft_adapters.make), "adapter").needs_base is None
    with pytest.raises(NotFound):
        store.verify_base("llama", path=snapshot)
    assert sha256(weights) != weights.name
