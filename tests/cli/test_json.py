"""The stable keys: what scripts may rely on, verb by verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.made import Shell, adapter, full

IMPORT = "logical_bytes new_bytes checkpoints failed"
CHECKPOINT = "ref manifest layout base binding needs_base files tensors opaque logical_bytes new_bytes encodings"
ROW = (
    "ref manifest layout stage parent base binding needs_base created logical_bytes stored_bytes exclusive_bytes "
    "metrics"
)
MANIFEST = (
    "format version layout files directories links tensors adapters root base base_hint lineage step settings "
    "metrics notes"
)
BASE = "name record root files tensors kept"
DIFF = "a b files tensors adapters settings metrics summary"
STORED = {"objects", "logical_bytes", "stored_bytes"}


def first(document: Any) -> Any:
    assert isinstance(document, list)
    return document[0]


def itself(document: Any) -> Any:
    return document


KEYS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("import ./stage-2 --name runs/stage-2 --base tiny --parent runs/stage-1 --how continue", IMPORT, itself),
    ("import ./stage-2 --name runs/stage-2", CHECKPOINT, lambda document: document["checkpoints"][0]),
    ("import ./stage-2 --name runs/stage-2 --dry-run", "path checkpoints left", itself),
    ("ls", ROW, first),
    ("ls runs/*", ROW, first),
    ("show runs/stage-1", f"{MANIFEST} encodings id ref generation needs_base logical_bytes stored_bytes", itself),
    ("log runs/stage-1", "lineage generations", itself),
    ("restore runs/stage-1 ./out", "files bytes verified", itself),
    ("verify --all", "objects bytes damaged", itself),
    ("verify runs/stage-1 --subset 1/2", "objects bytes damaged", itself),
    ("base add again ./base", BASE, itself),
    ("base add again ./base --keep copy", BASE, itself),
    ("base ls", BASE, first),
    ("base verify tiny", "name root ok how mismatched", itself),
    ("base verify tiny --full", "name root ok how mismatched", itself),
    ("base keep tiny", "kept bytes", itself),
    ("bind runs/stage-1 --base tiny", "binding", itself),
    ("rename runs/stage-1 runs/one", "ref generation", itself),
    ("tag runs/stage-1 best", "ref generation", itself),
    ("pin runs/stage-1", "ref generation", itself),
    ("rm runs/stage-1", "ref generation", itself),
    ("prune --keep-last 1", "dropped kept", itself),
    ("prune runs --keep-stage 1 --apply", "dropped kept", itself),
    ("diff runs/stage-1 ./stage-2", DIFF, itself),
    ("diff bases/tiny full/other", "name role relative_norm", lambda document: document["tensors"]["changed"][0]),
    ("diff ./base ./other", "added removed reshaped changed same same_names", lambda document: document["tensors"]),
    ("gc", "plan applied freed_bytes", itself),
    ("gc --grace 0 --apply", "plan applied freed_bytes", itself),
    ("fsck", "problems notes repaired refs documents shards objects full", itself),
    ("fsck --full --repair", "problems notes repaired refs documents shards objects full", itself),
    ("rollback runs/stage-1@1", "ref generation", itself),
    ("stats", "logical_bytes stored_bytes by_encoding plans", itself),
    ("completion bash", "shell script", itself),
    ("version", "version python packages", itself),
]


@pytest.mark.parametrize(("line", "keys", "part"), KEYS, ids=[line for line, _, _ in KEYS])
def test_the_stable_keys_of_a_verb(
    store: Shell, elsewhere: Path, line: str, keys: str, part: Callable[[Any], Any]
) -> None:
    adapter(elsewhere / "stage-2", seed=2)
    document = part(store.json(*line.split()))
    assert set(keys.split()) <= set(document)


def test_init_gives_the_store(sh: Shell, elsewhere: Path) -> None:
    assert sh.json("init") == {"store": str(elsewhere / ".ckptfmt")}


def test_a_dropped_base_has_a_ref(sh: Shell, elsewhere: Path) -> None:
    full(elsewhere / "base")
    sh.ok("init")
    sh.ok("base", "add", "tiny", "./base")
    assert {"ref", "generation"} <= set(sh.json("base", "rm", "tiny"))
    assert sh.json("base", "ls") == []


def test_encodings_say_what_they_hold(store: Shell, elsewhere: Path) -> None:
    shown = store.json("show", "runs/stage-1")
    report = store.json("import", "./stage-1", "--name", "runs/again")["checkpoints"][0]
    for encodings in (shown["encodings"], report["encodings"], store.json("stats")["by_encoding"]):
        assert encodings
        assert all(set(each) == STORED for each in encodings.values())


def test_what_show_gives_is_the_manifest(store: Shell) -> None:
    shown = store.json("show", "runs/stage-1")
    assert shown["format"] == "ckptfmt/manifest"
    assert shown["ref"] == "runs/stage-1"
    assert shown["id"] == first(store.json("ls", "runs/stage-1"))["manifest"]
    assert {file["path"] for file in shown["files"]} == {"adapter_config.json", "adapter_model.safetensors"}
    assert shown["root"] is None, "keys are there also where there is nothing to say"
    assert store.json("show", shown["id"][:8])["id"] == shown["id"]
    assert store.json("show", "runs/stage-1@1")["generation"] == 1


def test_an_empty_store_lists_nothing(sh: Shell) -> None:
    sh.ok("init")
    assert sh.json("ls") == []
    assert sh.json("verify", "--all") == {"objects": 0, "bytes": 0, "damaged": []}


def test_the_needed_base_is_shown_wherever_a_checkpoint_is(store: Shell, elsewhere: Path) -> None:
    full(elsewhere / "same")
    report = store.json("import", "./same", "--name", "full/same", "--base", "tiny")
    documents = [report["checkpoints"][0], first(store.json("ls", "full/same")), store.json("show", "full/same")]
    for document in documents:
        assert document["needs_base"]["name"] == "tiny"
        assert document["needs_base"]["last_seen"] == str(elsewhere / "base")
    ran = store.ok("ls")
    assert "tiny (stated) *" in ran.out
    assert "ckptfmt base keep tiny" in ran.err
    assert "ckptfmt base keep tiny" in store.ok("show", "full/same").out
    store.ok("base", "keep", "tiny")
    assert first(store.json("ls", "full/same"))["needs_base"] is None
    assert "*" not in store.ok("ls").out
