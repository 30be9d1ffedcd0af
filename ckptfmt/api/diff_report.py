"""What a comparison came to, as the front ends are given it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Sized

from ckptfmt.api import results_diff as results
from ckptfmt.diff.adapters import AdapterPlan, LoraModule
from ckptfmt.diff.cells import Entry, Of, fill_table, mean_norm
from ckptfmt.diff.comparing import ComparedTensor
from ckptfmt.diff.elements import PACKED
from ckptfmt.diff.lineage import chain_of, relation
from ckptfmt.diff.measures import cosine_of, relative_norm
from ckptfmt.diff.pairing import PairedFiles, PairedTensors, TensorPair
from ckptfmt.diff.reading import Side, size_of
from ckptfmt.diff.updates import ComparedUpdates
from ckptfmt.diff.values import ComparedValues, compare_values, flat, settings_of
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import Manifest, Tensor, logical_bytes
from ckptfmt.layouts.peft_keys import PREFIX
from ckptfmt.store.store import Store

Sides = tuple[Side, Side]
Adapters = Sequence[tuple[AdapterPlan, Mapping[str, ComparedUpdates]]]


def make_report(
    store: Store | None,
    sides: Sides,
    *,
    files: PairedFiles,
    tensors: PairedTensors,
    compared: Sequence[ComparedTensor],
    adapters: Adapters,
    read_bytes: int,
    notes: Sequence[str] = (),
) -> results.DiffReport:
    """Put together what was found.

    Args:
        store: where ancestors are looked up; None where there is none.
        sides: the two checkpoints.
        files: their files.
        tensors: their tensors.
        compared: the measures of `tensors.differing`.
        adapters: how adapters were compared, and the updates of the modules that differ.
        read_bytes: bytes of tensors that were read.
        notes: what is known of them already that a reader should know.
    """
    mine, theirs = (side.checkpoint.manifest for side in sides)
    called = {plan.b.name: plan.a.name for plan, _ in adapters}
    settings, metrics = compare_values({}, {}), compare_values({}, {})
    if not any(side.is_base for side in sides):
        settings = compare_values(settings_of(mine), settings_of(theirs, called))
        metrics = compare_values(flat(mine.metrics), flat(theirs.metrics))
    rows = [_changed(pair, found) for pair, found in zip(tensors.differing, compared, strict=True)]
    changes: list[Sized] = [
        *(files.added, files.removed, files.changed, tensors.added, tensors.removed, tensors.reshaped),
        *(tensors.differing, settings.added, settings.removed, settings.changed),
        *(metrics.added, metrics.removed, metrics.changed),
    ]
    entries = [*_model_entries(tensors, rows), *_adapter_entries(tensors, rows, adapters)]
    table = fill_table(entries)
    of_model = [entry for of, entry in entries if of == "model"]
    roles = [{tensor.role for tensor in manifest.tensors} & {"model", "adapter"} for manifest in (mine, theirs)]
    comparable = bool(roles[0] & roles[1])
    return results.DiffReport(
        a=_side(sides[0]),
        b=_side(sides[1]),
        files=results.FileChanges(
            added=tuple(results.FileRow(*row) for row in files.added),
            removed=tuple(results.FileRow(*row) for row in files.removed),
            changed=tuple(results.ChangedFile(*row) for row in files.changed),
            same=len(files.same),
            same_names=files.same,
        ),
        tensors=results.TensorChanges(
            added=tuple(map(_row, tensors.added)),
            removed=tuple(map(_row, tensors.removed)),
            reshaped=tuple(map(_reshaped, tensors.reshaped)),
            changed=tuple(sorted(rows, key=_by_size)),
            same=len(tensors.same),
            same_names=tuple(pair.a.name for pair in tensors.same),
        ),
        adapters=results.AdapterChanges(
            added=tuple(each.name for each in theirs.adapters if each.name not in called),
            removed=tuple(each.name for each in mine.adapters if each.name not in called.values()),
            compared=tuple(_adapter(*each) for each in adapters),
        ),
        settings=_values(settings),
        metrics=_values(metrics),
        summary=results.DiffSummary(
            identical=not any(map(len, changes)),
            comparable=comparable,
            relative_norm=mean_norm(of_model or [entry for _, entry in entries]),
            retyped=sum(row.dtype_a != row.dtype_b for row in rows),
            read_bytes=read_bytes,
            layers=table.layers,
            modules=table.modules,
            cells=tuple(
                results.Cell(each.of, each.layer, each.module, each.relative_norm, each.tensors, each.changed)
                for each in table.cells
            ),
            lineage=_lineage(store, sides),
            same_base=mine.base.root == theirs.base.root if mine.base and theirs.base else None,
            notes=(*notes, *_notes(sides, tensors, comparable=comparable)),
        ),
    )


def _side(side: Side) -> results.DiffSide:
    checkpoint, manifest = side.checkpoint, side.checkpoint.manifest
    base, lineage = manifest.base, manifest.lineage
    return results.DiffSide(
        name=side.name,
        kind="path" if side.is_path else "base" if side.is_base else "ref",
        manifest=checkpoint.digest,
        layout=manifest.layout,
        base=base.name if base else None,
        base_root=base.root if base else None,
        binding=base.binding if base else None,
        parent=lineage.parent if lineage else None,
        stage=lineage.stage if lineage else None,
        step=manifest.step,
        logical_bytes=logical_bytes(manifest),
    )


def _row(tensor: Tensor) -> results.TensorRow:
    return results.TensorRow(tensor.name, tensor.role, tensor.part, tensor.dtype, tensor.shape, size_of(tensor))


def _reshaped(pair: TensorPair) -> results.ReshapedTensor:
    a, b = pair.a, pair.b
    return results.ReshapedTensor(a.name, a.role, a.part, a.dtype, b.dtype, a.shape, b.shape)


def _changed(pair: TensorPair, found: ComparedTensor) -> results.ChangedTensor:
    a, b, sums = pair.a, pair.b, found.sums
    known = not {a.dtype, b.dtype} & PACKED
    elements = math.prod(a.shape)
    return results.ChangedTensor(
        name=a.name,
        role=a.role,
        part=a.part,
        dtype_a=a.dtype,
        dtype_b=b.dtype,
        shape=a.shape,
        elements=elements,
        norm_a=_finite(sums.norm_a) if known else None,
        norm_b=_finite(sums.norm_b) if known else None,
        norm=_finite(sums.norm) if known else None,
        relative_norm=sums.relative if known else None,
        cosine=sums.cosine if known else None,
        largest_change=sums.largest if known else None,
        changed_elements=sums.changed / max(elements, 1) if known else None,
        changed_bits=sums.changed_bits / max(elements * BITS[a.dtype], 1) if a.dtype == b.dtype else None,
        effective_rank=found.rank,
        rank_estimated=found.estimated,
        not_finite=sums.not_finite if known else None,
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _by_size(row: results.ChangedTensor | results.ModuleUpdate) -> tuple[float, float]:
    """The largest relative change first: that from zero before all, what has no norm behind all."""
    if row.norm is None:
        return math.inf, 0.0
    return (-math.inf if row.relative_norm is None else -row.relative_norm), -row.norm


def _values(found: ComparedValues) -> results.ValueChanges:
    return results.ValueChanges(
        added=tuple(results.Value(*each) for each in found.added),
        removed=tuple(results.Value(*each) for each in found.removed),
        changed=tuple(results.ChangedValue(*each) for each in found.changed),
        same=found.same,
        same_values=tuple(results.Value(*each) for each in found.same_values),
    )


def _adapter(plan: AdapterPlan, updates: Mapping[str, ComparedUpdates]) -> results.AdapterChange:
    norms = [math.hypot(*(getattr(each, name) for each in updates.values())) for name in ("norm_a", "norm_b", "norm")]
    rows = [_module(module, *plan.pairs[module], update) for module, update in updates.items()]
    return results.AdapterChange(
        name=plan.a.name,
        name_b=plan.b.name,
        method_a=plan.a.method,
        method_b=plan.b.method,
        how="same" if plan.a.digest == plan.b.digest else "updates" if plan.why is None else "tensors",
        why=plan.why,
        relative_norm=relative_norm(norms[0], norms[2]) if plan.why is None else None,
        cosine=cosine_of(*norms),
        modules=tuple(sorted(rows, key=_by_size)),
        same_modules=len(plan.same),
    )


def _module(
    name: str, first: LoraModule | None, second: LoraModule | None, found: ComparedUpdates
) -> results.ModuleUpdate:
    return results.ModuleUpdate(
        module=name,
        rank_a=first.rank if first else None,
        rank_b=second.rank if second else None,
        scaling_a=first.scaling if first else None,
        scaling_b=second.scaling if second else None,
        norm_a=_finite(found.norm_a),
        norm_b=_finite(found.norm_b),
        norm=_finite(found.norm),
        relative_norm=found.relative,
        cosine=found.cosine,
        effective_rank_a=found.effective_rank_a,
        effective_rank_b=found.effective_rank_b,
        effective_rank=found.effective_rank,
    )


def _model_entries(tensors: PairedTensors, rows: Sequence[results.ChangedTensor]) -> list[tuple[Of, Entry]]:
    return [("model", entry) for entry in _entries(tensors, rows, "model", None)]


def _adapter_entries(
    tensors: PairedTensors, rows: Sequence[results.ChangedTensor], adapters: Adapters
) -> list[tuple[Of, Entry]]:
    """The updates of adapters; of those that are compared tensor by tensor, their tensors."""
    found: list[Entry] = []
    for plan, updates in adapters:
        if plan.why is not None:
            found += _entries(tensors, rows, "adapter", plan.a.name)
            continue
        same = [Entry(module, elements, 0.0, changed=False) for module, elements in plan.same.items()]
        changed = [
            Entry(module, plan.elements(module), each.relative, changed=True) for module, each in updates.items()
        ]
        found += sorted((*same, *changed), key=lambda entry: entry.name)
    return [("adapter", entry) for entry in found]


def _entries(
    tensors: PairedTensors, rows: Sequence[results.ChangedTensor], role: str, part: str | None
) -> Iterator[Entry]:
    """Tensors of both, in order of their names."""
    norms = {id(pair): row.relative_norm for pair, row in zip(tensors.differing, rows, strict=True)}
    same = {id(pair) for pair in tensors.same}
    pairs = [pair for pair in (*tensors.same, *tensors.differing, *tensors.reshaped) if pair.a.role == role]
    for pair in sorted(pairs, key=lambda pair: pair.a.name):
        if part is None or pair.a.part == part:
            is_same = id(pair) in same
            name = pair.a.name.removeprefix(PREFIX) if role == "adapter" else pair.a.name
            norm = 0.0 if is_same else norms.get(id(pair))
            yield Entry(name, math.prod(pair.a.shape), norm, changed=not is_same)


def _lineage(store: Store | None, sides: Sides) -> str | None:
    first, second = (side.checkpoint for side in sides)
    for base, other, words in ((sides[0], second, "A is the base of B"), (sides[1], first, "B is the base of A")):
        link = other.manifest.base
        if base.is_base and link is not None and link.root == base.checkpoint.manifest.root:
            return words
    if store is None:
        return relation([first.digest], [second.digest])
    chains = (chain_of(each.digest, each.manifest, store.manifest) for each in (first, second))
    return relation(*chains)


def _notes(sides: Sides, tensors: PairedTensors, *, comparable: bool) -> Iterator[str]:
    if tensors.key_map != "same":
        yield f"the models' names agree under the key map {tensors.key_map}"
    if any(side.is_base for side in sides):
        yield "the record of a base holds no settings: none are compared"
    for side in sides:
        for file in side.checkpoint.manifest.files:
            if file.reason is not None:
                yield f"{file.path} of {side.label} is kept whole, its tensors are not compared: {file.reason}"
    if not comparable:
        yield _not_comparable(sides)
    elif tensors.added and tensors.removed and not (tensors.reshaped or tensors.differing or tensors.same):
        yield "no tensor of B is called as one of A is: none can be compared"


def _not_comparable(sides: Sides) -> str:
    kinds = [_kind(side.checkpoint.manifest) for side in sides]
    said = f"A is {kinds[0]} and B {kinds[1]}: their weights are not compared"
    full = [side for side, kind in zip(sides, kinds, strict=True) if kind == "a full model"]
    adapted = [side for side in sides if side.checkpoint.manifest.adapters]
    if len(full) == len(adapted) == 1 and not adapted[0].is_path:
        name, other = adapted[0].name, full[0].name
        return f"{said}; 'ckptfmt merge {name} ./merged' makes a full model to compare with {other}"
    return said


def _kind(manifest: Manifest) -> str:
    if any(tensor.role == "model" for tensor in manifest.tensors):
        return "a full model"
    methods = sorted({adapter.method for adapter in manifest.adapters})
    if methods:
        return f"an adapter ({', '.join(methods)})"
    return "without weights that are known"
