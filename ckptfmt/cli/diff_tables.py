"""The tables of `ckptfmt diff`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ckptfmt.api.diff_words import WEIGHTS, change_words, in_role, number, rank_words, share, short_modules
from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.text import table
from ckptfmt.wording import clean, count, shape_words, size, value

if TYPE_CHECKING:
    from ckptfmt.api.results_diff import (
        AdapterChange,
        AdapterChanges,
        Cell,
        ChangedTensor,
        DiffSummary,
        FileChanges,
        TensorChanges,
        ValueChanges,
    )

_MORE: Final = "--all shows all"
_LEAST_NAME: Final = 16
_NO_CHANGE: Final = "."
_KEY_COLUMNS: Final = 34
_VALUE_COLUMNS: Final = 20
_MOST_COLUMNS: Final = 120
_LEAST_HEADER: Final = 7
_MOST_LAYERS: Final = 48
"""Rows of the table of layers, where no more are asked for."""
_SUFFIX: Final = "_proj"


def _tail(name: str, room: int | None) -> str:
    """A name without its beginning where it is too long: its end tells more."""
    name = clean(name)
    return name if room is None or len(name) <= room else f"…{name[len(name) - room + 1 :]}"


def _named(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, *, right: Sequence[str]
) -> list[Line]:
    """A table whose last column is a name, which is cut at its beginning to fit."""
    room = None
    if width is not None:
        kept = [at for at in range(len(header) - 1) if any(row[at] for row in rows)]
        taken = sum(2 + max(len(header[at]), *(len(row[at]) for row in rows)) for at in kept)
        room = max(width - taken, _LEAST_NAME)
    return table(header, [(*row[:-1], _tail(row[-1], room)) for row in rows], right=right)


def _more(shown: int, number_of_all: int, noun: str) -> list[Line]:
    return [f"and {count(number_of_all - shown, noun)} more ({_MORE})"] if number_of_all > shown else []


def file_lines(files: FileChanges, width: int | None, most: int | None) -> list[Line]:
    """Files that differ."""
    rows = [
        *(("changed", size(each.bytes_a), size(each.bytes_b), each.path) for each in files.changed),
        *(("added", "", size(each.bytes), each.path) for each in files.added),
        *(("removed", size(each.bytes), "", each.path) for each in files.removed),
    ]
    shown = rows[:most]
    drawn = _named(("FILES", "A", "B", "PATH"), shown, width, right=("A", "B")) if shown else []
    return [*drawn, *_more(len(shown), len(rows), "file")]


def tensor_lines(tensors: TensorChanges, width: int | None, most: int | None) -> list[Line]:
    """The largest changes of tensors: those of weights before those of optimizers."""
    weights_first = sorted(tensors.changed, key=lambda each: each.role not in WEIGHTS)
    shown = weights_first[:most]
    rows = [_tensor_row(each) for each in shown]
    header = ("CHANGE", "COSINE", "LARGEST", "ELEMENTS", "BITS", "RANK", "TENSOR")
    drawn = _named(header, rows, width, right=header[:-1]) if rows else []
    return [*drawn, *_more(len(shown), len(tensors.changed), "changed tensor")]


def _tensor_row(each: ChangedTensor) -> tuple[str, ...]:
    retyped = f" {each.dtype_a}->{each.dtype_b}" if each.dtype_a != each.dtype_b else ""
    strange = f" {each.not_finite:,} not finite" if each.not_finite else ""
    return (
        change_words(each.relative_norm, each.norm),
        "" if each.cosine is None else f"{each.cosine:.4f}",
        number(each.largest_change),
        share(each.changed_elements),
        share(each.changed_bits),
        rank_words(each.effective_rank, estimated=each.rank_estimated),
        f"{in_role(each.role, each.part, each.name)}{retyped}{strange}",
    )


def only_lines(tensors: TensorChanges, width: int | None, most: int | None) -> list[Line]:
    """Tensors that one alone has, or that have other shapes."""
    rows = [
        *(
            (
                "reshaped",
                f"{shape_words(each.shape_a)} -> {shape_words(each.shape_b)}",
                in_role(each.role, each.part, each.name),
            )
            for each in tensors.reshaped
        ),
        *(("added", shape_words(each.shape), in_role(each.role, each.part, each.name)) for each in tensors.added),
        *(("removed", shape_words(each.shape), in_role(each.role, each.part, each.name)) for each in tensors.removed),
    ]
    shown = rows[:most]
    drawn = _named(("IN ONE", "SHAPE", "TENSOR"), shown, width, right=("SHAPE",)) if shown else []
    return [*drawn, *_more(len(shown), len(rows), "tensor")]


def adapter_lines(adapters: AdapterChanges, width: int | None, most: int | None) -> list[Line]:
    """What adapters add to the model."""
    told: list[Line] = [f"adapter {name}: only in B" for name in adapters.added]
    told += [f"adapter {name}: only in A" for name in adapters.removed]
    for each in adapters.compared:
        told += _adapter_lines(each, width, most)
    return told


def _adapter_lines(each: AdapterChange, width: int | None, most: int | None) -> list[Line]:
    called = each.name if each.name == each.name_b else f"{each.name} (A), {each.name_b} (B)"
    if each.how == "same":
        return [f"adapter {called}: the same"]
    if each.how == "tensors":
        return [f"adapter {called}: compared tensor by tensor: {each.why}"]
    said = f"adapter {called}: updates of {count(len(each.modules), 'module')} differ"
    said += f", {each.same_modules:,} the same" if each.same_modules else ""
    is_known = all(row.norm is not None for row in each.modules)
    change = change_words(each.relative_norm, 1.0 if is_known else None) or "not finite"
    said += f"; change {change}" + ("" if each.cosine is None else f", cosine {each.cosine:.4f}")
    shown = each.modules[:most]
    rows = [
        (
            change_words(row.relative_norm, row.norm),
            "" if row.cosine is None else f"{row.cosine:.4f}",
            _pair(_count(row.rank_a), _count(row.rank_b)),
            _pair(*(rank_words(rank, estimated=False) for rank in (row.effective_rank_a, row.effective_rank_b))),
            rank_words(row.effective_rank, estimated=False),
            row.module,
        )
        for row in shown
    ]
    header = ("CHANGE", "COSINE", "R", "RANKS", "RANK", "UPDATE OF")
    drawn = _named(header, rows, width, right=header[:-1]) if rows else []
    return [Styled(said, "bold"), *drawn, *_more(len(shown), len(each.modules), "module")]


def _count(found: int | None) -> str:
    return "" if found is None else str(found)


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a or '-'}/{b or '-'}"


def layer_lines(summary: DiffSummary, width: int | None, most: int | None) -> list[Line]:
    """Layers down, modules across; where that is too wide, one line a module."""
    told: list[Line] = []
    for of in ("model", "adapter"):
        cells = [cell for cell in summary.cells if cell.of == of]
        if any(cell.changed for cell in cells):
            told += ["", *_grid(of, summary, cells, width, most)]
    return told[1:]


def _grid(of: str, summary: DiffSummary, cells: list[Cell], width: int | None, most: int | None) -> list[Line]:
    inside = [cell for cell in cells if cell.layer is not None]
    modules = [module for module in summary.modules if any(cell.module == module for cell in inside)]
    layers = [layer for layer in summary.layers if any(cell.layer == layer for cell in inside)]
    found = {(cell.layer, cell.module): cell for cell in cells}
    tall = None if most is None else max(most, _MOST_LAYERS)
    rows = [(layer, *(_cell(found.get((layer, module))) for module in modules)) for layer in layers[:tall]]
    header = _fitting(modules, rows, _MOST_COLUMNS if width is None else width)
    title: list[Line] = [Styled("Change by layer and module" + (" of the updates" if of == "adapter" else ""), "bold")]
    drawn: list[Line] = []
    if layers and header is not None:
        drawn = [*table(header, rows, right=header[1:]), *_more(len(rows), len(layers), "layer")]
    elif layers:
        drawn = _by_module(modules, inside, width)
    outside = [cell for cell in cells if cell.layer is None]
    told = [(_cell(cell), cell.module) for cell in outside]
    rest = _named(("CHANGE", "OUTSIDE LAYERS" if layers else "MODULE"), told[:most], width, right=("CHANGE",))
    return [*title, *drawn, *(rest if told else []), *_more(len(told[:most]), len(told), "module")]


def _fitting(modules: list[str], rows: list[tuple[str, ...]], width: int) -> tuple[str, ...] | None:
    """The header of the longest names of modules with which the table fits; None where none does."""
    names = short_modules(modules)
    bare = [name.removesuffix(_SUFFIX) for name in names]
    cut = [name if len(name) <= _LEAST_HEADER else f"{name[: _LEAST_HEADER - 1]}…" for name in bare]
    for candidate in (names, bare, cut):
        header = ("LAYER", *candidate)
        taken = sum(max(len(header[at]), *(len(row[at]) for row in rows), 0) for at in range(len(header)))
        if taken + 2 * len(candidate) <= width and len(set(candidate)) == len(candidate):
            return header
    return None


def _by_module(modules: list[str], cells: list[Cell], width: int | None) -> list[Line]:
    rows = []
    for module in modules:
        mine = [cell for cell in cells if cell.module == module]
        norms = [cell.relative_norm for cell in mine if cell.relative_norm is not None]
        largest = max(mine, key=lambda cell: cell.relative_norm if cell.relative_norm is not None else -1.0)
        changed = f"{sum(cell.changed > 0 for cell in mine)} of {len(mine)}"
        rows.append(
            (number(min(norms, default=None)), number(max(norms, default=None)), largest.layer or "", changed, module)
        )
    header = ("LEAST", "MOST", "IN LAYER", "CHANGED", "MODULE")
    return _named(header, rows, width, right=header[:-1])


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if not cell.changed:
        return _NO_CHANGE
    return number(cell.relative_norm) or "?"


def value_lines(title: str, found: ValueChanges, width: int | None, most: int | None) -> list[Line]:
    """Values that differ, under their key paths."""
    rows = [
        *((each.key, *_values(each.a, each.b, width)) for each in found.changed),
        *((each.key, "", _values(each.value, None, width)[0]) for each in found.added),
        *((each.key, _values(each.value, None, width)[0], "") for each in found.removed),
    ]
    rows.sort()
    shown = rows[:most]
    room = None if width is None else _KEY_COLUMNS
    cells = [(_tail(key, room), a or "-", b or "-") for key, a, b in shown]
    drawn = table((title.upper(), "A", "B"), cells, width=width)
    return [*drawn, *_more(len(shown), len(rows), "value")]


def _values(a: object, b: object, width: int | None) -> tuple[str, str]:
    """Two values on one line each; with all their digits where they would look alike."""
    told = [" ".join(value(each).split()) or '""' for each in (a, b)]
    if told[0] == told[1]:
        told = [" ".join(str(each).split()) for each in (a, b)]
    if width is not None:
        told = [text if len(text) <= _VALUE_COLUMNS else f"{text[: _VALUE_COLUMNS - 1]}…" for text in told]
    return told[0], told[1]
