"""`verify`: every object decoded, each damaged one named with every checkpoint that it harms."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from ckptfmt import Store
from ckptfmt.errors import CkptfmtError, DigestMismatch, IntegrityError, InvalidInput, NotFound
from ckptfmt.format.manifest import objects_of
from ckptfmt.store.refs import draft
from ckptfmt.store.shards import read_shard_header
from tests.conftest import Made
from tests.fixtures import hf, peft_adapters
from tests.transfer.headers import Written, file_of, noise
from tests.transfer.trees import files_of, objects_in


@pytest.fixture
def shared(store: Store, tmp_path: Path) -> Store:
    """`a` and `b` share a tensor of two frames; `c` shares nothing."""
    large = Written("large", "U8", (5 << 20,), noise(5 << 20))
    zeros = Written("zeros", "F32", (1 << 20,), bytes(4 << 20))
    for ref, tensors in {
        "a": [large, Written("own", "U8", (900,), noise(900, 1))],
        "b": [large, zeros],
        "c": [Written("own", "U8", (700,), noise(700, 2))],
    }.items():
        (tmp_path / ref).mkdir()
        (tmp_path / ref / "model.safetensors").write_bytes(file_of(*tensors))
        store.import_checkpoint(tmp_path / ref, ref)
    return store


def digest_of(store: Store, ref: str, name: str) -> str:
    manifest = store.show(ref).manifest
    [tensor] = [tensor for tensor in manifest.tensors if tensor.name == name]
    return manifest.files[tensor.file].extents[tensor.extent].digest


def place_of(store: Store, digest: str) -> tuple[Path, int, int]:
    """The shard of an object and the bytes from `begin` to `end` that hold it, from the safetensors header alone."""
    for shard in Path(store.path, "shards").rglob("*.safetensors"):
        data = shard.read_bytes()
        length = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8 : 8 + length])
        if digest in header:
            begin, end = header[digest]["data_offsets"]
            return shard, 8 + length + begin, 8 + length + end
    raise LookupError(digest)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_sound_store(shared: Store) -> None:
    report = shared.verify()
    assert report.damaged == () and report.objects == len(objects_in(Path(shared.path)))
    assert report.bytes == sum({**objects(shared, "a"), **objects(shared, "b"), **objects(shared, "c")}.values())
    one = shared.verify(("c",))
    assert (one.objects, one.bytes) == (len(objects(shared, "c")), sum(objects(shared, "c").values()))
    assert shared.verify(("a", "c", "a@1", shared.show("a").id)).objects == len(
        {**objects(shared, "a"), **objects(shared, "c")}
    )
    with pytest.raises(NotFound):
        shared.verify(("a", "nobody"))


def objects(store: Store, ref: str) -> dict[str, int]:
    return objects_of(store.show(ref).manifest)


@pytest.mark.parametrize("where", ["first byte", "second frame", "last byte", "encoded"])
def test_one_flipped_bit(where: str, shared: Store, tmp_path: Path) -> None:
    digest = digest_of(shared, "b", "zeros" if where == "encoded" else "large")
    shard, begin, end = place_of(shared, digest)
    assert (end - begin < 5 << 20) == (where == "encoded")
    flip(shard, {"first byte": begin, "last byte": end - 1, "second frame": begin + (4 << 20) + 7}.get(where, begin))
    harmed = ("b",) if where == "encoded" else ("a", "b")
    [damage] = shared.verify().damaged
    assert (damage.object, damage.checkpoints) == (digest, harmed) and damage.problem
    with Store.open(shared.path) as again:
        assert again.verify().damaged[0].object == digest
    assert shared.verify(("c",)).damaged == ()
    assert [each.checkpoints for each in shared.verify(("b",)).damaged] == [("b",)]
    for ref in harmed:
        with pytest.raises(CkptfmtError) as caught:
            shared.restore(ref, tmp_path / f"back-{ref}")
        assert caught.value.exit_code == 3 and digest[:16] in caught.value.message
        assert not (tmp_path / f"back-{ref}").exists()
    shared.restore("c", tmp_path / "back-c")
    assert files_of(tmp_path / "back-c") == files_of(tmp_path / "c")


def test_several_at_once(shared: Store) -> None:
    names = {"a": "own", "b": "large", "c": "own"}
    wanted = {digest_of(shared, ref, name) for ref, name in names.items()}
    for digest in wanted:
        shard, begin, _ = place_of(shared, digest)
        flip(shard, begin)
    report = shared.verify()
    assert {each.object for each in report.damaged} == wanted
    assert {each.object: each.checkpoints for each in report.damaged}[digest_of(shared, "b", "large")] == ("a", "b")
    assert report.objects == len(objects_in(Path(shared.path)))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda shard: shard.unlink(),
    "empty": lambda shard: shard.write_bytes(b""),
    "truncated": lambda shard: shard.write_bytes(shard.read_bytes()[:-5]),
    "header": lambda shard: flip(shard, 30),
    "length": lambda shard: flip(shard, 0),
}


@pytest.mark.parametrize("fresh", [False, True], ids=["same process", "lost catalog"])
@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_shard(
    case: str, fresh: bool, shared: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the catalog still knows it or not: who is harmed is said, and whoever is not still comes back."""
    shard, _, _ = place_of(shared, digest_of(shared, "c", "own"))
    DAMAGES[case](shard)
    if fresh:
        monkeypatch.setenv("CKPTFMT_CACHE", str(tmp_path / "fresh"))
    with Store.open(shared.path) as store:
        report = store.verify()
        assert report.damaged and {each.checkpoints for each in report.damaged} == {("c",)}
        if fresh or case not in ("header", "length"):  # A catalog that knows the shard reads on without them.
            with pytest.raises(CkptfmtError) as caught:
                store.restore("c", tmp_path / "back-c")
            assert caught.value.exit_code == 3
        store.restore("a", tmp_path / "back-a")
        assert files_of(tmp_path / "back-a") == files_of(tmp_path / "a")
        # What was damaged is taken in again: an import relies on no such shard.
        store.import_checkpoint(tmp_path / "c", "c-again")
        store.restore("c-again", tmp_path / "back-again")
        assert files_of(tmp_path / "back-again") == files_of(tmp_path / "c")
    with Store.open(shared.path) as store:
        assert [row.ref for row in store.list_refs()] == ["a", "b", "c", "c-again"]


