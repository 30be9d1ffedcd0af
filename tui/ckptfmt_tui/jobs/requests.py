"""What a job is asked to do: one frozen struct a verb. The command line shown for it is made from the same struct."""

from __future__ import annotations

from typing import Literal

import msgspec


class Job(msgspec.Struct, frozen=True, tag_field="verb", forbid_unknown_fields=True):
    """A request. Fields are the words of the command line, with its defaults."""


class Import(Job, frozen=True, tag="import"):
    """Take in what lies at `path` once its plan is agreed to; see `Store.import_path`."""

    path: str
    name: str
    base: str | None = None
    parent: str | None = None
    stage: int | None = None
    how: Literal["continue", "stack", "resume", "parent-only"] | None = None
    effort: Literal["fast", "balanced", "max"] = "balanced"


class Restore(Job, frozen=True, tag="restore"):
    """Give the files back."""

    ref: str
    target: str


class Merge(Job, frozen=True, tag="merge"):
    """Merge base and adapters into `out`."""

    ref: str
    out: str
    format: Literal["hf", "universal"] = "hf"
    dtype: Literal["bf16", "fp16", "fp32"] | None = None


class Verify(Job, frozen=True, tag="verify"):
    """Decode and compare; no refs: everything."""

    refs: tuple[str, ...] = ()


class Diff(Job, frozen=True, tag="diff"):
    """Compare two checkpoints."""

    first: str
    second: str


class Scan(Job, frozen=True, tag="scan"):
    """Look for what is redundant; writes nothing."""

    directories: tuple[str, ...]


class Cleanup(Job, frozen=True, tag="cleanup"):
    """Plan a cleanup, and do it once it is agreed to; without `apply` plan only. `only`: checkpoints; None: all."""

    directories: tuple[str, ...]
    keep_weights: Literal["adapter", "full", "none"] = "adapter"
    hold_days: float = 7.0
    only: tuple[str, ...] | None = None
    apply: bool = True


class Undo(Job, frozen=True, tag="undo"):
    """Put back what a receipt holds."""

    receipt: str


class Purge(Job, frozen=True, tag="purge"):
    """Plan what held files go, and delete them once it is agreed to."""

    receipt: str | None = None


class Gc(Job, frozen=True, tag="gc"):
    """Plan a gc, and run it once it is agreed to; without `apply` plan only."""

    grace_hours: float = 24.0
    keep_history_days: float = 30.0
    apply: bool = True


class Prune(Job, frozen=True, tag="prune"):
    """Plan which names a policy drops, and drop them once it is agreed to."""

    patterns: tuple[str, ...] = ()
    last: int | None = None
    every: int | None = None
    best: tuple[str, ...] = ()
    stages: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


class Fsck(Job, frozen=True, tag="fsck"):
    """Look at the store's structure."""

    full: bool = False


class AddBase(Job, frozen=True, tag="base-add"):
    """Record a base."""

    name: str
    source: str
    copy: bool = False


class VerifyBase(Job, frozen=True, tag="base-verify"):
    """Compare a base's files with its record; `path`: those in this directory."""

    name: str
    full: bool = False
    path: str | None = None


class KeepBase(Job, frozen=True, tag="base-keep"):
    """Copy a referenced base in."""

    name: str


class LookAt(Job, frozen=True, tag="look-at"):
    """Look at one tensor, by its place in the manifest."""

    ref: str
    tensor: int


Request = (
    Import
    | Restore
    | Merge
    | Verify
    | Diff
    | Scan
    | Cleanup
    | Undo
    | Purge
    | Gc
    | Prune
    | Fsck
    | AddBase
    | VerifyBase
    | KeepBase
    | LookAt
)
