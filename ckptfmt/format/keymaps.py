"""Named key maps: the ways in which saving a model again renames its tensors without changing one of them.

Two models are the same where every tensor of one has its like, by dtype, shape and digest, under its mapped name in
the other. Which maps were needed is part of the answer, so that nobody takes a guess for an identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ckptfmt.format.manifest import BaseRecord, Manifest, tensor_digest

Leaf = tuple[str, tuple[int, ...], str]
"""A tensor's dtype, shape and digest."""

_HEAD: Final = re.compile(r"(lm_head|score|classifier|cls|embed_out)\..+")
_MASKS: Final = re.compile(r"(.*\.)?(attn\.(bias|masked_bias)|rotary_emb\.inv_freq|position_ids)")
"""Buffers that older versions of transformers saved and newer ones compute."""


def _with_prefix(prefix: str) -> Callable[[str], str]:
    return lambda name: name if _HEAD.fullmatch(name) or name.startswith(prefix) else prefix + name


_NAME_MAPS: Final[dict[str, Callable[[str], str]]] = {
    "same": lambda name: name,
    "gpt2-prefix": _with_prefix("transformer."),
    "model-prefix": _with_prefix("model."),
    "gpt-neox-prefix": _with_prefix("gpt_neox."),
}
"""Ways to write the names of both sides alike: a bare model's have no prefix, one with a head has."""


@dataclass(frozen=True, slots=True)
class Sameness:
    """Two models compared.

    Attributes:
        maps: the key maps under which they agree, none for names that are equal as they stand.
        differing: tensors that differ or stand in one of them only, by the first one's names; empty: the same model.
    """

    maps: tuple[str, ...]
    differing: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every tensor has its like."""
        return not self.differing


@dataclass(frozen=True, slots=True)
class Naming:
    """How the names of two models are written alike: the key map, and under it the names of each."""

    map: str
    of_first: Mapping[str, str]
    of_second: Mapping[str, str]


def common_naming(first: Iterable[str], second: Iterable[str]) -> Naming:
    """The key map under which most names of two models agree; "same" where none is better than their own names."""
    mine, theirs = tuple(first), tuple(second)

    def agreeing(name: str) -> int:
        return len({_NAME_MAPS[name](key) for key in mine} & {_NAME_MAPS[name](key) for key in theirs})

    best = max(_NAME_MAPS, key=agreeing)
    rename = _NAME_MAPS[best]
    return Naming(best, {key: rename(key) for key in mine}, {key: rename(key) for key in theirs})


def leaves_of(document: Manifest | BaseRecord) -> dict[str, Leaf]:
    """The model tensors of a document."""
    return {
        tensor.name: (tensor.dtype, tensor.shape, tensor_digest(document, tensor))
        for tensor in document.tensors
        if tensor.role == "model"
    }


def compare_models(first: Mapping[str, Leaf], second: Mapping[str, Leaf]) -> Sameness:
    """Compare two models under each key map, and give the comparison in which they differ least."""
    results = [_compare(first, second, name) for name in _NAME_MAPS]
    return min(results, key=lambda result: (len(result.differing), len(result.maps)))


def _compare(first: Mapping[str, Leaf], second: Mapping[str, Leaf], name: str) -> Sameness:
    rename = _NAME_MAPS[name]
    mine = {rename(key): key for key in first}
    theirs = {rename(key): key for key in second}
    maps = [] if name == "same" else [name]
    differing = []
    for key in sorted(mine.keys() | theirs.keys()):
        here, there = mine.get(key), theirs.get(key)
        if here is not None and there is not None:
            if first[here] != second[there]:
                differing.append(here)
            continue
        lonely, whole = (first[here], first) if here is not None else (second[there or ""], second)
        if _MASKS.fullmatch(key):
            maps.append("computed-buffers")
        elif sum(leaf == lonely for leaf in whole.values()) > 1 and lonely in (second if here else first).values():
            maps.append("tied")
        else:
            differing.append(here or there or key)
    return Sameness(tuple(dict.fromkeys(maps)), tuple(differing))
