"""Merging an adapter onto a base where neither is in a store: the same plan, execution and record as in one."""

from __future__ import annotations

from ckptfmt.convert.checkpoint import Checkpoint, objects_of
from ckptfmt.convert.result import Converted, Ground, files_in
from ckptfmt.errors import MergeError
from ckptfmt.format.manifest import Adapter, BaseLink
from ckptfmt.merge.adapters import StoredAdapter
from ckptfmt.merge.files import read_config
from ckptfmt.merge.form import Format, choose_form
from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.plan import plan_merge
from ckptfmt.merge.protocol import Setting
from ckptfmt.merge.recipe import OUTPUT, Ingredient, Recipe
from ckptfmt.merge.run import Prepared, Request, merge
from ckptfmt.progress import Progress


def merge_onto(
    checkpoint: Checkpoint, name: str | None, ground: Ground, target: str, wanted: Format, *, progress: Progress
) -> Converted:
    """Merge one adapter of a checkpoint onto a base into `target`, which appears whole.

    Args:
        checkpoint: what holds the adapter.
        name: which; None for its only one, or `default`.
        ground: the base.
        target: a directory that does not exist or is empty.
        wanted: "hf" or "universal".
        progress: told of the bytes written.

    Raises:
        MergeError: it cannot be merged.
        BaseMismatch: the base changed since it was looked at.
        Conflict: `target` is not empty.
    """
    adapter = checkpoint.adapter(name)
    refuse_unscaled(checkpoint, adapter)
    base = ground.checkpoint
    objects = objects_of([each.outside for each in (checkpoint, base) if each.outside is not None])
    specs = base.model.specs()
    config = read_config(base.manifest, objects)
    setting = Setting(model_config=config)
    changes = plan_changes(StoredAdapter(checkpoint.manifest, adapter, objects), specs, setting)
    plan = plan_merge(specs, [(changes, None)], dtype=None, order=specs)
    changed = {**config, **plan.config_changes} if config else {}
    hint = adapter.base_hint
    prepared = Prepared(
        request=Request(checkpoint.name, format=wanted),
        recipe=Recipe(
            base=BaseLink(ground.name, ground.record, ground.root, ground.binding, ground.evidence),
            ingredients=(Ingredient(checkpoint.digest, adapter, dtype=OUTPUT),),
            stages=1,
            trained_on=hint if hint and hint != ground.name else None,
        ),
        plan=plan,
        source=base.model,
        objects=objects,
        base=base.manifest,
        own=checkpoint.manifest,
        config=config,
        form=choose_form(base.manifest, objects, changed, plan, wanted, where=base.name),
    )
    done = merge(prepared, target, progress=progress)
    notes = [*prepared.plan.notes, *prepared.form.notes]
    if ground.binding == "none":
        notes.append(f"the base was not verified: {ground.evidence}")
    return Converted(
        out=done.path,
        format=wanted,
        exact=True,
        files=files_in(target),
        key_map=prepared.form.map,
        base=ground.name,
        base_root=ground.root,
        binding=ground.binding,
        notes=tuple(notes),
    )


def refuse_unscaled(checkpoint: Checkpoint, adapter: Adapter) -> None:
    """Refuse an adapter without a configuration, whose scaling would be a guess.

    Raises:
        MergeError: it has none.
    """
    if "peft_type" not in adapter.config:
        raise MergeError(
            f"{checkpoint.name}: adapter {adapter.name!r} lies inside the weights, without a configuration: its "
            "scaling is not known",
            hint="save it with PeftModel.save_pretrained, which writes adapter_config.json",
        )
