"""The keys as Markdown, for docs/tui.md: `python -m ckptfmt_tui.key_reference` prints it."""

from __future__ import annotations

from typing import Final

from ckptfmt_tui.keys import EVERYWHERE, KEYS, PAGES
from ckptfmt_tui.screens.help import shown_keys

BEGIN: Final = "<!-- keys: made by python -m ckptfmt_tui.key_reference -->"
END: Final = "<!-- end of keys -->"


def markdown() -> str:
    """A table for each page, in the order of their tabs; those of pages without a tab come last."""
    pages = [EVERYWHERE, *PAGES, *dict.fromkeys(key.page for key in KEYS)]
    told = [BEGIN]
    for page in dict.fromkeys(pages):
        keys = [key for key in KEYS if key.page == page]
        if not keys:
            continue
        title = "Everywhere" if page == EVERYWHERE else PAGES.get(page, page.capitalize())
        told += ["", f"### {title}", "", "| key | what it does |", "|---|---|"]
        told += [f"| {_cell(shown_keys(key.keys))} | {key.help}{' *' if key.writes else ''} |" for key in keys]
    return "\n".join([*told, "", END])


def _cell(keys: str) -> str:
    return " ".join(f"`{key}`" for key in keys.replace("|", "\\|").split())


if __name__ == "__main__":
    print(markdown())  # noqa: T201 - this is a program
