"""Merging a checkpoint of a store: its recipe, the plan, the execution, and a directory that appears when all held."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptfmt.errors import InvalidInput
from ckptfmt.format.manifest import BaseRecord, How, Manifest
from ckptfmt.merge.adapters import StoredAdapter
from ckptfmt.merge.execute import execute
from ckptfmt.merge.files import CARD, CONFIG, RECORD, beside_files, merge_record, merged_config, model_card, read_config
from ckptfmt.merge.form import Form, Format, choose_form
from ckptfmt.merge.hf_writer import write_file
from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.pickled import WithSkeletons
from ckptfmt.merge.plan import DTYPES, MergePlan, plan_merge
from ckptfmt.merge.protocol import Setting
from ckptfmt.merge.recipe import OUTPUT, Recipe, resolve_recipe
from ckptfmt.merge.source import Outside, TensorSource
from ckptfmt.progress import Progress
from ckptfmt.storage.appearing import appearing
from ckptfmt.store.bases import missing_from, needed_objects, outside_files, places_of
from ckptfmt.store.objects import Objects
from ckptfmt.store.outside import Bases, Joined
from ckptfmt.store.store import Store
from ckptfmt.transfer.restoring import file_bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a merge.

    Attributes:
        name: the checkpoint.
        dtype: bf16, fp16 or fp32; None keeps the base's.
        device: "cpu" or "cuda".
        how: how stages go on from each other, where their manifests do not say.
        adapters: which of the checkpoint's adapters, with weights; None for its only one.
        format: what is written: a Hugging Face directory, or a directory with a universal `ckpt.pt`.
    """

    name: str
    dtype: str | None = None
    device: str = "cpu"
    how: How | None = None
    adapters: Mapping[str, float] | None = None
    format: Format = "hf"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge that is ready to be executed: nothing was computed yet, everything that can be refused was."""

    request: Request
    recipe: Recipe
    plan: MergePlan
    source: TensorSource
    objects: Objects
    base: BaseRecord | Manifest
    own: Manifest
    config: dict[str, Any]
    form: Form


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge that was done: bytes of tensors written, wall-clock seconds, the written record."""

    path: str
    bytes: int
    seconds: float
    record: dict[str, Any]


def prepare(store: Store, request: Request) -> Prepared:
    """Find the recipe of a checkpoint and plan its merge.

    Raises:
        InvalidInput: a dtype or device that is none of those there are.
        MergeError, IntegrityError, BaseMismatch: it cannot be merged, or not onto a base that is known.
    """
    if request.dtype is not None and request.dtype not in DTYPES:
        raise InvalidInput(f"--dtype: {request.dtype!r} is none of keep, {', '.join(DTYPES)}")
    if request.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("--device cuda: this machine has none that torch can use", hint="leave --device out")
    digest, _ = store.resolve(request.name)
    found = resolve_recipe(digest, store.manifest, name=request.name, how=request.how, chosen=request.adapters)
    recipe = _known_by_that_name(store, found)
    base = store.record(recipe.base.record)
    files = outside_files(store, recipe.base)
    objects = store.objects(Joined([WithSkeletons(files, base), Bases(store)]))
    outside = Outside(files, frozenset(missing_from(store, needed_objects(base))))
    source = TensorSource(f"base {recipe.base.name!r}", base, objects, outside=outside)
    config = read_config(base, objects)
    specs = source.specs()
    out = DTYPES[request.dtype] if request.dtype else None
    stages = []
    for item in recipe.ingredients:
        held = out if item.dtype == OUTPUT else DTYPES[item.dtype] if item.dtype else None
        setting = Setting(device=request.device, weight=item.weight, model_config=config)
        adapter = StoredAdapter(store.manifest(item.manifest), item.adapter, objects)
        stages.append((plan_changes(adapter, specs, setting), held))
    plan = plan_merge(specs, stages, dtype=out, order=specs)
    changed = merged_config(config, plan, out) if config else {}
    form = choose_form(base, objects, changed, plan, request.format, where=f"base {recipe.base.name!r}")
    return Prepared(request, recipe, plan, source, objects, base, store.manifest(digest), config, form)


def _known_by_that_name(store: Store, recipe: Recipe) -> Recipe:
    """The recipe without `trained_on` where that is only another name of its base: its repository, or where it lies."""
    names = {store.record(recipe.base.record).repo, *places_of(store, recipe.base.record)}
    stated = recipe.trained_on
    return replace(recipe, trained_on=None) if stated in names or os.path.realpath(stated or "") in names else recipe


def merge(prepared: Prepared, target: str, *, progress: Progress) -> Merged:
    """Execute a merge into `target`, which appears whole, once every base tensor was proven.

    Raises:
        Conflict: `target` exists and is not empty.
        BaseMismatch: a tensor of the base is not what was recorded; nothing appears.
        StorageError: the disk is full, or refuses; nothing is left behind.
    """
    began = time.monotonic()
    request = prepared.request
    out = DTYPES[request.dtype] if request.dtype else None
    with appearing(os.path.abspath(target)) as building:
        writer = prepared.form.open(building)
        try:
            done = execute(prepared.plan, prepared.source, writer, device=request.device, progress=progress)
        finally:
            writer.abort()
        record = merge_record(
            prepared.recipe,
            prepared.plan,
            root=done.root,
            dtype=request.dtype,
            device=request.device,
            threads=torch.get_num_threads(),
        )
        record |= {"written_as": request.format, "key_map": prepared.form.map}
        record["notes"] += prepared.form.notes
        _write_beside(prepared, building, record, out)
    return Merged(os.path.abspath(target), prepared.plan.output_bytes(), time.monotonic() - began, record)


def _write_beside(prepared: Prepared, building: str, record: dict[str, Any], out: str | None) -> None:
    for path, (_, file) in beside_files(prepared.base, prepared.own).items():
        write_file(f"{building}/{path}", b"".join(file_bytes(prepared.objects, file)))
    if prepared.form.config:
        config = merged_config(prepared.form.config, prepared.plan, out)
        write_file(f"{building}/{CONFIG}", json.dumps(config, indent=2).encode() + b"\n")
    write_file(f"{building}/{RECORD}", json.dumps(record, indent=2).encode() + b"\n")
    card = model_card(prepared.request.name, record, None)
    write_file(f"{building}/{CARD}", card.encode())
