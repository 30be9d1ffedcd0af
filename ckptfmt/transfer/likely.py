"""Finding what a checkpoint was made from when nobody says it: by names and shapes, then by sampled bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import BaseLink, BaseRecord, Manifest
from ckptfmt.progress import SILENT
from ckptfmt.store.bases import Base, BaseFiles, all_bases, missing_from, needed_objects
from ckptfmt.store.outside import files_of
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store
from ckptfmt.transfer.bases import base_place, check_base
from ckptfmt.transfer.matching import matches
from ckptfmt.transfer.recent import Recent
from ckptfmt.transfer.references import Like, References, Subject, held_by
from ckptfmt.transfer.sinks import Place

_MOST_COMPARED: Final = 6
_SAMPLED: Final = 6
"""Tensors whose bits are compared."""
_MUST_SHARE: Final = 0.5
"""Of the checkpoint's bytes, what must have a tensor of its name and shape there."""
_MUST_SAVE: Final = 0.85


@dataclass(frozen=True, slots=True)
class Likely:
    """A model that a checkpoint was probably made from.

    Attributes:
        name: of the base (`base 'llama'`) or of the checkpoint.
        document: its record or manifest.
        outside: its files, where it is a base that the store only refers to; they are what was recorded.
        why: what was compared, in words.
    """

    name: str
    document: BaseRecord | Manifest
    outside: BaseFiles | None
    why: str


def find_likely(recent: Recent, subject: Subject, *, but: frozenset[str] = frozenset()) -> Likely | None:
    """The known base or full model that a checkpoint takes least room against; None where it takes less by none.

    Looked at are all bases, and the full models among the checkpoints that changed last. Nothing is believed of what is
    found: it is only tried, tensor by tensor.

    Args:
        recent: the checkpoints of the store.
        subject: the checkpoint.
        but: ids of manifests that are not meant: its own.
    """
    store = recent.store
    wanted = {place: each for place, each in subject.tensors.items() if each.key[0] == "model" and each.length}
    if not wanted:
        return None
    total = sum(tensor.length for tensor in wanted.values())
    shared: list[tuple[float, int, _Known]] = []
    for order, known in enumerate(_known(recent, but)):
        held = held_by(known.document)
        alike = sum(
            tensor.length
            for tensor in wanted.values()
            if next(matches(tensor.key, tensor.dtype, tensor.shape, held), None) is not None
        )
        if alike >= _MUST_SHARE * total:
            shared.append((-alike / total, order, known))
    shared.sort(key=lambda each: each[:2])
    largest = sorted(wanted, key=lambda place: (-wanted[place].length, place))
    places = _spread(largest)
    best: tuple[float, Likely] | None = None
    for share, _, known in shared[:_MOST_COMPARED]:
        outside = None
        if known.base is not None and missing_from(store, needed_objects(known.base.record)):
            outside = as_recorded(store, known.base)
            if outside is None:
                continue
        ratio = _ratio(store, subject, known.document, outside, places)
        if ratio <= _MUST_SAVE and (best is None or ratio < 0.95 * best[0]):
            why = (
                f"tensors of {-share:.0%} of its bytes have names and shapes of that model, and {len(places)} "
                f"of them, sampled, take {ratio:.0%} of their size against it"
            )
            best = ratio, Likely(known.name, known.document, outside, why)
    return best[1] if best is not None else None


def _spread(places: list[Place]) -> list[Place]:
    """Some of the larger half, evenly: the largest alone are often embeddings, which a fine-tune leaves alone."""
    half = places[: max(_SAMPLED, len(places) // 2)]
    step = max(1, len(half) // _SAMPLED)
    return half[::step][:_SAMPLED]


@dataclass(frozen=True, slots=True)
class _Known:
    """A model that a store knows; `base` where it is one."""

    name: str
    document: BaseRecord | Manifest
    base: Base | None = None


def _known(recent: Recent, but: frozenset[str]) -> Iterator[_Known]:
    for base in all_bases(recent.store, pass_over):
        yield _Known(f"base {base.name!r}", base.record, base)
    seen = set(but)
    for name, target, manifest in recent:
        if target not in seen and manifest.root is not None:
            yield _Known(name, manifest)
        seen.add(target)


def _ratio(
    store: Store,
    subject: Subject,
    document: BaseRecord | Manifest,
    outside: BaseFiles | None,
    places: list[Place],
) -> float:
    """What sampled tensors take against a model's, as a share of what they take alone."""
    from ckptfmt.encodings.chooser import compare  # noqa: PLC0415  (numpy: not for what only looks)

    against = References(store, subject, Like((document,)), outside)
    alone = together = 0
    for place in places:
        bases = [(each.encoding, each.basis) for each in against(place)]
        plain, sizes = compare(subject.head(place), subject.tensors[place].dtype, bases)
        alone += plain
        together += min(sizes, default=plain)
    return together / max(1, alone)


def as_recorded(store: Store, base: Base) -> BaseFiles | None:
    """A base's files, if they are there and what was recorded: what is found in them is not stored again."""
    try:
        checked = check_base(store, base, base_place(store, base), full=False, progress=SILENT)
    except CkptfmtError:
        return None
    return None if checked.mismatched else files_of(store, base)


def trusted_files(store: Store, link: BaseLink) -> BaseFiles | None:
    """The files of the base that a manifest is bound to, if they are there and what was recorded."""
    known = [base for base in all_bases(store, pass_over) if base.digest == link.record]
    return as_recorded(store, known[0]) if known else None
