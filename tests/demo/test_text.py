"""The demonstration's text: there is enough of it, and the same seed draws the same."""

from __future__ import annotations

from ckptfmt.demo import text


def test_there_is_enough_to_train_on() -> None:
    assert 20_000 <= len(text.base_text(seed=0)) <= len(text.all_text(seed=0)) <= 80_000


def test_every_slot_is_filled() -> None:
    assert not set("{}") & set(text.all_text(seed=0))


def test_the_same_seed_draws_the_same_text() -> None:
    assert text.all_text(seed=3) == text.all_text(seed=3)
    assert text.all_text(seed=3) != text.all_text(seed=4)


def test_the_parts_have_forms_of_their_own() -> None:
    lines = {part: text.sentences(part, size_bytes=2_000, seed=0).splitlines() for part in text.PARTS}
    assert all(line.startswith("day ") for line in lines["log"])
    assert all(line.startswith("Q: ") for line in lines["questions"])
    assert all(line.startswith("[") for line in lines["steps"])
    assert all(" Please " in line or " I beg you: " in line for line in lines["letters"])
