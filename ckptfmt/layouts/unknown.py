"""What no layout knows: every tensor is listed and kept, as state; a lone state dict is taken for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.layouts.compose import Facts, compose
from ckptfmt.layouts.pickled import is_state_dict
from ckptfmt.layouts.pieces import DCP_KEY
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.statedict import read_state_dict, state_dict_of


@dataclass(frozen=True, slots=True)
class UnknownLayout:
    """Anything."""

    name: str = "unknown"

    def claims(self, listing: Listing) -> bool:
        """Everything, last."""
        del listing
        return True

    def read(self, tree: Tree) -> Reading:
        """List every tensor."""
        cuts = [(path, cut) for path in tree.paths() if isinstance(cut := tree.cut(path), Cut) and cut.tensors]
        parts = [read_state_dict(state_dict_of(*cuts[0]))] if len(cuts) == 1 and _is_plain(cuts[0][1]) else []
        notes = ("no known layout: every file is kept to the byte",)
        return compose(tree, self.name, parts, Facts(notes=notes))


def _is_plain(cut: Cut) -> bool:
    """A safetensors file, or a pickle that is a state dict and nothing else."""
    if cut.container == "safetensors":
        return DCP_KEY not in cut.metadata
    return is_state_dict(cut.tree)


UNKNOWN: Final = UnknownLayout()
