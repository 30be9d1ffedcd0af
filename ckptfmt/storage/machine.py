"""What this machine is to a store: its name, and which directories are local disk."""

from __future__ import annotations

import os
import platform
import stat
import tempfile
from functools import cache
from typing import Final

import platformdirs

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "glusterfs", "afs"}
    | {
        "fuse.glusterfs",
        "fuse.sshfs",
        "9p",
        "orangefs",
        "pvfs2",
        "wekafs",
        "fuse.juicefs",
        "fuse.s3fs",
        "ocfs2",
        "gfs2",
    }
)
_ESCAPES: Final = ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\"))


def host_name() -> str:
    """This host's name, as it stands in records."""
    return platform.node() or "unknown"


def is_network(path: str) -> bool:
    """Tell whether `path` lies on a network file system: what is cached there is not to be trusted. Linux only."""
    return file_system_of(os.path.realpath(path)) in _NETWORK


def file_system_of(real_path: str) -> str:
    """The type of the file system that `real_path` lies on, or '' where the machine does not say."""
    best, kind = "", ""
    for mount, found in _mounts():
        inside = real_path == mount or real_path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


@cache
def _mounts() -> tuple[tuple[str, str], ...]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    mounts = []
    for line in lines:
        fields = line.split(" ")
        separator = fields.index("-")
        mount = fields[4]
        for escape, character in _ESCAPES:
            mount = mount.replace(escape, character)
        mounts.append((mount, fields[separator + 1]))
    return tuple(mounts)


def cache_directory() -> str | None:
    """A private directory of this user on local disk for what can be thrown away; None where there is none.

    `CKPTFMT_CACHE` names it; else the user's cache directory, or, where that lies on a network file system,
    `$XDG_RUNTIME_DIR` or the local temporary directory.
    """
    stated = os.environ.get("CKPTFMT_CACHE")
    candidates = [stated] if stated else _cache_candidates()
    return next((path for path in candidates if _private_directory(path)), None)


def _cache_candidates() -> list[str]:
    home = platformdirs.user_cache_dir("ckptfmt", appauthor=False)
    if not is_network(_existing_parent(home)):
        return [home, *_local_candidates()]
    return _local_candidates()


def _local_candidates() -> list[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    local = [os.path.join(runtime, "ckptfmt")] if runtime else []
    return [*local, os.path.join(tempfile.gettempdir(), f"ckptfmt-{os.getuid()}")]


def _existing_parent(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _private_directory(path: str) -> bool:
    """Make `path` if need be; only a directory of this user counts, so that nobody else can lay a trap there."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and os.access(path, os.W_OK)
