"""Finding checkpoints among the names of files: which directories are one, and which files belong to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ckptfmt.layouts.experts import EXPERTS
from ckptfmt.layouts.hf_full import HF_FULL
from ckptfmt.layouts.listing import is_hidden, join, listing_of, natural, paths_below, split, stage_of, stem_of
from ckptfmt.layouts.peft import PEFT
from ckptfmt.layouts.protocol import Found, Layout, Listing
from ckptfmt.layouts.stages import STAGE
from ckptfmt.layouts.torchtune import EPOCH, RECIPE, RECIPE_DIRECTORY, TORCHTUNE
from ckptfmt.layouts.trainer import INCOMPLETE, TRAINER
from ckptfmt.layouts.training_pt import FILE_NAME, TRAINING_PT
from ckptfmt.layouts.universal import UNIVERSAL

UNKNOWN_NAME: Final = "unknown"

_DIRECTORY_LAYOUTS: Final[tuple[Layout, ...]] = (EXPERTS, TORCHTUNE, STAGE, TRAINER, PEFT, HF_FULL)
"""Layouts that claim a directory with what is below it, most specific first."""

_SERIES: Final = re.compile(r"checkpoint-\d+|epoch_\d+|stage[-_ ]?\d+.*|run[-_]\d+", re.IGNORECASE)
"""Directories that are members of a series: checkpoints of their own, even inside one."""

_ONE_FILE: Final = re.compile(
    r"(?:.*[-_.])?(?:ckpt|checkpoint|step|iter|epoch|best|last|final|latest)[\w.=-]*\.(?:pt|pth|ckpt)"
)
"""Files that are a checkpoint each, by the names that training loops give them."""

_TRAINING_STATE: Final = re.compile(r"(?:optimizer|scheduler|scaler|rng_state|random_states|training_args).*")
_WEIGHTS: Final = re.compile(r".+\.(?:safetensors|pt|pth|ckpt|distcp)|(?:pytorch_|adapter_)?model.*\.bin")
_BESIDE: Final = re.compile(
    r"(?:tokenizer|vocab|merges|special_tokens_map|added_tokens|meta|config|args|hparams|params)[\w-]*"
    r"\.(?:json|ya?ml|txt|model|pkl|bpe)"
)
"""Files that belong to every one-file checkpoint beside them."""


def find_checkpoints(paths: Iterable[str]) -> list[Found]:
    """Find the checkpoints among files, from their names alone.

    The shallowest directory that a layout claims is one checkpoint, with all below it but members of a series
    (`checkpoint-N/`, `epoch_N/`, `stage_N…/`) that are checkpoints themselves. Hidden directories are passed over.

    Args:
        paths: regular files relative to the directory that is searched, with '/'.

    Returns:
        What was found, in counting order of names; where nothing was, one for the whole, of layout "unknown".
    """
    listing = listing_of(paths)
    found = sorted(_named_apart(_visit(listing, "")), key=lambda each: natural(each.name))
    if found:
        return found
    return [Found("", "", _own_files(listing, "", ()), UNKNOWN_NAME)]


def unclaimed(paths: Iterable[str], found: Iterable[Found]) -> list[str]:
    """The files that belong to no checkpoint found, sorted.

    A hidden directory is named once, with a '/' at its end; a Hub cache's `blobs/` are left out: its snapshots link
    to them.
    """
    taken: set[str] = set()
    roots: list[str] = []
    for each in found:
        if each.files is None:
            roots.append(f"{each.root}/" if each.root else "")
        else:
            taken.update(join(each.root, path) for path in each.files)
    return sorted(
        {
            _whole_hidden(path)
            for path in paths
            if path not in taken
            and not any(path.startswith(root) for root in roots)
            and not re.search(r"(?:^|/)(?:models|datasets)--[^/]+/(?:blobs|refs)/", f"/{path}")
        }
    )


def _whole_hidden(path: str) -> str:
    """The outermost hidden directory that `path` lies in, else the path."""
    parts = path.split("/")
    for depth, part in enumerate(parts[:-1], 1):
        if is_hidden(part):
            return "/".join(parts[:depth]) + "/"
    return path


def _claimed_by(listing: Listing) -> str | None:
    return next((layout.name for layout in _DIRECTORY_LAYOUTS if layout.claims(listing)), None)


def _visit(listing: Listing, at: str, *, nested: bool = False) -> Iterator[Found]:
    if INCOMPLETE in listing.files:
        return
    if "snapshots" in listing.directories and listing.directories.keys() & {"blobs", "refs"}:
        yield from _snapshots(listing.directories["snapshots"], join(at, "snapshots"))
        return
    layout = _claimed_by(listing)
    if layout is not None:
        members = [] if nested else list(_members(listing, at))
        yield Found(at, at, _own_files(listing, at, members), layout, stage_of(split(at)[1]))
        yield from members
        return
    below = [each for name, child in _visible(listing) for each in _visit(child, join(at, name))]
    yield from _with_recipe(listing, at, below)
    yield from _files(listing, at, below)


def _visible(listing: Listing) -> Iterator[tuple[str, Listing]]:
    return ((name, child) for name, child in sorted(listing.directories.items()) if not is_hidden(name))


def _members(listing: Listing, at: str) -> Iterator[Found]:
    """Members of a series below a claimed directory."""
    for name, child in _visible(listing):
        if _SERIES.fullmatch(name):
            yield from _visit(child, join(at, name))
        else:
            yield from _members(child, join(at, name))


def _snapshots(listing: Listing, at: str) -> Iterator[Found]:
    """Each revision of a Hub cache is one checkpoint, whatever lies in it."""
    for name, child in _visible(listing):
        place = join(at, name)
        yield Found(place, place, _own_files(child, place, ()), _claimed_by(child) or UNKNOWN_NAME)


def _own_files(listing: Listing, at: str, others: Iterable[Found]) -> tuple[str, ...] | None:
    """Files below a claimed directory that are its own; None where all are."""
    everything = paths_below(listing)
    prefix = f"{at}/" if at else ""
    taken = {join(each.root, path)[len(prefix) :] for each in others for path in each.files or ()}
    roots = [each.root[len(prefix) :] + "/" for each in others if each.files is None]
    skipped = [f"{name}/" for name in _incomplete(listing, "")]
    own = [
        path
        for path in everything
        if path not in taken and not any(path.startswith(root) for root in (*roots, *skipped))
    ]
    return None if len(own) == len(everything) else tuple(own)


def _incomplete(listing: Listing, at: str) -> Iterator[str]:
    """Subdirectories that the Trainer did not finish."""
    for name, child in _visible(listing):
        if INCOMPLETE in child.files:
            yield join(at, name)
        else:
            yield from _incomplete(child, join(at, name))


def _with_recipe(listing: Listing, at: str, below: list[Found]) -> Iterator[Found]:
    """Torchtune overwrites `recipe_state/` after each epoch: it belongs to the last."""
    epochs = {
        name: each
        for each in below
        for name in [split(each.root)[1]]
        if split(each.root)[0] == at and EPOCH.fullmatch(name) and each.layout == TORCHTUNE.name
    }
    recipe = listing.directories.get(RECIPE_DIRECTORY)
    if not epochs or recipe is None or split(RECIPE)[1] not in recipe.files:
        yield from below
        return
    last = max(epochs, key=natural)
    for each in below:
        if each.root == join(at, RECIPE_DIRECTORY):
            continue
        if each is epochs[last]:
            own = each.files if each.files is not None else paths_below(listing.directories[last])
            files = [join(last, path) for path in own] + paths_below(recipe, RECIPE_DIRECTORY)
            yield replace(each, root=at, files=tuple(sorted(files)))
        else:
            yield each


def _files(listing: Listing, at: str, below: list[Found]) -> Iterator[Found]:
    """Checkpoints of one file each, and a directory of weights that nobody knows."""
    weights = {name for name in listing.files if _WEIGHTS.fullmatch(name) and not _TRAINING_STATE.fullmatch(name)}
    singles = {name: layout for name in sorted(weights) if (layout := _file_layout(name)) is not None}
    beside = [name for name in listing.files if _BESIDE.fullmatch(name) and name not in weights]
    for name, layout in singles.items():
        place = join(at, stem_of(name))
        yield Found(place, at, tuple(sorted([name, *beside])), layout, stage_of(split(at)[1]))
    if weights - singles.keys():
        if below or singles:
            own: tuple[str, ...] | None = tuple(sorted(listing.files - singles.keys()))
        else:
            own = _own_files(listing, at, ())
        yield Found(at, at, own, UNKNOWN_NAME, stage_of(split(at)[1]))


def _file_layout(name: str) -> str | None:
    if FILE_NAME.fullmatch(name):
        return TRAINING_PT.name
    if re.fullmatch(r"ckpt[\w.-]*\.pt", name):
        return UNIVERSAL.name
    return TRAINING_PT.name if _ONE_FILE.fullmatch(name) else None


def _named_apart(found: Iterable[Found]) -> Iterator[Found]:
    """Give files that differ in their suffix alone (`best.pt`, `best.ckpt`) their full names."""
    every = list(found)
    times = Counter(each.name for each in every)
    for each in every:
        if times[each.name] > 1 and each.files is not None and each.root != each.name:
            stem = split(each.name)[1]
            own = next((path for path in each.files if stem_of(path) == stem), stem)
            yield replace(each, name=join(each.root, own))
        else:
            yield each
