"""What is known of a checkpoint, as text."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Final

from rich.text import Text

from ckptfmt.api.contents import Contents, Kept
from ckptfmt.api.results import Log
from ckptfmt.format.manifest import Manifest
from ckptfmt.wording import clean, count, metrics, ratio, short, size
from ckptfmt_tui.models.bars import bar
from ckptfmt_tui.models.texts import fact

_WIDTH: Final = 14
_BAR: Final = 20
_fact = partial(fact, width=_WIDTH)


def _heading(text: Text, name: str) -> None:
    """A line that begins something."""
    text.append(f"\n{name}\n", style="bold")


def info_text(held: Contents, kept: Kept | None, log: Log | None) -> Text:
    """A checkpoint: identity, base, lineage, how it is stored, generations, notes."""
    manifest = held.manifest
    text = Text()
    _fact(text, "manifest", held.id)
    _fact(text, "layout", manifest.layout)
    _fact(text, "created", held.created or "")
    _fact(text, "labels", ", ".join(held.labels))
    _fact(text, "pinned", "it is not pruned or dropped" if held.pinned else "", style="green")
    _fact(text, "step", "" if manifest.step is None else f"{manifest.step:,}")
    _fact(text, "metrics", metrics(manifest.metrics))
    _fact(text, "files", _files(manifest))
    _fact(text, "tensors", _tensors(manifest))
    for adapter in manifest.adapters:
        _fact(text, "adapter", f"{adapter.name}: {adapter.method}, {_adapter(adapter.config)}")
    _fact(text, "model root", manifest.root or "")
    _base(text, manifest, kept)
    _stored(text, kept)
    _lineage(text, manifest, log)
    _generations(text, log)
    if manifest.notes:
        _heading(text, "Notes")
        for note in manifest.notes:
            text.append(f"{clean(note)}\n")
    return text


def _files(manifest: Manifest) -> str:
    opaque = sum(file.reason is not None for file in manifest.files)
    told = f"{count(len(manifest.files), 'file')}, {size(sum(file.size for file in manifest.files))}"
    return f"{told}; {count(opaque, 'weight file')} kept whole, see Files" if opaque else told


def _tensors(manifest: Manifest) -> str:
    roles = Counter(tensor.role for tensor in manifest.tensors)
    dtypes = Counter(tensor.dtype for tensor in manifest.tensors)
    parts = ", ".join(f"{number:,} {role}" for role, number in roles.most_common())
    return f"{parts} ({', '.join(dtype for dtype, _ in dtypes.most_common())})" if parts else ""


def _adapter(config: dict[str, object]) -> str:
    known = [f"{key} {config[key]}" for key in ("r", "lora_alpha") if key in config]
    return ", ".join(known) or "see Settings"


def _base(text: Text, manifest: Manifest, kept: Kept | None) -> None:
    base = manifest.base
    _heading(text, "Base")
    if base is None:
        _fact(text, "base", "none is bound" + (f"; it says {manifest.base_hint}" if manifest.base_hint else ""))
    else:
        _fact(text, "name", base.name)
        style = {"none": "red", "stated": "yellow"}.get(base.binding, "green")
        _fact(text, "binding", f"{base.binding}: {base.evidence}", style=style)
        _fact(text, "record", base.record)
        _fact(text, "root", base.root)
        _fact(text, "touched", f"{count(len(base.leaves), 'tensor')} of it" if base.leaves else "")
    if kept is not None and kept.needs_base is not None:
        seen = f"last seen in {kept.needs_base.last_seen}" if kept.needs_base.last_seen else "never seen on this host"
        _fact(
            text, "needed", f"it cannot be restored without the files of {kept.needs_base.name}, {seen}", style="yellow"
        )


def _stored(text: Text, kept: Kept | None) -> None:
    _heading(text, "Stored")
    if kept is None:
        text.append("reading …\n", style="dim")
        return
    times = ratio(kept.logical_bytes, kept.stored_bytes)
    _fact(
        text,
        "in all",
        f"{size(kept.logical_bytes)} in {size(kept.stored_bytes)}" + (f", {times} smaller" if times else ""),
    )
    if kept.exclusive_bytes is not None:
        _fact(text, "only its own", size(kept.exclusive_bytes))
    most = max((each.logical_bytes for each in kept.encodings.values()), default=0)
    for name, each in sorted(kept.encodings.items(), key=lambda item: -item[1].logical_bytes):
        text.append(f"{'in its base' if name == 'base' else name:<{_WIDTH}}", style="dim")
        text.append(bar(each.logical_bytes, most, _BAR), style="cyan")
        told = f"  {size(each.logical_bytes):>9}"
        if name != "base":
            told += f" in {size(each.stored_bytes):>9}  {ratio(each.logical_bytes, each.stored_bytes):>6}"
        text.append(f"{told}  {count(each.objects, 'object')}\n")


def _lineage(text: Text, manifest: Manifest, log: Log | None) -> None:
    lineage = manifest.lineage
    if lineage is None:
        return
    _heading(text, "Lineage")
    _fact(text, "stage", "" if lineage.stage is None else str(lineage.stage))
    _fact(text, "goes on by", lineage.how or "")
    _fact(text, "held in", lineage.dtype or "")
    if log is None:
        _fact(text, "parent", short(lineage.parent) if lineage.parent else "")
        return
    for depth, step in enumerate(log.lineage):
        named = ", ".join(step.refs) or f"{short(step.manifest)} (no ref stands for it)"
        stage = f"stage {step.lineage.stage}  " if step.lineage and step.lineage.stage is not None else ""
        arrow = "this one" if depth == 0 else f"{'  ' * (depth - 1)}└ from"
        told = metrics(step.metrics)
        _fact(text, arrow, f"{stage}{named}{'  ' if told else ''}{told}")


def _generations(text: Text, log: Log | None) -> None:
    if log is None or not log.generations:
        return
    _heading(text, "Generations")
    for item in log.generations:
        what = short(item.target) if item.target else "dropped"
        message = f"  {item.message}" if item.message else ""
        origin = f"  from {item.origin}" if item.origin else ""
        _fact(text, f"@{item.number}", f"{item.time}  {item.verb:<8} {what}{message}{origin}")
