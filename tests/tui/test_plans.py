"""Plans and results in words: pure functions over what the verbs give back."""

from __future__ import annotations

from ckptfmt_tui.models import plans_cleanup, plans_import, plans_store
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Row, Shown
from ckptfmt_tui.models.trees import goes, lines, tree

from ckptfmt.api.reclaiming import GcItem, GcPlanned, GcReport, GcTrash
from ckptfmt.api.results import ImportPlan, PlannedCheckpoint
from ckptfmt.api.results_reclaim import (
    CleanupPlanned,
    CleanupReport,
    PlannedBase,
    PlannedCleanup,
    PlannedFile,
    RedundantFile,
    RefusedFile,
    ScannedCheckpoint,
    ScanReport,
    StayingFile,
)


def plan(**changed: object) -> CleanupPlanned:
    files = (PlannedFile("/t/run/model.safetensors", 5000, "beside an adapter", 1000),)
    made: dict[str, object] = {
        "directories": ("/t",),
        "keep_weights": "adapter",
        "hold_seconds": 7 * 86400,
        "base_stays_outside": False,
        "checkpoints": (
            PlannedCleanup("/t/adapter", "t/adapter", (), 100, None),
            PlannedCleanup("/t/run", "t/run", files, 6000, resumes=False, freed_bytes=4096),
        ),
        "bases": (PlannedBase("tiny", 9000),),
        "files": 1,
        "needed_bytes": 6100,
        "available_bytes": 10_000,
        "freed_bytes": 4096,
        "staying": (StayingFile("/t/kept.pt", 77, "a Trainer resumes from it"),),
    }
    return CleanupPlanned(**(made | changed))  # type: ignore[arg-type]


def said(shown: Shown) -> str:
    return "\n".join(line.text for line in shown.lines)


def whats(rows: tuple[Row, ...], columns: tuple[Column, ...]) -> list[str]:
    return [" ".join(filter(None, (row.cells.get(column.key, "").strip() for column in columns))) for row in rows]


def test_a_plan_tells_all_that_goes_and_all_that_stays() -> None:
    shown = plans_cleanup.cleanup_plan(plan(), (RefusedFile("/t/odd", "it lies on another file system"),))
    assert "takes 1 file of 1 checkpoint: frees 4.1 kB (4,096 bytes), held for 7 days, until a purge" in said(shown)
    assert "the store may need 6.1 kB, 10.0 kB are free" in said(shown)
    assert "copied in if a checkpoint needs it: base 'tiny', at most 9.0 kB" in said(shown)
    assert "1 checkpoint will not resume in a Trainer afterwards" in said(shown)
    assert "1 redundant file stays, 77 B" in said(shown)
    told = whats(shown.rows, plans_cleanup.CLEANUP_COLUMNS)
    assert told[0] == "t/run 4.1 kB does not resume afterwards t/run"
    assert told[1] == "model.safetensors goes 5.0 kB beside an adapter; 1.0 kB shared as reflinks stay"
    assert told[2] == "t/adapter in taken in only: others take less then t/adapter"
    assert told[3:] == [
        "what stays",
        "t/kept.pt stays 77 B a Trainer resumes from it",
        "t/odd stays it lies on another file system",
    ]
    assert shown.question is not None
    assert shown.question.typed == "clean up"
    assert any("do not resume afterwards: /t/run" in line.text for line in shown.question.lines)


def test_without_a_hold_the_word_is_delete() -> None:
    question = plans_cleanup.cleanup_plan(plan(hold_seconds=0), ()).question
    assert question is not None
    assert question.typed == "delete"
    assert any("only the store has them" in line.text for line in question.lines)


def test_a_plan_without_room_for_it_asks_nothing() -> None:
    shown = plans_cleanup.cleanup_plan(plan(available_bytes=6099), ())
    assert shown.question is None
    assert "this is refused" in said(shown)


def test_a_plan_of_nothing_asks_nothing() -> None:
    shown = plans_cleanup.cleanup_plan(plan(checkpoints=(), files=0, freed_bytes=0), ())
    assert shown.question is None
    assert said(shown).startswith("Nothing goes.")


def test_what_a_cleanup_did_is_told_to_the_byte() -> None:
    held = CleanupReport(None, "r-1", 4096, 0, "2026-12-05T00:00:00Z", (), 512)
    lines_, _ = plans_cleanup.cleanup_result(held)
    assert "4.1 kB (4,096 bytes) are held until 2026-12-05T00:00:00Z." in lines_[0].text
    nothing, rows = plans_cleanup.cleanup_result(
        CleanupReport(None, None, 0, 0, None, (RefusedFile("/t/a", "it changed"),))
    )
    assert nothing[0].text == "Nothing was cleaned."
    assert rows[0].more == ("/t/a", "stays: it changed")


