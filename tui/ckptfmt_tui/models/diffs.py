"""A comparison as rows: tensors and updates, files, settings and metrics; sorted and filtered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ckptfmt.api.diff_words import (
    change_words,
    in_role,
    is_in,
    number,
    rank_words,
    share,
    short_modules,
    without_factors,
)
from ckptfmt.api.results_diff import Cell, ChangedTensor, DiffReport, DiffSummary, ModuleUpdate, ValueChanges
from ckptfmt.wording import shape_words, size, value
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.filters import fits, words_of
from ckptfmt_tui.models.heat import Grid, Heat

Kind = Literal["added", "removed", "changed", "same"]
KINDS: Final[tuple[Kind, ...]] = ("added", "removed", "changed", "same")
MARKS: Final[dict[Kind, str]] = {"added": "+", "removed": "-", "changed": "~", "same": "="}
_UPDATE: Final = "update of "

TENSOR_COLUMNS: Final = (
    Column("name", "TENSOR", 36, 0, grows=True),
    Column("change", "CHANGE", 7, 0, "right"),
    Column("bar", "", 12, 8),
    Column("cosine", "COSINE", 7, 1, "right"),
    Column("largest", "LARGEST", 7, 4, "right"),
    Column("elements", "ELEMENTS", 8, 3, "right"),
    Column("bits", "BITS", 6, 5, "right"),
    Column("rank", "RANK", 6, 2, "right"),
    Column("shape", "SHAPE", 11, 6, "right"),
    Column("type", "TYPE", 10, 7),
)
FILE_COLUMNS: Final = (
    Column("name", "FILE", 30, 0, grows=True),
    Column("a", "A", 10, 1, "right"),
    Column("b", "B", 10, 1, "right"),
)
VALUE_COLUMNS: Final = (
    Column("name", "KEY", 26, 0, grows=True),
    Column("a", "A", 22, 0, grows=True),
    Column("b", "B", 22, 0, grows=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    Attributes:
        kind: how A and B differ in it.
        name: of the tensor, module, file or value.
        told: its name as it is shown.
        cells: what stands under the other columns, by their keys.
        ranks: what the columns are sorted by, the largest first; None goes last.
        of: what cells of the heat map it may belong to.
        lines: more of it, for the line below the table.
    """

    kind: Kind
    name: str
    told: str
    cells: dict[str, str]
    ranks: dict[str, float | None]
    of: Literal["model", "adapter"] | None = None
    lines: tuple[str, ...] = ()


def tensor_rows(report: DiffReport) -> tuple[Row, ...]:
    """Tensors, and what adapters add to modules; the factors of these adapters are left out."""
    found = without_factors(report)
    rows = [_changed(each) for each in found.changed]
    for adapter in report.adapters.compared:
        rows += [_update(each) for each in adapter.modules]
    for each in found.reshaped:
        shapes = f"{shape_words(each.shape_a)}→{shape_words(each.shape_b)}"
        told = in_role(each.role, each.part, each.name)
        cells = {"change": "shape", "shape": shapes, "type": _types(each.dtype_a, each.dtype_b)}
        rows.append(Row("changed", each.name, told, cells, {}, _of(each.role), (f"reshaped {shapes}",)))
    only: tuple[tuple[Kind, Any], ...] = (("added", found.added), ("removed", found.removed))
    for kind, tensors in only:
        for each in tensors:
            cells = {"shape": shape_words(each.shape), "type": each.dtype}
            told = in_role(each.role, each.part, each.name)
            more = f"{kind}: {shape_words(each.shape)} {each.dtype}, {size(each.bytes)}"
            ranks: dict[str, float | None] = {"shape": float(math.prod(each.shape))}
            rows.append(Row(kind, each.name, told, cells, ranks, _of(each.role), (more,)))
    rows += [Row("same", name, name, {"change": "same"}, {}, "model") for name in found.same_names]
    return tuple(rows)


