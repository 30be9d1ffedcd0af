"""The adapter of a checkpoint as a PEFT directory: its own files to the byte, or written where it has none."""

from __future__ import annotations

import hashlib
import os

from ckptfmt.convert.adapter_file import CONFIG, write_adapter
from ckptfmt.convert.checkpoint import Checkpoint
from ckptfmt.convert.nanogpt_lora import PeftOfNanogpt, is_nanogpt_lora
from ckptfmt.convert.result import Converted, files_in
from ckptfmt.errors import IntegrityError, MergeError
from ckptfmt.format.manifest import Adapter, File
from ckptfmt.layouts.listing import join, split
from ckptfmt.layouts.peft import ADAPTER_FILES
from ckptfmt.merge.adapters import StoredAdapter
from ckptfmt.merge.files import beside_files
from ckptfmt.progress import Progress
from ckptfmt.storage import durable
from ckptfmt.storage.appearing import appearing
from ckptfmt.transfer.restoring import file_bytes


def adapter_directory(checkpoint: Checkpoint, name: str | None, target: str, *, progress: Progress) -> Converted:
    """Write one adapter into `target`, which appears whole.

    Args:
        checkpoint: what holds it.
        name: which; None for its only one, or `default`.
        target: a directory that does not exist or is empty.
        progress: told of bytes.

    Raises:
        MergeError: PEFT cannot express it.
        InvalidInput: there are several to choose between.
        Conflict: `target` is not empty.
    """
    adapter = checkpoint.adapter(name)
    notes: tuple[str, ...] = ()
    with appearing(os.path.abspath(target)) as building:
        if is_nanogpt_lora(adapter):
            notes = _write_nanogpt(checkpoint, adapter, building)
        else:
            _copy_files(checkpoint, adapter, building, progress)
    base = checkpoint.manifest.base
    return Converted(
        out=os.path.abspath(target),
        format="peft",
        exact=True,
        files=files_in(target),
        base=base.name if base else None,
        base_root=base.root if base else None,
        binding=base.binding if base else None,
        notes=notes,
    )


def _write_nanogpt(checkpoint: Checkpoint, adapter: Adapter, building: str) -> tuple[str, ...]:
    found = PeftOfNanogpt(StoredAdapter(checkpoint.manifest, adapter, checkpoint.objects), conv1d=True)
    write_adapter(building, found)
    notes = ["its base is the model in the same file without LoRA, as Hugging Face's GPT-2"]
    if found.has_embedding:
        notes.append("it changes the input embedding: unmerged it leaves a tied head alone, merged by peft it does not")
    return tuple(notes)


def _copy_files(checkpoint: Checkpoint, adapter: Adapter, building: str, progress: Progress) -> None:
    """The adapter's own files, and the tokenizer that was saved beside it."""
    known = {file.path: file for file in checkpoint.manifest.files}
    config = known.get(join(adapter.path, CONFIG))
    weights = [known[path] for name in ADAPTER_FILES if (path := join(adapter.path, name)) in known]
    if config is None or not weights:
        raise MergeError(
            f"{checkpoint.name}: adapter {adapter.name!r} lies in {adapter.path or 'the top directory'} without an "
            f"{CONFIG}: its scaling is not known, so it is no PEFT adapter yet",
            hint="save it again with PeftModel.save_pretrained",
        )
    beside = [file for path, (_, file) in beside_files(checkpoint.manifest, None).items() if _is_tokenizer(path)]
    chosen = [config, weights[0], *beside]
    progress.begin(f"adapter {adapter.name}", sum(file.size for file in chosen))
    for file in chosen:
        _copy(checkpoint, file, f"{building}/{split(file.path)[1]}", progress)
    progress.end()


def _is_tokenizer(path: str) -> bool:
    return path not in {"generation_config.json"} and not path.endswith(".py")


def _copy(checkpoint: Checkpoint, file: File, path: str, progress: Progress) -> None:
    content = hashlib.sha256()
    out = durable.WriteFile(path)
    try:
        for part in file_bytes(checkpoint.objects, file):
            content.update(part)
            out.write(part)
            progress.advance(len(part))
        if content.hexdigest() != file.sha256:
            raise IntegrityError(f"{file.path}: came out other than it went in", code="digest-mismatch")
        out.sync()
    finally:
        out.close()
