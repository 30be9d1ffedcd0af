"""`ckptfmt show`."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ckptfmt.cli.describe import encoding_table, needs, shrunk
from ckptfmt.cli.output import Line, Styled, width_of
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import facts, table
from ckptfmt.cli.verb import REF, verb
from ckptfmt.wording import count, shape_words, short, size, value

if TYPE_CHECKING:
    from ckptfmt.api.results import Shown
    from ckptfmt.format.manifest import Adapter, Lineage, Manifest

_ADAPTER_FACTS = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "modules_to_save")
_MOST_FILES = 40


@verb("show", example="ckptfmt show runs/exp1/stage-2\nckptfmt show runs/exp1/stage-2@3 --tensors")
@click.argument("ref", type=REF)
@click.option("--tensors", is_flag=True, help="List every tensor, and how it is stored.")
def command(session: Session, ref: str, tensors: bool) -> None:  # noqa: FBT001
    """Show one checkpoint: files, tensors, base, lineage, encodings.

    REF is a name, a name and a generation (name@3), or the first 8 or more digits of a manifest's id.
    """
    with session.store() as store:
        shown = store.show(ref)
    session.give(
        document(shown) if session.as_json else None,
        lambda: tensor_lines(shown, width_of(sys.stdout)) if tensors else lines(shown),
    )


def document(shown: Shown) -> dict[str, Any]:
    """The manifest's own keys, all of them, and beside them what the store knows of it."""
    import msgspec

    manifest = shown.manifest
    keys: dict[str, Any] = {"format": msgspec.to_builtins(manifest)["format"]}
    keys |= {field: msgspec.to_builtins(getattr(manifest, field)) for field in manifest.__struct_fields__}
    beside = {field: getattr(shown, field) for field in shown.__struct_fields__ if field != "manifest"}
    beside["needs_base"] = msgspec.to_builtins(shown.needs_base)
    return keys | {field: msgspec.to_builtins(each) for field, each in beside.items()}


def lines(shown: Shown) -> list[Line]:
    """A checkpoint for people."""
    manifest = shown.manifest
    title = f"{shown.ref}@{shown.generation}" if shown.ref else shown.id
    base = manifest.base
    told: list[Line] = [Styled(title, "bold")]
    told += facts(
        [
            ("manifest", shown.id),
            ("layout", manifest.layout),
            ("size", shrunk(shown.logical_bytes, shown.stored_bytes)),
            ("root", manifest.root or ""),
            ("base", f"{base.name} ({base.binding}: {base.evidence}), root {short(base.root)}" if base else ""),
            ("copy", f"an exact copy of base {shown.copy_of!r}: every tensor is the same" if shown.copy_of else ""),
            ("base hint", _hint(manifest)),
            ("needs", needs(shown.needs_base) if shown.needs_base else ""),
            ("lineage", _lineage(manifest.lineage)),
            ("step", "" if manifest.step is None else str(manifest.step)),
            ("tensors", _tensor_summary(manifest)),
            *(("adapter", _adapter(adapter)) for adapter in manifest.adapters),
            *(("metric", f"{name} {value(each)}") for name, each in manifest.metrics.items()),
            *(("setting", f"{name} {value(each)}") for name, each in manifest.settings.items()),
            *(("note", note) for note in manifest.notes),
        ]
    )
    told += ["", *_file_lines(manifest), "", *encoding_table(shown.encodings)]
    if shown.against is not None:
        others = shown.against
        told.append(f"stored against {count(others.objects, 'other object')} of the store: {size(others.stored_bytes)}")
    return told


def _hint(manifest: Manifest) -> str:
    if manifest.base is not None or not manifest.base_hint:
        return ""
    return f"{manifest.base_hint}; a name is no proof: 'ckptfmt bind REF --base NAME' states the base"


def _lineage(lineage: Lineage | None) -> str:
    if lineage is None:
        return ""
    parts = [
        "" if lineage.stage is None else f"stage {lineage.stage}",
        f"trained from {short(lineage.parent)}" if lineage.parent else "",
        lineage.how or "",
        f"held in {lineage.dtype}" if lineage.dtype else "",
    ]
    return ", ".join(part for part in parts if part)


def _tensor_summary(manifest: Manifest) -> str:
    roles = Counter(tensor.role for tensor in manifest.tensors)
    dtypes = Counter(tensor.dtype for tensor in manifest.tensors)
    counted = ", ".join(f"{number:,} {role}" for role, number in roles.items())
    return f"{counted} ({', '.join(dtypes)})" if counted else ""


def _adapter(adapter: Adapter) -> str:
    known = [f"{name} {value(adapter.config[name])}" for name in _ADAPTER_FACTS if adapter.config.get(name)]
    where = f" in {adapter.path}" if adapter.path not in ("", ".") else ""
    return ", ".join([f"{adapter.name}: {adapter.method}{where}", *known])


def _file_lines(manifest: Manifest) -> list[Line]:
    rows = [
        (
            file.path,
            size(file.size),
            file.container if file.container != "opaque" else "",
            _remark(file.reason, file.damaged),
        )
        for file in manifest.files[:_MOST_FILES]
    ]
    drawn = table(("FILE", "SIZE", "CUT AS", "WHY WHOLE"), rows, right=("SIZE",))
    if len(manifest.files) > _MOST_FILES:
        drawn.append(f"and {count(len(manifest.files) - _MOST_FILES, 'file')} more (--json lists all)")
    return [*drawn, *(f"{link.path} -> {link.target}" for link in manifest.links)]


def _remark(reason: str | None, damaged: bool) -> str:  # noqa: FBT001
    return f"DAMAGED: {reason}" if damaged else reason or ""


def tensor_lines(shown: Shown, width: int | None) -> list[Line]:
    """Every tensor, and how it is stored."""
    rows = []
    for tensor, stored in zip(shown.manifest.tensors, shown.tensor_encodings, strict=True):
        rows.append(
            (
                tensor.name,
                tensor.role,
                tensor.dtype,
                shape_words(tensor.shape),
                stored.encoding or "base",
                size(stored.logical_bytes),
                size(stored.stored_bytes),
                tensor.part or "",
            )
        )
    header = ("TENSOR", "ROLE", "DTYPE", "SHAPE", "ENCODING", "LOGICAL", "STORED", "PART")
    return table(header, rows, right=("SHAPE", "LOGICAL", "STORED"), width=width)
