"""Base models: recording one, comparing its files with the record, copying it in."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from msgspec import structs

from ckptfmt.digest import digest_of
from ckptfmt.errors import BaseMismatch, CkptfmtError, Conflict, InvalidInput, NotFound
from ckptfmt.format import documents
from ckptfmt.format.manifest import BaseRecord, File, Tensor, objects_of, tensor_digest
from ckptfmt.format.refs import BASES, Generation, check_name
from ckptfmt.progress import Progress
from ckptfmt.store.bases import Base, BaseFiles, places_of
from ckptfmt.store.publish import confirm, pinned
from ckptfmt.store.refs import draft, replaced_by
from ckptfmt.store.stat_cache import StatCache, stamp_of
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import Content, attributes_of, build_record, root_of
from ckptfmt.transfer.reading import ReadCheckpoint, hash_content, read_walked, take_content
from ckptfmt.transfer.stream import FileStream
from ckptfmt.transfer.walk import Walked, same_still, walk, walk_files
from ckptfmt.transfer.writing import Written, storing

Keep = Literal["copy", "reference"]

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Source:
    """Where a base comes from: a directory, and what it is on the Hub, if it is from there."""

    path: str
    repo: str | None = None
    revision: str | None = None


def find_source(stated: str, revision: str | None) -> Source:
    """A base's files, from a path or from the local Hub cache.

    Args:
        stated: a path (anything that exists, or begins with '/' or '.'), else a repository id such as `org/model`.
        revision: branch, tag or commit of a repository.

    Raises:
        NotFound: neither is there; nothing is downloaded.
    """
    if os.path.exists(stated) or stated.startswith(("/", "./", "../")):
        if not os.path.exists(stated):
            raise NotFound(f"{stated}: no such file or directory")
        if revision is not None:
            raise InvalidInput("--revision goes with a repository, not with a path")
        path = os.path.realpath(stated)
        repo, commit = _hub_place(path)
        return Source(path, repo, commit)
    # The Hub's client takes long to load, and only this needs it.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        path = snapshot_download(stated, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        wanted = f"{stated}@{revision}" if revision else stated
        raise NotFound(
            f"{wanted} is neither a path nor in the local Hub cache",
            hint=f"hf download {stated}" + (f" --revision {revision}" if revision else ""),
        ) from None
    return Source(os.path.realpath(path), *_hub_place(os.path.realpath(path)))


def _hub_place(path: str) -> tuple[str | None, str | None]:
    """Repository and commit of a snapshot in a Hub cache: `models--org--name/snapshots/<commit>`."""
    parts = path.split("/")
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    return None, None


def add_base(store: Store, name: str, source: Source, *, keep: Keep, progress: Progress) -> tuple[Base, int | None]:
    """Record a base under a name; with `keep` "copy" take its bytes in too.

    Returns:
        The base, and the generation of the name that stood for other content until now.

    Raises:
        InvalidInput: it holds no model weights.
        FormatError, UnsafeFile, IntegrityError: as for an import.
    """
    check_name(BASES + name)
    walked = walk(source.path)
    checkpoint = read_walked(walked, os.path.basename(source.path))
    progress.begin(f"base {name}", sum(entry.size for entry in walked.of_kind("file")))
    written = Written(store)
    if keep == "copy":
        content = _copy(store, checkpoint, written, progress)
    else:
        content = hash_content(checkpoint, progress)
        same_still(walked, walked.again())
    root = root_of(content)
    if root is None:
        raise InvalidInput(f"{source.path} holds no model weights that could be a base", hint="ckptfmt import --help")
    progress.end()
    record = build_record(content, root, source.repo, source.revision)
    digest = digest_of(documents.encode(record))
    _remember(store, walked, content)

    before: Generation | None = None

    def make(newest: Generation | None) -> Generation | None:
        nonlocal before
        before = newest
        same = newest is not None and (newest.target, newest.origin, newest.keep) == (digest, walked.root, keep)
        if same:
            return None
        return structs.replace(
            draft(digest, "base add"), origin=walked.root, keep=keep, attributes=attributes_of(walked)
        )

    def confirm_all() -> None:
        store.put_record(record)
        if keep == "copy":
            _confirm_copy(store, name, record, checkpoint, written=written, progress=progress)

    with pinned(store, digest) as claim:
        given = claim.give(confirm_all, lambda: store.refs.append(BASES + name, make))
        generation = given or store.refs.current(BASES + name)
    return Base(name, generation, digest, store.record(digest)), replaced_by(digest, before)


def record_of(source: Source, progress: Progress) -> BaseRecord:
    """The record that a base's files give, as they are now. Nothing is written.

    Raises:
        InvalidInput: they hold no model weights.
        FormatError, UnsafeFile, IntegrityError: as for an import.
    """
    walked = walk(source.path)
    content = hash_content(read_walked(walked, os.path.basename(source.path)), progress)
    same_still(walked, walked.again())
    root = root_of(content)
    if root is None:
        raise InvalidInput(f"{source.path} holds no model weights that could be a base")
    return build_record(content, root, source.repo, source.revision)


def _copy(
    store: Store,
    checkpoint: ReadCheckpoint,
    written: Written,
    progress: Progress,
    *,
    check: Callable[[Content], None] | None = None,
    vanished: frozenset[str] = frozenset(),
) -> Content:
    """Take a base's files into the store, unless `check` raises; `vanished` ones although the catalog knows them."""
    with (
        ThreadPoolExecutor(1, "sha256") as sha_pool,
        ThreadPoolExecutor(os.cpu_count() or 1, "encode") as pool,
        storing(store, checkpoint, effort="balanced", pool=pool, written=written, vanished=vanished) as sink,
    ):
        content = take_content(checkpoint, sink, sha_pool, progress)
        same_still(checkpoint.walked, checkpoint.walked.again())
        if check is not None:
            check(content)
    return content


