"""What `diff` gives back: frozen data, whose fields are the keys of `--json`.

Numbers that do not exist are null: a relative norm where A is all zero, a rank where there is no matrix. Definitions
and sources: docs/design/007-diff.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ckptfmt.format.manifest import Binding, Json, Role


class DiffSide(msgspec.Struct, frozen=True):
    """One of the two checkpoints.

    `name` is what it was called, `kind` what that named: a `ref`, a `base` of the store, or a `path`. `manifest` is
    its id; of a base that of its record, of a path that which an import would give it without a base.
    """

    name: str
    kind: Literal["ref", "base", "path"]
    manifest: str
    layout: str
    base: str | None
    base_root: str | None
    binding: Binding | None
    parent: str | None
    stage: int | None
    step: int | None
    logical_bytes: int


class FileRow(msgspec.Struct, frozen=True):
    """A file that only one of the two has."""

    path: str
    bytes: int


class ChangedFile(msgspec.Struct, frozen=True):
    """A file of both, with other content."""

    path: str
    bytes_a: int
    bytes_b: int


class FileChanges(msgspec.Struct, frozen=True):
    """Files by their SHA-256. `same` counts those of both with the same content, `same_names` are their paths."""

    added: tuple[FileRow, ...]
    removed: tuple[FileRow, ...]
    changed: tuple[ChangedFile, ...]
    same: int
    same_names: tuple[str, ...]


class TensorRow(msgspec.Struct, frozen=True):
    """A tensor that only one of the two has. `part` is the adapter or component that it belongs to."""

    name: str
    role: Role
    part: str | None
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class ReshapedTensor(msgspec.Struct, frozen=True):
    """A tensor of both, with other shapes: its values are not compared."""

    name: str
    role: Role
    part: str | None
    dtype_a: str
    dtype_b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]


class ChangedTensor(msgspec.Struct, frozen=True):
    """A tensor of both, of the same shape, with other bytes. D = B - A, element by element.

    Elements of which one is NaN or infinite are left out of all norms, of the cosine, the rank and `largest_change`;
    `not_finite` counts them.

    Attributes:
        name: in its role's own terms, without wrappers.
        role: whose it is.
        part: the adapter or component that it belongs to.
        dtype_a: its element type in A.
        dtype_b: its element type in B; where it is another one (a retyped tensor), values are compared and no bits.
        shape: of both.
        elements: number of elements.
        norm_a: Frobenius norm of A.
        norm_b: Frobenius norm of B.
        norm: Frobenius norm of D.
        relative_norm: `norm / norm_a`; null where A is all zero and D is not.
        cosine: between A and B as vectors; null where one is all zero.
        largest_change: the largest absolute value in D.
        changed_elements: share of elements whose values differ, 0 to 1: NaN equals NaN, -0.0 equals 0.0.
        changed_bits: share of bits that differ, 0 to 1; null for retyped tensors.
        effective_rank: `(sum of s^2)^2 / sum of s^4` over the singular values s of D, which has the first dimension as
            rows and all others as columns; null where it is no matrix, or D is zero.
        rank_estimated: whether the rank is an estimate from a random projection, right to about a tenth.
        not_finite: elements of which one is NaN or infinite; null where values are not known (packed types).
    """

    name: str
    role: Role
    part: str | None
    dtype_a: str
    dtype_b: str
    shape: tuple[int, ...]
    elements: int
    norm_a: float | None
    norm_b: float | None
    norm: float | None
    relative_norm: float | None
    cosine: float | None
    largest_change: float | None
    changed_elements: float | None
    changed_bits: float | None
    effective_rank: float | None
    rank_estimated: bool
    not_finite: int | None


class TensorChanges(msgspec.Struct, frozen=True):
    """Tensors by role, part and name. `same` counts those of the same type, shape and digest: they are not read.

    `changed` is sorted by relative norm, the largest first. `same_names` are the names of the same ones.
    """

    added: tuple[TensorRow, ...]
    removed: tuple[TensorRow, ...]
    reshaped: tuple[ReshapedTensor, ...]
    changed: tuple[ChangedTensor, ...]
    same: int
    same_names: tuple[str, ...]


class ModuleUpdate(msgspec.Struct, frozen=True):
    """What two adapters add to one module: U = scaling x B x A of the first, V of the second, D = V - U.

    None of these is ever built. `rank_*` are numbers of rows of the factor A, null where an adapter leaves the module
    alone (then its update is zero). `effective_rank_*` are of U, V and D, as in `ChangedTensor`, and exact.
    Factors with NaN or infinite numbers have no norms.
    """

    module: str
    rank_a: int | None
    rank_b: int | None
    scaling_a: float | None
    scaling_b: float | None
    norm_a: float | None
    norm_b: float | None
    norm: float | None
    relative_norm: float | None
    cosine: float | None
    effective_rank_a: float | None
    effective_rank_b: float | None
    effective_rank: float | None


class AdapterChange(msgspec.Struct, frozen=True):
    """An adapter of both.

    Attributes:
        name: in A.
        name_b: in B.
        method_a: as PEFT names it.
        method_b: as PEFT names it.
        how: whether they are compared as `updates`, or only tensor by tensor (`tensors`), or are the `same`.
        why: why they are not compared as updates.
        relative_norm: norm of all differing modules' D over the norm of their U.
        cosine: between all differing modules' U and V as vectors.
        modules: those whose updates differ or are spelled otherwise, by relative norm, the largest first.
        same_modules: number of modules with the same factors and scaling.
    """

    name: str
    name_b: str
    method_a: str
    method_b: str
    how: Literal["updates", "tensors", "same"]
    why: str | None
    relative_norm: float | None
    cosine: float | None
    modules: tuple[ModuleUpdate, ...]
    same_modules: int


class AdapterChanges(msgspec.Struct, frozen=True):
    """Adapters by name; the only ones of both are compared whatever they are called."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    compared: tuple[AdapterChange, ...]


