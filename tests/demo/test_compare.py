"""The demonstration's comparison finds what differs, what is missing and what is too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptfmt.demo.compare import compare, size_bytes


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    original, restored = tmp_path / "original", tmp_path / "restored"
    for directory in (original, restored):
        (directory / "sub").mkdir(parents=True)
        (directory / "a").write_bytes(b"a" * 100)
        (directory / "sub" / "b").write_bytes(b"b")
    return original, restored


def test_equal_trees_are_equal(pair: tuple[Path, Path]) -> None:
    compared = compare(*pair)
    assert (compared.names, compared.differing) == (("a", "sub/b"), ())
    assert size_bytes(pair[0]) == 101


def test_a_changed_a_missing_and_a_new_file_are_named(pair: tuple[Path, Path]) -> None:
    original, restored = pair
    (restored / "a").write_bytes(b"a" * 99 + b"x")
    (restored / "sub" / "b").unlink()
    (restored / "new").touch()
    compared = compare(original, restored)
    assert compared.names == compared.differing == ("a", "new", "sub/b")


def test_one_file_is_compared_with_what_was_restored_of_it(pair: tuple[Path, Path]) -> None:
    original, restored = pair
    (original / "other").touch()
    assert compare(original / "a", restored).differing == ()
    (restored / "a").unlink()
    assert compare(original / "a", restored).differing == ("a",)
    assert size_bytes(original / "a") == 100
