"""Every key, once: bindings, the footer, the help screen and the documentation are made from this table."""

from __future__ import annotations

from typing import Final, NamedTuple

from textual.binding import Binding, BindingType

EVERYWHERE: Final = "everywhere"


class Key(NamedTuple):
    """A key of a page.

    Attributes:
        page: name of the page, or `EVERYWHERE`.
        keys: as Textual names them, separated by commas; the first one is shown.
        action: what it does, an action of the page or of the application.
        label: one or two words for the footer.
        help: one sentence for the help screen.
        writes: whether it changes the store or files: absent under `--read-only`.
        shown: whether the footer has it.
    """

    page: str
    keys: str
    action: str
    label: str
    help: str
    writes: bool = False
    shown: bool = True


PAGES: Final[dict[str, str]] = {
    "store": "Store",
    "diff": "Diff",
    "merge": "Merge",
    "cleanup": "Clean up",
    "verify": "Verify",
    "gc": "Collect",
    "bases": "Bases",
    "jobs": "Jobs",
}
"""Pages in the order of their number keys, with their titles."""

KEYS: Final[tuple[Key, ...]] = (
    *(
        Key(EVERYWHERE, str(number), f"page('{page}')", title, f"Go to the page {title}.", shown=False)
        for number, (page, title) in enumerate(PAGES.items(), 1)
    ),
    Key(EVERYWHERE, "slash", "filter", "Filter", "Filter what is listed; Escape takes the filter away."),
    Key(EVERYWHERE, "question_mark,f1", "help", "Help", "Show all keys of this page."),
    Key(EVERYWHERE, "ctrl+p", "command_palette", "Palette", "Search every action by name.", shown=False),
    Key(EVERYWHERE, "ctrl+y", "copy_command", "Copy command", "Copy the command line shown below.", shown=False),
    Key(EVERYWHERE, "ctrl+s", "save_screen", "Screenshot", "Write this screen as SVG into the directory.", shown=False),
    Key(EVERYWHERE, "ctrl+t", "toggle_theme", "Theme", "Change between the dark and the light theme.", shown=False),
    Key(EVERYWHERE, "f5", "reload", "Reload", "Read the store again.", shown=False),
    Key(EVERYWHERE, "escape", "back", "Back", "Go back, or take the filter away.", shown=False),
    Key(EVERYWHERE, "q,ctrl+q", "leave", "Quit", "Quit; asks while jobs run."),
    Key("store", "enter", "open", "Open", "Open the checkpoint, or fold the run.", shown=False),
    Key("store", "space", "fold", "Fold", "Fold or unfold the run.", shown=False),
    Key("store", "o", "order", "Order", "Order by name, by size or by time."),
    Key("store", "a", "mark('a')", "Mark A", "Mark this checkpoint as the A of a diff."),
    Key("store", "b", "mark('b')", "Mark B", "Mark it as the B, and compare both."),
    Key("store", "m", "merge", "Merge", "Merge this checkpoint.", writes=True),
    Key("store", "v", "verify", "Verify", "Decode it whole and compare its digests."),
    Key("store", "i", "import", "Import", "Take a checkpoint in from a directory.", writes=True),
    Key("store", "r", "restore", "Restore", "Give its files back into a new directory.", writes=True),
    Key("store", "p", "pin", "Pin", "Protect it from being pruned, or stop that.", writes=True, shown=False),
    Key("jobs", "x,delete", "stop", "Stop", "Stop the job; it removes what it began."),
    Key("diff", "a", "choose('a')", "Choose A", "Choose A: a ref, ref@generation, bases/NAME, or a path."),
    Key("diff", "b", "choose('b')", "Choose B", "Choose B."),
    Key("diff", "w", "swap", "Swap", "Let A be B and B be A."),
    Key("diff", "c", "compare", "Compare", "Compare A and B; nothing is written."),
    Key("diff", "x", "stop", "Stop", "Stop comparing.", shown=False),
    Key("diff", "t", "view('tensors')", "Tensors", "Show the tensors, and what adapters add.", shown=False),
    Key(
        "diff",
        "h",
        "view('heat')",
        "Heat map",
        "Show changes by layer and module; again: of updates.",
        shown=False,
    ),
    Key("diff", "f", "view('files')", "Files", "Show the files.", shown=False),
    Key("diff", "s", "view('settings')", "Settings", "Show hyperparameters and adapter settings.", shown=False),
    Key("diff", "m", "view('metrics')", "Metrics", "Show the metrics.", shown=False),
    Key("diff", "plus", "kind('added')", "Added", "Show or hide what only B has.", shown=False),
    Key("diff", "minus", "kind('removed')", "Removed", "Show or hide what only A has.", shown=False),
    Key("diff", "tilde", "kind('changed')", "Changed", "Show or hide what changed.", shown=False),
    Key("diff", "equals_sign", "kind('same')", "Same", "Show or hide what is the same.", shown=False),
    Key("diff", "o", "order", "Order", "Sort the tensors by the next column."),
    Key("store", "d,delete", "drop", "Drop", "Drop its name; nothing is freed before a gc.", writes=True),
)


def bindings_of(page: str) -> list[BindingType]:
    """Textual's bindings of a page."""
    return [
        Binding(key.keys, key.action, key.label, show=key.shown, tooltip=key.help) for key in KEYS if key.page == page
    ]


def keys_of(page: str) -> list[Key]:
    """The keys of a page, those that work everywhere last."""
    return [key for key in KEYS if key.page == page] + [key for key in KEYS if key.page == EVERYWHERE]


def writing_actions() -> frozenset[str]:
    """Names of actions that change something, without their arguments."""
    return frozenset(key.action.partition("(")[0] for key in KEYS if key.writes)
