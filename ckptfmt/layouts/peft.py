"""PEFT adapters: `adapter_config.json` beside `adapter_model.safetensors` or `.bin`, others in subdirectories.

Source: peft's `PeftModel.save_pretrained`: the adapter called `default` lies at the top, each other one in a
subdirectory of its name. TRL adds a frozen `ref/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.format.manifest import Role
from ckptfmt.layouts.compose import Facts, Part, compose, json_object
from ckptfmt.layouts.listing import is_hidden, join, listing_of, split
from ckptfmt.layouts.names import DEFAULT, method_of, name_adapter_key
from ckptfmt.layouts.protocol import Listing, ReadAdapter, Reading, ReadTensor, Tree
from ckptfmt.layouts.statedict import key_of
from ckptfmt.layouts.values import plain_object, text_or_none
from ckptfmt.layouts.weights import read_weights

CONFIG: Final = "adapter_config.json"
ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""Files of an adapter's tensors, the one that is read first; torchtune writes the last beside the first."""

_SETS: Final = frozenset(
    {"target_modules", "exclude_modules", "modules_to_save", "feedforward_modules", "target_parameters"}
    | {"layers_to_transform", "layers_pattern", "trainable_token_indices"}
)
"""Fields of PEFT's configurations whose order means nothing; PEFT keeps them as sets and writes any order."""


def claims_adapter(files: Iterable[str]) -> bool:
    """Tell, from base names, whether a directory holds an adapter."""
    names = set(files)
    return CONFIG in names or not names.isdisjoint(ADAPTER_FILES)


@dataclass(frozen=True, slots=True)
class PeftLayout:
    """A directory whose top is an adapter."""

    name: str = "peft"

    def claims(self, listing: Listing) -> bool:
        """An adapter's configuration or tensors at the top."""
        return claims_adapter(listing.files)

    def read(self, tree: Tree) -> Reading | None:
        """Read every adapter in the directory, and full weights where somebody left them beside."""
        if not self.claims(listing_of(tree.paths())):
            return None
        adapters = read_adapters(tree, "")
        weights = read_weights(tree, "", named(adapters))
        return compose(tree, self.name, (adapters, weights), Facts())


def read_adapters(tree: Tree, top: str) -> Part:
    """Every adapter at or below the directory `top`, in the order of their paths.

    The one at `top` is called `default`; others by their directory's name, or by their path where two share it.
    """
    below = {
        at
        for at, name in map(split, tree.paths())
        if (at == top or not top or at.startswith(top + "/"))
        and (name == CONFIG or name in ADAPTER_FILES)
        and not any(map(is_hidden, at.split("/")))
    }
    names = _adapter_names(sorted(below), top)
    parts = [_read_adapter(tree, directory, name) for directory, name in names.items()]
    return Part(
        tuple(tensor for part in parts for tensor in part.tensors),
        tuple(adapter for part in parts for adapter in part.adapters),
        tuple(note for part in parts for note in part.notes),
    )


def named(part: Part) -> dict[str, ReadAdapter]:
    """The adapters of `part` by name."""
    return {adapter.name: adapter for adapter in part.adapters}


def canonical_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it compares: keys sorted, sets as sorted lists without doubles, plain JSON."""
    found = plain_object(config, whole=True)
    for key in _SETS & found.keys():
        value = found[key]
        if isinstance(value, list):
            found[key] = sorted({repr(item): item for item in value}.values(), key=_any_order)
    return _sorted_keys(found)  # type: ignore[no-any-return]


def _any_order(item: Any) -> tuple[float, str]:
    return (item, "") if isinstance(item, int | float) else (0, str(item))


def _sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted_keys(value[key]) for key in sorted(value)}
    return [_sorted_keys(item) for item in value] if isinstance(value, list) else value


def _adapter_names(directories: list[str], top: str) -> dict[str, str]:
    bases = [split(directory)[1] for directory in directories]
    found: dict[str, str] = {}
    for directory, base in zip(directories, bases, strict=True):
        relative = directory[len(top) :].lstrip("/")
        name = DEFAULT if not relative else base if bases.count(base) == 1 and base != DEFAULT else relative
        found[directory] = name if name not in found.values() else relative or directory
    return found


def _read_adapter(tree: Tree, directory: str, name: str) -> Part:
    notes: list[str] = []
    config = json_object(tree, join(directory, CONFIG), notes)
    present = [file for file in ADAPTER_FILES if join(directory, file) in tree.paths()]
    place = directory or "the top directory"
    if not present:
        notes.append(f"adapter {name!r} in {place} has a configuration and no tensors")
    if join(directory, CONFIG) not in tree.paths():
        notes.append(f"adapter {name!r} in {place} has tensors and no {CONFIG}: its scaling and base are not known")
    tensors: list[ReadTensor] = []
    keys: list[str] = []
    for rank, file in enumerate(present):
        path = join(directory, file)
        cut = tree.cut(path)
        if not isinstance(cut, Cut):
            continue
        part = name if rank == 0 else f"{name}:{file}"
        if rank:
            notes.append(f"{present[0]} and {file} in {place} hold the same adapter: the second is kept as state")
        for index, tensor in enumerate(cut.tensors):
            key = key_of(tensor.path)
            keys += [key] if rank == 0 else []
            role: Role = "adapter" if rank == 0 else "state"
            tensors.append(ReadTensor(path, index, name_adapter_key(key), role, part))
    method = text_or_none(config.get("peft_type")) or method_of(keys) or "unknown"
    adapter = ReadAdapter(
        name=name,
        path=directory,
        method=method,
        config=canonical_config(config),
        base_hint=text_or_none(config.get("base_model_name_or_path")),
        revision_hint=text_or_none(config.get("revision")),
    )
    return Part(tuple(tensors), (adapter,), tuple(notes))


PEFT: Final = PeftLayout()