def test_a_shard_that_is_cut_short_harms_its_last_object_alone_too(shared: Store) -> None:
    """To look again, the catalog reads the shard's header, which does not hold any more: no reason to be silent."""
    shard, _, _ = place_of(shared, digest_of(shared, "c", "own"))
    with Store.open(shared.path) as store:
        engine = store.engine
        last = max(read_shard_header(engine.storage, shard.stem), key=lambda item: item.begin)
        engine.catalog()
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(DigestMismatch, match="not what was stored"):
            engine.objects().verify(last.digest, last.stored.length)


def test_a_damaged_manifest(shared: Store, tmp_path: Path) -> None:
    manifest = shared.show("a").id
    flip(Path(shared.path, "manifests", manifest[:2], f"{manifest}.json"), 40)
    with Store.open(shared.path) as store:
        [damage] = store.verify().damaged
        assert (damage.object, damage.checkpoints) == (manifest, ("a",)) and manifest in damage.problem
        with pytest.raises(CkptfmtError) as caught:
            store.restore("a", tmp_path / "back")
        assert caught.value.exit_code == 3
        store.restore("b", tmp_path / "back-b")


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_subsets_are_disjoint_and_cover_all(parts: int, shared: Store, checkpoint: Made) -> None:
    """Each object is in exactly one part, the same one every time: told by damaging all of them."""
    shared.import_checkpoint(checkpoint(peft_adapters.make), "adapter")
    everything = shared.verify()
    reports = [shared.verify(subset=(part, parts)) for part in range(1, parts + 1)]
    assert sum(report.objects for report in reports) == everything.objects
    assert sum(report.bytes for report in reports) == everything.bytes
    for shard in Path(shared.path, "shards").rglob("*.safetensors"):
        shard.unlink()
    with Store.open(shared.path) as store:
        found = [{each.object for each in store.verify(subset=(part, parts)).damaged} for part in range(1, parts + 1)]
        assert sum(map(len, found)) == len(set().union(*found)) == everything.objects
        assert found[0] == {each.object for each in store.verify(subset=(1, parts)).damaged}
    if parts == 2:
        assert all(found)


@pytest.mark.parametrize("subset", [(0, 3), (4, 3), (-1, 3), (1, 0), (0, 0)])
def test_a_subset_that_is_none(subset: tuple[int, int], store: Store) -> None:
    with pytest.raises(InvalidInput) as caught:
        store.verify(subset=subset)
    assert caught.value.exit_code == 2 and "subset" in caught.value.message


@pytest.mark.fixtures
def test_a_base_in_the_store_and_outside(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    """A kept base is verified as one that its checkpoints need; one that lies outside is read where it lies."""
    llama = checkpoint(hf.make, steps=0)
    store.add_base("kept", llama, keep="copy")
    assert store.verify().objects == len(objects_in(Path(store.path)))
    store.import_checkpoint(llama, "run", base="kept")
    digest = digest_of(store, "run", "lm_head.weight")
    shard, begin, _ = place_of(store, digest)
    flip(shard, begin)
    [damage] = store.verify().damaged
    assert damage.checkpoints == ("bases/kept", "run")


def test_a_manifest_that_is_wrong(store: Store, tmp_path: Path) -> None:
    """Sound objects in the wrong places: the file's own SHA-256 is the last word, and nothing appears."""
    source = tmp_path / "source"
    source.mkdir()
    tensors = [Written(name, "U8", (900,), noise(900, number)) for number, name in enumerate("ab")]
    (source / "model.safetensors").write_bytes(file_of(*tensors))
    store.import_checkpoint(source, "right")
    manifest = store.show("right").manifest
    [file] = manifest.files
    one, two = file.extents
    swapped = (structs.replace(one, digest=two.digest), structs.replace(two, digest=one.digest))
    wrong = structs.replace(manifest, files=(structs.replace(file, extents=swapped),))
    engine = store._engine
    engine.refs.append("wrong", lambda _: draft(engine.put_manifest(wrong), "import"))
    with pytest.raises(IntegrityError) as caught:
        store.restore("wrong", tmp_path / "back")
    assert (caught.value.code, caught.value.exit_code) == ("digest-mismatch", 3)
    assert "model.safetensors" in caught.value.message and caught.value.hint
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".back*"))
