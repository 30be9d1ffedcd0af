"""How a comparison is told on every front end: its numbers in words, short names, and which tensors are told of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import structs

from ckptfmt.diff.cells import place_of

if TYPE_CHECKING:
    from ckptfmt.api.results_diff import Cell, ChangedTensor, DiffReport, ReshapedTensor, TensorChanges, TensorRow

WEIGHTS: Final = frozenset({"model", "adapter"})
"""Roles of tensors that a model is made of; the others belong to its training."""
_FACTOR: Final = ".lora_"


def number(found: float | None) -> str:
    """`0.012`, `1.2e-5`; empty where there is none. A change from zero has words of its own, see `change_words`."""
    if found is None:
        return ""
    text = f"{found:.2g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def share(found: float | None) -> str:
    """`12%`, `0.03%`, `<0.01%`."""
    if found is None:
        return ""
    percent = 100 * found
    if percent == 0 or percent >= 99.95:
        return f"{percent:.0f}%"
    if percent < 0.01:
        return "<0.01%"
    return f"{percent:.2f}%" if percent < 1 else f"{percent:.1f}%" if percent < 10 else f"{percent:.0f}%"


def change_words(relative: float | None, norm: float | None) -> str:
    """The relative norm; `from 0` where A is all zero."""
    return "from 0" if relative is None and norm is not None else number(relative)


def rank_words(found: float | None, *, estimated: bool) -> str:
    """`2.35`, `~1.2` where it is an estimate."""
    if found is None:
        return ""
    return f"{'~' if estimated else ''}{f'{found:.3g}' if found < 1000 else f'{found:.0f}'}"


def without_factors(report: DiffReport) -> TensorChanges:
    """The tensors that differ, without the factors of adapters that are compared as updates."""
    shown = {each.name for each in report.adapters.compared if each.how == "updates"}
    shown |= {each.name_b for each in report.adapters.compared if each.how == "updates"}

    def kept(row: TensorRow | ReshapedTensor | ChangedTensor) -> bool:
        return row.role != "adapter" or row.part not in shown or _FACTOR not in row.name

    found = report.tensors
    return structs.replace(
        found,
        added=tuple(filter(kept, found.added)),
        removed=tuple(filter(kept, found.removed)),
        reshaped=tuple(filter(kept, found.reshaped)),
        changed=tuple(filter(kept, found.changed)),
    )


def in_role(role: str, part: str | None, name: str) -> str:
    """A tensor's name; those of neither model nor adapter say whose they are."""
    return name if role in WEIGHTS else f"{role}: {part + ': ' if part else ''}{name}"


def short_modules(modules: Sequence[str]) -> list[str]:
    """The last parts of modules' names: as many as tell them apart."""
    found = []
    for module in modules:
        parts = module.split(".")
        for size_ in range(1, len(parts) + 1):
            tail = ".".join(parts[-size_:])
            if sum(other == tail or other.endswith(f".{tail}") for other in modules) == 1:
                break
        found.append(tail)
    return found


def is_in(cell: Cell, name: str) -> bool:
    """Whether a tensor, or an updated module, of this name is one that a cell of the summary stands for."""
    place = place_of(name)
    if place.module != cell.module:
        return False
    if place.stack is None or cell.layer is None:
        return place.stack is None and cell.layer is None
    return cell.layer in {str(place.index), f"{place.stack}.{place.index}"}