def _confirm_copy(
    store: Store, name: str, record: BaseRecord, checkpoint: ReadCheckpoint, *, written: Written, progress: Progress
) -> None:
    """As for a manifest: what a dedup relied on is confirmed in its shard before the base counts as kept."""
    confirm(
        store,
        objects_of(record),
        BASES + name,
        outside=None,
        again=lambda vanished: _copy(store, checkpoint, written, progress, vanished=vanished),
    )


def _remember(store: Store, walked: Walked, content: Content) -> None:
    """So that the first verification is instant already."""
    cache = StatCache(store.facts())
    by_path = {file.path: file for file in content.files}
    for entry in walked.of_kind("file"):
        found = os.stat(entry.real)
        if stamp_of(found) == entry.stamp:
            cache.put(entry.real, found, by_path[entry.path].sha256)


def base_place(store: Store, base: Base) -> str:
    """The directory where a base's files lie now.

    Raises:
        BaseMismatch: they are nowhere.
    """
    return BaseFiles(base.name, base.digest, lambda: base.record, places_of(store, base.digest)).directory


@dataclass(frozen=True, slots=True)
class Checked:
    """A base compared with its record: what differs, and whether any file had to be read."""

    mismatched: tuple[str, ...]
    read: bool


def check_base(store: Store, base: Base, place: str, *, full: bool, progress: Progress) -> Checked:
    """Compare the files in `place` with a base's record.

    Args:
        store: its catalog says which files were read before and have not changed since.
        base: what was recorded.
        place: the directory.
        full: read every file, whatever the catalog says.
        progress: told of each byte read.
    """
    cache = StatCache(store.facts())
    to_read = [file for file in base.record.files if full or cache.get(f"{place}/{file.path}") != file.sha256]
    mismatched: list[str] = []
    if to_read:
        progress.begin(f"verify base {base.name}", sum(file.size for file in to_read))
        with ThreadPoolExecutor(1, "sha256") as pool:
            for file in to_read:
                found = _sha256_of(os.path.realpath(f"{place}/{file.path}"), pool, cache, progress)
                if found is None:
                    mismatched.append(file.path)
                elif found != file.sha256:
                    mismatched += _tensor_differences(base.record, file, place, progress) or [file.path]
        progress.end()
    return Checked(tuple(mismatched), bool(to_read))


def _sha256_of(path: str, pool: ThreadPoolExecutor, cache: StatCache, progress: Progress) -> str | None:
    """SHA-256 of a file, read now; None where there is none."""
    if not os.path.isfile(path):
        return None
    stream = FileStream(path, None, pool, progress)
    try:
        for _ in stream.frames(stream.size):
            pass
        found = stream.finish()
        cache.put(path, stream.opened, found)
    finally:
        stream.close()
    return found


