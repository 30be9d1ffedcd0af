"""What the verbs give back: frozen data, whose fields are the keys of `--json`.

Sizes are bytes. Every class is a `msgspec.Struct`, so `msgspec.to_builtins` makes the JSON document of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ckptfmt.format.manifest import Binding, Json, Lineage, Manifest
from ckptfmt.format.refs import Generation


class Stored(msgspec.Struct, frozen=True):
    """What an encoding made of objects."""

    objects: int
    logical_bytes: int
    stored_bytes: int


class OpaqueFile(msgspec.Struct, frozen=True):
    """A weight file that is kept whole, and why."""

    path: str
    reason: str


class NeedsBase(msgspec.Struct, frozen=True):
    """The base without whose files a checkpoint cannot be restored, and where these were last seen on this host.

    `others` are the names of more of them, where one is not all that it needs.
    """

    name: str
    record: str
    last_seen: str | None
    others: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True):
    """A model that a checkpoint was stored against although nobody named it, and what speaks for it."""

    name: str
    why: str


class Forecast(msgspec.Struct, frozen=True):
    """What `optimize` would probably save: bytes, by how many tensors, of which rank their updates seem to be."""

    saved_bytes: int
    tensors: int
    rank: int


class OptimizedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint stored again.

    Bytes are those of the smallest copies of all that it needs. `tried` objects were looked at, `smaller` of them were
    stored again, and of `recovered` ones the adapter was found again. `also` are other names of the same checkpoint.
    """

    ref: str
    before_bytes: int
    after_bytes: int
    tried: int
    smaller: int
    recovered: int
    also: tuple[str, ...] = ()


class OptimizeReport(msgspec.Struct, frozen=True):
    """What `optimize` came to."""

    before_bytes: int
    after_bytes: int
    checkpoints: tuple[OptimizedCheckpoint, ...]
    failed: tuple[FailedPart, ...] = ()


class CheckpointReport(msgspec.Struct, frozen=True):
    """One checkpoint that was taken in. `copy_of` names the base of which it holds every tensor, and no other.

    `replaced` is the generation of the ref that named another checkpoint until now, where there is one.
    """

    ref: str
    generation: int
    manifest: str
    layout: str
    base: str | None
    binding: Binding
    needs_base: NeedsBase | None
    files: int
    tensors: int
    opaque: tuple[OpaqueFile, ...]
    notes: tuple[str, ...]
    logical_bytes: int
    new_bytes: int
    encodings: dict[str, Stored]
    found: Found | None = None
    forecast: Forecast | None = None
    copy_of: str | None = None
    replaced: int | None = None


class FailedPart(msgspec.Struct, frozen=True):
    """One of several things that failed while the others were done."""

    path: str
    ref: str
    code: str
    message: str
    hint: str | None
    exit_code: int


class PlannedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint that an import would take: `path` absolute, `parent` the ref it would be linked to.

    `files` are those that it is made of, relative to `path`; None: all that is there.
    """

    path: str
    files: tuple[str, ...] | None
    ref: str
    layout: str
    stage: int | None
    parent: str | None


class ImportPlan(msgspec.Struct, frozen=True):
    """What an import would do.

    `left` are files below the path that belong to no checkpoint and are not taken, and, with a '/' behind,
    directories that were not looked into: Git's own, and stores.
    """

    path: str
    checkpoints: tuple[PlannedCheckpoint, ...]
    left: tuple[str, ...]


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did. `notes` are of the whole: what a later verb will need to know."""

    logical_bytes: int
    new_bytes: int
    checkpoints: tuple[CheckpointReport, ...]
    failed: tuple[FailedPart, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()


class RefRow(msgspec.Struct, frozen=True):
    """A ref that stands. `stored_bytes` is what its objects take, `exclusive_bytes` what only it needs."""

    ref: str
    generation: int
    manifest: str
    layout: str
    stage: int | None
    step: int | None
    parent: str | None
    base: str | None
    binding: Binding
    needs_base: NeedsBase | None
    created: str
    logical_bytes: int
    stored_bytes: int
    exclusive_bytes: int
    metrics: dict[str, Json]
    labels: tuple[str, ...]
    pinned: bool


class Shown(msgspec.Struct, frozen=True):
    """One checkpoint in full: its manifest, how its objects are stored, how it was named.

    `against` are other objects of the store that decoding its own needs: of a base, of the step before, an adapter's.
    `stored_bytes` counts them too. `copy_of` names the base of which it holds every tensor, and no other.
    """

    ref: str | None
    generation: int | None
    id: str
    manifest: Manifest
    needs_base: NeedsBase | None
    logical_bytes: int
    stored_bytes: int
    encodings: dict[str, Stored]
    tensor_encodings: tuple[TensorStored, ...]
    against: Stored | None = None
    copy_of: str | None = None


class TensorStored(msgspec.Struct, frozen=True):
    """How one tensor is stored; `encoding` None where its bytes lie in a referenced base."""

    name: str
    encoding: str | None
    logical_bytes: int
    stored_bytes: int


class LineageStep(msgspec.Struct, frozen=True):
    """One manifest of a lineage, and the refs that name it now."""

    manifest: str
    refs: tuple[str, ...]
    layout: str
    lineage: Lineage | None
    step: int | None
    metrics: dict[str, Json]


class Log(msgspec.Struct, frozen=True):
    """A checkpoint's lineage, itself first, and the generations of its ref, newest first."""

    lineage: tuple[LineageStep, ...]
    generations: tuple[Generation, ...]


class RestoreReport(msgspec.Struct, frozen=True):
    """What was restored. `verified` is always true: what differs never appears."""

    files: int
    bytes: int
    verified: Literal[True]
    path: str
    manifest: str


class Damage(msgspec.Struct, frozen=True):
    """A damaged or missing object, or a ref or document that cannot be read; and every ref that it harms."""

    object: str
    problem: str
    checkpoints: tuple[str, ...]


class VerifyReport(msgspec.Struct, frozen=True):
    """What was decoded and compared: `bytes` are decoded ones."""

    objects: int
    bytes: int
    damaged: tuple[Damage, ...]


class BaseReport(msgspec.Struct, frozen=True):
    """A base as it was recorded. `kept` tells whether the store holds all of its bytes.

    `replaced` is the generation of the name that stood for other content until now, where there is one.
    """

    name: str
    record: str
    root: str
    files: int
    tensors: int
    kept: bool
    repo: str | None
    revision: str | None
    path: str | None
    bytes: int
    replaced: int | None = None


class BaseKept(msgspec.Struct, frozen=True):
    """The bytes of a base that were copied into the store."""

    name: str
    kept: bool
    bytes: int


class BaseVerified(msgspec.Struct, frozen=True):
    """A base's files compared with its record. `published` tells how many were compared with the Hub's SHA-256."""

    name: str
    root: str
    ok: bool
    how: Literal["cached", "read"]
    mismatched: tuple[str, ...]
    path: str
    published: int | None


class RefChanged(msgspec.Struct, frozen=True):
    """A ref and the generation it now has. `returned_to` is the one that a rollback returned to."""

    ref: str
    generation: int
    manifest: str | None
    returned_to: int | None = None


class Bound(msgspec.Struct, frozen=True):
    """The binding of a checkpoint."""

    ref: str
    generation: int
    manifest: str
    base: str
    binding: Binding
    evidence: str


class MergeReport(msgspec.Struct, frozen=True):
    """What a merge wrote. `adapters` are `<manifest>:<adapter>` in the order they were merged."""

    out: str
    root: str
    base: str
    base_root: str
    binding: Binding
    evidence: str
    trained_on: str | None
    stages: int
    adapters: tuple[str, ...]
    tensors_changed: int
    bytes: int
    seconds: float
    notes: tuple[str, ...]


class ConvertReport(msgspec.Struct, frozen=True):
    """What an export or a conversion wrote.

    `exact`: nothing was lost. Of a factorization it says whether merging it back gives the same bits; then `rank` is
    the largest one, `elements_differing` counts the elements that merging back gives other bits, and
    `max_relative_error` is the largest Frobenius error of a tensor, over that of its update. `saved_whole` are the
    modules that are no low-rank updates. `base_root` is the root of the base it was made against, `binding` how that
    is known to be the right one.
    """

    out: str
    format: Literal["hf", "peft", "universal"]
    exact: bool
    files: tuple[str, ...]
    key_map: str | None
    rank: int | None
    elements_differing: int | None
    max_relative_error: float | None
    saved_whole: tuple[str, ...]
    base: str | None
    base_root: str | None
    binding: Binding | None
    notes: tuple[str, ...]


class StoragePlan(msgspec.Struct, frozen=True):
    """What a way of keeping the store's stages would take, in bytes."""

    name: str
    bytes: int


class Stats(msgspec.Struct, frozen=True):
    """The store as a whole: logical against stored bytes, by encoding and by run."""

    checkpoints: int
    bases: int
    logical_bytes: int
    stored_bytes: int
    shard_bytes: int
    by_encoding: dict[str, Stored]
    by_run: dict[str, RunStats]
    plans: tuple[StoragePlan, ...]


class RunStats(msgspec.Struct, frozen=True):
    """The checkpoints of one run: the refs that share all but the last part of their names."""

    checkpoints: int
    logical_bytes: int
    stored_bytes: int
    exclusive_bytes: int


class PlannedRef(msgspec.Struct, frozen=True):
    """A ref that a prune drops or keeps, and every reason why it is kept; of those that go there is none.

    `generation` is the one that was seen, to which `rollback REF@N` returns; `exclusive_bytes` what only it needs.
    """

    ref: str
    run: str
    generation: int
    manifest: str
    step: int | None
    stage: int | None
    exclusive_bytes: int
    reasons: tuple[str, ...]


class PrunePlan(msgspec.Struct, frozen=True):
    """What a prune would do: `policy` in the words of the command line, `orders` by what each run is ordered.

    `unmatched` are the patterns that no ref fits.
    """

    policy: str
    orders: dict[str, Literal["step", "stage", "number", "time"]]
    dropped: tuple[PlannedRef, ...]
    kept: tuple[PlannedRef, ...]
    unmatched: tuple[str, ...] = ()


class PruneReport(msgspec.Struct, frozen=True):
    """What a prune did. What moved on meanwhile stands among `kept` and in `failed`; `unmatched` as in the plan."""

    policy: str
    applied: bool
    dropped: tuple[PlannedRef, ...]
    kept: tuple[PlannedRef, ...]
    failed: tuple[FailedPart, ...]
    unmatched: tuple[str, ...] = ()
