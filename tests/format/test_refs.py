"""Ref names: which are allowed, and the directories they become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptfmt.errors import InvalidInput
from ckptfmt.format.refs import MAX_NAME_BYTES, check_name, directory_of, name_of

NAMES = st.lists(
    st.text(st.sampled_from("abcXYZ019._-"), min_size=1, max_size=9).filter(lambda part: part not in (".", "..")),
    min_size=1,
    max_size=6,
).map("/".join)


@given(NAMES)
def test_directories_are_single_safe_parts_and_come_back(name: str) -> None:
    directory = directory_of(name)
    assert name_of(directory) == name
    assert "/" not in directory
    assert directory not in (".", "..")


@given(st.text(max_size=20))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        directory = directory_of(text)
    except InvalidInput as error:
        assert error.code == "ref-name"
        assert error.exit_code == 2
    else:
        assert name_of(directory) == text


@pytest.mark.parametrize(
    "name",
    ["", "/", "a//b", "/a", "a/", ".", "..", "a/..", "../a", "a/./b", "a,b", "a b", "a\n", "a\0", "ä", "a@1", "a\\b"],
)
def test_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is no ref name"):
        check_name(name)


def test_the_longest_name() -> None:
    assert check_name("a" * MAX_NAME_BYTES)
    with pytest.raises(InvalidInput):
        check_name("a" * (MAX_NAME_BYTES + 1))
