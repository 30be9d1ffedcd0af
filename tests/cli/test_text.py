from __future__ import annotations

import io
import json
import time

import msgspec
import pytest

from ckptfmt.api.results import NeedsBase, OptimizedCheckpoint, OptimizeReport, RefRow
from ckptfmt.cli import output
from ckptfmt.cli.output import Styled, encode
from ckptfmt.cli.text import facts, table
from ckptfmt.cli.verbs.ls import row_lines
from ckptfmt.cli.verbs.optimize import lines as optimize_lines
from ckptfmt.wording import clean, count, duration, metrics, ratio, size, value


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (14_200_000_000, "14.2 GB"),
        (390 * 10**9, "390.0 GB"),
        (5 * 10**18, "5000.0 PB"),
    ],
)
def test_sizes(number: int, told: str) -> None:
    assert size(number) == told


def test_ratios_counts_durations() -> None:
    assert [ratio(*pair) for pair in ((0, 5), (5, 0), (26, 1), (14, 10), (994, 100), (5000, 1))] == [
        "",
        "",
        "26x",
        "1.4x",
        "9.9x",
        ">1000x",
    ]
    assert (count(1, "file"), count(0, "file"), count(1234, "file")) == ("1 file", "0 files", "1,234 files")
    assert (count(1, "copy"), count(2, "copy"), count(2, "key")) == ("1 copy", "2 copies", "2 keys")
    assert [duration(seconds) for seconds in (0.2, 59.4, 59.6, 125, 3725)] == ["0 s", "59 s", "1:00", "2:05", "1:02:05"]


def test_values_and_metrics() -> None:
    nested = {"a": [1, 2.5], "b": None, "c": True}
    assert value(nested) == "{a: 1, 2.5, b: null, c: true}"
    found = {"epoch": 2, "lr": 1e-5, "eval": {"success_rate": 0.8125}, "train_loss": 0.41239, "done": True, "who": "me"}
    assert metrics(found) == "eval.success_rate 0.8125, train_loss 0.4124, epoch 2"
    assert metrics({}) == ""


def test_a_table_leaves_out_empty_columns_and_cuts_only_the_last() -> None:
    rows = [("a/long/name", "", "12", "loss 0.5, accuracy 0.75"), ("b", "", "7", "")]
    head, *body = table(("REF", "STAGE", "SIZE", "METRICS"), rows, right=("SIZE",), width=30)
    assert head == Styled("REF          SIZE  METRICS", "bold")
    assert body == ["a/long/name    12  loss 0.5, a", "b               7"]
    wide = table(("REF", "STAGE", "SIZE", "METRICS"), rows)
    assert wide[1] == "a/long/name  12    loss 0.5, accuracy 0.75"
    assert table(("A", "B"), []) == []
    assert facts([("a", "1"), ("none", ""), ("long", "2")]) == ["a     1", "long  2"]


def test_nothing_reaches_a_terminal_that_it_would_obey() -> None:
    assert clean("a\x1b[31mb\rc\nd\x9be\u2066f") == "a\\x1b[31mb\\x0dc\\x0ad\\x9be\\u2066f"
    assert clean("plain – ünïcode ✓") == "plain – ünïcode ✓"


def test_documents_are_json_whatever_they_hold() -> None:
    odd = {"path": "bad\udc80name", "nan": float("nan"), "all": [float("inf"), 1.5], "n": 1}
    assert json.loads(encode(odd)) == {"path": "bad\udc80name", "nan": None, "all": [None, 1.5], "n": 1}
    assert json.loads(encode({"nan": float("nan")})) == {"nan": None}
    assert encode([NeedsBase("a", "b", None)]) == '[{"name":"a","record":"b","last_seen":null,"others":[]}]'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal_and_not_against_its_will(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(stream: io.StringIO) -> str:
        monkeypatch.setattr("sys.stdout", stream)
        output.print_lines([Styled("x", "red"), "y"])
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert printed(io.StringIO()) == "x\ny\n"
    assert printed(Terminal()) == "\x1b[1;31mx\x1b[0m\ny\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(Terminal()) == "x\ny\n"


def test_a_document_is_indented_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    output.print_document({"a": [1]})
    assert "\n" in stream.getvalue().rstrip("\n")
    assert json.loads(stream.getvalue()) == {"a": [1]}


def test_an_optimize_that_saves_nothing_says_so() -> None:
    """What a checkpoint takes may grow by the dependencies of one object that became smaller."""
    one = OptimizedCheckpoint("one", 1000, 1026, 4, 1, 0, ())
    assert optimize_lines(OptimizeReport(1000, 1026, (one,), ()))[-1] == "1 checkpoint: 1.0 kB -> 1.0 kB, nothing saved"


def test_ten_thousand_rows_take_well_under_a_second() -> None:
    row = RefRow(
        ref="",
        generation=1,
        manifest="ab" * 32,
        layout="peft",
        stage=2,
        step=400,
        parent=None,
        base="llama-3.1-8b",
        binding="stated",
        needs_base=NeedsBase("llama-3.1-8b", "cd" * 32, "/models/llama"),
        created="2026-01-01T00:00:00Z",
        logical_bytes=14_200_000_000,
        stored_bytes=160_000_000,
        exclusive_bytes=80_000_000,
        metrics={"eval_loss": 0.4123, "success_rate": 0.81, "epoch": 3.0},
        labels=("best",),
        pinned=True,
    )
    rows = [msgspec.structs.replace(row, ref=f"sweep/run_{number:05}") for number in range(10_000)]
    began = time.process_time()
    lines = row_lines(rows, 120)
    text = encode(rows)
    assert time.process_time() - began < 1.0
    assert len(lines) == 10_001
    assert len(json.loads(text)) == 10_000