class Value(msgspec.Struct, frozen=True):
    """A value that only one of the two has, under its key path."""

    key: str
    value: Json


class ChangedValue(msgspec.Struct, frozen=True):
    """A value that both have, and that differs."""

    key: str
    a: Json
    b: Json


class ValueChanges(msgspec.Struct, frozen=True):
    """Values under flat key paths (`optimizer.lr`, `adapters.default.r`), in order of their keys."""

    added: tuple[Value, ...]
    removed: tuple[Value, ...]
    changed: tuple[ChangedValue, ...]
    same: int


class Cell(msgspec.Struct, frozen=True):
    """What changed in one module of one layer.

    Attributes:
        of: of the `model`, or of the `adapter`s' updates.
        layer: the layer as `layers` of the summary has it; null for what lies in no layer.
        module: the module, without layer and without `.weight`.
        relative_norm: root of the mean of the squared relative norms of its tensors, weighted by their elements; those
            that are the same count as 0, and those without a relative norm not at all. Null where none has one.
        tensors: how many tensors (of an adapter: updates) of both are in it.
        changed: how many of them changed.
    """

    of: Literal["model", "adapter"]
    layer: str | None
    module: str
    relative_norm: float | None
    tensors: int
    changed: int


class DiffSummary(msgspec.Struct, frozen=True):
    """The whole in a few words: a table of layers x modules, and what to know of it.

    Attributes:
        identical: no difference was found, in files, tensors, settings or metrics.
        comparable: whether weights of the two could be compared: both have models, or both have adapters.
        relative_norm: of the model, as in `Cell`; null where nothing was compared.
        retyped: changed tensors with another element type.
        read_bytes: bytes of tensors that were read.
        layers: layers in order.
        modules: modules in order.
        cells: those that there are, row by row.
        lineage: how the two are related, in a sentence; null where nothing is known.
        same_base: whether both are bound to bases of the same root; null where one is bound to none.
        notes: what a reader should know.
    """

    identical: bool
    comparable: bool
    relative_norm: float | None
    retyped: int
    read_bytes: int
    layers: tuple[str, ...]
    modules: tuple[str, ...]
    cells: tuple[Cell, ...]
    lineage: str | None
    same_base: bool | None
    notes: tuple[str, ...]


class DiffReport(msgspec.Struct, frozen=True):
    """Two checkpoints, compared: what B has that A has not is `added`."""

    a: DiffSide
    b: DiffSide
    files: FileChanges
    tensors: TensorChanges
    adapters: AdapterChanges
    settings: ValueChanges
    metrics: ValueChanges
    summary: DiffSummary
