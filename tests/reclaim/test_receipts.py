"""Receipts in a store: numbered entries of which the last of a part counts, and roots for gc."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs

from ckptfmt.api import cleaning
from ckptfmt.errors import IntegrityError, InvalidInput, NotFound
from ckptfmt.format.receipt import HOLDING, Receipt, State
from ckptfmt.store.receipts import Receipts, held_manifests, new_receipt_id
from tests.reclaim.making import Place, purge_of


def draft(receipt: str, part: int = 1, state: State = "moving", manifest: str = "a" * 64) -> Receipt:
    return Receipt(
        version=1,
        receipt=receipt,
        number=0,
        part=part,
        state=state,
        time="",
        host="",
        top="/runs",
        root="",
        manifest=manifest,
        ref="runs",
        keep="adapter",
        hold_seconds=60,
        files=(),
        directories=(),
    )


def test_the_last_entry_of_a_part_counts(place: Place) -> None:
    receipts = Receipts(place.store.engine.storage)
    one = new_receipt_id()
    first = receipts.append(draft(one))
    receipts.append(draft(one, part=2, manifest="b" * 64))
    assert held_manifests(place.store.engine) == {"a" * 64, "b" * 64}
    receipts.append(structs.replace(first, state="held"))
    receipts.append(structs.replace(first, state="purged"))
    assert [(part.part, part.state) for part in receipts.parts(one)] == [(1, "purged"), (2, "moving")]
    assert held_manifests(place.store.engine) == {"b" * 64}


def test_what_is_deleted_stays_in_the_store_while_its_name_stands(place: Place) -> None:
    """A name that moves on, as with the next import of the cleaned directory, must not cost the weights."""
    path = place.bloated()
    weights = path.read_bytes()
    place.store.import_checkpoint(place.tree / "run", "mine")
    report = place.clean(hold_days=0)
    assert report.freed_bytes > 0
    first = place.store.show("mine").id
    place.store.import_checkpoint(place.tree / "run", "mine")
    assert place.store.show("mine").id != first
    assert held_manifests(place.store.engine) == {first}
    place.store.restore("mine@1", place.root / "out")
    assert (place.root / "out" / path.name).read_bytes() == weights
    place.store.drop("mine")
    assert held_manifests(place.store.engine) == set()


@pytest.mark.parametrize("state", ["moving", "held", "purging", "purged", "undone"])
def test_what_is_not_yet_gone_or_back_is_a_root(place: Place, state: State) -> None:
    Receipts(place.store.engine.storage).append(draft(new_receipt_id(), state=state))
    assert bool(held_manifests(place.store.engine)) == (state in HOLDING)


def test_writers_at_once_lose_no_entry(place: Place) -> None:
    receipts = Receipts(place.store.engine.storage)
    one = new_receipt_id()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: receipts.append(draft(one, part=part)), range(1, 25)))
    assert [part.part for part in receipts.parts(one)] == list(range(1, 25))


def test_a_damaged_entry_stops_who_would_rely_on_it(place: Place) -> None:
    place.bloated()
    report = place.clean()
    assert report.receipt is not None
    last = max((Path(place.store.path) / "receipts" / report.receipt).iterdir())
    data = bytearray(last.read_bytes())
    data[60] ^= 1
    last.write_bytes(data)
    for act in (
        lambda: held_manifests(place.store.engine),
        lambda: cleaning.undo_cleanup(place.store, report.receipt or ""),
        lambda: purge_of(place.store, report.receipt),
    ):
        with pytest.raises(IntegrityError):
            act()


def test_a_receipt_is_named_by_its_beginning(place: Place) -> None:
    receipts = Receipts(place.store.engine.storage)
    for each in ("20260102-030405-aaaaaaaaaaaa", "20260102-030405-bbbbbbbbbbbb"):
        receipts.append(draft(each))
    assert receipts.resolve("20260102-030405-a") == "20260102-030405-aaaaaaaaaaaa"
    with pytest.raises(InvalidInput):
        receipts.resolve("20260102")
    for unknown in ("2027", "", "../refs"):
        with pytest.raises(NotFound):
            receipts.resolve(unknown)


def test_a_hold_is_over_by_the_clock_of_the_storage(place: Place) -> None:
    place.bloated()
    report = place.clean(hold_days=7)
    receipts = Receipts(place.store.engine.storage)
    assert report.receipt is not None
    (part,) = receipts.parts(report.receipt)
    assert (
        abs((receipts.held_since_ns(report.receipt, part.part) or 0) - place.store.engine.storage.now_ns()) < 60 * 10**9
    )
    assert purge_of(place.store).waiting == (report.receipt,)


def test_who_goes_on_with_a_part_does_so_only_from_its_last_entry(place: Place) -> None:
    receipts = Receipts(place.store.engine.storage)
    one = new_receipt_id()
    first = receipts.append(draft(one))
    other = receipts.append(draft(one, part=2))
    held = receipts.follow(first, structs.replace(first, state="held"))
    assert held is not None
    assert held.number == other.number + 1
    assert receipts.follow(first, structs.replace(first, state="undone")) is None
    assert receipts.last(first) == held
    assert [part.state for part in receipts.parts(one)] == ["held", "moving"]
