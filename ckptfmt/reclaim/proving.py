"""The proof: a checkpoint rebuilt from the store alone, streamed, and compared with the originals. It writes nothing.

`prove_fresh` runs it in a process of its own, so that nothing that the importing process holds in memory can vouch for
what lies on the disk. Of the host's catalog nothing is believed: it nominates shards, whose own headers are read now.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

import msgspec

from ckptfmt.errors import CkptfmtError, IncompleteStore
from ckptfmt.format.manifest import File, Manifest, objects_of
from ckptfmt.reclaim.found import Identity
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.graph import resolve
from ckptfmt.store.objects import Objects
from ckptfmt.store.outside import all_outside
from ckptfmt.store.shards import read_shard_header, shard_key
from ckptfmt.store.store import Store, manifest_key, open_store
from ckptfmt.transfer.restoring import file_bytes

_AGAIN: Final = "wait until nobody writes there, then run the same command again"


class ProofRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be proven.

    Attributes:
        store: its path.
        manifest: what is to be rebuilt, all of it.
        root: the directory where the originals lie under their paths of the manifest.
        files: of the manifest's files those that are to be compared with the originals.
        outside: whether the files of bases outside the store may be used.
    """

    store: str
    manifest: str
    root: str
    files: tuple[str, ...]
    outside: bool = False


class ProvenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of one original. `reason` says why it is in doubt; None: the store gives it back to the byte."""

    path: str
    reason: str | None
    identity: Identity = (0, 0, 0, 0, 0)
    sha256: str = ""
    mode: int = 0
    allocated: int = 0
    links: int = 1


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a request. `problem` says why the checkpoint as a whole cannot be restored."""

    files: tuple[ProvenFile, ...]
    problem: str | None = None


Prover = Callable[[ProofRequest], Proof]


def prove_fresh(request: ProofRequest) -> Proof:
    """`prove` in a fresh process. Whatever goes wrong there is a doubt, never an error."""
    # -P: the directory that the user stands in must not lend modules to the proof.
    command = [sys.executable, "-P", "-m", "ckptfmt.reclaim.proving"]
    try:
        done = subprocess.run(command, input=msgspec.json.encode(request), capture_output=True, check=False)
    except OSError as error:
        return Proof((), f"the proof could not be started: {error.strerror or error}")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return Proof((), f"the proof ended with status {done.returncode}: {said[-1] if said else 'no word'}")
    try:
        return msgspec.json.decode(done.stdout, type=Proof)
    except msgspec.DecodeError as error:
        return Proof((), f"the proof's answer cannot be read: {error}")


def prove(request: ProofRequest) -> Proof:
    """Rebuild every file of a manifest and compare those asked for with their originals."""
    try:
        store = open_store(request.store)
        try:
            return _prove(store, request)
        finally:
            store.close()
    except (CkptfmtError, OSError) as error:
        return Proof((), str(error))


def _prove(store: Store, request: ProofRequest) -> Proof:
    # What lies in the trash may be gone before the name that needs it is seen.
    if store.storage.size(manifest_key(request.manifest)) is None:
        return Proof((), f"manifest {request.manifest} is not in its place")
    manifest = store.manifest(request.manifest)
    recorded = {file.path: file for file in manifest.files}
    if unknown := [path for path in request.files if path not in recorded]:
        return Proof((), f"{unknown[0]} is not in the checkpoint that was taken in")
    objects = objects_on_disk(store, manifest, outside=request.outside)
    proven = []
    with ThreadPoolExecutor(2, "decode") as pool:
        for path in sorted(recorded.keys() - set(request.files)):
            if (problem := _decodes(recorded[path], objects, pool)) is not None:
                return Proof((), f"{path}: {problem}")
        for path in request.files:
            proven.append(_compare(recorded[path], f"{request.root}/{path}", objects, pool))
    return Proof(tuple(proven))


