"""What docs/tui.md says of keys and shows of screens is what there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ckptfmt_tui.key_reference import BEGIN, END, markdown
from ckptfmt_tui.keys import KEYS, PAGES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "tui.md"


def test_the_keys_of_the_documentation_are_those_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin and end, f"{PAGE.name} has no place for the keys"
    now = head + markdown() + tail
    if os.environ.get("CKPTFMT_UPDATE_SNAPSHOTS"):
        PAGE.write_text(now, encoding="utf-8")
    assert page == now, "CKPTFMT_UPDATE_SNAPSHOTS=1 python -m pytest tests/tui/test_docs.py writes them anew"


def test_every_key_and_page_is_told_of() -> None:
    told = markdown()
    assert all(key.help in told for key in KEYS)
    page = PAGE.read_text(encoding="utf-8")
    for number, title in enumerate(PAGES.values(), 1):
        assert f"**{title}** (`{number}`)" in page


def test_the_pictures_are_there_and_small() -> None:
    pictures = {path.name for path in (DOCS / "pictures").glob("*.svg")}
    for page in (PAGE, DOCS.parent / "README.md"):
        shown = re.findall(r"!\[[^\]]*\]\((?:docs/)?pictures/([^)]+)\)", page.read_text(encoding="utf-8"))
        assert shown
        assert set(shown) <= pictures
    for name in pictures:
        content = (DOCS / "pictures" / name).read_bytes()
        assert len(content) < 120_000, name
        assert b"@font-face" not in content
        assert b"/tmp/" not in content
