"""The hold: the only module that changes the directories of users. Renames, links and unlinks, nothing is overwritten.

A file is moved only if it still is what was compared; whatever was swapped in meanwhile goes back to its place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from ckptfmt.errors import StorageError
from ckptfmt.format.receipt import HeldFile, Receipt
from ckptfmt.reclaim.found import Identity
from ckptfmt.reclaim.proving import identity_of
from ckptfmt.storage import durable
from ckptfmt.transfer.walk import HOLD

_CHUNK_BYTES: Final = 4 << 20


class Doubt(Exception):  # noqa: N818
    """Why a file stays where it is."""


def hold_of(receipt: Receipt) -> str:
    """The directory in which the files of a receipt are held, below the directory they are from."""
    return f"{receipt.top}/{HOLD}/{receipt.receipt}"


def held_place(receipt: Receipt, file: HeldFile) -> str:
    """Where a file is held."""
    return f"{hold_of(receipt)}/{file.path}"


def own_place(receipt: Receipt, file: HeldFile) -> str:
    """Where a file was."""
    return f"{receipt.top}/{file.path}"


def is_it(path: str, file: HeldFile) -> bool:
    """Whether a file is at `path`: the same inode, size and mtime, whatever its name.

    Not the same device: some file systems have another number after they were mounted again.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and _same(found, file)


def _same(found: os.stat_result, file: HeldFile) -> bool:
    return (found.st_ino, found.st_size, found.st_mtime_ns) == (file.inode, file.size, file.mtime_ns)


def hold(receipt: Receipt, file: HeldFile, identity: Identity) -> Identity:
    """Move one file into the hold; what it is there.

    Args:
        receipt: which is durable.
        file: to be moved.
        identity: what it was when it was compared.

    Raises:
        Doubt: it is not that any more, or something stands in the way; whether it was moved is to be looked at.
    """
    source, target = own_place(receipt, file), held_place(receipt, file)
    try:
        _refuse_links(os.path.dirname(source))
        if identity_of(os.lstat(source)) != identity:
            raise Doubt("it changed after it was compared")
        durable.make_directories(os.path.dirname(target))
        _refuse_links(os.path.dirname(target))
        if os.path.lexists(target):
            raise Doubt(f"something stands in its place in the hold: {target}")
        durable.rename(source, target)
        there = os.lstat(target)
        if not stat.S_ISREG(there.st_mode) or identity_of(there)[:4] != identity[:4]:
            _give_back(target, source)
            raise Doubt("it was exchanged while it was moved; what was there is back in its place")
        durable.fsync_directory(os.path.dirname(target))
        keep_times(receipt, [os.path.dirname(file.path), ""])
    except OSError as error:
        with suppress(StorageError):
            keep_times(receipt, [os.path.dirname(file.path), ""])
        raise Doubt(f"moving it into the hold failed: {error.strerror or error}") from error
    except StorageError as error:
        raise Doubt(f"moving it into the hold failed: {error.message}") from error
    return identity_of(there)


