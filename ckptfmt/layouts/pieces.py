"""Files of torch's DCP HuggingFace writer: partial tensors under full names, their offsets in the metadata.

Source: torch 2.13, `distributed/checkpoint/hf_storage.py` and `_hf_utils.py`. Whoever takes such a file for a
model's shard gets a corrupt model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.layouts.listing import split, stem_of
from ckptfmt.layouts.protocol import ReadTensor
from ckptfmt.layouts.values import clean

DCP_KEY: Final = "DCP_SHARDING_INFO"


def partial_files(cuts: Mapping[str, Cut]) -> set[str]:
    """Paths of the files whose tensors may be pieces.

    A rank's file is called `shard-*`. Under another name (a rank 0 that wrote everything) a file is whole, unless
    an offset is not 0 or another file has the same key.
    """
    marked = {path: cut for path, cut in cuts.items() if DCP_KEY in cut.metadata}
    times = Counter(tensor.key for cut in marked.values() for tensor in cut.tensors)
    return {
        path
        for path, cut in marked.items()
        if split(path)[1].startswith("shard-")
        or any(any(offsets) for offsets in _offsets(cut).values())
        or any(times[tensor.key] > 1 for tensor in cut.tensors)
    }


def read_pieces(path: str, cut: Cut) -> list[ReadTensor]:
    """Each piece as state, under its tensor's name and its place in it: `norm.weight[16:32]`."""
    offsets = _offsets(cut)
    pieces = []
    for index, tensor in enumerate(cut.tensors):
        begin = offsets.get(tensor.key)
        if begin is None or len(begin) != len(tensor.shape):
            place = "[?]"
        else:
            place = "[" + ",".join(f"{at}:{at + size}" for at, size in zip(begin, tensor.shape, strict=True)) + "]"
        pieces.append(ReadTensor(path, index, clean(tensor.key) + place, "state", f"dcp:{stem_of(path)}"))
    return pieces


def _offsets(cut: Cut) -> dict[str, tuple[int, ...]]:
    try:
        document = json.loads(cut.metadata.get(DCP_KEY, ""))
    except (ValueError, RecursionError):
        return {}
    found = {}
    for key, entry in document.items() if isinstance(document, dict) else ():
        offsets = entry.get("saved_offsets") if isinstance(entry, dict) else None
        if isinstance(offsets, list) and all(type(offset) is int and offset >= 0 for offset in offsets):
            found[key] = tuple(offsets)
    return found
