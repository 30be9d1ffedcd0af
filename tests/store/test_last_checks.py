"""Checks that stand behind others: what they would catch is made here without tripping over those before."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs

from ckptfmt.api import Store
from ckptfmt.digest import Buffer
from ckptfmt.encodings.table import ENCODINGS
from ckptfmt.errors import DigestMismatch, IntegrityError
from ckptfmt.progress import SILENT
from ckptfmt.store.object_writer import _encode
from ckptfmt.store.stat_cache import stamp_of
from ckptfmt.transfer.restoring import restore
from ckptfmt.transfer.stream import FileStream
from tests.store import making
from tests.store.test_objects import LONG, World


def test_a_restored_file_is_compared_with_its_sha256(quick: Path) -> None:
    """Every object is sound, and the manifest puts them together other than they were."""
    making.write_small(quick / "source", {"a": 1, "b": 2})
    with Store.init(quick / "store") as store:
        report = store.import_path(quick / "source", name="a")
        engine = store._engine
        manifest = engine.manifest(report.checkpoints[0].manifest)
        file = next(file for file in manifest.files if len(file.extents) == 2)
        first, second = file.extents
        swapped = (
            structs.replace(first, digest=second.digest),
            structs.replace(second, digest=first.digest),
        )
        wrong = structs.replace(file, extents=swapped)
        files = tuple(wrong if each is file else each for each in manifest.files)
        with pytest.raises(IntegrityError) as caught:
            restore(structs.replace(manifest, files=files), engine.objects(), str(quick / "out"), progress=SILENT)
        assert caught.value.code == "digest-mismatch"
        assert not (quick / "out").exists()
        restore(manifest, engine.objects(), str(quick / "out"), progress=SILENT)


@pytest.mark.parametrize("rotten", [0, 1])
def test_every_copy_is_verified(rotten: int) -> None:
    world = World()
    for beside in (b"1", b"2"):
        digest = world.write(LONG, beside=beside)
    world.objects().verify(digest, len(LONG))
    world.damage(digest, rotten)
    with pytest.raises(DigestMismatch):
        world.objects().verify(digest, len(LONG))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1000)
    os.utime(path, ns=(1, 1))
    with ThreadPoolExecutor(1) as pool:
        stream = FileStream(str(path), stamp_of(path.stat()), pool, SILENT)
        stream.next(1000)
        with path.open("r+b") as file:
            file.write(b"b")
        with pytest.raises(IntegrityError) as caught:
            stream.finish()
        stream.close()
    assert caught.value.code == "changed-while-read"


class Lying:
    """Stores what decodes to something else."""

    name = "lying"

    def encode(self, frame: Buffer, element: str | None) -> Buffer | None:
        return b"x"

    def decode(self, stored: Buffer, length: int, element: str | None) -> Buffer:
        return bytes(length)


def test_what_does_not_decode_to_itself_is_stored_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODINGS, "lying", Lying())
    assert _encode("lying", bytes(100), None) == b"x"
    assert _encode("lying", b"1" * 100, None) == b"1" * 100