def objects_on_disk(store: Store, manifest: Manifest, *, outside: bool) -> Objects:
    """The objects of a manifest as the headers of shards say now, read from the disk and not from the page cache.

    Raises:
        IncompleteStore: some cannot be decoded, or only by help of a base outside where that is not allowed.
    """
    beyond = all_outside(store, manifest.base) if outside else None
    found = resolve(store.catalog().find_many, objects_of(manifest), beyond.has if beyond is not None else _nowhere)
    if found.missing:
        raise IncompleteStore(
            f"{len(found.missing)} of its objects cannot be decoded from the store alone",
            digest=min(found.missing),
            hint="ckptfmt verify --all",
        )
    fresh = Catalog(None)
    for shard in sorted({copy.shard for copy in found.copies.values()}):
        size = store.storage.size(shard_key(shard))
        if size is None:
            raise IncompleteStore(f"shard {shard} is not in its place", digest=shard, hint="ckptfmt verify --all")
        _drop_from_cache(store, shard)
        fresh.add_shard(shard, size, read_shard_header(store.storage, shard))
    return Objects(store.storage, fresh, refresh=lambda: None, outside=beyond)


def _nowhere(digest: str) -> bool:
    return False


def _drop_from_cache(store: Store, shard: str) -> None:
    """Let the kernel read a shard anew; only a wish."""
    if isinstance(store.storage, LocalStorage) and hasattr(os, "posix_fadvise"):
        try:
            descriptor = os.open(store.storage.path(shard_key(shard)), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _decodes(file: File, objects: Objects, pool: Executor) -> str | None:
    """What keeps a file from being restored; None where nothing does."""
    content, length = hashlib.sha256(), 0
    try:
        for part in file_bytes(objects, file, pool):
            content.update(part)
            length += len(part)
    except CkptfmtError as error:
        return error.message
    return None if (length, content.hexdigest()) == (file.size, file.sha256) else "it comes back other than recorded"


def _compare(file: File, path: str, objects: Objects, pool: Executor) -> ProvenFile:
    """Compare what the store gives back with an original, which is opened once and never through a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        what = "is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        return ProvenFile(file.path, f"it cannot be opened: {what}")
    try:
        before = os.fstat(descriptor)
        reason = _difference(file, descriptor, before, objects, pool)
        after = os.fstat(descriptor)
        if reason is None and identity_of(after) != identity_of(before):
            reason = f"it changed while it was compared; {_AGAIN}"
        if reason is None and _is_open_for_writing(descriptor):
            reason = f"another process has it open for writing; {_AGAIN}"
    except OSError as error:
        return ProvenFile(file.path, f"it cannot be read: {error.strerror or error}")
    finally:
        os.close(descriptor)
    return ProvenFile(
        file.path,
        reason,
        identity=identity_of(after),
        sha256=file.sha256,
        mode=stat.S_IMODE(after.st_mode),
        allocated=after.st_blocks * 512,
        links=after.st_nlink,
    )


def identity_of(found: os.stat_result) -> Identity:
    """What a file is."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _difference(file: File, descriptor: int, found: os.stat_result, objects: Objects, pool: Executor) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_size != file.size:
        return f"it has {found.st_size} bytes, {file.size} were taken in"
    content, position = hashlib.sha256(), 0
    try:
        for part in file_bytes(objects, file, pool):
            there = bytes(part)
            if _read(descriptor, position, len(there)) != there:
                return f"what the store gives back differs between bytes {position} and {position + len(there)}"
            content.update(there)
            position += len(there)
    except CkptfmtError as error:
        return f"the store does not give it back: {error.message}"
    if position != file.size or content.hexdigest() != file.sha256:
        return "what the store gives back is not what was recorded"
    return None


def _read(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


def _is_open_for_writing(descriptor: int) -> bool:
    """Whether a process has the file open, or mapped, for writing; False too where the file system cannot tell."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def main() -> None:
    """Read a request from stdin, write the proof to stdout."""
    # Who opens the file in the moment of the lease breaks it, and is answered by this signal.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ProofRequest)
    sys.stdout.buffer.write(msgspec.json.encode(prove(request)))


if __name__ == "__main__":
    main()
