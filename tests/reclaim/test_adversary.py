"""Whatever happens to an original or to the store, nothing is deleted that the store does not give back to the byte."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.reclaim import holding
from ckptfmt.reclaim.proving import Proof, ProofRequest, prove, prove_fresh
from ckptfmt.store.receipts import Receipts
from tests.exactness import made
from tests.reclaim.making import Place, purge_of, settle
from tests.store.making import tree_of

Damage = Callable[[Path], object]


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit in place, and give the file its old times back, as far as one can."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def header_length(path: Path) -> int:
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


def one_bit(path: Path) -> None:
    flip(path, path.stat().st_size - 1000, 3)


def header_only(path: Path) -> None:
    """A space of the header's padding becomes another one: the same tensors, another file."""
    data = path.read_bytes()
    length = header_length(path)
    at = data.rindex(b'"BF16"', 0, length) if b'"BF16"' in data[:length] else data.index(b"{") + 1
    assert at < length
    times = path.stat()
    path.write_bytes(data[:at] + data[at:].replace(b'"BF16"', b'"F16" ', 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def nan_payload(path: Path) -> None:
    """A number becomes a NaN with a payload of its own."""
    data = bytearray(path.read_bytes())
    data[-2:] = b"\x81\x7f"
    path.write_bytes(data)


def minus_zero(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2:] = b"\x00\x80"
    path.write_bytes(data)


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def symlink_elsewhere(path: Path) -> None:
    other = path.parent.parent / "elsewhere.safetensors"
    shutil.copy2(path, other)
    path.unlink()
    path.symlink_to(other)


def hard_link_swapped(path: Path) -> None:
    """The same bytes under another inode."""
    other = path.parent.parent / "twin.safetensors"
    shutil.copy2(path, other)
    path.unlink()
    os.link(other, path)


def directory_swapped(path: Path) -> None:
    real = path.parent.parent.parent / "moved-away"
    path.parent.rename(real)
    path.parent.symlink_to(real)


def vanished(path: Path) -> None:
    path.unlink()


DAMAGES: tuple[Damage, ...] = (
    one_bit,
    header_only,
    nan_payload,
    minus_zero,
    shorter,
    longer,
    symlink_elsewhere,
    hard_link_swapped,
    directory_swapped,
)


def lost(place: Place) -> list[str]:
    """Names in the store that do not come back."""
    return [each.object for each in place.store.verify().damaged]


class Meddling:
    """A prover that lets something happen to the original before or after the proof."""

    def __init__(self, path: Path, damage: Damage, when: str) -> None:
        self.path, self.damage, self.when = path, damage, when

    def __call__(self, request: ProofRequest) -> Proof:
        if self.when == "before":
            self.damage(self.path)
        proof = prove(request)
        if self.when == "after":
            self.damage(self.path)
        return proof


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("hold", [0, 7])
def test_an_original_that_changes_between_taking_in_and_moving_stays(
    place: Place, damage: Damage, when: str, hold: int
) -> None:
    path = place.bloated()
    report = place.clean(Meddling(path, damage, when), hold_days=hold)
    assert [each.path for each in report.refused] == [str(path)]
    assert (report.freed_bytes, report.held_bytes) == (0, 0)
    assert os.path.lexists(path)
    assert not (place.tree / ".ckptfmt-hold").exists()


@pytest.mark.parametrize("damage", [*DAMAGES, vanished], ids=lambda each: each.__name__)
def test_an_original_that_changes_while_it_is_moved_goes_back(
    place: Place, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.bloated()
    before = path.read_bytes()
    rename = holding.durable.rename
    met: list[str] = []

    def meddle(source: str, target: str) -> None:
        if source == str(path) and not met:
            met.append(source)
            damage(path)
        rename(source, target)

    monkeypatch.setattr(holding.durable, "rename", meddle)
    report = place.clean(hold_days=0)
    assert met
    if damage is directory_swapped:
        assert report.refused == ()  # The very file that was compared, through a path that leads elsewhere by now.
    else:
        assert [each.path for each in report.refused] == [str(path)]
        assert report.freed_bytes == 0
        assert damage is vanished or os.path.lexists(path)
    assert lost(place) == []
    place.store.restore("tree/run", place.root / "out")
    assert (place.root / "out" / path.name).read_bytes() == before


@pytest.mark.parametrize("damage", [*DAMAGES, vanished], ids=lambda each: each.__name__)
def test_what_changes_in_the_hold_is_not_deleted(place: Place, damage: Damage) -> None:
    path = place.bloated()
    report = place.clean()
    assert report.receipt is not None
    held = place.tree / ".ckptfmt-hold" / report.receipt / "run" / path.name
    assert held.exists()
    damage(held)
    purged = purge_of(place.store, report.receipt)
    assert purged.freed_bytes == 0
    if damage is vanished:
        assert purged.refused == ()
    elif damage is hard_link_swapped:
        assert purged.refused
        assert held.exists()
    else:
        assert purged.refused
        assert os.path.lexists(held)


def test_one_who_has_it_open_for_writing_keeps_it(place: Place) -> None:
    path = place.bloated()
    with path.open("r+b") as file:
        report = place.clean(hold_days=0)
        assert [each.reason for each in report.refused if "open for writing" in each.reason]
        mapped = mmap.mmap(file.fileno(), 0)
    report = place.clean(hold_days=0)
    assert [each.reason for each in report.refused if "open for writing" in each.reason]
    mapped.close()
    assert place.clean(hold_days=0).refused == ()
    assert not path.exists()


@pytest.mark.parametrize("prover", [prove, prove_fresh], ids=["here", "fresh process"])
def test_a_store_that_rots_before_the_proof_deletes_nothing(place: Place, prover: Any) -> None:
    path = place.bloated()
    before = tree_of(place.tree)
    shards: list[Path] = []

    def rot(request: ProofRequest) -> Proof:
        for shard in sorted((Path(place.store.path) / "shards").rglob("*.safetensors")):
            flip(shard, shard.stat().st_size - 20, 5)
            shards.append(shard)
        return prover(request)  # type: ignore[no-any-return]

    report = place.clean(rot, hold_days=0)
    assert shards
    assert report.refused
    assert tree_of(place.tree) == before
    assert path.exists()


def test_a_shard_whose_header_only_the_catalog_knows_proves_nothing(place: Place) -> None:
    path = place.bloated()

    def rot(request: ProofRequest) -> Proof:
        for shard in (Path(place.store.path) / "shards").rglob("*.safetensors"):
            flip(shard, 40, 1)
        return prove_fresh(request)

    report = place.clean(rot, hold_days=0)
    assert report.refused
    assert path.exists()


@pytest.mark.parametrize("kind", ["shards", "manifests"])
def test_what_lies_in_the_trash_proves_nothing(place: Place, kind: str) -> None:
    path = place.bloated()

    def take_out(request: ProofRequest) -> Proof:
        run = Path(place.store.path) / "trash" / "run"
        run.mkdir(parents=True)
        (run / "marker.json").write_text("{}")
        for file in (Path(place.store.path) / kind).rglob("*.*"):
            file.rename(run / str(file.relative_to(place.store.path)).replace("/", ","))
        return prove_fresh(request)

    report = place.clean(take_out, hold_days=0)
    assert report.refused
    assert path.exists()


def test_a_store_that_rots_during_the_hold_deletes_nothing(place: Place) -> None:
    path = place.bloated()
    report = place.clean()
    assert report.receipt is not None
    for shard in (Path(place.store.path) / "shards").rglob("*.safetensors"):
        flip(shard, shard.stat().st_size - 20, 5)
    purged = purge_of(place.store, report.receipt, prover=prove_fresh)
    assert purged.refused
    assert purged.freed_bytes == 0
    assert cleaning.undo_cleanup(place.store, report.receipt).files == 1
    assert path.exists()


@pytest.mark.parametrize("freed", [False, True], ids=["dropped", "freed"])
def test_a_checkpoint_that_is_dropped_after_its_proof_is_not_deleted(place: Place, freed: bool) -> None:
    """Without a hold there is no second proof: its name is dropped, and gc comes, before the receipt stands."""
    path = place.bloated()
    before = path.read_bytes()

    def prove_and_drop(request: ProofRequest) -> Proof:
        proof = prove(request)
        place.store.drop("tree/run")
        if freed:
            place.store.gc(place.store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
        return proof

    report = place.clean(prove_and_drop, hold_days=0)
    assert report.refused
    assert report.freed_bytes == 0
    assert report.receipt is not None
    cleaning.undo_cleanup(place.store, report.receipt)
    assert path.read_bytes() == before


def test_a_checkpoint_without_a_name_is_not_purged(place: Place) -> None:
    place.bloated()
    report = place.clean()
    assert report.receipt is not None
    place.store.drop("tree/run")
    purged = purge_of(place.store, report.receipt)
    assert [each.reason for each in purged.refused if "no name stands" in each.reason]
    assert purged.freed_bytes == 0


@pytest.mark.parametrize("stays", [False, True], ids=["copied in", "stays outside"])
@pytest.mark.parametrize("rotten", [False, True], ids=["sound", "rotten"])
def test_a_base_that_the_proof_depends_on(place: Place, stays: bool, rotten: bool) -> None:
    family = made.family("BF16", square=(64, 64), embedding=(48, 64), tall=(64, 64), rank=2)
    family.write(place.root / "made")
    base = place.root / "elsewhere"
    shutil.move(place.root / "made" / "base", base)
    shutil.move(place.root / "made" / "both", place.tree / "run")
    settle(place.tree / "run")
    path = place.tree / "run" / made.WEIGHTS
    place.store.add_base("base", base)

    def meddle(request: ProofRequest) -> Proof:
        if rotten:
            for file in base.glob("*.safetensors"):
                flip(file, file.stat().st_size - 3, 2)
        return prove_fresh(request)

    planned = place.plan(base_stays_outside=stays, hold_days=0)
    assert [each.name for each in planned.shown.bases] == ([] if stays else ["base"])
    report = cleaning.execute(place.store, planned, prover=meddle)
    if rotten and stays:
        assert report.refused
        assert path.exists()
        return
    assert report.refused == ()
    assert not path.exists()
    (receipt,) = cleaning.list_receipts(place.store)
    assert receipt.outside == (("base",) if stays else ())
    shutil.rmtree(base)
    if not stays:
        place.store.restore("tree/run", place.root / "out")
        assert place.store.list_bases()[0].kept


def test_a_rotten_base_is_not_copied_in_and_nothing_that_needs_it_goes(place: Place) -> None:
    family = made.family("BF16", square=(64, 64), embedding=(48, 64), tall=(64, 64), rank=2)
    family.write(place.root / "made")
    base = place.root / "elsewhere"
    shutil.move(place.root / "made" / "base", base)
    shutil.move(place.root / "made" / "both", place.tree / "run")
    place.store.add_base("base", base)
    place.store.import_checkpoint(place.tree / "run", "tree/run", base="base")
    for file in base.glob("*.safetensors"):
        flip(file, file.stat().st_size - 3, 2)
    before = tree_of(place.tree)
    report = place.clean(prove_fresh, hold_days=0)
    assert report.refused or not (place.tree / "run" / made.WEIGHTS).exists()
    if report.refused:
        assert tree_of(place.tree) == before
    else:  # Taken in anew, without that base.
        shutil.rmtree(base)
        place.store.restore(report.refs[0], place.root / "out")


def test_the_files_of_a_base_that_the_store_refers_to_never_go(place: Place) -> None:
    family = made.family("BF16", square=(64, 64), embedding=(48, 64), tall=(64, 64), rank=2)
    family.write(place.tree)
    place.store.add_base("base", place.tree / "base")
    for keep in ("full", "adapter", "none"):
        for stays in (False, True):
            planned = place.plan(keep_weights=keep, base_stays_outside=stays)
            going = [file.path for each in planned.shown.checkpoints for file in each.files]
            assert not [path for path in going if path.startswith(f"{place.tree}/base/")]


def test_a_name_that_stands_is_never_moved_on(place: Place) -> None:
    """After a cleanup the name may be all that is left of the weights; other weights of the same size come there."""
    path = place.bloated(seed=1)
    first = path.read_bytes()
    assert place.clean(hold_days=0).refused == ()
    shutil.rmtree(place.tree / "run")
    path = place.bloated(seed=2)
    second = path.read_bytes()
    assert place.clean(hold_days=0).refused == ()
    place.store.restore("tree/run", place.root / "first")
    place.store.restore("tree/run.2", place.root / "second")
    assert (place.root / "first" / path.name).read_bytes() == first
    assert (place.root / "second" / path.name).read_bytes() == second


def test_equal_sizes_and_other_bytes_in_a_name_that_stands(place: Place) -> None:
    path = place.bloated()
    place.store.import_checkpoint(place.tree / "run", "tree/run")
    one_bit(path)
    changed = path.read_bytes()
    report = place.clean(hold_days=0)
    assert report.refused == ()
    assert report.refs == ("tree/run.2",)
    place.store.restore("tree/run.2", place.root / "out")
    assert (place.root / "out" / path.name).read_bytes() == changed


def test_a_proof_that_cannot_be_had_is_a_doubt(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.bloated()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    report = place.clean(prove_fresh, hold_days=0)
    assert "status 1" in report.refused[0].reason
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    assert "cannot be read" in place.clean(prove_fresh, hold_days=0).refused[0].reason
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert "could not be started" in place.clean(prove_fresh, hold_days=0).refused[0].reason
    assert path.exists()


def test_the_proof_loads_nothing_from_the_directory_it_is_started_in(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.bloated()
    trap = place.root / "cwd"
    trap.mkdir()
    for name in ("numpy.py", "msgspec.py", "blake3.py", "ckptfmt.py"):
        (trap / name).write_text("raise SystemExit(9)")
    monkeypatch.chdir(trap)
    assert place.clean(prove_fresh, hold_days=0).refused == ()
    assert not path.exists()


def test_hard_links_free_nothing_until_the_last_goes(place: Place) -> None:
    path = place.bloated()
    other = place.root / "outside.safetensors"
    os.link(path, other)
    assert place.plan().shown.files == 0
    other.unlink()
    (place.tree / "twin").mkdir()
    for file in (place.tree / "run").iterdir():
        os.link(file, place.tree / "twin" / file.name)
    planned = place.plan(hold_days=0)
    assert planned.shown.files == 2
    size = path.stat().st_blocks * 512
    assert planned.shown.freed_bytes == size
    report = cleaning.execute(place.store, planned, prover=prove)
    assert report.refused == ()
    assert report.freed_bytes == size


def test_undo_replaces_nothing(place: Place) -> None:
    path = place.bloated()
    report = place.clean()
    assert report.receipt is not None
    path.write_text("somebody's own")
    undone = cleaning.undo_cleanup(place.store, report.receipt)
    assert [each.path for each in undone.refused] == [str(path)]
    assert path.read_text() == "somebody's own"
    path.unlink()
    assert cleaning.undo_cleanup(place.store, report.receipt).files == 1
    assert path.exists()


def test_undo_makes_directories_again(place: Place) -> None:
    path = place.bloated()
    (place.tree / "run").chmod(0o750)
    before = tree_of(place.tree)
    report = place.clean()
    assert report.receipt is not None
    shutil.rmtree(place.tree / "run")
    assert cleaning.undo_cleanup(place.store, report.receipt).files == 1
    after = tree_of(place.tree)
    assert {name: after[name] for name in after} == {name: before[name] for name in (".", "run", f"run/{path.name}")}


def test_a_directory_that_was_moved_away_is_not_taken_for_deleted(place: Place) -> None:
    place.bloated()
    report = place.clean()
    assert report.receipt is not None
    place.tree.rename(place.root / "moved")
    purged = purge_of(place.store, report.receipt)
    assert purged.refused
    (place.root / "moved").rename(place.tree)
    assert cleaning.undo_cleanup(place.store, report.receipt).files == 1


def test_another_device_number_after_a_reboot(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.bloated()
    report = place.clean()
    assert report.receipt is not None
    receipts = Receipts(place.store.engine.storage)
    (part,) = receipts.parts(report.receipt)
    files = tuple(structs.replace(file, device=file.device + 1) for file in part.files)
    receipts.append(structs.replace(part, files=files))
    assert cleaning.undo_cleanup(place.store, report.receipt).files == 1
    assert path.exists()


def test_data_sets_beside_a_checkpoint_are_no_weights(place: Place) -> None:
    path = place.bloated()
    for name in ("train.bin", "val.bin", "notes.pt.txt"):
        (path.parent / name).write_bytes(b"tokens" * 100)
    going = [f.path for each in place.plan(keep_weights="none").shown.checkpoints for f in each.files]
    assert sorted(Path(each).name for each in going) == ["adapter_model.safetensors", "model.safetensors"]


TORTURE_ROUNDS = 100_000


def many(place: Place, rounds: int) -> int:
    """Originals changed by a bit or more after they were taken in; how many of them were refused."""
    path = place.bloated()
    place.store.import_checkpoint(place.tree / "run", "tree/run")
    digest = place.store.show("tree/run").id
    pristine = path.read_bytes()
    dice = random.Random(0)
    caught = 0
    request = ProofRequest(place.store.path, digest, str(path.parent), (path.name,))
    for _ in range(rounds):
        data = bytearray(pristine)
        kind = dice.randrange(4)
        at = dice.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + 2] = dice.choice((b"\x00\x80", b"\xc1\x7f", b"\x01\x00", b"\x80\xff"))
        elif kind == 2:
            length = dice.randrange(1, 64)
            data[at : at + length] = dice.randbytes(length)
        else:
            data = data[:at] if dice.random() < 0.5 else data + dice.randbytes(1)
        same = bytes(data) == pristine
        path.write_bytes(data)
        proof = prove(request)
        sound = proof.problem is None and proof.files[0].reason is None
        assert sound == same
        caught += not sound
    return caught


def test_many_changes_are_all_seen(place: Place) -> None:
    assert many(place, 150) > 100


@pytest.mark.torture
def test_a_hundred_thousand_changes_are_all_seen(place: Place) -> None:
    assert many(place, TORTURE_ROUNDS) > 0.9 * TORTURE_ROUNDS


def test_special_numbers_come_back_to_the_bit(place: Place) -> None:
    """NaNs with payloads, both zeros and subnormals are deleted only because they come back exactly."""
    path = place.bloated(element="F16")
    data = bytearray(path.read_bytes())
    begin = header_length(path)
    words = np.frombuffer(data, "<u2", offset=begin)
    special = np.array([0x7C01, 0xFE55, 0x8000, 0x0000, 0x0001, 0x83FF, 0x7C00, 0xFC00], "<u2")
    changed = words.copy()
    changed[: len(special) * 8 : 8] = special
    data[begin:] = changed.tobytes()
    path.write_bytes(data)
    assert place.clean(prove_fresh, hold_days=0).refused == ()
    place.store.restore("tree/run", place.root / "out")
    assert (place.root / "out" / path.name).read_bytes() == bytes(data)


def test_the_proof_is_a_process_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bloated()
    ran: list[Any] = []
    run = subprocess.run

    def watch(*given: Any, **more: Any) -> Any:
        ran.append(given[0])
        return run(*given, **more)

    monkeypatch.setattr(subprocess, "run", watch)
    with Store.open(place.store.path) as store:
        cleaning.execute(store, cleaning.plan(store, [place.tree]))
    assert ran == [[sys.executable, "-P", "-m", "ckptfmt.reclaim.proving"]]
