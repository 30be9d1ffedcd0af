"""The full weights in a directory: which files make one model, and what each of their tensors is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.errors import UnsafeFile
from ckptfmt.layouts.compose import Part, listed, state_tensors
from ckptfmt.layouts.listing import join, split, stem_of
from ckptfmt.layouts.pieces import DCP_KEY, partial_files, read_pieces
from ckptfmt.layouts.protocol import ReadAdapter, Tree
from ckptfmt.layouts.statedict import read_state_dict, state_dict_of
from ckptfmt.layouts.values import human

_SHARD: Final = re.compile(r"(?P<stem>.+?)[-_](?P<n>\d{4,5})-of-(?P<of>\d{4,5})\.(?P<suffix>safetensors|bin|pt)")
_SINGLE: Final = re.compile(r"(?P<stem>(?:model|pytorch_model)(?:\.[A-Za-z0-9_-]+)?)\.(?P<suffix>safetensors|bin)")
_STEM: Final = re.compile(r"(?:.*[-_.])?model(?:\..+)?")
_INDEX: Final = re.compile(r"(?P<stem>[^/]+?)\.(?P<suffix>safetensors|bin)\.index(?:\.(?P<variant>[\w-]+))?\.json")
_SUFFIX_ORDER: Final = ("safetensors", "bin", "pt")


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Files that together hold one model: `label` tells it from others in the directory; all are base names."""

    label: str
    suffix: str
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()
    index: str | None = None


def has_weights(files: Iterable[str]) -> bool:
    """Tell, from base names, whether a directory holds a model's full weights."""
    return any(_set_of(name) is not None or _INDEX.fullmatch(name) for name in files)


def weight_files(tree: Tree, directory: str) -> tuple[str, ...]:
    """Paths of the weight files that are the model of `directory`; () where it has none."""
    sets = _weight_sets(tree, directory, [])
    return tuple(join(directory, name) for name in sets[0].files) if sets else ()


def read_weights(tree: Tree, directory: str, beside: Mapping[str, ReadAdapter] | None = None) -> Part:
    """Read the model in `directory`: its own files, not those of subdirectories.

    Args:
        tree: the checkpoint.
        directory: '' for its top.
        beside: adapters read from files of their own, by name: a copy of one inside the weights is state.

    Raises:
        UnsafeFile: an index names a file outside the directory.
    """
    beside = beside or {}
    notes: list[str] = []
    sets = _weight_sets(tree, directory, notes)
    if not sets:
        return Part(notes=tuple(notes))
    first, *others = sets
    part = _read_set(tree, directory, first, beside, notes)
    tensors = list(part.tensors)
    for other in others:
        notes.append(f"{_spelled(first)} and {_spelled(other)} both hold weights: the first is read as the model")
        for name in other.files:
            cut = tree.cut(join(directory, name))
            if isinstance(cut, Cut):
                tensors += state_tensors(cut, join(directory, name), stem_of(join(directory, name)))
    if beside and part.tensors:
        size = human(sum(tree.size(join(directory, name)) for name in first.files))
        notes.append(f"full weights ({_spelled(first)}, {size}) stand beside adapters ({listed(beside)})")
    return Part(tuple(tensors), part.adapters, tuple(notes))


def _set_of(name: str) -> tuple[str, str, int] | None:
    """The set a weight file belongs to by its name: label, suffix and how many files it has (0: not said)."""
    if match := _SHARD.fullmatch(name):
        stem = match["stem"]
        if not _STEM.fullmatch(stem) or stem.startswith(("adapter", "optimizer")):
            return None
        stem = re.sub(r"^shard-\d+-", "shard-", stem)
        return f"{stem}-of-{match['of']}", match["suffix"], 0 if stem.startswith("shard-") else int(match["of"])
    if match := _SINGLE.fullmatch(name):
        return match["stem"], match["suffix"], 1
    return None