def _changed(each: ChangedTensor) -> Row:
    strange = f", {each.not_finite:,} not finite" if each.not_finite else ""
    cells = {
        "change": change_words(each.relative_norm, each.norm),
        "cosine": "" if each.cosine is None else f"{each.cosine:.4f}",
        "largest": number(each.largest_change),
        "elements": share(each.changed_elements),
        "bits": share(each.changed_bits),
        "rank": rank_words(each.effective_rank, estimated=each.rank_estimated),
        "shape": shape_words(each.shape),
        "type": _types(each.dtype_a, each.dtype_b),
    }
    ranks = {
        "change": _relative(each.relative_norm, each.norm),
        "cosine": None if each.cosine is None else -each.cosine,
        "largest": each.largest_change,
        "elements": each.changed_elements,
        "bits": each.changed_bits,
        "rank": each.effective_rank,
        "shape": float(each.elements),
    }
    lines = (
        f"{shape_words(each.shape)} {_types(each.dtype_a, each.dtype_b)}, {each.elements:,} elements{strange}",
        f"‖A‖ {number(each.norm_a)}  ‖B‖ {number(each.norm_b)}  ‖B − A‖ {number(each.norm)}  "
        f"largest {cells['largest']}  elements {cells['elements']}  bits {cells['bits']}  rank {cells['rank'] or '?'}",
    )
    told = in_role(each.role, each.part, each.name)
    return Row("changed", each.name, told, cells, ranks, _of(each.role), lines)


def _update(each: ModuleUpdate) -> Row:
    factors = _pair(*("-" if rank is None else str(rank) for rank in (each.rank_a, each.rank_b)))
    cells = {
        "change": change_words(each.relative_norm, each.norm),
        "cosine": "" if each.cosine is None else f"{each.cosine:.4f}",
        "rank": rank_words(each.effective_rank, estimated=False),
        "shape": f"r {factors}",
        "type": "update",
    }
    ranks = {
        "change": _relative(each.relative_norm, each.norm),
        "cosine": None if each.cosine is None else -each.cosine,
        "rank": each.effective_rank,
    }
    effective = (rank_words(rank, estimated=False) or "-" for rank in (each.effective_rank_a, each.effective_rank_b))
    scaling = ("-" if found is None else number(found) for found in (each.scaling_a, each.scaling_b))
    lines = (
        f"what the adapters add: factors of rank {factors}, scaling {_pair(*scaling)}",
        f"‖A‖ {number(each.norm_a) or '0'}  ‖B‖ {number(each.norm_b) or '0'}  ‖B − A‖ {number(each.norm) or '?'}  "
        f"effective rank {_pair(*effective)}, of the difference {cells['rank'] or '?'}",
    )
    kind: Kind = "added" if each.rank_a is None else "removed" if each.rank_b is None else "changed"
    return Row(kind, each.module, f"{_UPDATE}{each.module}", cells, ranks, "adapter", lines)


def _of(role: str) -> Literal["model"] | None:
    return "model" if role == "model" else None


def _relative(relative: float | None, norm: float | None) -> float | None:
    return math.inf if relative is None and norm is not None else relative


def _types(a: str, b: str) -> str:
    return a if a == b else f"{a}→{b}"


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a} → {b}"


def file_rows(report: DiffReport) -> tuple[Row, ...]:
    """Files that differ, and those that are the same."""
    files = report.files
    rows = [
        *(_file("changed", each.path, each.bytes_a, each.bytes_b) for each in files.changed),
        *(_file("added", each.path, None, each.bytes) for each in files.added),
        *(_file("removed", each.path, each.bytes, None) for each in files.removed),
        *(Row("same", name, name, {"a": "same", "b": "same"}, {}) for name in files.same_names),
    ]
    return tuple(sorted(rows, key=lambda row: (row.kind == "same", row.name)))


def _file(kind: Kind, path: str, a: int | None, b: int | None) -> Row:
    cells = {"a": "" if a is None else size(a), "b": "" if b is None else size(b)}
    ranks = {"a": None if a is None else float(a), "b": None if b is None else float(b)}
    return Row(kind, path, path, cells, ranks)


def value_rows(found: ValueChanges) -> tuple[Row, ...]:
    """Settings or metrics, by their keys; those that differ first."""
    rows = [
        *(_value("changed", each.key, value(each.a), value(each.b)) for each in found.changed),
        *(_value("added", each.key, "", value(each.value)) for each in found.added),
        *(_value("removed", each.key, value(each.value), "") for each in found.removed),
        *(_value("same", each.key, value(each.value), value(each.value)) for each in found.same_values),
    ]
    return tuple(sorted(rows, key=lambda row: (row.kind == "same", row.name)))


