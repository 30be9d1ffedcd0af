"""What a scan sees: files, checkpoints and their tensors, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptfmt.format.manifest import Role

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, mtime (ns) and ctime (ns): what a file is."""


@dataclass(frozen=True, slots=True)
class FileSeen:
    """A regular file as `lstat` gives it.

    Attributes:
        path: relative to the directory that is scanned, with '/'.
        allocated: bytes that the file system gives back when its last name goes (`st_blocks` × 512).
        links: how many names it has.
        stamp: its identity as one string (`stat_cache.stamp_of`).
    """

    path: str
    size: int
    allocated: int
    device: int
    inode: int
    links: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    stamp: str

    @property
    def identity(self) -> Identity:
        """What it is."""
        return (self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns)

    @property
    def node(self) -> tuple[int, int]:
        """Device and inode: the same for all names of one file."""
        return (self.device, self.inode)


@dataclass(frozen=True, slots=True)
class TensorSeen:
    """A tensor and where its bytes lie: `offset` into the file `path`, `plain` if they fill `length` in C order."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    path: str
    offset: int
    length: int
    plain: bool

    @property
    def form(self) -> tuple[str, str, tuple[int, ...]]:
        """Name, dtype and shape."""
        return (self.name, self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """A checkpoint below a scanned directory.

    Attributes:
        top: absolute path of the directory that was scanned.
        root: its own directory relative to `top`, '' for `top` itself.
        name: what it is called: `root`, or for one file its path without suffix.
        layout: what it was read as.
        chosen: the files below `root` that are its own; None for all.
        files: its files, `path` relative to `top`.
        tensors: of its weight files; of one that could not be read, none.
        adapters: the paths of adapters that have files of their own, relative to `top`.
        hints: what its adapters say of their base.
        stage: number of its stage.
        problem: why it could not be read.
    """

    top: str
    root: str
    name: str
    layout: str
    chosen: tuple[str, ...] | None
    files: tuple[FileSeen, ...]
    tensors: tuple[TensorSeen, ...] = ()
    adapters: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    stage: int | None = None
    problem: str | None = None

    @property
    def path(self) -> str:
        """Absolute path of its directory."""
        return f"{self.top}/{self.root}" if self.root else self.top

    @property
    def shown(self) -> str:
        """Absolute path by which people know it."""
        return f"{self.top}/{self.name}" if self.name else self.top


@dataclass(frozen=True, slots=True)
class Survey:
    """All that a scan saw.

    Attributes:
        tops: absolute paths of the directories that were scanned.
        checkpoints: in counting order of their paths.
        files: every regular file by absolute path.
        partial: absolute paths of what an unfinished save left, with the reason.
        problems: paths that could not be read, with the reason.
    """

    tops: tuple[str, ...]
    checkpoints: tuple[CheckpointSeen, ...]
    files: dict[str, FileSeen] = field(default_factory=dict)
    partial: dict[str, str] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()
