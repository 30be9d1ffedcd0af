"""The stores of older versions: every checkpoint in them comes back to the byte, for ever.

What `<store>-base` holds are the files of a base that a store refers to.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ckptfmt.errors import CkptfmtError
from ckptfmt.format.check import check_document
from ckptfmt.format.manifest import Manifest
from ckptfmt.format.refs import BASES
from ckptfmt.progress import SILENT
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.objects import Objects
from ckptfmt.store.store import Store, open_store
from ckptfmt.transfer.restoring import restore
from tests import independent_reader
from tests.format.golden.make import digests_below

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.stem for path in GOLDEN.glob("v*.json"))
EXPECTED = {version: json.loads((GOLDEN / f"{version}.json").read_text()) for version in VERSIONS}
MANIFESTS = [(version, manifest) for version in VERSIONS for manifest in EXPECTED[version]["manifests"]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def objects_for(store: Store, document: Manifest, beside: Path) -> Objects:
    """The store's objects, and those of a base whose files lie in `beside`."""
    link = document.base
    if link is None or link.name == "kept":
        return store.objects()
    return store.objects(BaseFiles(link.name, link.record, lambda: store.record(link.record), [str(beside)]))


@pytest.mark.parametrize(("version", "manifest"), MANIFESTS)
def test_restored(version: str, manifest: str, tmp_path: Path) -> None:
    copied = shutil.copytree(GOLDEN / version, tmp_path / "store")
    store = open_store(str(copied))
    document = store.manifest(manifest)
    check_document(document, where=manifest)
    restore(
        document, objects_for(store, document, GOLDEN / f"{version}-base"), str(tmp_path / "restored"), progress=SILENT
    )
    store.close()
    assert digests_below(tmp_path / "restored") == EXPECTED[version]["manifests"][manifest]


@pytest.mark.parametrize(("version", "manifest"), MANIFESTS)
def test_restored_by_the_independent_reader(version: str, manifest: str, tmp_path: Path) -> None:
    independent_reader.restore(GOLDEN / version, manifest, tmp_path, [GOLDEN / f"{version}-base"])
    assert digests_below(tmp_path) == EXPECTED[version]["manifests"][manifest]


@pytest.mark.parametrize("version", VERSIONS)
def test_refs(version: str, tmp_path: Path) -> None:
    store = open_store(str(shutil.copytree(GOLDEN / version, tmp_path / "store")))
    standing = {found.name: found.target for found in store.refs.standing()}
    checkpoints = {name: target for name, target in standing.items() if not name.startswith(BASES)}
    assert checkpoints == EXPECTED[version]["refs"]
    if version == "v1":
        assert [found.verb for found in store.refs.history("dropped")] == ["rm", "import"]
        assert store.refs.current("runs/exp1").labels == ("best",)
    store.close()
    for name, target in EXPECTED[version]["refs"].items():
        assert independent_reader.newest_generation(GOLDEN / version, name)["target"] == target


def test_what_is_stored_against_a_base_needs_it(tmp_path: Path) -> None:
    store = open_store(str(shutil.copytree(GOLDEN / "v1-delta", tmp_path / "store")))
    document = store.manifest(EXPECTED["v1-delta"]["refs"]["runs/far"])
    with pytest.raises(CkptfmtError) as caught:
        restore(document, store.objects(), str(tmp_path / "restored"), progress=SILENT)
    assert caught.value.code == "incomplete"
    store.close()
    with pytest.raises(independent_reader.DamagedError, match="base"):
        independent_reader.restore(GOLDEN / "v1-delta", "runs/far", tmp_path)


def test_a_golden_store_has_every_form_and_part_of_delta() -> None:
    forms, parts = set(), set()
    for copies in independent_reader.all_objects(GOLDEN / "v1-delta").values():
        for path, begin, stored in copies:
            if stored["encoding"] == "delta":
                forms.add(path.read_bytes()[begin])
                parts |= {part.partition(":")[0] for part in stored.get("reference", "").split(",")}
    assert forms == {0, 1, 2}
    assert parts == {"", "cast", "transpose", "slice", "fuse"}
