"""The verb `verify`: decode every object, compare digests, name whom the damage harms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.api.results import Damage, VerifyReport
from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError, InvalidInput
from ckptfmt.format.manifest import BaseLink, objects_of
from ckptfmt.format.refs import BASES
from ckptfmt.progress import Progress
from ckptfmt.store.bases import all_bases
from ckptfmt.store.objects import Objects
from ckptfmt.store.outside import all_outside
from ckptfmt.store.shards import read_shard_header
from ckptfmt.store.store import Store

_WORKERS = 2


def verify(store: Store, names: tuple[str, ...], subset: tuple[int, int] | None, progress: Progress) -> VerifyReport:
    """Decode the objects of some checkpoints, or of all and of the kept bases.

    Args:
        store: where.
        names: checkpoints; none for all.
        subset: (n, t): the n-th of t parts of the objects, 1-based, the same part every time.
        progress: told of decoded bytes.

    Raises:
        InvalidInput: `subset` is no part.
    """
    if subset is not None and not 1 <= subset[0] <= subset[1]:
        raise InvalidInput(f"--subset {subset[0]}/{subset[1]}: the part must lie between 1 and {subset[1]}")
    wanted, harmed, problems = _wanted(store, names)
    chosen = sorted(digest for digest in wanted if subset is None or _part(digest, subset[1]) == subset[0])
    keep_freed_memory()
    progress.begin("verify", sum(wanted[digest][0] for digest in chosen))
    with ThreadPoolExecutor(_WORKERS, "verify") as pool:

        def check(digest: str) -> str | None:
            length, objects = wanted[digest]
            try:
                objects.verify(digest, length)
            except CkptfmtError as error:
                return error.message
            progress.advance(length)
            return None

        results = list(zip(chosen, pool.map(check, chosen), strict=True))
    progress.end()
    untold = _untold(store, chosen)
    results = [(digest, problem or untold.get(digest)) for digest, problem in results]
    damaged = [Damage(digest, problem, tuple(sorted(harmed[digest]))) for digest, problem in results if problem]
    return VerifyReport(
        objects=len(chosen), bytes=sum(wanted[digest][0] for digest in chosen), damaged=(*problems, *damaged)
    )


def _untold(store: Store, digests: list[str]) -> dict[str, str]:
    """Objects of which no shard's own header tells any more, with the reason: only this host's catalog still knows."""
    headers: dict[str, tuple[set[str], str]] = {}
    untold = {}
    for digest, copies in store.catalog().find_many(digests).items():
        problem = None
        for shard in (copy.shard for copy in copies):
            if shard not in headers:
                try:
                    headers[shard] = {item.digest for item in read_shard_header(store.readable, shard)}, ""
                except CkptfmtError as error:
                    headers[shard] = set(), error.message
            told, reason = headers[shard]
            if digest in told:
                break
            problem = reason or f"the header of shard {shard} does not list it"
        else:
            untold[digest] = problem or "no shard holds it"
    return untold


def _part(digest: str, parts: int) -> int:
    return int(digest_of(digest.encode())[:15], 16) % parts + 1


_Wanted = dict[str, tuple[int, Objects]]


def _wanted(store: Store, names: tuple[str, ...]) -> tuple[_Wanted, dict[str, set[str]], list[Damage]]:
    """What to decode, who needs it, and documents that cannot be read at all."""
    wanted: _Wanted = {}
    harmed: dict[str, set[str]] = {}
    problems: list[Damage] = []
    beside: dict[str | None, Objects] = {}

    def readers(base: BaseLink | None) -> Objects:
        record = base.record if base is not None else None
        if record not in beside:
            beside[record] = store.objects(all_outside(store, base))
        return beside[record]

    def tell(name: str, error: CkptfmtError) -> None:
        problems.append(Damage(f"refs/{name}", error.message, (name,)))

    targets = (
        [(name, store.resolve(name)[0]) for name in names]
        if names
        else [(generation.name, generation.target or "") for generation in store.refs.manifests(tell)]
    )
    for name, target in targets:
        try:
            manifest = store.manifest(target)
            reader = readers(manifest.base)
        except CkptfmtError as error:
            problems.append(Damage(target, error.message, (name,)))
            continue
        for digest, length in objects_of(manifest).items():
            wanted.setdefault(digest, (length, reader))
            harmed.setdefault(digest, set()).add(name)
    if not names:
        held = store.catalog()
        for base in all_bases(store, tell):
            objects = objects_of(base.record)
            stored = held.stored_bytes(objects)
            for digest in stored:
                wanted.setdefault(digest, (objects[digest], readers(None)))
                harmed.setdefault(digest, set()).add(BASES + base.name)
    return wanted, harmed, problems
