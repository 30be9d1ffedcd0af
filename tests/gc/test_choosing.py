"""Which copies stay: whatever copies there are, what can be decoded can be decoded from the chosen ones alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.format.shard import MAX_DEPTH
from ckptfmt.store import choosing
from ckptfmt.store.choosing import Choice, Chooser, Copy

Copies = Mapping[bytes, list[Copy]]

A, B, C = b"a", b"b", b"c"


def choose(copies: Copies, wanted: set[bytes], outside: Callable[[bytes], bool] = lambda digest: False) -> Choice:
    chooser = Chooser(lambda shard: shard)
    for digest, several in copies.items():
        chooser.add(digest, several)
    return chooser.choose(wanted, outside)


def test_the_smallest_copy_stays() -> None:
    assert choose({A: [Copy(1, 100), Copy(2, 30)]}, {A}).shards == {A: 2}


def test_of_equal_copies_the_one_in_the_best_shard_stays() -> None:
    assert choose({A: [Copy(7, 10), Copy(3, 10), Copy(5, 10)]}, {A}).shards == {A: 3}


def test_what_a_chosen_copy_needs_stays_too() -> None:
    found = choose({A: [Copy(1, 100), Copy(2, 5, (B,))], B: [Copy(3, 100)]}, {A})
    assert found.shards == {A: 2, B: 3}


def test_what_only_an_unchosen_copy_needs_does_not() -> None:
    found = choose({A: [Copy(1, 4), Copy(2, 5, (B,))], B: [Copy(3, 100)]}, {A})
    assert found.shards == {A: 1}


def test_two_hosts_stored_each_against_the_other() -> None:
    crosswise = {A: [Copy(1, 100), Copy(2, 5, (B,))], B: [Copy(3, 100), Copy(4, 5, (A,))]}
    assert choose(crosswise, {A, B}).shards == {A: 1, B: 4}
    assert choose(crosswise, {B}).shards == {A: 1, B: 4}


def test_a_circle_alone_is_missing() -> None:
    assert choose({A: [Copy(2, 5, (B,))], B: [Copy(4, 5, (A,))]}, {A}).missing == {A}


def test_shards_alone_go_before_what_leads_outside() -> None:
    copies = {A: [Copy(1, 100), Copy(2, 5, (B,))]}
    assert choose(copies, {A}, outside=lambda digest: digest == B).shards == {A: 1}
    found = choose({A: [Copy(2, 5, (B,))]}, {A}, outside=lambda digest: digest == B)
    assert (found.shards, found.beyond, found.missing) == ({A: 2}, {B}, set())


def test_a_chain_is_cut_before_it_is_too_long() -> None:
    names = [bytes([index]) for index in range(MAX_DEPTH + 3)]
    copies: dict[bytes, list[Copy]] = {names[0]: [Copy(0, 100)]}
    for index in range(1, len(names)):
        copies[names[index]] = [Copy(index, 5, (names[index - 1],)), Copy(100 + index, 100)]
    found = choose(copies, set(names))
    assert found.missing == set()
    assert depth_of(found, copies) == MAX_DEPTH
    assert [shard for shard in found.shards.values() if shard >= 100] == [100 + MAX_DEPTH + 1]


def test_a_small_copy_that_leads_far_leaves_room_for_what_is_stored_against_it() -> None:
    """Each chain was short when it was made: the far copy came from another host, which did not see the near one."""
    names = [bytes([index]) for index in range(MAX_DEPTH)]
    copies: dict[bytes, list[Copy]] = {names[0]: [Copy(0, 100)]}
    copies |= {names[index]: [Copy(index, 5, (names[index - 1],))] for index in range(1, MAX_DEPTH)}
    copies |= {A: [Copy(20, 100), Copy(21, 5, (names[-1],))], B: [Copy(22, 5, (A,))], C: [Copy(23, 5, (B,))]}
    assert choose(copies, {A}).shards[A] == 21
    found = choose(copies, {A, B, C})
    assert found.missing == set()
    assert found.shards == {A: 20, B: 22, C: 23}
    assert depth_of(found, copies) == 2


def depth_of(choice: Choice, copies: Copies) -> int:
    """The longest chain of the chosen copies; fails on a circle and on what is not chosen."""

    def depth(digest: bytes, seen: tuple[bytes, ...]) -> int:
        assert digest not in seen, "a circle"
        if digest in choice.beyond:
            return 0
        (copy,) = {copy for copy in copies[digest] if copy.shard == choice.shards[digest]}
        return max((depth(need, (*seen, digest)) + 1 for need in copy.needs), default=0)

    return max((depth(digest, ()) for digest in choice.shards), default=0)


OBJECTS = [bytes([index]) for index in range(12)]


@st.composite
def stores(draw: st.DrawFn) -> dict[bytes, list[Copy]]:
    copies: dict[bytes, list[Copy]] = {}
    shard = 0
    for digest in OBJECTS:
        several = []
        for _ in range(draw(st.integers(0, 3))):
            needs = draw(st.lists(st.sampled_from(OBJECTS), max_size=2, unique=True))
            several.append(Copy(shard, draw(st.integers(1, 4)), tuple(each for each in needs if each != digest)))
            shard += 1
        if several:
            copies[digest] = several
    return copies


def decodable(copies: Copies, outside: set[bytes], bound: int = 1000) -> set[bytes]:
    """The plain answer: whatever some order of decoding reaches in so many steps."""
    found = set(outside)
    for _ in range(bound + 1):
        more = {
            digest
            for digest, several in copies.items()
            if digest not in found and any(all(need in found for need in copy.needs) for copy in several)
        }
        if not more:
            return found
        found |= more
    return found


@pytest.mark.parametrize("bound", [1, 2, 3])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stores(), st.sets(st.sampled_from(OBJECTS)))
def test_a_bound_of_depth_costs_nothing_that_fits_into_it(
    bound: int, monkeypatch: pytest.MonkeyPatch, copies: dict[bytes, list[Copy]], wanted: set[bytes]
) -> None:
    monkeypatch.setattr(choosing, "MAX_DEPTH", bound)
    found = choose(copies, wanted)
    assert depth_of(found, copies) <= bound
    assert found.missing & decodable(copies, set(), bound) == set()


@settings(max_examples=400, deadline=None)
@given(stores(), st.sets(st.sampled_from(OBJECTS)), st.sets(st.sampled_from(OBJECTS), max_size=3))
def test_nothing_that_can_be_decoded_is_lost(
    copies: dict[bytes, list[Copy]], wanted: set[bytes], out: set[bytes]
) -> None:
    found = choose(copies, wanted, outside=lambda digest: digest in out)
    assert depth_of(found, copies) <= MAX_DEPTH
    lost = found.missing & decodable(copies, out)
    if lost:  # Only a bound of depth may cost something, and then only in chains that are longer.
        assert len(copies) > MAX_DEPTH
    assert set(wanted) <= found.shards.keys() | found.beyond | found.missing