def is_still(receipt: Receipt, file: HeldFile, identity: Identity) -> bool:
    """Read a held file once more: whether its content is what was compared, and it is what it was when it was moved.

    Between the looks before and after a rename only a ctime could tell of a change, and a rename changes that.
    """
    try:
        descriptor = os.open(held_place(receipt, file), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    content = hashlib.sha256()
    try:
        while data := os.read(descriptor, _CHUNK_BYTES):
            content.update(data)
        return content.hexdigest() == file.sha256 and identity_of(os.fstat(descriptor)) == identity
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _refuse_links(directory: str) -> None:
    if os.path.realpath(directory) != directory:
        raise Doubt(f"{directory} leads through a link")


def _give_back(target: str, source: str) -> None:
    """Undo a rename without replacing what may stand there by now."""
    link_or_rename(target, source)
    if os.path.lexists(target):
        durable.unlink(target)
    durable.fsync_directory(os.path.dirname(source))


def put_back(receipt: Receipt, file: HeldFile) -> None:
    """Put back what was moved, whatever has become of it since.

    Raises:
        Doubt: something else stands in its place by now; it lies in the hold.
    """
    source, target = own_place(receipt, file), held_place(receipt, file)
    try:
        _give_back(target, source)
    except OSError as error:
        raise Doubt(f"it lies in {target}: {error.strerror or error}") from error


def link_or_rename(source: str, target: str) -> None:
    """Give a file the name `target`, which must not exist; where there are no hard links, move it.

    Raises:
        FileExistsError: something is there.
    """
    try:
        durable.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        durable.rename(source, target)


def keep_times(receipt: Receipt, directories: Iterable[str]) -> None:
    """Give directories the mtimes that they had before anything was taken from them: a Trainer rotates by these.

    Raises:
        StorageError: the file system refuses.
    """
    known = {directory.path: directory for directory in receipt.directories}
    for path in dict.fromkeys(directories):
        before = known.get(path or ".")
        place = f"{receipt.top}/{path}" if path else receipt.top
        if before is None or not os.path.isdir(place) or os.path.islink(place):
            continue
        with durable.storage_errors(place):
            if os.lstat(place).st_mtime_ns != before.mtime_ns:
                durable.set_mtime(place, before.mtime_ns)
            durable.fsync_directory(place)


def restore_times(receipt: Receipt) -> None:
    """As `keep_times` for all directories of a receipt, but for those in which somebody made something since."""
    keep_times(receipt, [path for path in directories_of(receipt) if not _is_newer(receipt, path)])


def directories_of(receipt: Receipt) -> list[str]:
    """The directories of a receipt, relative, '' for the one that was cleaned."""
    return ["" if each.path == "." else each.path for each in receipt.directories]


def _is_newer(receipt: Receipt, directory: str) -> bool:
    place = f"{receipt.top}/{directory}" if directory else receipt.top
    try:
        changed = os.lstat(place).st_mtime_ns
        with os.scandir(place) as entries:
            return any(e.name != HOLD and e.stat(follow_symlinks=False).st_ctime_ns >= changed for e in entries)
    except OSError:
        return True


def give_back(receipt: Receipt, file: HeldFile) -> None:
    """Put one file back from the hold: its name first, durable, then the one in the hold goes.

    Raises:
        Doubt: something else stands in its place, or it is in neither.
    """
    source, target = held_place(receipt, file), own_place(receipt, file)
    try:
        if is_it(target, file):
            if is_it(source, file):
                durable.unlink(source)
            return
        if not is_it(source, file):
            gone = not os.path.lexists(source)
            raise Doubt(f"it is not in the hold any more: ckptfmt restore {receipt.ref}" if gone else _other(source))
        if os.path.lexists(target):
            raise Doubt(f"something else stands in its place: move {target} away, then undo again")
        _make_again(receipt, os.path.dirname(file.path))
        _refuse_links(os.path.dirname(target))
        link_or_rename(source, target)
        durable.fsync_directory(os.path.dirname(target))
        if os.path.lexists(source):
            durable.unlink(source)
    except OSError as error:
        raise Doubt(f"it cannot be put back: {error.strerror or error}") from error


def _other(path: str) -> str:
    return f"{path} is not the file that was held"


def _make_again(receipt: Receipt, directory: str) -> None:
    """Make a file's directories again where somebody removed them, with the modes they had."""
    modes = {each.path: each.mode for each in receipt.directories}
    missing = []
    while directory and not os.path.isdir(f"{receipt.top}/{directory}"):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for path in reversed(missing):
        place = f"{receipt.top}/{path}"
        durable.make_directories(place)
        if path in modes:
            durable.chmod(place, modes[path])


def delete(receipt: Receipt, file: HeldFile, identity: Identity | None) -> int:
    """Delete one file from the hold; the bytes that the file system gives back for it.

    Args:
        receipt: whose `purging` entry is durable.
        file: to be deleted.
        identity: what it was when it was compared, a moment ago; None where it was not there to be compared.

    Raises:
        Doubt: it is not the file that was compared.
    """
    place = held_place(receipt, file)
    try:
        if not os.path.lexists(place):
            return 0
        _refuse_links(os.path.dirname(place))
        found = os.lstat(place)
        if not stat.S_ISREG(found.st_mode) or not _same(found, file):
            raise Doubt(_other(place))
        if identity_of(found) != identity:
            raise Doubt("it changed after it was compared")
        durable.unlink(place)
    except OSError as error:
        raise Doubt(f"it cannot be deleted: {error.strerror or error}") from error
    return found.st_blocks * 512 if found.st_nlink == 1 else 0


def tidy(receipt: Receipt, files: Iterable[HeldFile]) -> None:
    """Remove the directories of the hold that are empty now, and make what went durable; the mtime above stays.

    Raises:
        StorageError: the file system refuses.
    """
    with durable.storage_errors(f"{receipt.top}/{HOLD}"):
        if os.path.isdir(receipt.top):
            before = os.lstat(receipt.top).st_mtime_ns
            try:
                _remove_empty(f"{receipt.top}/{HOLD}", {os.path.dirname(held_place(receipt, file)) for file in files})
            finally:
                if os.lstat(receipt.top).st_mtime_ns != before:
                    durable.set_mtime(receipt.top, before)
                    durable.fsync_directory(receipt.top)


def _remove_empty(top: str, directories: set[str]) -> None:
    """Remove those of `directories`, and of those above them up to `top`, that hold nothing."""
    while directories:
        directory = max(directories, key=len)
        directories.remove(directory)
        if directory != top and not directory.startswith(f"{top}/"):
            continue
        if os.path.isdir(directory) and not os.path.islink(directory) and not _removed(directory):
            continue
        directories.add(os.path.dirname(directory))


def _removed(directory: str) -> bool:
    """Remove a directory if nothing is in it; whether it is gone. Other cleanups put files there, and tidy up too."""
    try:
        durable.fsync_directory(directory)
        if os.listdir(directory):
            return False
        durable.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def moved(receipt: Receipt) -> tuple[HeldFile, ...]:
    """The files of a receipt that are in its hold, or nowhere: what stayed in its place is not among them."""
    return tuple(
        file
        for file in receipt.files
        if is_it(held_place(receipt, file), file) or not os.path.lexists(own_place(receipt, file))
    )


def places(receipt: Receipt) -> Mapping[str, HeldFile]:
    """The files of a receipt that are in its hold now, by path."""
    return {file.path: file for file in receipt.files if is_it(held_place(receipt, file), file)}
