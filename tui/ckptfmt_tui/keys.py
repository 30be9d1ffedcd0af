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
        action: what it does, an action of the page, or with `app.` before it of the application.
        label: one or two words for the footer.
        help: one sentence for the help screen.
        writes: whether it changes the store or files: absent under `--read-only`.
        shown: whether the footer has it.
        first: whether it is taken before what has the keyboard gets it, so that keys typed quickly behind it go where
            it leads.
    """

    page: str
    keys: str
    action: str
    label: str
    help: str
    writes: bool = False
    shown: bool = True
    first: bool = False


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

SECTIONS: Final[dict[str, str]] = {"info": "i", "tensors": "t", "files": "f", "settings": "s", "curves": "c"}
"""Parts of the page of one checkpoint, with their keys."""

KEYS: Final[tuple[Key, ...]] = (
    *(
        Key(EVERYWHERE, str(number), f"app.page('{page}')", title, f"Go to the page {title}.", shown=False)
        for number, (page, title) in enumerate(PAGES.items(), 1)
    ),
    Key(EVERYWHERE, "slash", "filter", "Filter", "Filter what is listed; Escape takes the filter away.", first=True),
    Key(EVERYWHERE, "question_mark,f1", "app.help", "Help", "Show all keys of this page."),
    Key(EVERYWHERE, "ctrl+p", "app.command_palette", "Palette", "Search every action by name.", shown=False),
    Key(EVERYWHERE, "ctrl+y", "app.copy_command", "Copy command", "Copy the command line shown below.", shown=False),
    Key(
        EVERYWHERE,
        "ctrl+s",
        "app.save_screen",
        "Screenshot",
        "Write this screen as SVG into the directory.",
        shown=False,
    ),
    Key(EVERYWHERE, "ctrl+t", "app.toggle_theme", "Theme", "Change between the dark and the light theme.", shown=False),
    Key(EVERYWHERE, "f5", "reload", "Reload", "Read the store again.", shown=False),
    Key(EVERYWHERE, "escape", "back", "Back", "Go back, or take the filter away.", shown=False),
    Key(EVERYWHERE, "ctrl+c", "app.interrupt", "Quit", "Copy what is marked with the mouse; else quit.", shown=False),
    Key(EVERYWHERE, "q,ctrl+q", "app.leave", "Quit", "Quit; asks while jobs run."),
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
    Key("store", "t", "tag", "Label", "Add a label to it, or take one away.", writes=True, shown=False),
    Key("store", "n", "rename", "Rename", "Give it another name.", writes=True, shown=False),
    Key("store", "u", "rollback", "Roll back", "Return to an earlier generation.", writes=True, shown=False),
    Key("store", "U", "dropped", "Bring back", "Bring a dropped name back.", writes=True, shown=False),
    Key("store", "left", "close_run", "Fold", "Fold the run, or go to it.", shown=False),
    Key("store", "right", "open_run", "Unfold", "Unfold the run.", shown=False),
    Key("store", "s", "details", "Details", "Show or hide the details: with whom a checkpoint shares.", shown=False),
    Key("store", "z", "fold_all", "Fold all", "Fold all runs, or unfold them.", shown=False),
    Key(
        "checkpoint", "enter", "look", "Look", "Look at the tensor under the cursor: its figures, where its bytes live."
    ),
    Key("checkpoint", "left,left_square_bracket", "section(-1)", "Left", "Go to the part on the left.", shown=False),
    Key("checkpoint", "right,right_square_bracket", "section(1)", "Right", "Go to the part on the right.", shown=False),
    *(
        Key("checkpoint", key, f"show('{name}')", name.capitalize(), f"Show its {name}.", shown=False)
        for name, key in SECTIONS.items()
    ),
    Key("checkpoint", "o", "order", "Order", "Order the tensors by another column."),
    Key("checkpoint", "O", "turn", "Turn", "Turn the order around.", shown=False),
    Key("checkpoint", "v", "verify", "Verify", "Decode it whole and compare its digests."),
    Key("checkpoint", "m", "merge", "Merge", "Merge this checkpoint.", writes=True),
    Key("checkpoint", "r", "restore", "Restore", "Give its files back into a new directory.", writes=True),
    Key("tensor", "l", "scale", "Log scale", "Bars by the logarithm of the counts, or by the counts."),
    Key("tensor", "v", "verify", "Verify", "Decode the whole checkpoint and compare its digests."),
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
        Binding(key.keys, key.action, key.label, show=key.shown, tooltip=key.help, priority=key.first)
        for key in KEYS
        if key.page == page
    ]


def keys_of(page: str) -> list[Key]:
    """The keys of a page, those that work everywhere last."""
    return [key for key in KEYS if key.page == page] + [key for key in KEYS if key.page == EVERYWHERE]


def writing_actions() -> frozenset[str]:
    """Names of actions that change something, without their arguments."""
    return frozenset(key.action.partition("(")[0] for key in KEYS if key.writes)