def _tensor_differences(record: BaseRecord, file: File, place: str, progress: Progress) -> list[str]:
    """Names of the tensors of one file that differ; none where the file cannot be read as it was recorded."""
    index = record.files.index(file)
    recorded = {tensor.key or tensor.name: tensor for tensor in record.tensors if tensor.file == index}
    try:
        checkpoint = read_walked(walk_files(place, [file.path], follow=True), os.path.basename(place))
        content = hash_content(checkpoint, progress)
    except CkptfmtError:
        return []
    there = {tensor.key or tensor.name: _identity(content, tensor) for tensor in content.tensors}
    return [
        tensor.name
        for key, tensor in sorted(recorded.items())
        if there.get(key) != (tensor.dtype, tensor.shape, tensor_digest(record, tensor))
    ]


def _identity(content: Content, tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    extent = content.files[tensor.file].extents[tensor.extent]
    return tensor.dtype, tensor.shape, tensor.digest or extent.digest


def keep_base(store: Store, base: Base, *, progress: Progress) -> int:
    """Copy a referenced base into the store; the bytes that its new shards take.

    Raises:
        BaseMismatch: its files are gone, or are not what was recorded; nothing is kept then.
    """
    place = base_place(store, base)
    recorded = {file.path: file.sha256 for file in base.record.files}

    def check(content: Content) -> None:
        found = {file.path: file.sha256 for file in content.files}
        differing = tuple(path for path, sha256 in recorded.items() if found.get(path) != sha256)
        if differing:
            raise BaseMismatch(
                f"base {base.name!r} is not what was recorded: {', '.join(differing[:_SHOWN])} differ",
                tensors=differing,
                hint=f"ckptfmt base verify {base.name} --full",
            )

    checkpoint = read_walked(walk_files(place, recorded), os.path.basename(place))
    progress.begin(f"keep base {base.name}", sum(file.size for file in base.record.files))
    written = Written(store)
    _copy(store, checkpoint, written, progress, check=check)
    progress.end()
    with pinned(store, base.digest) as claim:
        claim.give(
            lambda: _confirm_copy(store, base.name, base.record, checkpoint, written=written, progress=progress),
            lambda: _amend(store, base, "base keep", origin=place, keep="copy"),
        )
    return written.size


def note_kept(store: Store, base: Base) -> None:
    """Record that the store holds all of a base's objects already; durable, if it is not new.

    Raises:
        IncompleteStore: an object that the catalog knows is in no shard.
    """
    if base.generation.keep != "copy":
        objects, called = objects_of(base.record), BASES + base.name
        with pinned(store, base.digest) as claim:
            claim.give(
                lambda: confirm(store, objects, called, outside=None, again=lambda vanished: None),
                lambda: _amend(store, base, "base keep", origin=base.generation.origin or "", keep="copy"),
            )
    else:
        store.refs.settled(base.generation)


def note_place(store: Store, base: Base, place: str) -> None:
    """Record where a base's files were found, if that is new."""
    _amend(store, base, "base verify", origin=place)


def _amend(store: Store, base: Base, verb: str, *, origin: str, keep: Keep | None = None) -> None:
    """Say something new of a base, unless its name means another record by now.

    Raises:
        Conflict: it does, or was dropped (`moved-on`).
    """

    def make(newest: Generation | None) -> Generation | None:
        if newest is None or newest.target != base.digest:
            raise Conflict(f"base {base.name!r} was changed meanwhile", hint="ckptfmt base ls")
        if newest.keep == keep if keep else newest.origin == origin:
            return None
        fresh = draft(base.digest, verb)
        return structs.replace(fresh, origin=origin, keep=keep or newest.keep, attributes=newest.attributes)

    store.refs.append(BASES + base.name, make)


def published_sha256(repo: str, revision: str | None) -> dict[str, str] | None:
    """The SHA-256 that the Hub publishes for a repository's large files; None where it cannot be asked."""
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=10)
    except (httpx.HTTPError, OfflineModeIsEnabled, OSError, ValueError, LookupError, TypeError):  # Or it babbles.
        return None
    return {sibling.rfilename: sibling.lfs.sha256 for sibling in info.siblings or () if sibling.lfs is not None}
