"""Every bit of every file of a tiny store, every truncation: nothing wrong is returned, nothing goes unnamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.refs import StoreDocument
from ckptfmt.format.safetensors import LENGTH_BYTES, header_length, parse_header
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store.store import Store as Engine
from tests.store import making
from tests.store.making import content_of, files_of, safetensors, tree_of

Values = Mapping[str, bytes]
KINDS: Final = ("store.json", "shards", "manifests", "refs", "bases")
EXITS: Final = {1, 3, 5}


@pytest.fixture(scope="module")
def store_values(tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, dict[str, bytes]]:
    """Key to value of a store of one checkpoint, and its files. One tensor of 5 bytes makes the shard pad."""
    root = tmp_path_factory.mktemp("rot")
    source = root / "source"
    source.mkdir()
    tensors = {"a": ("U8", (5,), b"\1\2\3\4\5"), "b": ("F32", (4,), making.noise(1, 16))}
    (source / "model.safetensors").write_bytes(safetensors(tensors))
    (source / "log.txt").write_text("step 1 loss 2.5\n" * 50)
    with Store.init(root / "store") as store:
        store.import_path(source, name="runs/a")
    files = [path for path in (root / "store").rglob("*") if path.is_file()]
    values = {path.relative_to(root / "store").as_posix(): path.read_bytes() for path in files}
    assert {key.partition("/")[0] for key in values} == {"store.json", "shards", "manifests", "refs"}
    return values, files_of(tree_of(source))


def opened(values: Values) -> Engine:
    storage = MemoryStorage()
    for key, value in values.items():
        storage.put(key, value)
    document = documents.unseal(storage.read("store.json", 0, 1 << 20), StoreDocument, where="store.json")
    return Engine(storage, document)


def read_back(values: Values) -> dict[str, bytes] | CkptfmtError:
    """The checkpoint's files, or why there are none."""
    try:
        engine = opened(values)
        try:
            return content_of(engine, engine.refs.current("runs/a").target or "")
        finally:
            engine.close()
    except CkptfmtError as error:
        return error


def verified(values: Values) -> bool:
    """Tell whether `verify` of everything finds nothing."""
    try:
        engine = opened(values)
        try:
            return not Store(engine).verify().damaged
        finally:
            engine.close()
    except CkptfmtError as error:
        assert error.exit_code in EXITS
        return False


def pad_bytes(shard: bytes) -> set[int]:
    """Offsets of the bytes that belong to no object."""
    length = header_length(shard[:LENGTH_BYTES], file_size=len(shard), where="shard")
    header = parse_header(shard[LENGTH_BYTES : LENGTH_BYTES + length], file_size=len(shard), where="shard")
    pads = [tensor for tensor in header.tensors if tensor.name.startswith("pad-")]
    return {offset for pad in pads for offset in range(pad.begin, pad.end)}


def flips(values: Values, kind: str, *, every: bool) -> Iterator[tuple[str, int, Values]]:
    """Each bit of each file, or in CI of each byte one bit and each bit of the first and last bytes."""
    for key, value in values.items():
        if key.partition("/")[0] != kind:
            continue
        for offset in range(len(value)):
            edge = offset < 16 or offset >= len(value) - 16
            for bit in range(8) if every or edge else ((offset * 5) % 8,):
                damaged = bytearray(value)
                damaged[offset] ^= 1 << bit
                yield key, offset, {**values, key: bytes(damaged)}


def check_flips(values: Values, files: dict[str, bytes], kind: str, *, every: bool) -> int:
    count = harmless = 0
    for key, offset, damaged in flips(values, kind, every=every):
        count += 1
        found = read_back(damaged)
        if isinstance(found, CkptfmtError):
            assert found.exit_code in EXITS, found.message
            assert not verified(damaged), f"{key}, byte {offset}: it cannot be read, and verify does not say so"
        else:
            assert found == files, f"{key}, byte {offset}: something wrong was returned"
            assert kind == "shards", f"{key}, byte {offset}: the flip was not noticed"
            assert offset in pad_bytes(values[key]), f"{key}, byte {offset}: the flip was not noticed"
            assert verified(damaged)
            harmless += 1
    assert harmless or kind != "shards", "the shard has no padding, so nothing was tested there"
    return count


