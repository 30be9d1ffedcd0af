"""A full model from one format to the other, streamed: Hugging Face's directory, or a universal `ckpt.pt`."""

from __future__ import annotations

import json
import os

from ckptfmt.convert.checkpoint import Checkpoint
from ckptfmt.convert.nanogpt_lora import PeftOfNanogpt, is_nanogpt_lora
from ckptfmt.convert.result import Converted, files_in
from ckptfmt.errors import InvalidInput, MergeError
from ckptfmt.merge.adapters import StoredAdapter
from ckptfmt.merge.execute import execute
from ckptfmt.merge.files import CONFIG, beside_files, read_config
from ckptfmt.merge.form import Form, Format, choose_form
from ckptfmt.merge.hf_writer import write_file
from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.plan import MergePlan, plan_merge
from ckptfmt.merge.protocol import Setting
from ckptfmt.merge.universal_names import KEY_MAPS
from ckptfmt.progress import Progress
from ckptfmt.storage.appearing import appearing
from ckptfmt.transfer.restoring import file_bytes


def convert_model(checkpoint: Checkpoint, target: str, wanted: Format, *, progress: Progress) -> Converted:
    """Write the model of a checkpoint into `target`, which appears whole. LoRA inside a universal one is merged.

    Args:
        checkpoint: what holds it.
        target: a directory that does not exist or is empty.
        wanted: "hf" or "universal".
        progress: told of the bytes written.

    Raises:
        MergeError: no key map leads there, or a Hugging Face model's config is not known.
        InvalidInput: it holds no model.
        Conflict: `target` is not empty.
        BaseMismatch: its files changed meanwhile.
    """
    if not checkpoint.has_model:
        raise InvalidInput(f"{checkpoint.name} holds no model (layout {checkpoint.manifest.layout})")
    config = read_config(checkpoint.manifest, checkpoint.objects)
    plan = _plan(checkpoint)
    form = choose_form(checkpoint.manifest, checkpoint.objects, config, plan, wanted, where=checkpoint.name)
    if wanted == "hf" and not form.config:
        known = ", ".join(KEY_MAPS)
        raise MergeError(
            f"{checkpoint.name}: no config.json and no model_args: what model its tensors make is not known "
            f"(there are key maps: {known})",
            hint="put the model's config.json beside its weights",
        )
    with appearing(os.path.abspath(target)) as building:
        writer = form.open(building)
        try:
            execute(plan, checkpoint.model, writer, device="cpu", progress=progress)
        finally:
            writer.abort()
        _write_beside(checkpoint, form, plan, building)
    merged = (f"{len(plan.changed)} LoRA layers were merged into their main weights",) if plan.changed else ()
    return Converted(
        out=os.path.abspath(target),
        format=wanted,
        exact=True,
        files=files_in(target),
        key_map=form.map,
        notes=(*merged, *plan.notes, *form.notes, *checkpoint.manifest.notes),
    )


def _plan(checkpoint: Checkpoint) -> MergePlan:
    """Copies of every tensor, but for those that LoRA in the same file changes."""
    specs = checkpoint.model.specs()
    stages = [
        (
            plan_changes(
                PeftOfNanogpt(StoredAdapter(checkpoint.manifest, adapter, checkpoint.objects)), specs, Setting()
            ),
            None,
        )
        for adapter in checkpoint.manifest.adapters
        if is_nanogpt_lora(adapter)
    ]
    return plan_merge(specs, stages, dtype=None, order=specs)


def _write_beside(checkpoint: Checkpoint, form: Form, plan: MergePlan, building: str) -> None:
    for path, (_, file) in beside_files(checkpoint.manifest, None).items():
        write_file(f"{building}/{path}", b"".join(file_bytes(checkpoint.objects, file)))
    if form.config:
        config = {**form.config, **plan.config_changes}
        write_file(f"{building}/{CONFIG}", json.dumps(config, indent=2).encode() + b"\n")
