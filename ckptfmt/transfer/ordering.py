"""The order in which the checkpoints of one plan are taken in: what others may be stored against comes first.

Adapters before the full weights that they may have been merged into, models that others were made from before both.
It is told from names and small documents alone, and a wrong guess costs room, never content.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.layouts.peft import CONFIG, claims_adapter
from ckptfmt.layouts.values import text_or_none
from ckptfmt.layouts.weights import has_weights
from ckptfmt.transfer.planning import Planned
from ckptfmt.transfer.walk import WalkedTree

_BASE_NAMES: Final = re.compile(r"(?:.*[-_.])?(?:base|pretrained|pre-trained|original|foundation)(?:[-_.].*)?", re.I)
_MADE_NAMES: Final = re.compile(r"merged|stage|run[-_]?\d|epoch|step|tuned|sft|dpo|final|best|export|copy|backup", re.I)
_ADAPTER_NAMES: Final = re.compile(r"(?:.*[^a-z])?(?:lora|adapters?)(?:[^a-z].*)?", re.IGNORECASE)
_ONE_FILE: Final = re.compile(r".+\.(?:pt|pth|ckpt)")
_BASE, _ADAPTER, _BOTH, _WEIGHTS = range(4)


def _hints_of(planned: Planned) -> Iterator[str]:
    """What adapters call their bases: paths, or repositories of the Hub."""
    tree = WalkedTree(planned.walked, os.path.basename(planned.source))
    for path in tree.paths():
        if os.path.basename(path) == CONFIG:
            try:
                config = tree.json(path)
            except CkptfmtError:  # It vanished, or cannot be read: the import says so.
                continue
            hint = text_or_none(config.get("base_model_name_or_path")) if isinstance(config, dict) else None
            if hint is not None and hint.strip("./"):
                yield hint


def work_order(planned: Sequence[Planned]) -> list[Planned]:
    """Checkpoints in the order in which they are taken in: parents before children, else by kind, else as planned."""
    if len(planned) < 2:
        return list(planned)
    hints = frozenset(hint for each in planned for hint in _hints_of(each))
    by_ref = {each.ref: each for each in planned}
    done: dict[str, Planned] = {}
    for each in sorted(planned, key=lambda each: _kind(each, hints)):
        chain: list[Planned] = []
        following: Planned | None = each
        while following is not None and following.ref not in done:
            chain.append(following)
            following = by_ref.get(following.parent) if following.parent is not None else None
        done.update((link.ref, link) for link in reversed(chain))
    return list(done.values())


def _kind(planned: Planned, hints: frozenset[str]) -> int:
    names = {os.path.basename(entry.path) for entry in planned.walked.of_kind("file")}
    full, adapter = has_weights(names), claims_adapter(names)
    if adapter:
        return _BOTH if full else _ADAPTER
    if not full and any(_ONE_FILE.fullmatch(name) and _ADAPTER_NAMES.fullmatch(name) for name in names):
        return _ADAPTER
    return _BASE if _is_base(planned, hints) else _WEIGHTS


def _is_base(planned: Planned, hints: frozenset[str]) -> bool:
    """Whether others were probably made from it: by what adapters name as their base, or by its own name.

    What is called as something made is none: a later adapter may have been trained on it, but an earlier one was
    merged into it.
    """
    parts = planned.source.split("/")
    if planned.stage is not None or _MADE_NAMES.search(parts[-1]):
        return False
    return bool(_BASE_NAMES.fullmatch(parts[-1])) or any(_names(hint, parts) for hint in hints)


def _names(hint: str, parts: Sequence[str]) -> bool:
    """Whether what an adapter calls its base may be the directory with these parts of its path."""
    last = hint.rstrip("/").rpartition("/")[2]
    return last == parts[-1] or f"models--{hint.replace('/', '--')}" in parts


def nearest(ref: str, others: Sequence[str], most: int) -> list[str]:
    """The names of which most parts are those of `ref`, most first; of equal ones, the later one first."""
    mine = _parts(ref)
    return heapq.nlargest(most, reversed(others), key=lambda other: len(mine & _parts(other)))


@lru_cache(maxsize=1 << 16)
def _parts(ref: str) -> frozenset[str]:
    """Words and numbers of a name: `run`, `0` and `hf` of `run_000/hf`."""
    return frozenset(word.lstrip("0") or "0" for word in re.findall(r"\d+|[a-z]+", ref.lower()))