def _value(kind: Kind, key: str, a: str, b: str) -> Row:
    lines = (f"A  {a}", f"B  {b}") if kind != "same" else (f"A and B  {a}",)
    return Row(kind, key, key, {"a": a, "b": b}, {}, None, lines)


def largest(rows: Iterable[Row]) -> float:
    """The largest change that has a norm."""
    found = (row.ranks.get("change") or 0.0 for row in rows)
    return max((change for change in found if math.isfinite(change)), default=0.0)


def counts(rows: Iterable[Row]) -> dict[Kind, int]:
    """How many rows are of each kind."""
    found = dict.fromkeys(KINDS, 0)
    for row in rows:
        found[row.kind] += 1
    return found


def chosen(
    rows: Sequence[Row], *, kinds: frozenset[Kind], words: str = "", cell: Cell | None = None, order: str = ""
) -> tuple[Row, ...]:
    """The rows that are shown.

    Args:
        rows: all of them.
        kinds: those that are wanted.
        words: every one of them stands in the name.
        cell: of the heat map: only what it stands for.
        order: key of a column: the largest first, `name` by name; with `-` before it the other way round; empty: as
            they come. By `change`, weights and updates stand before optimizer states.
    """
    wanted = words_of(words)
    kept = [
        row
        for row in rows
        if row.kind in kinds
        and fits(row.told, wanted)
        and (cell is None or (row.of == cell.of and is_in(cell, row.name)))
    ]
    key, backwards = order.removeprefix("-"), order.startswith("-")
    if key == "name":
        kept.sort(key=lambda row: row.told, reverse=backwards)
    elif key:
        kept.sort(key=_by(key, backwards=backwards))
    return tuple(kept)


def _by(key: str, *, backwards: bool) -> Callable[[Row], tuple[bool, int, float]]:
    def rank(row: Row) -> tuple[bool, int, float]:
        # An optimizer's moments change by more than any weight does, and are less asked for.
        state = key == "change" and row.of is None
        found = row.ranks.get(key)
        if found is None:
            return state, 2 if row.kind == "same" else 1, 0.0
        return state, 0, found if backwards else -found

    return rank


def grid_of(summary: DiffSummary, of: Literal["model", "adapter"]) -> Grid | None:
    """The heat map of the model, or of what adapters add; None where nothing of it was compared."""
    cells = [cell for cell in summary.cells if cell.of == of]
    if not any(cell.changed for cell in cells):
        return None
    inside = [cell for cell in cells if cell.layer is not None]
    modules = [module for module in summary.modules if any(cell.module == module for cell in inside)]
    layers = [layer for layer in summary.layers if any(cell.layer == layer for cell in inside)]
    across = {module: at for at, module in enumerate(modules)}
    down = {layer: at for at, layer in enumerate(layers)}
    return Grid(
        title="LAYER",
        rows=tuple(layers),
        columns=tuple(short_modules(modules)),
        cells={(down[cell.layer or ""], across[cell.module]): _heat(cell) for cell in inside},
        outside=tuple((cell.module, _heat(cell)) for cell in cells if cell.layer is None and cell.changed),
        below=", ".join(cell.module for cell in cells if cell.layer is None and not cell.changed),
    )


def _heat(cell: Cell) -> Heat:
    if not cell.changed:
        return Heat(None, "", cell)
    return Heat(cell.relative_norm, number(cell.relative_norm) or "?", cell)


def cell_words(cell: Cell) -> str:
    """Where a cell stands: `layer 3, self_attn.v_proj`."""
    where = f"layer {cell.layer}, {cell.module}" if cell.layer is not None else cell.module
    return where if cell.of == "model" else f"{_UPDATE}{where}"


def cell_line(cell: Cell) -> str:
    """A cell in a line."""
    if not cell.changed:
        return f"{cell_words(cell)}: the same"
    noun = "tensors" if cell.of == "model" else "updates"
    changed = f"{cell.changed} of {cell.tensors} {noun} changed" if cell.tensors > 1 else ""
    told = f"{cell_words(cell)}: change {number(cell.relative_norm) or 'without a norm'}"
    return f"{told}, {changed}" if changed else told
