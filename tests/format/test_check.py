"""Manifests whose parts do not fit each other."""

from __future__ import annotations

import pytest
from msgspec import structs

from ckptfmt.errors import FormatError
from ckptfmt.format.check import check_document, path_problem
from ckptfmt.format.manifest import BaseRecord, Extent, File, Link, Manifest, Tensor
from tests.format.examples import A, B, C, manifest

OPAQUE, CUT = manifest().files
W, V = manifest().tensors


def test_what_fits() -> None:
    check_document(manifest(), where="x")
    check_document(manifest(tensors=(), files=(), links=()), where="x")
    check_document(BaseRecord(version=1, root=A, files=(CUT,)), where="x")
    empty = Tensor("e", "model", "F32", (0, 2**60), 1, 0, offset=20)
    check_document(manifest(tensors=(empty,)), where="x")
    whole = File("w.safetensors", 7, A, "safetensors", extents=(Extent(0, 7, B),))
    check_document(manifest(files=(whole,), tensors=()), where="x")


def _with_extents(*extents: Extent, skeleton: str | None = C) -> Manifest:
    return manifest(files=(OPAQUE, structs.replace(CUT, extents=extents, skeleton=skeleton)), tensors=())


def _with_tensor(**changes: object) -> Manifest:
    return manifest(tensors=(V, structs.replace(W, **changes)))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (manifest(files=(structs.replace(OPAQUE, path="../x"), CUT)), r"files\[0\].path"),
        (manifest(files=(OPAQUE, OPAQUE), tensors=()), r"files\[1\].path: 'config.json' stands twice"),
        (manifest(links=(Link("config.json", "x"),)), r"links\[0\].path: .* twice"),
        (manifest(directories=("config.json",)), r"directories\[0\]: .* twice"),
        (
            manifest(files=(structs.replace(OPAQUE, path="out/config.json"), CUT), links=(Link("out", "/etc"),)),
            "below a link",
        ),
        (manifest(files=(structs.replace(OPAQUE, size=-1), CUT)), r"files\[0\].size"),
        (manifest(files=(structs.replace(OPAQUE, sha256="x"), CUT)), r"files\[0\].sha256"),
        (manifest(files=(structs.replace(OPAQUE, content="../x"), CUT)), r"files\[0\].content"),
        (manifest(files=(structs.replace(OPAQUE, skeleton=A), CUT)), r"files\[0\].content"),
        (manifest(files=(structs.replace(OPAQUE, content=None), CUT)), r"files\[0\].skeleton: 2 bytes"),
        (manifest(files=(OPAQUE, structs.replace(CUT, skeleton="x"))), r"files\[1\].skeleton"),
        (_with_extents(Extent(40, 20, "x")), r"files\[1\].extents\[0\].digest"),
        (_with_extents(Extent(60, 40, B), Extent(40, 20, A)), r"extents\[1\].offset: 40 lies before"),
        (_with_extents(Extent(40, 30, B), Extent(60, 40, A)), r"extents\[1\].offset: 60 lies before"),
        (_with_extents(Extent(-1, 20, A)), r"extents\[0\].offset"),
        (_with_extents(Extent(40, -20, A)), r"extents\[0\].offset"),
        (_with_extents(Extent(40, 61, A)), "end at byte 101 of 100"),
        (_with_extents(Extent(40, 60, A), skeleton=None), "40 bytes are in no extent"),
        (_with_tensor(file=2), r"tensors\[1\].file: 2, of 2"),
        (_with_tensor(file=-1), r"tensors\[1\].file"),
        (_with_tensor(extent=2), r"tensors\[1\].extent: 2, of 2"),
        (_with_tensor(dtype="F33"), r"tensors\[1\].dtype"),
        (_with_tensor(shape=(-1,)), r"tensors\[1\].shape"),
        (_with_tensor(shape=(6,)), r"tensors\[1\].offset: .* 20 bytes"),
        (_with_tensor(offset=4), r"tensors\[1\].offset"),
        (_with_tensor(offset=-4), r"tensors\[1\].offset"),
        (_with_tensor(strides=(2,)), r"tensors\[1\].offset"),
        (_with_tensor(strides=(-1,)), r"tensors\[1\].strides"),
        (_with_tensor(strides=(1, 1)), r"tensors\[1\].strides"),
        (_with_tensor(digest="x"), r"tensors\[1\].digest"),
        (manifest(root="x"), "root"),
    ],
)
def test_what_does_not_fit(document: Manifest, says: str) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        check_document(document, where="manifests/x.json")
    assert caught.value.message.startswith("manifests/x.json: ")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "a//b", "a/", "../a", "a/../b", ".", "a/.", "a\nb", "a\0", "\ud800"]
)
def test_unsafe_paths(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize("path", ["a", "a/b.c", ".hidden", "...", "a b", "ä/日本", "a\\b", "C:x", "-rf", "a,b"])
def test_safe_paths(path: str) -> None:
    assert path_problem(path) is None
