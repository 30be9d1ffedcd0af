"""What pages show, made by pure functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ckptfmt_tui.jobs import requests as ask
from ckptfmt_tui.models.bars import bar, split_bar
from ckptfmt_tui.models.columns import Column, fit
from ckptfmt_tui.models.looks import fewer, histogram_text, number
from ckptfmt_tui.models.outcomes import _WORDS, outcome
from ckptfmt_tui.models.runs import Branch, branches, damaged_row, fitting, lines, lowest, place_of, text_of, tree
from ckptfmt_tui.models.settings import curves, leaves, settings_rows
from ckptfmt_tui.models.tensors import ORDERS, TensorList, texts_of

from ckptfmt.api.results import RefRow
from ckptfmt.api.results_tensor import Figures
from ckptfmt.format.manifest import Adapter, Extent, File, Manifest, Tensor


def row(ref: str, **fields: Any) -> RefRow:
    known: dict[str, Any] = {
        "generation": 1,
        "manifest": "0" * 64,
        "layout": "peft",
        "stage": None,
        "step": None,
        "parent": None,
        "base": "tiny",
        "binding": "stated",
        "needs_base": None,
        "created": "2026-01-01T00:00:00Z",
        "logical_bytes": 100,
        "stored_bytes": 50,
        "exclusive_bytes": 10,
        "metrics": {},
        "labels": (),
        "pinned": False,
    }
    return RefRow(ref=ref, **{**known, **fields})


def test_bars_show_that_there_is_something() -> None:
    assert bar(0, 10, 4) == "    "
    assert bar(1, 10_000, 4) == "▏   "
    assert bar(10, 10, 4) == "████"
    assert bar(5, 10, 4) == "██  "
    assert split_bar(0, 0, 10, 4) == ("", "")
    assert split_bar(1, 9999, 10_000, 10) == ("▏", "░" * 9)
    assert split_bar(10, 0, 10, 4) == ("████", "")
    assert split_bar(9.99, 0.01, 10, 4) == ("███", "░"), "what is shared is seen, however little"
    assert split_bar(0, 5, 10, 4) == ("", "░░")
    for own in range(0, 101, 7):
        first, second = split_bar(own, 100 - own, 100, 13)
        assert len(first) + len(second) == 13


def test_columns_give_way_where_there_is_no_room() -> None:
    columns = (Column("a", "A", 10, 0, grows=True), Column("b", "B", 5, 1), Column("c", "C", 5, 2))
    assert [(column.key, width) for column, width in fit(columns, 30)] == [("a", 16), ("b", 5), ("c", 5)]
    assert [column.key for column, _ in fit(columns, 20)] == ["a", "b"]
    assert fit(columns, 6) == ((columns[0], 6),)


def test_a_tree_of_runs_in_natural_order() -> None:
    rows = [row("a/step-10", exclusive_bytes=5), row("a/step-9", exclusive_bytes=90), row("b"), row("a")]
    made = lines(tree(rows, "name"), frozenset())
    assert [(line.depth, line.path, line.open) for line in made] == [
        (0, "a", None),
        (0, "a", True),
        (1, "a/step-9", None),
        (1, "a/step-10", None),
        (0, "b", None),
    ]
    branch = next(line.node for line in made if isinstance(line.node, Branch))
    assert (branch.refs, branch.exclusive_bytes, branch.logical_bytes) == (2, 95, 200)
    assert [line.path for line in lines(tree(rows, "name"), frozenset({"a"}))] == ["a", "a", "b"]
    assert [line.path for line in lines(tree(rows, "size"), frozenset())][:2] == ["a", "a/step-9"]
    newer = [row("x/1", created="2026-01-01T00:00:00Z"), row("x/2", created="2026-05-01T00:00:00Z")]
    assert [line.path for line in lines(tree(newer, "time"), frozenset())] == ["x", "x/2", "x/1"]
    assert branches(tree(rows, "name")) == {"a"}
    deep = tree([row("r/x/1"), row("r/x/2"), row("r/y/z/1")], "name")
    assert branches(deep) == {"r", "r/x", "r/y", "r/y/z"}
    assert [line.path for line in lines(deep, lowest(deep))] == ["r", "r/x", "r/y", "r/y/z"]


def test_the_cursor_goes_with_its_node_or_stays_near() -> None:
    made = lines(tree([row("a"), row("b"), row("c")], "name"), frozenset())
    assert place_of(made, "c", 0) == 2
    assert place_of(made, "gone", 1) == 1
    assert place_of(made, "gone", 9) == 2
    assert place_of((), "gone", 4) == 0


def test_filters_look_at_what_stands_in_a_row() -> None:
    rows = [row("a", labels=("Best",), pinned=True), row("b", metrics={"eval_loss": 1.0}), damaged_row("c")]
    texts = [text_of(each) for each in rows]

    def found(words: str) -> list[str]:
        return [each.ref for each in fitting(rows, texts, words)]

    assert found("") == ["a", "b", "c"]
    assert found("BEST pinned") == ["a"]
    assert found("eval_loss") == ["b"]
    assert found("damaged") == ["c"]
    assert found("a b zzz") == []


def manifest() -> Manifest:
    extents = tuple(Extent(at * 100, 100, f"{at:064x}") for at in range(4))
    file = File("m.safetensors", 400, "0" * 64, "safetensors", None, None, extents)
    tensors = (
        Tensor("b.weight", "model", "F32", (5, 5), 0, 0),
        Tensor("a.weight", "model", "BF16", (50,), 0, 1),
        Tensor("c.lora_A", "adapter", "F32", (1,), 0, 2, part="default"),
        Tensor("d", "optimizer", "I64", (), 0, 3),
    )
    config = {"r": 4, "target_modules": ["q", "v"], "inner": {"deep": {"x": 1}}}
    return Manifest(
        1,
        "peft",
        (file,),
        tensors=tensors,
        adapters=(Adapter("default", ".", "LORA", config, "0" * 64, base_hint="acme/tiny"),),
        settings={"training": {"lr": 1e-4}, "seed": 3},
    )


def test_tensors_are_filtered_and_sorted() -> None:
    listed = TensorList(manifest())
    assert listed.rows("file", turned=False, words="") == [0, 1, 2, 3]
    assert listed.rows("name", turned=False, words="weight") == [1, 0]
    assert listed.rows("size", turned=False, words="") == [0, 1, 3, 2]
    assert listed.rows("file", turned=False, words="F32 adapter") == [2]
    assert listed.rows("file", turned=False, words="5X5") == [0]
    assert listed.rows("file", turned=True, words="") == [3, 2, 1, 0]
    assert (listed.encoding(0), listed.stored(0), listed.ratio(0)) == (None, None, None)
    kept = (("planes", 50), ("delta", 10), (None, 0), ("raw", 100))
    listed.learn(kept, texts_of(listed.manifest, kept))
    assert listed.rows("ratio", turned=False, words="") == [1, 0, 3, 2]
    assert listed.rows("stored", turned=False, words="") == [3, 0, 1, 2]
    assert listed.rows("encoding", turned=False, words="") == [2, 1, 0, 3]
    assert listed.rows("file", turned=False, words="base") == [2]
    assert (listed.encoding(2), listed.ratio(1)) == ("base", 10.0)
    for order in ORDERS:
        assert sorted(listed.rows(order, turned=False, words="")) == [0, 1, 2, 3]


def test_settings_lie_flat() -> None:
    rows = [(each.group, each.key, each.told) for each in settings_rows(manifest())]
    assert ("adapter default", "inner.deep.x", "1") in rows
    assert ("adapter default", "target_modules", "q, v") in rows
    assert ("adapter default", "says its base is", "acme/tiny") in rows
    assert ("training", "lr", "0.0001") in rows
    assert ("settings", "seed", "3") in rows
    assert list(leaves({"a": {}, "b": [1]})) == [("a", "{}"), ("b", "1")]


def test_curves_go_by_step_else_by_stage_else_by_age() -> None:
    rows = [
        row("r/b", step=20, metrics={"loss": 1, "deep": {"x": 2.0}, "done": True}),
        row("r/a", step=10, metrics={"loss": 3}),
    ]
    found = curves(rows)
    assert set(found) == {"loss", "deep.x"}
    assert (found["loss"].axis, found["loss"].x, found["loss"].y) == ("step", (10.0, 20.0), (3.0, 1.0))
    assert found["loss"].refs == ("r/a", "r/b")
    assert curves([row("s/1", stage=1, metrics={"m": 1}), row("s/2", stage=2, metrics={"m": 2})])["m"].axis == "stage"
    aged = curves([row("x", created="2026-02", metrics={"m": 1}), row("y", created="2026-01", metrics={"m": 2})])["m"]
    assert (aged.axis, aged.x, aged.refs) == ("checkpoint", (1.0, 2.0), ("y", "x"))
    final = row("r/final", metrics={})
    assert curves([final, row("r/2", step=2, metrics={"m": 1})])["m"].axis == "step"
    assert curves([]) == {}


def figures(counts: tuple[int, ...], low: float, high: float) -> Figures:
    edges = tuple(low + (high - low) * at / len(counts) for at in range(len(counts) + 1))
    return Figures(sum(counts), 0, 0, 0, 0, low, high, 0.0, 1.0, 1.0, edges, counts)


def test_histograms_fit_the_room_and_lose_nobody() -> None:
    found = figures(tuple(range(1, 49)), -1.0, 1.0)
    for most in (1, 5, 10, 47, 48, 100):
        edges, counts = fewer(found, most)
        assert len(counts) <= most
        assert len(edges) == len(counts) + 1
        assert sum(counts) == found.counted
        assert (edges[0], edges[-1]) == (-1.0, 1.0)
    for logarithmic in (False, True):
        text = histogram_text(found, 60, 12, logarithmic=logarithmic).plain
        assert all(len(line) <= 60 for line in text.splitlines())
    longest = [line.count("█") for line in histogram_text(found, 60, 12, logarithmic=False).plain.splitlines()[1:-1]]
    assert longest == sorted(longest)
    tiny = histogram_text(figures((1,), 3.0, 3.0), 40, 5, logarithmic=False).plain
    assert "3" in tiny
    huge = histogram_text(figures((1, 2), -1e300, 1e300), 60, 5, logarithmic=True).plain
    assert "1e+300" in huge


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "–"), (2**62, f"{2**62:,}"), (0.1234567, "0.123457"), (1e-9, "1e-09"), (-math.pi, "-3.14159")],
)
def test_numbers(value: float | int | None, told: str) -> None:
    assert number(value) == told


def test_every_job_has_words_for_its_end() -> None:
    every = {kind for kind in ask.Request.__args__ if kind is not ask.Diff}
    assert every - set(_WORDS) == set(), "a diff is shown on its page"
    assert outcome(ask.Verify(), None) == []
