"""The verbs: which module holds each, and its line in `ckptfmt --help`. Listing them loads none of them."""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """A verb: its module in `ckptfmt.cli.verbs`, its one-line help, the heading it stands under."""

    module: str
    summary: str
    section: str


_CHECKPOINTS: Final = "Checkpoints"
_NAMES: Final = "Names"
_BASES: Final = "Bases"
_SPACE: Final = "Space"
_MORE: Final = "The store and more"

VERBS: Final[dict[str, Entry]] = {
    "import": Entry("import_", "Take checkpoints into the store.", _CHECKPOINTS),
    "ls": Entry("ls", "List checkpoints: layout, stage, base, sizes, metrics.", _CHECKPOINTS),
    "show": Entry("show", "Show one checkpoint: files, tensors, base, lineage, encodings.", _CHECKPOINTS),
    "log": Entry("log", "Show a checkpoint's lineage, and the earlier generations of its name.", _CHECKPOINTS),
    "diff": Entry("diff", "Compare two checkpoints: files, tensors, adapters, settings, metrics.", _CHECKPOINTS),
    "merge": Entry("merge", "Merge base and adapters along the lineage into one model.", _CHECKPOINTS),
    "restore": Entry("restore", "Give the imported files back, to the byte.", _CHECKPOINTS),
    "export": Entry("export", "Convert a checkpoint: Hugging Face, PEFT or universal.", _CHECKPOINTS),
    "convert": Entry("convert", "Convert a checkpoint that lies in a directory, without a store.", _CHECKPOINTS),
    "verify": Entry("verify", "Decode every object and compare digests.", _CHECKPOINTS),
    "optimize": Entry("optimize", "Store objects again, smaller: finds lost adapters in merged weights.", _CHECKPOINTS),
    "rename": Entry("rename", "Give a checkpoint another name.", _NAMES),
    "tag": Entry("tag", "Label a checkpoint.", _NAMES),
    "pin": Entry("pin", "Protect a checkpoint from being pruned.", _NAMES),
    "rollback": Entry("rollback", "Return a name to an earlier generation.", _NAMES),
    "rm": Entry("rm", "Drop names; their histories stay.", _NAMES),
    "prune": Entry("prune", "Drop names by policy; frees no bytes.", _NAMES),
    "base": Entry("base", "Record base models, compare them, copy them in, drop them.", _BASES),
    "bind": Entry("bind", "State the base of a checkpoint that has none.", _BASES),
    "scan": Entry("scan", "Find what is redundant in directories of checkpoints.", _SPACE),
    "cleanup": Entry("cleanup", "Take redundant files in, prove that they come back, then delete them.", _SPACE),
    "init": Entry("init", "Make a store.", _MORE),
    "gc": Entry("gc", "Delete what no ref reaches; frees bytes.", _MORE),
    "fsck": Entry("fsck", "Look at the store's structure, and name whom each damage harms.", _MORE),
    "stats": Entry("stats", "Logical against stored bytes, by encoding and by run.", _MORE),
    "tui": Entry("tui", "Open the terminal UI: browse, compare, merge, clean up.", _MORE),
    "demo": Entry("demo", "Make a small model and bloated checkpoints of it, and take them in.", _MORE),
    "completion": Entry("completion", "Print the completion script for a shell.", _MORE),
    "version": Entry("version", "Print the versions of ckptfmt and of what it stands on.", _MORE),
}
"""Every verb, in the order of `ckptfmt --help`."""
