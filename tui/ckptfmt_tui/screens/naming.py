"""What moves names: pin, label, rename, drop, return to a generation. All quick, all by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.text import Text

from ckptfmt.api import Store
from ckptfmt.api.results import Log, RefChanged, RefRow
from ckptfmt.format.refs import Generation
from ckptfmt.wording import clean, count, short, size
from ckptfmt_tui import commands
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.widgets.chooser import Chooser
from ckptfmt_tui.widgets.dialogs import Confirmation, Field, Form
from ckptfmt_tui.widgets.table import Cell

if TYPE_CHECKING:
    from ckptfmt_tui.screens.page import Page

_GENERATIONS = (
    Column("number", "GEN", 5, 0, "right"),
    Column("time", "WHEN", 20, 1),
    Column("verb", "BY", 9, 2),
    Column("target", "MANIFEST", 12, 3),
    Column("message", "WHAT", 20, 4, grows=True),
)


def _do(page: Page, work: Callable[[Store], RefChanged], said: str) -> None:
    """Change something, tell of it, and read the store again."""
    if page.ui.read_only:
        return

    def done(answer: Answer[RefChanged]) -> None:
        changed = page.value_of(answer)
        if changed is not None:
            page.app.notify(f"generation {changed.generation}", title=said, timeout=4)
        page.store_changed()

    page.ask(work, done)


def pin(page: Page, row: RefRow) -> None:
    """Protect a checkpoint from prune and rm, or stop that."""
    off = row.pinned
    command = commands.line(page.ui.store_path, "pin", [row.ref], ["--off"] if off else [])
    if not off:
        page.tell_command(command)
        _do(page, lambda store: store.pin(row.ref), f"{row.ref} is pinned")
        return

    def go(answer: object) -> None:
        if answer:
            _do(page, lambda store: store.pin(row.ref, off=True), f"{row.ref} is no longer pinned")

    page.app.push_screen(
        Confirmation(f"Unpin {row.ref}?", ["Then prune and rm may drop it."], command=command),
        go,
    )


def tag(page: Page, row: RefRow) -> None:
    """Ask for labels, and whether they come or go."""

    def command(values: dict[str, str]) -> str:
        remove = ["--remove"] if values["how"] == "take away" else []
        return commands.line(page.ui.store_path, "tag", [row.ref, *values["labels"].split()], remove)

    def go(values: object) -> None:
        if isinstance(values, dict):
            labels, remove = tuple(values["labels"].split()), values["how"] == "take away"
            _do(page, lambda store: store.tag(row.ref, labels, remove=remove), f"labels of {row.ref}")

    known = f"it has: {', '.join(row.labels)}" if row.labels else "it has none yet"
    page.app.push_screen(
        Form(
            f"Labels of {row.ref}",
            [
                Field("labels", "Labels", hint=f"separated by spaces; {known}"),
                Field("how", "Do", "add", choices=("add", "take away")),
            ],
            command=command,
            check=lambda values: None if values["labels"].split() else "name a label",
        ),
        go,
    )


def rename(page: Page, row: RefRow) -> None:
    """Ask for another name."""

    def go(values: object) -> None:
        if isinstance(values, dict):
            new = values["name"].strip()
            _do(page, lambda store: store.rename(row.ref, new), f"{row.ref} is now {new}")

    page.app.push_screen(
        Form(
            f"Rename {row.ref}",
            [Field("name", "New name", row.ref)],
            command=lambda values: commands.line(page.ui.store_path, "rename", [row.ref, values["name"].strip()]),
            check=lambda values: None if values["name"].strip() not in ("", row.ref) else "another name",
        ),
        go,
    )


def drop(page: Page, row: RefRow) -> None:
    """Say what dropping a name means, and drop it once that is agreed to."""
    shared = max(row.stored_bytes - row.exclusive_bytes, 0)
    question = Confirmation(
        f"Drop {row.ref}?",
        [
            f"Frees nothing now. A gc then frees {size(row.exclusive_bytes)}, which only it needs;",
            f"{size(shared)} stay: other checkpoints or bases need them too.",
            f"'rollback {row.ref}@{row.generation}' brings it back until a gc has gone over it (U on this page).",
        ],
        command=commands.line(page.ui.store_path, "rm", [row.ref]),
    )

    def go(answer: object) -> None:
        if answer:
            _do(page, lambda store: store.drop(row.ref), f"{row.ref} is dropped")

    page.app.push_screen(question, go)


def rollback(page: Page, ref: str) -> None:
    """Show the generations of a ref, and return to the one that is chosen."""

    def show(answer: Answer[Log]) -> None:
        log = page.value_of(answer)
        if log is None:
            return
        generations = log.generations
        newest = generations[0].target if generations else None
        back = [item for item in generations if item.target is not None and item.target != newest]
        if not back:
            page.app.notify("every generation stands for what it is now", title=ref)
            return
        page.app.push_screen(
            Chooser(
                f"Return {ref} to which generation?",
                _GENERATIONS,
                _generation_cell,
                back,
                text=_generation_text,
                command=lambda item: commands.line(page.ui.store_path, "rollback", [f"{ref}@{item.number}"]),
            ),
            lambda item: _return(page, ref, item),
        )

    page.ask(lambda store: store.log(ref), show)


def _return(page: Page, ref: str, item: object) -> None:
    if isinstance(item, Generation):
        name = f"{ref}@{item.number}"
        _do(page, lambda store: store.rollback(name), f"{ref} is as in generation {item.number}")


def bring_back(page: Page) -> None:
    """Show the names that were dropped, and bring back the one that is chosen."""

    def show(answer: Answer[list[Generation]]) -> None:
        dropped = page.value_of(answer)
        if dropped is None:
            return
        if not dropped:
            page.app.notify("no name was dropped")
            return
        page.app.push_screen(
            Chooser(
                f"Bring back which of {count(len(dropped), 'dropped name')}?",
                (Column("name", "NAME", 24, 0, grows=True), *_GENERATIONS[:4]),
                _generation_cell,
                dropped,
                text=_generation_text,
                command=lambda item: commands.line(page.ui.store_path, "rollback", [f"{item.name}@{item.number}"]),
            ),
            lambda item: _return(page, item.name, item) if isinstance(item, Generation) else None,
        )

    page.ask(lambda store: store.dropped(), show)


def _generation_text(item: Generation) -> str:
    return f"{item.name} @{item.number} {item.time} {item.verb} {item.target} {item.message or ''}"


def _generation_cell(item: Generation, column: Column, room: int) -> Cell:
    if column.key == "message":
        return Text(clean(item.message or item.origin or ""), style="dim")
    return {
        "name": item.name,
        "number": f"@{item.number}",
        "time": item.time,
        "verb": item.verb,
        "target": short(item.target or ""),
    }[column.key]
