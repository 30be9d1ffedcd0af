"""How two checkpoints are related: by their chains of parents, and by their bases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import Manifest

_LONGEST: Final = 1000
_SHOWN: Final = 12


def chain_of(digest: str, manifest: Manifest, load: Callable[[str], Manifest]) -> list[str]:
    """A checkpoint's id and those of its ancestors, the nearest first, as far as they can be read."""
    chain = [digest]
    while manifest.lineage is not None and manifest.lineage.parent is not None and len(chain) < _LONGEST:
        chain.append(manifest.lineage.parent)
        try:
            manifest = load(chain[-1])
        except CkptfmtError:  # Freed or lost: what is known of the chain ends here.
            break
    return chain


def relation(a: list[str], b: list[str]) -> str | None:
    """How two chains meet, in a sentence; None where they do not."""
    if a[0] == b[0]:
        return "A and B are one checkpoint"
    if a[0] in b:
        return f"B was trained from A{_stages(b.index(a[0]))}"
    if b[0] in a:
        return f"A was trained from B{_stages(a.index(b[0]))}"
    common = next((digest for digest in a if digest in b), None)
    return None if common is None else f"A and B were both trained from {common[:_SHOWN]}"


def _stages(count: int) -> str:
    return "" if count == 1 else f", {count} stages before"
