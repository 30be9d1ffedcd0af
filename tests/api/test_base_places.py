"""Where bases were seen, and what is there now."""

from __future__ import annotations

import shutil
from pathlib import Path

from ckptfmt import Store
from tests.api.test_names import model
from tests.api.test_verify import flip


def test_a_base_that_moves_is_told_by_its_places(store: Store, tmp_path: Path) -> None:
    directory = model(tmp_path / "base", 1)
    store.add_base("b", directory)
    [look] = store.look_at_bases()
    assert [(place.path, place.is_there, place.missing) for place in look.places] == [(str(directory), True, ())]
    assert look.is_whole and look.base == store.list_bases()[0]

    (directory / "config.json").unlink()
    [look] = store.look_at_bases()
    assert (look.places[0].is_there, look.places[0].missing, look.is_whole) == (True, ("config.json",), False)

    shutil.rmtree(directory)
    [look] = store.look_at_bases()
    assert not look.places[0].is_there and not look.is_whole
    assert set(look.places[0].missing) == {"config.json", "model.safetensors"}

    moved = model(tmp_path / "moved", 1)
    store.verify_base("b", path=moved)
    [look] = store.look_at_bases()
    assert [(place.path, place.is_there) for place in look.places] == [(str(moved), True), (str(directory), False)]
    assert look.is_whole and look.base.path == str(moved)


def test_a_file_of_another_size_is_missing_there(store: Store, tmp_path: Path) -> None:
    directory = model(tmp_path / "base", 1)
    store.add_base("b", directory)
    (directory / "config.json").write_text('{"changed": true}')
    assert store.look_at_bases()[0].places[0].missing == ("config.json",)


def test_a_damaged_record_hides_no_other_base(store: Store, tmp_path: Path) -> None:
    store.add_base("a", model(tmp_path / "a", 1))
    record = store.add_base("b", model(tmp_path / "b", 2)).record
    path = Path(store.path) / "bases" / f"{record}.json"
    flip(path, path.stat().st_size // 2)
    told: dict[str, int] = {}
    with Store.open(store.path) as again:
        looks = again.look_at_bases(damaged=lambda name, error: told.update({name: error.exit_code}))
        listed = again.list_bases(damaged=lambda name, error: None)
    assert [look.base.name for look in looks] == [base.name for base in listed] == ["a"]
    assert told == {"bases/b": 3}
