"""Full model and base to a PEFT adapter: factor, merge back, count what differs, write."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.convert.adapter_file import write_adapter
from ckptfmt.convert.checkpoint import Checkpoint
from ckptfmt.convert.comparing import ComparingWriter
from ckptfmt.convert.factored import FactoredAdapter, Pairing, factor_model, pair_models
from ckptfmt.convert.result import Converted, Ground, files_in
from ckptfmt.errors import InvalidInput, MergeError
from ckptfmt.layouts.peft_keys import PREFIX
from ckptfmt.merge.execute import execute
from ckptfmt.merge.files import beside_files, read_config
from ckptfmt.merge.hf_writer import write_file
from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.plan import plan_merge
from ckptfmt.merge.protocol import Setting, Spec
from ckptfmt.merge.source import TensorSource
from ckptfmt.progress import Progress
from ckptfmt.storage.appearing import appearing
from ckptfmt.transfer.restoring import file_bytes

EXACT: Final = "exact"
TOLERANCE: Final = 1e-3
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})


def parse_tolerance(stated: float | str | None) -> float | None:
    """A tolerance as users say it: a number between 0 and 1, or `exact`, which is None.

    Raises:
        InvalidInput: it is neither.
    """
    if stated is None:
        return TOLERANCE
    if stated == EXACT:
        return None
    try:
        found = float(stated)
    except ValueError:
        found = -1.0
    if not 0 < found < 1:
        raise InvalidInput(f"--tolerance: {stated!r} is neither {EXACT!r} nor a number between 0 and 1")
    return found


def factor_checkpoint(
    full: Checkpoint, ground: Ground, target: str, *, tolerance: float | None, progress: Progress
) -> Converted:
    """Write the adapter that makes `full` of its base into `target`, which appears whole.

    A tensor whose update is not of low rank goes, with its module, to `modules_to_save`. The adapter is merged back
    with the arithmetic of PEFT before it is written, so that the result can say how exact it is; where the same bits
    are asked for, a module that does not give them is kept whole.

    Args:
        full: the tuned model.
        ground: its base.
        target: a directory that does not exist or is empty.
        tolerance: see `lowrank.factorize`.
        progress: told of bytes.

    Raises:
        MergeError: they are not one architecture, nothing differs, or nothing is of low rank.
        BaseMismatch: the base is not what it was when it was looked at.
        Conflict: `target` is not empty.
    """
    base, tuned = ground.checkpoint.model, full.model
    config = read_config(ground.checkpoint.manifest, ground.checkpoint.objects)
    with appearing(os.path.abspath(target)) as building:
        pairing = pair_models(base, tuned)
        made = _make(_Task(base, tuned, pairing, config, ground.name, tolerance, progress))
        write_adapter(building, made.adapter)
        for path, (_, file) in beside_files(full.manifest, full.manifest).items():
            if path != "generation_config.json" and not path.endswith(".py"):
                write_file(f"{building}/{path}", b"".join(file_bytes(full.objects, file)))
    differing = sum(made.compared.differing.values())
    return Converted(
        out=os.path.abspath(target),
        format="peft",
        exact=not differing,
        files=files_in(target),
        rank=max(factors.rank for factors in made.adapter.factors.values()),
        elements_differing=differing,
        max_relative_error=max(made.compared.errors.values(), default=0.0),
        saved_whole=tuple(sorted(made.adapter.saved)),
        base=ground.name,
        base_root=ground.root,
        binding=ground.binding,
        notes=_notes(made, ground),
    )


@dataclass(frozen=True, slots=True)
class _Task:
    base: TensorSource
    tuned: TensorSource
    pairing: Pairing
    config: Mapping[str, Any]
    hint: str
    tolerance: float | None
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Made:
    adapter: FactoredAdapter
    compared: ComparingWriter


def _make(task: _Task) -> _Made:
    """Factor and merge back; where the same bits are wanted, again without the modules that did not give them."""
    whole: frozenset[str] = frozenset()
    while True:
        adapter = FactoredAdapter(task.tuned, task.config, task.hint)
        factor_model(
            task.base,
            task.tuned,
            task.pairing,
            adapter,
            tolerance=task.tolerance,
            whole=whole,
            progress=task.progress,
        )
        if not adapter.factors:
            raise MergeError(
                f"no update from {task.base.name} to {task.tuned.name} is of low rank: the adapter would be the model",
                hint="keep the full model; or ask for less with a larger --tolerance",
            )
        compared = _merge_back(task, adapter)
        unfit = compared.differing.keys() - whole if task.tolerance is None else frozenset()
        if not unfit:
            return _Made(adapter, compared)
        whole |= unfit


def _merge_back(task: _Task, adapter: FactoredAdapter) -> ComparingWriter:
    specs = task.base.specs()
    dtype = _cast(specs, task.tuned.specs())
    changes = plan_changes(adapter, specs, Setting(model_config=task.config))
    plan = plan_merge(specs, [(changes, dtype)], dtype=dtype, order=specs)
    names = {name: task.pairing.tuned_name[name] for name in task.pairing.changed}
    brought = {key.removeprefix(PREFIX): tuned for key, tuned in adapter.whole.items()}
    added = {item.name: brought[item.name] for item in plan.outputs if item.source is None and item.name in brought}
    writer = ComparingWriter(task.tuned, names | added, adapter.sizes)
    execute(plan, task.base, writer, device="cpu", progress=task.progress)
    return writer


def _cast(base: Mapping[str, Spec], tuned: Mapping[str, Spec]) -> str | None:
    """The dtype that the tuned model was cast to as a whole; None where it has the base's."""
    usual = [
        Counter(spec.dtype for spec in specs.values() if spec.dtype in _FLOATS).most_common(1)
        for specs in (base, tuned)
    ]
    if not all(usual) or usual[0][0][0] == usual[1][0][0]:
        return None
    return usual[1][0][0]


def _notes(made: _Made, ground: Ground) -> tuple[str, ...]:
    notes = []
    if made.adapter.saved:
        notes.append(f"{len(made.adapter.saved)} modules are kept whole (modules_to_save): no low-rank updates")
    if ground.binding == "none":
        notes.append(f"the base was not verified: {ground.evidence}")
    return tuple(notes)
