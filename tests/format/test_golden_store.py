"""The stores of older versions: every checkpoint in them comes back to the byte, for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ckptfmt.format.check import check_document
from ckptfmt.progress import SILENT
from ckptfmt.store.store import open_store
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


@pytest.mark.parametrize(("version", "manifest"), MANIFESTS)
def test_restored(version: str, manifest: str, tmp_path: Path) -> None:
    copied = shutil.copytree(GOLDEN / version, tmp_path / "store")
    store = open_store(str(copied))
    document = store.manifest(manifest)
    check_document(document, where=manifest)
    restore(document, store.objects(), str(tmp_path / "restored"), progress=SILENT)
    store.close()
    assert digests_below(tmp_path / "restored") == EXPECTED[version]["manifests"][manifest]


@pytest.mark.parametrize(("version", "manifest"), MANIFESTS)
def test_restored_by_the_independent_reader(version: str, manifest: str, tmp_path: Path) -> None:
    independent_reader.restore(GOLDEN / version, manifest, tmp_path)
    assert digests_below(tmp_path) == EXPECTED[version]["manifests"][manifest]


@pytest.mark.parametrize("version", VERSIONS)
def test_refs(version: str, tmp_path: Path) -> None:
    store = open_store(str(shutil.copytree(GOLDEN / version, tmp_path / "store")))
    assert {found.name: found.target for found in store.refs.standing()} == EXPECTED[version]["refs"]
    assert [found.verb for found in store.refs.history("dropped")] == ["rm", "import"]
    assert store.refs.current("runs/exp1").labels == ("best",)
    store.close()
    for name, target in EXPECTED[version]["refs"].items():
        assert independent_reader.newest_generation(GOLDEN / version, name)["target"] == target
