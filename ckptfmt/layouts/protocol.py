"""What a layout is: the reading of a directory tree as one checkpoint of a known kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.format.manifest import Role


class Tree(Protocol):
    """The regular files of one checkpoint, read lazily. Paths are relative, with '/'.

    Links are not listed; `json` follows one that names a file of the tree.
    """

    @property
    def name(self) -> str:
        """Base name of the directory (or of the file, where the checkpoint is one file)."""
        ...

    def paths(self) -> tuple[str, ...]:
        """Every regular file, sorted."""
        ...

    def size(self, path: str) -> int:
        """Bytes of a file."""
        ...

    def json(self, path: str) -> Any:
        """The JSON value of a small file; None where it is absent, over 64 MiB or not JSON."""
        ...

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `offset`: for figures that stand in tensors, so a few bytes.

        Raises:
            FormatError: the file is shorter than that.
        """
        ...

    def cut(self, path: str) -> Cut | Opaque:
        """The file cut into skeleton and extents, from a cache where it was cut before.

        Raises:
            FormatError, UnsafeFile: it is structurally lying.
        """
        ...


@dataclass(frozen=True, slots=True)
class ReadTensor:
    """A tensor as the layout sees it: `index` into the tensors of `Tree.cut(path)`.

    `name`, `role` and `part` are those of the manifest's `Tensor`.
    """

    path: str
    index: int
    name: str
    role: Role
    part: str | None = None


@dataclass(frozen=True, slots=True)
class ReadAdapter:
    """An adapter as the layout sees it: `name` unique in the checkpoint, `path` its directory or file."""

    name: str
    path: str
    method: str
    config: Mapping[str, Any]
    base_hint: str | None = None
    revision_hint: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a checkpoint means.

    Every tensor of every cut file appears exactly once in `tensors`; those that the layout does not know have the
    role "state". `settings` are hyperparameters, `metrics` figures by name (numbers only), both plain JSON without NaN.
    `notes` say in a sentence what a user should know (two sets of weights, a missing shard).
    """

    layout: str
    tensors: tuple[ReadTensor, ...] = ()
    adapters: tuple[ReadAdapter, ...] = ()
    base_hint: str | None = None
    step: int | None = None
    stage: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """The names in a directory: what can be known without opening a file.

    `files` are its regular files, `directories` its subdirectories that hold any, both by base name.
    """

    name: str
    files: frozenset[str] = frozenset()
    directories: Mapping[str, Listing] = field(default_factory=dict)


class Layout(Protocol):
    """One kind of checkpoint on disk."""

    @property
    def name(self) -> str:
        """What manifests call it."""
        ...

    def claims(self, listing: Listing) -> bool:
        """Tell, from names alone, whether the directory looks like this layout."""
        ...

    def read(self, tree: Tree) -> Reading | None:
        """Read `tree` as this layout, or return None where it is something else.

        Raises:
            FormatError, UnsafeFile: it is this layout, and a part of it lies (an index that names a path outside).
        """
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint found below a directory.

    Attributes:
        name: what `{name}` stands for: the path below the directory that was searched, without a weight suffix
            where the checkpoint is one file; '' for that directory itself.
        root: directory of its files, relative to the one searched ('' for itself).
        files: the files below `root` that are its own; None for all.
        layout: name of the layout that claims it, from names alone.
        stage: number of the stage, where the name tells.
    """

    name: str
    root: str
    files: tuple[str, ...] | None
    layout: str
    stage: int | None = None
