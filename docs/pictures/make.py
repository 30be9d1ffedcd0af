"""Takes the pictures of the terminal UI that the documentation shows: `make pictures`.

Makes the demonstration's checkpoints and a store of them in a temporary directory, and writes an SVG a screen into the
directory of this file. Times are written as one fixed time; all else is what the demonstration makes on this machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ckptfmt.demo.run import STEPS, run_demo

HERE: Final = Path(__file__).resolve().parent
MOST_BYTES: Final = 120_000
_STORE_STEPS: Final = 4
_TIME: Final = "2026-03-14T09:26:53Z"


@dataclass(frozen=True)
class Picture:
    """A picture: `keys` are pairs of what is waited for, and what is pressed then."""

    name: str
    page: str
    size: tuple[int, int]
    keys: tuple[tuple[str, ...], ...]
    shown: str
    marks: dict[str, str] = field(default_factory=dict)
    light: bool = False


_MODELS = {"a": "sweep/run_000/hf_model", "b": "sweep/run_001/hf_model"}
_STAGES = {"a": "stages/stage-1", "b": "stages/stage-2"}
PICTURES: Final = (
    Picture("store", "store", (120, 32), (("smaller", "down", "down"),), "smaller"),
    Picture("diff", "diff", (120, 40), (), "done in", _MODELS),
    Picture("heat-map", "diff", (96, 24), (("CHANGE", "h"),), "LAYER", _MODELS),
    Picture("diff-light", "diff", (120, 40), (), "done in", _MODELS, light=True),
    Picture("metrics", "diff", (96, 24), (("CHANGE", "m"),), "success_rate", _STAGES),
    Picture("help", "store", (100, 34), (("smaller", "question_mark"),), "Keys: Store"),
)
"""A page joins by a line."""


async def take(picture: Picture, store: str) -> str:
    """The picture as SVG."""
    from ckptfmt_tui.app import LIGHT, CkptfmtApp

    app = CkptfmtApp(store, page=picture.page)
    app.marks = dict(picture.marks)
    async with app.run_test(size=picture.size) as pilot:
        if picture.light:
            app.theme = LIGHT
        for text, *keys in picture.keys:
            await _until(pilot, lambda text=text: text in _screen(app))
            await pilot.press(*keys)
        await _until(pilot, lambda: picture.shown in _screen(app))
        await pilot.pause(0.5)
        svg = app.export_screenshot(title=f"ckptfmt tui --store {store}", simplify=True)
    svg = re.sub(r"terminal-\d+", f"ckptfmt-{picture.name}", svg)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", _TIME, svg)
    return re.sub(r"in&#160;\d+&#160;s", "in&#160;1&#160;s", svg)


def _screen(app: Any) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


async def _until(pilot: Any, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"nothing to be seen:\n{_screen(pilot.app)}")
        await pilot.pause(0.05)


def main(given: str | None) -> None:
    """Take all pictures.

    Args:
        given: a directory that `ckptfmt demo` made; None: it is made first.
    """
    with tempfile.TemporaryDirectory() as directory:
        top = given or str(Path(directory) / "demo")
        if given is None:
            run_demo(Path(top), say=print, steps=STEPS[:_STORE_STEPS])
        os.chdir(top)
        for picture in PICTURES:
            svg = asyncio.run(take(picture, "store.ckptfmt"))
            if len(svg.encode()) > MOST_BYTES:
                sys.exit(f"{picture.name}: {len(svg.encode()):,} bytes are more than {MOST_BYTES:,}")
            (HERE / f"{picture.name}.svg").write_text(svg, encoding="utf-8")
            print(f"{picture.name}.svg  {len(svg.encode()):,} bytes")
        os.chdir("/")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
