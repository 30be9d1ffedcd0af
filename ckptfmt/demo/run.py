"""The demonstration: make what people have, take it in, verify it, give it back, compare.

It is a list of steps. Each is told what the ones before it found out, and adds what it found out itself.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from ckptfmt.api import Store
from ckptfmt.demo.cleaning import clean_up
from ckptfmt.demo.compare import compare, size_bytes
from ckptfmt.demo.made import DEMO, Say, Size, check_installed, set_environment
from ckptfmt.demo.merging import merge_stages
from ckptfmt.demo.report import DemoReport, DemoRow
from ckptfmt.demo.state import Demo, Step
from ckptfmt.errors import Conflict

DEFAULT_DIRECTORY: Final = "ckptfmt-demo"
"""Where the demonstration goes when no directory is named."""


def make(demo: Demo) -> None:
    """Make the base and the checkpoints."""
    from ckptfmt.demo.people import make_people

    demo.made = make_people(
        demo.root / "people", size=demo.size, seed=demo.seed, say=lambda line: demo.say(f"  {line}")
    )


def init(demo: Demo) -> None:
    """Make an empty store."""
    demo.store = Store.init(demo.root / "store.ckptfmt")


def add_base(demo: Demo) -> None:
    """Record the base, and copy it in: the store then needs nothing outside itself."""
    before = size_bytes(demo.root / "store.ckptfmt")
    demo.opened.add_base(demo.people.base_name, str(demo.people.base), keep="copy")
    demo.new_bytes[demo.people.base_name] = size_bytes(demo.root / "store.ckptfmt") - before


def import_all(demo: Demo) -> None:
    """Take every checkpoint in, each with its base and its parent."""
    for checkpoint in demo.people.checkpoints:
        chained = checkpoint.parent is not None
        report = demo.opened.import_path(
            checkpoint.path,
            name=checkpoint.name,
            base=demo.people.base_name if checkpoint.of_base else None,
            parent=checkpoint.parent,
            stage=checkpoint.stage,
            how="continue" if chained else None,
            stage_dtype="bf16" if chained else None,
        )
        demo.new_bytes[checkpoint.name] = report.new_bytes


def verify(demo: Demo) -> None:
    """Decode every object of the store and compare its digest."""
    report = demo.opened.verify()
    demo.objects, demo.damaged = report.objects, len(report.damaged)


def restore_all(demo: Demo) -> None:
    """Restore every checkpoint into a temporary directory and compare each file's SHA-256."""
    for checkpoint in demo.people.checkpoints:
        with tempfile.TemporaryDirectory(dir=demo.root) as temporary:
            target = Path(temporary) / "restored"
            demo.opened.restore(checkpoint.name, target)
            compared = compare(checkpoint.path, target)
            beside = [checkpoint.path.parent / name for name in compared.names] if checkpoint.path.is_file() else []
            disk_bytes = sum(map(size_bytes, beside)) if beside else size_bytes(checkpoint.path)
        demo.rows.append(
            DemoRow(
                kind=checkpoint.kind,
                ref=checkpoint.name,
                path=str(checkpoint.path),
                disk_bytes=disk_bytes,
                new_bytes=demo.new_bytes[checkpoint.name],
                files=len(compared.names),
                files_same=len(compared.names) - len(compared.differing),
                differing=compared.differing,
                merged=checkpoint.merged,
            )
        )


STEPS: Final = (
    Step("make a small model, and the checkpoints people have of it", make),
    Step("ckptfmt init", init),
    Step("ckptfmt base add --keep copy", add_base),
    Step("ckptfmt import", import_all),
    Step("ckptfmt verify --all", verify),
    Step("ckptfmt restore, and compare every file", restore_all),
    Step("ckptfmt merge", merge_stages),
    Step("ckptfmt cleanup, its undo, and ckptfmt gc", clean_up),
)


def run_demo(
    directory: Path, *, size: Size = DEMO, seed: int = 0, say: Say = lambda _: None, steps: tuple[Step, ...] = STEPS
) -> DemoReport:
    """Run the demonstration below `directory`, which does not exist or is empty. What it makes stays there.

    Args:
        directory: where the checkpoints (`people/`) and the store (`store.ckptfmt/`) go.
        size: how large the models are.
        seed: of all that is drawn.
        say: told, line by line, what is being done.
        steps: what to do.

    Raises:
        InvalidInput: transformers is not installed.
        Conflict: `directory` has something in it.
    """
    check_installed()
    set_environment()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Conflict(
            f"{directory} exists and is not empty",
            code="target-exists",
            hint="ckptfmt demo DIR, with a directory that does not exist yet",
        )
    directory.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    demo = Demo(root=directory.resolve(), size=size, seed=seed, say=say)
    for number, step in enumerate(steps, start=1):
        say(f"[{number}/{len(steps)}] {step.title}")
        began = time.monotonic()
        step.run(demo)
        say(f"  {time.monotonic() - began:.1f} s")
    return _report(demo, seconds=time.monotonic() - start)


def _merged_well(demo: Demo) -> bool:
    return demo.merge is None or (demo.merge.same_bits and demo.merge.refused is not None)


def _report(demo: Demo, *, seconds: float) -> DemoReport:
    people, store = demo.people, demo.root / "store.ckptfmt"
    base_bytes = size_bytes(people.base)
    files, same = sum(row.files for row in demo.rows), sum(row.files_same for row in demo.rows)
    return DemoReport(
        ok=files == same and not demo.damaged and _merged_well(demo) and (demo.cleanup is None or demo.cleanup.ok),
        path=str(people.root),
        store=str(store),
        base=people.base_name,
        base_bytes=base_bytes,
        base_new_bytes=demo.new_bytes[people.base_name],
        rows=tuple(demo.rows),
        disk_bytes=size_bytes(people.root),
        store_bytes=size_bytes(store),
        files=files,
        files_same=same,
        objects=demo.objects,
        damaged=demo.damaged,
        merge=demo.merge,
        cleanup=demo.cleanup,
        seconds=round(seconds, 1),
    )
