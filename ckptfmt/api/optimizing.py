"""The verb `optimize`: objects of standing checkpoints, stored again where that is smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ckptfmt.api.results import FailedPart, Forecast, OptimizedCheckpoint, OptimizeReport
from ckptfmt.errors import CkptfmtError, InvalidInput
from ckptfmt.format.manifest import Manifest
from ckptfmt.progress import Progress
from ckptfmt.store.store import Store
from ckptfmt.transfer.predicting import Known

_ENDS_ALL: Final = frozenset({"disk-full", "read-only"})


def optimize(
    store: Store,
    names: Sequence[str],
    *,
    recovery: bool,
    again: bool,
    device: str,
    progress: Progress,
    given: tuple[Known, ...] = (),
) -> OptimizeReport:
    """Store the objects of some checkpoints, or of all, again where that makes them smaller.

    One that cannot be read does not keep the others from it. `given` are adapters beside those of the store.

    Raises:
        CkptfmtError: the only one cannot be read.
        InvalidInput: a device that this machine does not have.
        NotFound: there is no such checkpoint.
    """
    from ckptfmt.optimize import reencode  # noqa: PLC0415  (torch)

    if device != "cpu":
        import torch  # noqa: PLC0415

        if device != "cuda" or not torch.cuda.is_available():
            raise InvalidInput(f"--device {device}: this machine has none that torch can use", hint="leave it out")
    targets = (
        [(name, store.resolve(name)[0]) for name in names]
        if names
        else [(generation.name, generation.target or "") for generation in store.refs.manifests()]
    )
    # One checkpoint under two names is one piece of work.
    names_of = {digest: name for name, digest in reversed(targets)}
    every: dict[str, list[str]] = {}
    for name, digest in targets:
        every.setdefault(digest, []).append(name)
    done: list[OptimizedCheckpoint] = []
    failed: list[FailedPart] = []
    for digest, name in reversed(names_of.items()):
        try:
            found = reencode.optimize(
                store, digest, name, recovery=recovery, again=again, device=device, progress=progress, given=given
            )
        except CkptfmtError as error:
            if len(names_of) == 1 or error.code in _ENDS_ALL:
                raise
            failed.append(FailedPart(name, name, error.code, error.message, error.hint, error.exit_code))
            continue
        also = tuple(dict.fromkeys(other for other in every[digest] if other != name))
        done.append(
            OptimizedCheckpoint(name, found.before, found.after, found.tried, found.smaller, found.recovered, also)
        )
    return OptimizeReport(
        before_bytes=sum(each.before_bytes for each in done),
        after_bytes=sum(each.after_bytes for each in done),
        checkpoints=tuple(done),
        failed=tuple(failed),
    )


def foresee(store: Store, manifest: Manifest) -> Forecast | None:
    """What `optimize` would probably save of a checkpoint; None for little, or for what cannot be told."""
    from ckptfmt.optimize.forecast import forecast  # noqa: PLC0415  (numpy)

    found = forecast(store, manifest)
    return None if found is None else Forecast(found.saved_bytes, found.tensors, found.rank)