def gc(**changed: object) -> GcPlanned:
    made: dict[str, object] = {
        "take_out": (GcItem("shards/a", 10, "dead"), GcItem("shards/b", 30, "dead"), GcItem("m/c", 1, "superseded")),
        "unfinished": (),
        "trash": (GcTrash("trash/x", 50, 90_000.0, due=True, freed_bytes=50), GcTrash("trash/y", 7, 60.0, False, 0)),
        "written": 0,
        "written_bytes": 0,
        "young_bytes": 5,
        "beside_bytes": 0,
        "freed_bytes": 50,
        "later_bytes": 41,
        "manifests": 3,
        "bases": 1,
        "objects": 9,
    }
    return GcPlanned(**(made | changed))  # type: ignore[arg-type]


def test_a_gc_plan_sums_by_reason_the_largest_first() -> None:
    shown = plans_store.gc_plan(gc(), 30)
    assert whats(shown.rows, plans_store.GC_COLUMNS) == [
        "dead 40 B 2 files",
        "shards/b 30 B",
        "shards/a 10 B",
        "superseded 1 B 1 file",
        "m/c 1 B",
        "in the trash 57 B 2 runs",
        "trash/x 50 B 25:00:00 old: due, frees 50 B",
        "trash/y 7 B 1:00 old: its grace is not over",
    ]
    assert said(shown).splitlines() == [
        "frees 50 B now (50 bytes), 41 B later",
        "5 B that nothing needs are younger than the grace and stay",
        "3 manifests, 1 base and 9 objects stay; so does what was dropped or superseded in the last 30 days",
    ]


def test_a_gc_of_nothing_asks_nothing() -> None:
    nothing = gc(take_out=(), trash=(), freed_bytes=0, later_bytes=0)
    assert plans_store.gc_plan(nothing, 0).question is None


def test_what_a_gc_could_not_trust_is_told() -> None:
    report = GcReport(gc(), True, freed_bytes=50, unlinked=2, problems=("shards/z: damaged",), taken_out_bytes=41)
    lines_, _ = plans_store.gc_result(report)
    assert [line.text for line in lines_] == [
        "Freed 50 B (50 bytes): 2 files.",
        "41 B lie in the trash until a gc after the grace.",
        "Damaged, so that another copy was kept: shards/z: damaged",
    ]


def test_an_import_tells_what_it_leaves() -> None:
    planned = ImportPlan("/d", (PlannedCheckpoint("/d/a", None, "d/a", "peft", 2, "d/z"),), ("notes.txt",))
    shown = plans_import.import_plan(planned)
    assert whats(shown.rows, plans_import.IMPORT_COLUMNS) == [
        "a d/a peft 2 d/z",
        "not taken 1 path, part of no checkpoint",
        "notes.txt",
    ]


def scan() -> ScanReport:
    def redundant(path: str, goes_with: str | None, checkpoint: str | None, size: int = 10) -> RedundantFile:
        return RedundantFile(path, size, "why", "names", "duplicate", goes_with, checkpoint)  # type: ignore[arg-type]

    return ScanReport(
        checkpoints=(
            ScannedCheckpoint("/t/r/one", "trainer", 3, 100, resumes=True),
            ScannedCheckpoint("/t/r/two", "peft", 2, 50, resumes=False),
        ),
        redundant=(
            redundant("/t/r/one/model.safetensors", "adapter", "/t/r/one", 60),
            redundant("/t/r/one/optimizer.pt", "none", "/t/r/one", 30),
            redundant("/t/x.tmp", None, None),
        ),
        reclaimable_bytes=60,
        reclaimable={"full": 0, "adapter": 60, "none": 90},
        files=6,
        unread=(),
        seconds=0.1,
    )


def test_a_scan_is_a_tree_of_runs() -> None:
    runs = tree(scan(), ("/t",))
    assert [(run.name, run.bytes, run.going("adapter"), run.going("none")) for run in runs] == [
        ("t/r", 150, 60, 90),
        ("t", 10, 0, 0),
    ]
    assert runs[0].checkpoints() == ("/t/r/one", "/t/r/two")
    assert [(line.depth, line.node.name, line.open) for line in lines(runs, frozenset({"/t"}))] == [
        (0, "t/r", True),
        (1, "one", True),
        (2, "model.safetensors", None),
        (2, "optimizer.pt", None),
        (1, "two", None),
        (0, "t", False),
    ]
    assert [line.node.name for line in lines(runs, frozenset(), "optim")] == ["t/r", "one", "optimizer.pt"]


def test_what_goes_depends_on_what_stays() -> None:
    files = {file.path: file for file in scan().redundant}
    model, state, told = (files[path] for path in sorted(files))
    assert [goes(model, keep) for keep in ("full", "adapter", "none")] == [False, True, True]
    assert [goes(state, keep) for keep in ("full", "adapter", "none")] == [False, False, True]
    assert not goes(told, "none")