@pytest.mark.parametrize("kind", ["store.json", "shards", "manifests", "refs"])
def test_a_flipped_bit(kind: str, store_values: tuple[Values, dict[str, bytes]]) -> None:
    assert check_flips(*store_values, kind, every=False) > 100


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["store.json", "shards", "manifests", "refs"])
def test_every_flipped_bit(kind: str, store_values: tuple[Values, dict[str, bytes]]) -> None:
    assert check_flips(*store_values, kind, every=True) > 1000


@pytest.mark.parametrize("kind", ["store.json", "shards", "manifests", "refs"])
def test_every_truncation(kind: str, store_values: tuple[Values, dict[str, bytes]]) -> None:
    values, files = store_values
    for key, value in values.items():
        if key.partition("/")[0] == kind:
            for length in range(len(value)):
                damaged = {**values, key: value[:length]}
                found = read_back(damaged)
                assert isinstance(found, CkptfmtError), f"{key} cut off at byte {length} gives {found == files}"
                assert found.exit_code in EXITS
                if length % 16 == 0:
                    assert not verified(damaged)


@pytest.mark.parametrize("kind", ["store.json", "shards", "manifests", "refs"])
def test_something_appended_or_gone(kind: str, store_values: tuple[Values, dict[str, bytes]]) -> None:
    values, _ = store_values
    for key in [key for key in values if key.partition("/")[0] == kind]:
        for damaged in ({**values, key: values[key] + b"\0"}, {**values, key: b""}):
            assert isinstance(read_back(damaged), CkptfmtError), key
        gone = {other: value for other, value in values.items() if other != key}
        if kind != "store.json":
            assert isinstance(read_back(gone), CkptfmtError)


def test_a_catalog_that_knew_the_sound_shard_is_not_believed(quick: Path) -> None:
    """The bytes are checked on every read, also where the catalog learnt of them when they were sound."""
    source = making.write_small(quick / "source", {"a": 1, "b": 2})
    with Store.init(quick / "store") as store:
        store.import_path(source, name="a")
    (shard,) = (quick / "store" / "shards").rglob("*.safetensors")
    sound = shard.read_bytes()
    begin = LENGTH_BYTES + header_length(sound[:LENGTH_BYTES], file_size=len(sound), where="shard")
    data = set(range(begin, len(sound))) - pad_bytes(sound)
    for offset in sorted(data):
        shard.write_bytes(sound[:offset] + bytes([sound[offset] ^ 0x10]) + sound[offset + 1 :])
        with Store.open(quick / "store") as store:
            with pytest.raises(CkptfmtError) as caught:
                store.restore("a", quick / "out")
            assert caught.value.exit_code == 3
            assert not (quick / "out").exists()


def test_rot_in_two_places_names_both(quick: Path) -> None:
    first = making.write_small(quick / "first", {"a": 1})
    second = making.write_small(quick / "second", {"a": 1, "b": 2})
    with Store.init(quick / "store") as store:
        store.import_path(first, name="first")
        store.import_path(second, name="second")
        for shard in (quick / "store" / "shards").rglob("*.safetensors"):
            value = bytearray(shard.read_bytes())
            length = header_length(bytes(value[:LENGTH_BYTES]), file_size=len(value), where="shard")
            header = parse_header(bytes(value[LENGTH_BYTES : LENGTH_BYTES + length]), file_size=len(value), where="")
            for tensor in header.tensors:
                value[tensor.begin] ^= 1
            shard.write_bytes(value)
    with Store.open(quick / "store") as store:
        report = store.verify()
        assert len(report.damaged) == report.objects
        named = {name for damage in report.damaged for name in damage.checkpoints}
        assert named == {"first", "second"}
        assert any(damage.checkpoints == ("first", "second") for damage in report.damaged)
