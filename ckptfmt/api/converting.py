"""The verbs that convert: `export` from a store, `convert` without one."""

from __future__ import annotations

import os
from typing import Final, Literal, get_args

from ckptfmt.api import merging
from ckptfmt.api.results import ConvertReport, MergeReport
from ckptfmt.api.shared import refuse_inside
from ckptfmt.convert.adapter_out import adapter_directory
from ckptfmt.convert.checkpoint import Checkpoint, base_checkpoint, read_checkpoint, stored_checkpoint
from ckptfmt.convert.full import convert_model
from ckptfmt.convert.merging import merge_onto, refuse_unscaled
from ckptfmt.convert.nanogpt_lora import is_nanogpt_lora
from ckptfmt.convert.result import Converted, Ground, files_in, stated_ground
from ckptfmt.convert.to_peft import factor_checkpoint, parse_tolerance
from ckptfmt.errors import IntegrityError, InvalidInput
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.bases import find_base
from ckptfmt.store.store import Store

Target = Literal["hf", "peft", "universal"]
TARGETS: Final[tuple[str, ...]] = get_args(Target)


def export_ref(
    store: Store,
    name: str,
    target: str,
    *,
    format: Target,  # noqa: A002 - the word of the command line
    base: str | None,
    adapter: str | None,
    tolerance: float | str | None,
    progress: Progress,
) -> ConvertReport:
    """Convert a checkpoint of a store into a directory that does not exist or is empty."""
    _check_target(format)
    wanted = parse_tolerance(tolerance)
    refuse_inside(store, target)
    checkpoint = stored_checkpoint(store, name)
    if format != "peft":
        if not _is_adapted(checkpoint):
            return _report(convert_model(checkpoint, target, format, progress=progress))
        _refuse_other_base(store, checkpoint, base)
        for each in checkpoint.manifest.adapters:
            if adapter in (None, each.name):
                refuse_unscaled(checkpoint, each)
        chosen = {adapter: 1.0} if adapter else None
        merged = merging.merge_ref(
            store, name, target, dtype=None, device="cpu", how=None, adapters=chosen, format=format, progress=progress
        )
        return _merge_report(merged, format)
    if checkpoint.manifest.adapters:
        return _report(adapter_directory(checkpoint, adapter, target, progress=progress))
    ground = _stored_ground(store, checkpoint, base)
    return _report(factor_checkpoint(checkpoint, ground, target, tolerance=wanted, progress=progress))


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: Target,
    base: str | os.PathLike[str] | None = None,
    expect_root: str | None = None,
    unverified_base: bool = False,
    adapter: str | None = None,
    tolerance: float | str | None = None,
    progress: Progress = SILENT,
) -> ConvertReport:
    """Convert a checkpoint that lies in a directory or file, without a store.

    Args:
        source: a checkpoint's directory, or its one file.
        out: a directory that does not exist or is empty; it appears whole.
        to: "hf", "peft" or "universal".
        base: the base's directory, where one is needed: for merging an adapter, for factoring a full model.
        expect_root: the base's root, or at least 16 digits of it.
        unverified_base: take the base for what it is where no root is expected; the result says so.
        adapter: which of several adapters.
        tolerance: of a factorization, see `Store.export`.
        progress: told of bytes; may raise to cancel.

    Raises:
        MergeError: there is no way from one to the other, with the reason.
        BaseMismatch: the base has another root.
        IntegrityError: no root is expected of the base (`no-binding`).
        Conflict: `out` is not empty.
    """
    _check_target(to)
    wanted = parse_tolerance(tolerance)
    if base is None and (expect_root is not None or unverified_base):
        raise InvalidInput("--expect-root and --unverified-base say something of a --base: give that too")
    checkpoint = read_checkpoint(os.fspath(source), progress)
    target = os.fspath(out)
    if to == "peft" and checkpoint.manifest.adapters:
        return _report(adapter_directory(checkpoint, adapter, target, progress=progress))
    if to != "peft" and not _is_adapted(checkpoint):
        return _report(convert_model(checkpoint, target, to, progress=progress))
    if base is None:
        why = "a full model becomes an adapter only against its base" if to == "peft" else "an adapter needs its base"
        raise IntegrityError(
            f"{checkpoint.name}: {why}",
            code="no-binding",
            hint=f"ckptfmt convert {checkpoint.name} {target} --to {to} --base PATH --expect-root ROOT",
        )
    ground = stated_ground(read_checkpoint(os.fspath(base), progress), expect_root, unverified=unverified_base)
    if to == "peft":
        return _report(factor_checkpoint(checkpoint, ground, target, tolerance=wanted, progress=progress))
    return _report(merge_onto(checkpoint, adapter, ground, target, to, progress=progress))


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise InvalidInput(f"--format: {target!r} is none of {', '.join(TARGETS)}")


def _is_adapted(checkpoint: Checkpoint) -> bool:
    """Whether its model comes out of a merge: LoRA in the model's own file needs no other base than that."""
    return any(not is_nanogpt_lora(adapter) for adapter in checkpoint.manifest.adapters)


def _stored_ground(store: Store, checkpoint: Checkpoint, base: str | None) -> Ground:
    """The base that a full model of a store is factored against: the one it is bound to, unless another is stated."""
    if not checkpoint.has_model:
        raise InvalidInput(f"{checkpoint.name} holds no model (layout {checkpoint.manifest.layout})")
    link = checkpoint.manifest.base
    _refuse_other_base(store, checkpoint, base)
    if base is not None:
        found = find_base(store, base)
        name, record, root = found.name, found.digest, found.record.root
        binding, evidence = (link.binding, link.evidence) if link else ("stated", f"export --base {base}")
    elif link is not None:
        name, record, root, binding, evidence = link.name, link.record, link.root, link.binding, link.evidence
    else:
        hint = f"ckptfmt bind {checkpoint.name} --base NAME"
        raise IntegrityError(f"{checkpoint.name} is bound to no base", code="no-binding", hint=hint)
    return Ground(base_checkpoint(store, record, name), name, record, root, binding, evidence)


def _refuse_other_base(store: Store, checkpoint: Checkpoint, base: str | None) -> None:
    link = checkpoint.manifest.base
    if base is not None and link is not None and link.root != find_base(store, base).record.root:
        raise InvalidInput(
            f"{checkpoint.name} is bound to base {link.name!r}, which is not {base!r}", hint="leave --base out"
        )


def _report(done: Converted) -> ConvertReport:
    return ConvertReport(
        out=done.out,
        format=done.format,
        exact=done.exact,
        files=done.files,
        key_map=done.key_map,
        rank=done.rank,
        elements_differing=done.elements_differing,
        max_relative_error=done.max_relative_error,
        saved_whole=done.saved_whole,
        base=done.base,
        base_root=done.base_root,
        binding=done.binding,
        notes=done.notes,
    )


def _merge_report(done: MergeReport, target: Target) -> ConvertReport:
    return ConvertReport(
        out=done.out,
        format=target,
        exact=True,
        files=files_in(done.out),
        key_map=None,
        rank=None,
        elements_differing=None,
        max_relative_error=None,
        saved_whole=(),
        base=done.base,
        base_root=done.base_root,
        binding=done.binding,
        notes=done.notes,
    )
