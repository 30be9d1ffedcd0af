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
    Key(EVERYWHERE, "ctrl+p", "app.command_palette", "Palette", "Search this page's actions by name.", shown=False),
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
    Key("store", "d,delete", "drop", "Drop", "Drop its name; nothing is freed before a gc.", writes=True),
    Key(
        "checkpoint",
        "enter",
        "look",
        "Look",
        "Look at the tensor under the cursor: its figures, where its bytes live.",
        shown=False,  # Where there is a tensor to look at, the table takes the key, and the foot would not show it.
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
    Key("import", "y", "agree", "Take in", "Take in what is planned.", writes=True),
    Key("import", "e", "options", "Options", "Change names, base, parent, stage and effort.", writes=True),
    Key("import", "x", "stop", "Stop", "Stop; what was not taken in whole is removed."),
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
    Key("merge", "c", "choose", "Choose", "Choose the checkpoint to merge."),
    Key("merge", "o", "into", "Into", "Choose the new directory that the merge writes."),
    Key("merge", "t", "dtype", "Dtype", "The next dtype: that of the base, bf16, fp16 or fp32."),
    Key("merge", "f", "form", "Format", "Write a Hugging Face directory, or one with a universal ckpt.pt."),
    Key("merge", "b", "read_base", "Check", "Read the base's files and compare them, changed or not."),
    Key("merge", "y", "merge", "Merge", "Merge; the directory appears once all was compared.", writes=True),
    Key("merge", "x", "stop", "Stop", "Stop; what it began is removed."),
    Key("cleanup", "d", "directory", "Directory", "Choose a directory, and look for what is redundant in it."),
    Key("cleanup", "D", "forget", "Forget", "Forget the directories that were chosen.", shown=False),
    Key("cleanup", "space", "take", "Take", "Take from this checkpoint, or leave it; on a run, from all of it."),
    Key("cleanup", "A", "take_all", "Take all", "Take from all checkpoints, or from none.", shown=False),
    Key("cleanup", "enter", "fold", "Fold", "Fold or unfold what is under the cursor.", shown=False),
    Key("cleanup", "w", "weights", "Weights", "What stays in the tree: adapters, full weights too, or none."),
    Key("cleanup", "h", "hold", "Hold", "How many days files are held before they may be purged.", shown=False),
    Key("cleanup", "p", "plan", "Plan", "Plan exactly what goes, what stays, and what that frees; writes nothing."),
    Key("cleanup", "r", "receipts", "Receipts", "What earlier cleanups hold: undo, or purge."),
    Key("cleanup", "x", "stop", "Stop", "Stop looking.", shown=False),
    Key("receipts", "u", "undo", "Undo", "Put everything back that the receipt holds.", writes=True),
    Key(
        "receipts", "p", "purge", "Purge", "Plan to delete what this receipt holds, its hold over or not.", writes=True
    ),
    Key("receipts", "P", "purge_due", "Purge due", "Plan to delete all whose hold is over.", writes=True),
    Key("plan", "y", "agree", "Do it", "Do what is planned, after one more question.", writes=True),
    Key("plan", "x", "stop", "Stop", "Stop it; what it began is removed."),
    Key("verify", "a", "verify", "Verify all", "Decode everything that is stored, and compare digests."),
    Key("verify", "s", "some", "Verify some", "Decode the picked checkpoints, else those that fit the filter."),
    Key("verify", "c", "view", "Pick", "Change between what was found and the checkpoints to pick from."),
    Key("verify", "space", "pick", "Pick this", "Pick the checkpoint under the cursor, or no longer.", shown=False),
    Key("verify", "f", "fsck(False)", "Fsck", "Look at the structure of the store; nothing is repaired."),
    Key("verify", "F", "fsck(True)", "Full", "A full fsck: the structure, and every stored byte."),
    Key("verify", "x", "stop", "Stop", "Stop looking."),
    Key("gc", "y", "agree", "Do it", "Do what is planned, after one more question.", writes=True),
    Key("gc", "o", "ages", "Ages", "Change the grace, and how long history is kept."),
    Key("gc", "n", "prune", "Prune", "Drop names by policy: the last, the best, every n-th are kept.", writes=True),
    Key("gc", "x", "stop", "Stop", "Stop it; nothing that is needed is lost."),
    Key("bases", "n", "add", "New", "Record a base, from a directory or a repository.", writes=True),
    Key("bases", "v", "verify(False)", "Verify", "Compare its files with its record; at once if nothing changed."),
    Key("bases", "V", "verify(True)", "Read", "The same, and read every file, changed or not."),
    Key("bases", "p", "place", "Is here", "Say in which directory its files are now; compares them.", writes=True),
    Key("bases", "c", "keep", "Copy in", "Copy its bytes into the store.", writes=True),
    Key("bases", "d,delete", "drop", "Drop", "Drop its name; refused while a checkpoint needs it.", writes=True),
    Key("bases", "x", "stop", "Stop", "Stop what runs for this base."),
    Key("jobs", "x,delete", "stop", "Stop", "Stop the job; it removes what it began."),
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
