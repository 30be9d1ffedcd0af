"""Documents: canonical bytes, seals, and errors that say where."""

from __future__ import annotations

import pytest
from msgspec import structs

from ckptfmt.digest import checksum_of
from ckptfmt.errors import FormatError, IntegrityError, UnsupportedVersion
from ckptfmt.format import documents
from ckptfmt.format.manifest import BaseRecord, Manifest
from ckptfmt.format.refs import Generation, Pin, StoreDocument
from tests.format.examples import A, generation, manifest

DOCUMENTS = [
    manifest(),
    BaseRecord(version=1, root=A, files=manifest().files, repo="org/model", revision="abc"),
    generation(),
    StoreDocument(version=1, store_id="0" * 32, hash="blake3-256", created="2026-01-02T03:04:05Z"),
    Pin(version=1, manifest=A, host="node-7", time="2026-01-02T03:04:05Z"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_documents_come_back(document: Manifest) -> None:
    assert documents.decode(documents.encode(document), type(document), where="x") == document
    assert documents.unseal(documents.seal(document), type(document), where="x") == document
    assert documents.encode(document).startswith(b'{"format":"ckptfmt/')
    assert documents.encode(document).endswith(b"}\n")


def test_equal_documents_have_equal_bytes() -> None:
    one = manifest(settings={"b": 1, "a": {"d": 1, "c": 2}})
    other = manifest(settings={"a": {"c": 2, "d": 1}, "b": 1})
    assert documents.encode(one) == documents.encode(other)
    assert b"null" not in documents.encode(manifest())


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b'"layout":"hf-full"', b'"layout":"hf-full","author":"x"', "author"),
        (b'"offset":40', b'"offset":true', r"\$.files\[1\].extents\[0\].offset|\$.files\[...\].extents"),
        (b'"size":2', b'"size":"2"', r"\$.files\[0\].size"),
        (b'"size":2', b'"size":2.5', r"\$.files\[0\].size"),
        (b'"role":"model"', b'"role":"weights"', r"\$.tensors\[0\].role"),
        (b'"layout":"hf-full",', b"", "layout"),
        (b"ckptfmt/manifest", b"ckptfmt/base", r"\$.format"),
        (b'"version":1', b'"version":0', "version"),
        (b'"layout":"hf-full"', b'"layout":"\xff"', "utf-8"),
        (b'"layout":"hf-full"', b'"layout":NaN', "JSON"),
    ],
)
def test_errors_say_where(old: bytes, new: bytes, place: str) -> None:
    data = documents.encode(manifest()).replace(old, new, 1)
    with pytest.raises(FormatError, match=place) as caught:
        documents.decode(data, Manifest, where="manifests/aa/bb.json")
    assert caught.value.message.startswith("manifests/aa/bb.json: ")
    assert caught.value.code == "malformed-document"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"{", b"[" * 100_000, b"\x80\x02}q\x00."])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        documents.decode(data, Manifest, where="x")


def test_depth_is_bounded() -> None:
    deep = documents.encode(manifest()).replace(b'{"lr":0.001}', b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    with pytest.raises(FormatError):
        documents.decode(deep, Manifest, where="x")


@pytest.mark.parametrize("extra", [b"", b',"new_field":1'])
def test_a_newer_version_is_refused_as_such(extra: bytes) -> None:
    data = documents.encode(manifest()).replace(b'"version":1', b'"version":2' + extra, 1)
    with pytest.raises(UnsupportedVersion, match="version 2"):
        documents.decode(data, Manifest, where="x")
    sealed = documents.seal(structs.replace(generation(), version=9))
    with pytest.raises(UnsupportedVersion, match="version 9"):
        documents.unseal(sealed, Generation, where="x")


def test_every_flipped_bit_and_every_truncation_breaks_a_seal() -> None:
    sealed = documents.seal(generation())
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError, match="damaged"):
            documents.unseal(bytes(damaged), Generation, where="x")
    for end in range(len(sealed)):
        with pytest.raises(IntegrityError):
            documents.unseal(sealed[:end], Generation, where="x")
    for more in (sealed + b"\n", sealed + sealed, b" " + sealed):
        with pytest.raises(IntegrityError):
            documents.unseal(more, Generation, where="x")


def test_a_sound_seal_does_not_make_a_document() -> None:
    with pytest.raises(FormatError, match="ckptfmt/ref"):
        documents.unseal(documents.seal(generation()), StoreDocument, where="x")


@pytest.mark.parametrize("end", [b"'}\n", b'"] ', b'"}}'])
def test_a_seal_ends_as_a_seal_does(end: bytes) -> None:
    head = documents.seal(generation())[:-35]
    with pytest.raises(IntegrityError):
        documents.unseal(head + checksum_of(head + end).encode() + end, Generation, where="x")
