"""The specification is true: every worked example of docs/format is read out of its page and run."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.digest import FRAME_BYTES, digest_of
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.table import ENCODINGS, RELATIVE, encoding_named
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.check import check_document
from ckptfmt.format.manifest import BaseRecord, Manifest, objects_of
from ckptfmt.format.receipt import Receipt
from ckptfmt.format.refs import Generation, directory_of
from ckptfmt.format.root import RootLeaf, model_root, root_leaves
from ckptfmt.format.safetensors import header_length
from ckptfmt.format.shard import parse_shard
from ckptfmt.progress import SILENT
from ckptfmt.store.receipts import held_manifests
from ckptfmt.store.store import init_store
from ckptfmt.transfer.importing import Options, import_walked
from ckptfmt.transfer.walk import walk
from tests import independent_reader
from tests.independent_delta import reference_of

PAGES = Path(__file__).resolve().parents[2] / "docs" / "format"
GOLDEN = Path(__file__).parent / "golden"
_BLOCK = re.compile(r"^```(?:json|text) example\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(page: str) -> list[str]:
    return _BLOCK.findall((PAGES / page).read_text())


def example(page: str) -> Any:
    (found,) = examples(page)
    return json.loads(found)


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(GOLDEN / "v1", tmp_path / "store"))


def test_every_page_has_an_example_and_the_readme_lists_it() -> None:
    pages = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if not examples(page)] == []
    readme = (PAGES / "README.md").read_text()
    assert [page for page in sorted(pages) if f"]({page})" not in readme] == []
    assert {f"encodings/{name}.md" for name in (*ENCODINGS, *RELATIVE)} <= pages


@pytest.mark.parametrize("page", sorted(PAGES.rglob("*.md")), ids=lambda page: page.relative_to(PAGES).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


def test_receipt(tmp_path: Path) -> None:
    case = example("receipt.md")
    with_store = init_store(str(tmp_path / "store"))
    for number, text in enumerate(case["entries"], 1):
        entry = documents.unseal(text.encode(), Receipt, where="x")
        assert documents.seal(entry) == text.encode()
        assert entry.number == number
        with_store.storage.put(f"{case['directory']}/{number}.json", text.encode())
    assert held_manifests(with_store) == set(case["held"])


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(name: str) -> None:
    for text in examples(f"encodings/{name}.md"):
        case = json.loads(text)
        assert case["encoding"] == name
        frame, stored, element = bytes.fromhex(case["frame"]), bytes.fromhex(case["stored"]), case["element"]
        assert bytes(encoding_named(name).decode(stored, len(frame), element)) == frame
        written = encoding_named(name).encode(frame, element)
        if name == "raw":
            assert written is None
        else:
            assert written is not None
            assert bytes(encoding_named(name).decode(written, len(frame), element)) == frame
            assert independent_reader.ENCODINGS[name](stored, len(frame), element) == frame


def test_shard(tmp_path: Path) -> None:
    case = example("shard.md")
    header, data = case["header"].encode(), bytes.fromhex(case["data"])
    whole = bytes.fromhex(case["length_prefix"]) + header + data
    assert digest_of(header) == case["name"]
    assert header_length(whole[:8], file_size=len(whole), where="x") == len(header)
    objects = parse_shard(header, file_size=len(whole), where="x")
    assert [item.digest for item in objects] == list(case["objects"])
    for item in objects:
        content = bytes.fromhex(case["objects"][item.digest])
        stored = whole[item.begin : item.begin + item.stored.stored_bytes()]
        how = item.stored
        if how.encoding in RELATIVE:
            below = [bytes.fromhex(case["objects"][digest]) for digest in how.dependencies]
            basis = reference_of(how.reference, below)
            stored = RELATIVE[how.encoding].decode(stored, len(content), how.element, Basis(basis))
        elif len(stored) != len(content):
            stored = encoding_named(how.encoding).decode(stored, len(content), how.element)
        assert bytes(stored) == content
        assert digest_of(content) == item.digest
    path = tmp_path / "shards" / case["name"][:2] / f"{case['name']}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(whole)
    found = independent_reader.Objects(tmp_path)
    for digest, content in case["objects"].items():
        assert found.read(digest).hex() == content


def test_manifest() -> None:
    case = example("manifest.md")
    data = case["bytes"].encode()
    manifest = documents.decode(data, Manifest, where="x")
    assert documents.encode(manifest) == data
    assert digest_of(data) == case["id"]
    check_document(manifest, where="x")
    objects = {digest: bytes.fromhex(content) for digest, content in case["objects"].items()}
    assert {digest: len(content) for digest, content in objects.items()} == objects_of(manifest)
    for digest, content in objects.items():
        assert digest_of(content) == digest
    config, model = manifest.files
    assert hashlib.sha256(objects[config.content or ""]).hexdigest() == config.sha256
    restored = objects[model.skeleton or ""] + objects[model.extents[0].digest]
    assert hashlib.sha256(restored).hexdigest() == model.sha256


def test_base_record() -> None:
    case = example("base-record.md")
    record = documents.decode(case["bytes"].encode(), BaseRecord, where="x")
    assert documents.encode(record).decode() == case["bytes"]
    assert digest_of(case["bytes"].encode()) == case["digest"]
    check_document(record, where="x")
    manifest = documents.decode(example("manifest.md")["bytes"].encode(), Manifest, where="x")
    assert (record.root, record.files, record.tensors) == (manifest.root, manifest.files, manifest.tensors)


def test_ref(tmp_path: Path) -> None:
    case = example("ref.md")
    for text in case["generations"]:
        generation = documents.unseal(text.encode(), Generation, where="x")
        assert documents.seal(generation).decode() == text
        assert f"refs/{directory_of(generation.name)}" == case["directory"]
        path = tmp_path / case["directory"] / f"{generation.number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        assert independent_reader.unsealed(path)["number"] == generation.number
    assert not case["stands"]
    with pytest.raises(independent_reader.DamagedError, match="dropped"):
        independent_reader.newest_generation(tmp_path, "runs/exp1")


def test_model_root() -> None:
    case = example("model-root.md")
    leaves = [
        RootLeaf(
            tensor["name"],
            tensor["dtype"],
            tuple(tensor["shape"]),
            digest_of(bytes.fromhex(tensor["bytes"])),
            tensor["place"],
        )
        for tensor in case["tensors"]
    ]
    assert [json.loads(line)[0] for line in case["lines"]] == [leaf.name for leaf in root_leaves(leaves)]
    assert digest_of("".join(case["lines"]).encode()) == case["root"] == model_root(leaves)


def test_limits() -> None:
    for module, limits in example("limits.md").items():
        for name, value in limits.items():
            assert getattr(importlib.import_module(module), name) == value, name
    table = (PAGES / "limits.md").read_text()
    assert f"{FRAME_BYTES:,}" in table


@pytest.mark.parametrize("case", example("versioning.md"), ids=lambda case: f"{case['code']}")
def test_versioning(case: dict[str, str | None]) -> None:
    data = (case["bytes"] or "").encode()
    if case["code"] is None:
        assert documents.encode(documents.decode(data, Manifest, where="x")) == data
        return
    with pytest.raises(CkptfmtError) as caught:
        documents.decode(data, Manifest, where="x")
    assert caught.value.code == case["code"]


def test_layout(golden: Path) -> None:
    (listing,) = examples("layout.md")
    found = sorted(path.relative_to(golden).as_posix() for path in golden.rglob("*") if path.is_file())
    assert found == listing.splitlines()


class _Recorder:
    """A storage that writes down what changes."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.log: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def put(self, key: str, data: bytes) -> None:
        self._storage.put(key, data)
        self.log.append(("put", key))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.log.append(("put-if-absent", key))
        return bool(self._storage.put_if_absent(key, data))

    def delete(self, key: str) -> None:
        self._storage.delete(key)
        self.log.append(("delete", key))

    def upload(self, reserve: int) -> Any:
        upload, log = self._storage.upload(reserve), self.log

        class Recorded:
            write, abort = upload.write, upload.abort

            def finish(self, head: bytes, key: str) -> None:
                upload.finish(head, key)
                log.append(("put", key))

        return Recorded()


def test_write_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "notes.txt").write_text("a checkpoint of nothing but notes\n" * 40)
    store = init_store(str(tmp_path / "store"))
    store.storage = store.refs._storage = recorder = _Recorder(store.storage)  # type: ignore[assignment]
    source = str(tmp_path / "checkpoint")
    import_walked(store, walk(source), "runs/exp1", source=source, options=Options(), progress=SILENT)
    store.close()
    lines = [re.sub(r"(shards|manifests|pins)/.*", r"\1/*", f"{verb} {key}") for verb, key in recorder.log]
    (expected,) = examples("write-order.md")
    assert lines == expected.splitlines()
