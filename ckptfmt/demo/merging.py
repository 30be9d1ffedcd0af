"""The demonstration's merges: the last stage, against what PEFT made of it; and one that has to be refused."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ckptfmt.api import Store
from ckptfmt.demo.made import MadeCheckpoint
from ckptfmt.demo.report import DemoMerge
from ckptfmt.demo.state import Demo
from ckptfmt.errors import BaseMismatch

_ADAPTERS = "stages/"
_MERGED = "merged/"


def merge_stages(demo: Demo) -> None:
    """Merge the whole chain of stages in one pass, and compare the model root with that of what PEFT saved."""
    last = max(_stages(demo), key=lambda each: each.name)
    peft = last.name.replace(_ADAPTERS, _MERGED)
    with tempfile.TemporaryDirectory(dir=demo.root) as temporary:
        report = demo.opened.merge(last.name, Path(temporary) / "merged")
    same = report.root == demo.opened.show(peft).manifest.root
    demo.merge = DemoMerge(
        ref=last.name,
        stages=report.stages,
        bytes=report.bytes,
        seconds=round(report.seconds, 2),
        compared_with=peft,
        same_bits=same,
        refused=_refusal(demo),
    )
    verdict = "the very bits" if same else "NOT the bits"
    demo.say(f"  {last.name}: {report.stages} stages in one pass, {verdict} of {peft}, which PEFT made")
    demo.say(f"  onto a base with one changed bit: {demo.merge.refused or 'NOT refused'}")


def _stages(demo: Demo) -> list[MadeCheckpoint]:
    return [each for each in demo.people.checkpoints if each.name.startswith(_ADAPTERS)]


def _refusal(demo: Demo) -> str | None:
    """What merging says when the base was changed by one bit since it was recorded."""
    first = min(_stages(demo), key=lambda each: each.name)
    with tempfile.TemporaryDirectory(dir=demo.root) as temporary:
        base = Path(temporary) / "base"
        shutil.copytree(demo.people.base, base)
        with Store.init(Path(temporary) / "store") as store:
            store.add_base(demo.people.base_name, base)
            store.import_path(first.path, name=first.name, base=demo.people.base_name)
            weights = base / "model.safetensors"
            data = bytearray(weights.read_bytes())
            data[-1] ^= 1
            weights.write_bytes(data)
            try:
                store.merge(first.name, Path(temporary) / "merged")
            except BaseMismatch as error:
                return error.message.replace(temporary, "…")
    return None
