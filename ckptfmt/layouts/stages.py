"""Outputs of one stage of a bootstrapping chain: adapters, logs and results.

`lora_adapters/`, `training_logs/metrics.json` and `test_results/evaluation.json` lie in one directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptfmt.layouts.compose import Facts, compose
from ckptfmt.layouts.listing import listing_of, split, stage_of, stem_of
from ckptfmt.layouts.peft import claims_adapter, named, read_adapters
from ckptfmt.layouts.protocol import Listing, Reading, Tree
from ckptfmt.layouts.values import flatten
from ckptfmt.layouts.weights import has_weights, read_weights

LOGS: Final = "training_logs"
RESULTS: Final = "test_results"
ADAPTERS: Final = "lora_adapters"


@dataclass(frozen=True, slots=True)
class StageLayout:
    """One stage's directory."""

    name: str = "stage"

    def claims(self, listing: Listing) -> bool:
        """The stage's subdirectories: adapters with logs or results, or adapters in a directory named as a stage."""
        adapters = listing.directories.get(ADAPTERS)
        reports = not {LOGS, RESULTS}.isdisjoint(listing.directories)
        if adapters is None or not _holds_adapter(adapters):
            return reports and stage_of(listing.name) is not None and _has_tensors(listing)
        return reports or stage_of(listing.name) is not None

    def read(self, tree: Tree) -> Reading | None:
        """Read adapters, a merged model where one is kept, and every figure of logs and results."""
        if not self.claims(listing_of(tree.paths(), tree.name)):
            return None
        notes: list[str] = []
        held = any(path.startswith(ADAPTERS + "/") for path in tree.paths())
        adapters = read_adapters(tree, ADAPTERS if held else "")
        weights = read_weights(tree, _weights_at(tree), named(adapters))
        facts = Facts(metrics=read_metrics(tree, notes), notes=tuple(notes))
        return compose(tree, self.name, (adapters, weights), facts)


def read_metrics(tree: Tree, notes: list[str]) -> dict[str, float | int]:
    """Figures of `training_logs/*.json` and `test_results/*.json` by dotted name.

    A name that two files use is told apart by the file's: `evaluation.loss`.
    """
    found: dict[str, float | int] = {}
    for path in tree.paths():
        directory, name = split(path)
        if directory not in {LOGS, RESULTS} or not name.endswith(".json"):
            continue
        document = tree.json(path)
        if document is None:
            notes.append(f"{path} is not JSON: its figures are not read")
        for key, value in flatten(document).items():
            found[key if key not in found else f"{stem_of(name)}.{key}"] = value
    return found


def _holds_adapter(listing: Listing) -> bool:
    return claims_adapter(listing.files) or any(map(_holds_adapter, listing.directories.values()))


def _has_tensors(listing: Listing) -> bool:
    here = has_weights(listing.files) or claims_adapter(listing.files)
    return here or any(map(_has_tensors, listing.directories.values()))


def _weights_at(tree: Tree) -> str:
    """The one directory with full weights: the stage's own, or that of its merged model."""
    at = sorted({directory for directory, name in map(split, tree.paths()) if has_weights([name])})
    return at[0] if at else ""


STAGE: Final = StageLayout()