def _weight_sets(tree: Tree, directory: str, notes: list[str]) -> list[WeightSet]:
    names = [name for at, name in map(split, tree.paths()) if at == directory]
    groups: dict[tuple[str, str], list[str]] = {}
    wanted: dict[tuple[str, str], int] = {}
    for name in names:
        if (found := _set_of(name)) is not None:
            groups.setdefault(found[:2], []).append(name)
            wanted[found[:2]] = found[2]
    sets = []
    for name in names:
        if match := _INDEX.fullmatch(name):
            weight_map = read_index(tree, join(directory, name), notes)
            said = sorted(set(weight_map.values()))
            here = [file for file in said if file in names]
            for key in [key for key, files in groups.items() if set(files) & set(said)]:
                here = sorted({*here, *groups.pop(key)})
            missing = tuple(file for file in said if file not in names)
            if missing:
                notes.append(
                    f"{join(directory, name)}: {len(missing)} of {len(said)} files not there: {listed(missing)}"
                )
            if here:
                sets.append(WeightSet(match["stem"], match["suffix"], tuple(here), missing, name))
    for key, files in groups.items():
        if wanted[key] > len(files):
            notes.append(f"only {len(files)} of {wanted[key]} weight files are there: {listed(files)}")
        missing = ("?",) * (wanted[key] - len(files))
        sets.append(WeightSet(key[0], key[1], tuple(sorted(files)), missing))
    return sorted(sets, key=lambda each: (_SUFFIX_ORDER.index(each.suffix), each.label.count("."), each.label))


def read_index(tree: Tree, path: str, notes: list[str]) -> dict[str, str]:
    """The weight map of an index: tensor name to base name of a file.

    Raises:
        UnsafeFile: a value is no single base name.
    """
    document = tree.json(path)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict):
        notes.append(f"{path} holds no weight_map: the weight files are told by their names")
        return {}
    for key, value in weight_map.items():
        if not _is_base_name(value):
            raise UnsafeFile(f"{path}: weight_map[{key!r}]: {value!r} is not the name of a file in its directory")
    return weight_map


def _is_base_name(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value not in {".", ".."}
        and not re.search(r"[/\\:\x00-\x1f\x7f]", value)
    )


def _read_set(
    tree: Tree, directory: str, files: WeightSet, beside: Mapping[str, ReadAdapter], notes: list[str]
) -> Part:
    weight_map = read_index(tree, join(directory, files.index), []) if files.index else {}
    paths = [join(directory, name) for name in files.files]
    cuts = {path: cut for path in paths if isinstance(cut := tree.cut(path), Cut)}
    partial = partial_files(cuts)
    if partial:
        notes.append(
            f"{len(partial)} files hold pieces of tensors ({DCP_KEY}), kept as pieces and not as a model: "
            + listed(sorted(partial))
        )
    pieces = [piece for path in sorted(partial) for piece in read_pieces(path, cuts[path])]
    entries = [entry for path, cut in cuts.items() if path not in partial for entry in state_dict_of(path, cut)]
    # Where two files hold one tensor, the one that the index names comes first, and the first counts.
    entries.sort(
        key=lambda entry: (weight_map.get(entry.key, split(entry.path)[1]) != split(entry.path)[1], entry.path)
    )
    keys = {entry.key for entry in entries}
    _check_against_index(files, weight_map, keys, complete=len(cuts) == len(paths), notes=notes)
    inside = read_state_dict(entries, beside=beside)
    notes += inside.notes
    return Part((*inside.tensors, *pieces), inside.adapters)


def _check_against_index(
    files: WeightSet, weight_map: Mapping[str, str], keys: set[str], *, complete: bool, notes: list[str]
) -> None:
    if not weight_map:
        return
    if complete and (lacking := sorted(key for key in set(weight_map) - keys if weight_map[key] in files.files)):
        notes.append(f"{files.index} names {len(lacking)} tensors that its files do not hold: {listed(lacking)}")
    if extra := sorted(keys - set(weight_map)):
        notes.append(f"{len(extra)} tensors are not named in {files.index}: {listed(extra)}")


def _spelled(files: WeightSet) -> str:
    return files.files[0] if len(files.files) == 1 else f"{files.files[0]} … {files.files[-1]}"
