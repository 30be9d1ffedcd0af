"""The verbs that move names: rm, rename, tag, pin, rollback, bind. All are compare-and-swap."""

from __future__ import annotations

from msgspec import structs

from ckptfmt.api.results import Bound, RefChanged
from ckptfmt.api.shared import standing_refs
from ckptfmt.errors import Conflict, FormatError, IncompleteStore, IntegrityError, InvalidInput, NotFound
from ckptfmt.format.manifest import BaseRecord, Manifest, objects_of
from ckptfmt.format.refs import BASES, Generation, check_name
from ckptfmt.store.bases import find_base
from ckptfmt.store.elsewhere import OutsideObjects
from ckptfmt.store.outside import all_outside
from ckptfmt.store.publish import confirm, confirm_documents, missing_objects, pinned
from ckptfmt.store.refs import draft, moved_on, pass_over
from ckptfmt.store.store import Store, record_key
from ckptfmt.store.trash import bring_back
from ckptfmt.transfer.build import BOUND, Content, bind


def drop(store: Store, ref: str) -> RefChanged:
    """Drop a ref by a tombstone: its generations stay, so `rollback` brings it back."""
    seen = _checkpoint_ref(store, ref)
    if seen.pinned:
        raise Conflict(f"ref {ref!r} is pinned", code="needed", hint=f"ckptfmt pin {ref} --off")
    return _changed(store.refs.swap(seen, draft(None, "rm")))


def rename(store: Store, old: str, new: str) -> RefChanged:
    """Give a ref another name: the new one begins with what the old one named, the old one is dropped.

    Stopped between the two, both stand, and the same call goes on.

    Raises:
        Conflict: the new name is taken, or the old one moved on.
    """
    seen = _checkpoint_ref(store, old)
    check_name(new)
    if new.startswith(BASES):
        raise InvalidInput(
            f"{new!r}: names below {BASES} are those of bases", code="ref-name", hint="choose another name"
        )

    renamed = structs.replace(seen, **_fresh(seen.target, "rename", f"was {old}"))

    def make(newest: Generation | None) -> Generation | None:
        if newest is None or newest.target is None:
            return renamed
        if (newest.target, newest.verb, newest.message) == (renamed.target, renamed.verb, renamed.message):
            return None
        raise Conflict(f"ref {new!r} exists already", code="target-exists", hint=f"ckptfmt log {new}")

    def stands() -> None:
        """What the old name stands for now, after the claim, no gc has let go."""
        if store.refs.numbers(old)[-1] != seen.number:
            raise moved_on(seen)

    with pinned(store, seen.target or "") as claim:
        claim.give(stands, lambda: store.refs.append(new, make))
    store.refs.swap(seen, structs.replace(draft(None, "rename"), message=f"is now {new}"))
    return _changed(store.refs.current(new))


def tag(store: Store, ref: str, labels: tuple[str, ...], *, remove: bool) -> RefChanged:
    """Add labels to a ref, or take them away."""
    seen = _checkpoint_ref(store, ref)
    for label in labels:
        check_name(label)
    kept = [label for label in seen.labels if label not in labels]
    wanted = tuple(kept) if remove else (*seen.labels, *(label for label in labels if label not in seen.labels))
    if wanted == seen.labels:
        return _changed(store.refs.settled(seen))
    return _changed(store.refs.swap(seen, structs.replace(seen, **_fresh(seen.target, "tag"), labels=wanted)))


def pin(store: Store, ref: str, *, off: bool) -> RefChanged:
    """Protect a ref from rm and prune, or stop protecting it."""
    seen = _checkpoint_ref(store, ref)
    if seen.pinned is not off:
        return _changed(store.refs.settled(seen))
    return _changed(store.refs.swap(seen, structs.replace(seen, **_fresh(seen.target, "pin"), pinned=not off)))


def rollback(store: Store, name: str) -> RefChanged:
    """Return to an earlier generation by appending one that is like it; also brings a dropped ref back.

    Without `@N`, to the last one that named something else than the ref names now.
    """
    ref, at, number = name.partition("@")
    if not at:
        newest, old = _before(store, ref)
    else:
        old = _generation(store, ref, number)
        try:
            newest = store.refs.newest(ref) or old
        except (IntegrityError, FormatError):  # Damaged: a person has decided what the ref stands for.
            newest = structs.replace(old, number=store.refs.numbers(ref)[-1], target=None)
    target = old.target or ""
    if newest.target == target:
        return structs.replace(_changed(store.refs.settled(newest)), returned_to=old.number)
    drafted = structs.replace(old, **_fresh(target, "rollback", f"to @{old.number}"))
    with pinned(store, target) as claim:
        given = claim.give(lambda: _still_there(store, old), lambda: store.refs.swap(newest, drafted))
    return structs.replace(_changed(given), returned_to=old.number)


def _generation(store: Store, ref: str, number: str) -> Generation:
    """The generation that a person names to return to."""
    if not number.isdecimal():
        raise InvalidInput(f"'{ref}@{number}': say which generation, as in {ref}@3", hint=f"ckptfmt log {ref}")
    if int(number) not in store.refs.numbers(check_name(ref)):
        raise NotFound(f"ref {ref!r} has no generation {int(number)}", hint=f"ckptfmt log {ref}")
    old = store.refs.read(ref, int(number))
    if old.target is None:
        raise NotFound(f"'{ref}@{number}' is where the ref was dropped", hint=f"ckptfmt log {ref}")
    return old


def _before(store: Store, ref: str) -> tuple[Generation, Generation]:
    """The newest generation of a ref, and the last one that named something else.

    Raises:
        NotFound: there is no such ref, or no such generation.
    """
    newest = store.refs.newest(check_name(ref)) or store.refs.current(ref)
    found = (each for each in store.refs.readable(ref) if each.target not in (None, newest.target))
    old = next(found, None)
    if old is None:
        raise NotFound(f"ref {ref!r} never named anything else", hint=f"ckptfmt log {ref}")
    return newest, old


def dropped(store: Store) -> list[Generation]:
    """Of each name that was dropped the last generation that stood, the last dropped first.

    Names that were given away by a rename are left out, and what cannot be read.
    """
    standing = {item.name for item in standing_refs(store, pass_over)}
    found: list[tuple[str, Generation]] = []
    for name, _ in store.refs.names():
        if name in standing or name.startswith(BASES):
            continue
        history = list(store.refs.readable(name))
        if not history or history[0].target is not None or history[0].verb == "rename":
            continue
        last = next((item for item in history if item.target is not None), None)
        if last is not None:
            found.append((history[0].time, last))
    return [last for _, last in sorted(found, key=lambda each: each[0], reverse=True)]


def bind_ref(store: Store, ref: str, base: str) -> Bound:
    """State the base of an adapter: a new manifest that is bound to it becomes the ref's new generation.

    Raises:
        Conflict: it is bound to another base already.
        BaseMismatch: the base has none of the modules that the adapter touches.
    """
    seen = _checkpoint_ref(store, ref)
    old = store.manifest(seen.target or "")
    found = find_base(store, base)
    if old.base is not None and old.base.root != found.record.root:
        raise Conflict(
            f"{ref!r} is bound to base {old.base.name!r} already ({old.base.binding}: {old.base.evidence})",
            code="needed",
            hint="import it again under another name with --base",
        )
    if old.base is not None and old.base.record == found.digest:
        store.refs.settled(seen)
        return Bound(ref, seen.number, seen.target or "", old.base.name, old.base.binding, old.base.evidence)
    link = bind(found.name, found.digest, found.record, _content(old), evidence=BOUND.format(base=base))
    manifest = structs.replace(old, base=link)
    digest = store.put_manifest(manifest)

    def confirm_all() -> None:
        confirm_documents(store, digest, manifest)
        confirm(store, objects_of(manifest), ref, outside=all_outside(store, link), again=lambda vanished: None)

    def name() -> Generation:
        if digest == seen.target:
            return store.refs.settled(seen)
        return store.refs.swap(seen, structs.replace(seen, **_fresh(digest, "bind")))

    with pinned(store, digest) as claim:
        generation = claim.give(confirm_all, name)
    return Bound(ref, generation.number, digest, base, link.binding, link.evidence)


def _content(manifest: Manifest) -> Content:
    return Content(manifest.files, manifest.directories, manifest.links, manifest.tensors)


def _checkpoint_ref(store: Store, ref: str) -> Generation:
    if ref.startswith(BASES):
        raise InvalidInput(f"{ref!r} names a base", code="ref-name", hint="ckptfmt base --help")
    return store.refs.current(check_name(ref))


def _still_there(store: Store, generation: Generation) -> None:
    """Make sure that all an old generation stands for is still there: it is a gc root only for a while.

    Raises:
        IncompleteStore: gc has freed some of it.
    """
    digest = generation.target or ""
    if generation.name.startswith(BASES):
        record = store.record(digest)
        bring_back(store.storage, record_key(digest))
        store.storage.settle([record_key(digest)])
        if generation.keep == "copy":
            _confirm_all(store, generation, record, None)
        return
    manifest = store.manifest(digest)
    confirm_documents(store, digest, manifest)
    _confirm_all(store, generation, manifest, all_outside(store, manifest.base))


def _confirm_all(
    store: Store, generation: Generation, document: Manifest | BaseRecord, outside: OutsideObjects | None
) -> None:
    name = f"{generation.name}@{generation.number}"
    missing = missing_objects(store, objects_of(document), outside)
    if missing:
        raise IncompleteStore(
            f"{name!r}: {len(missing)} of its objects are gone: gc has freed them, or a shard is lost",
            digest=next(iter(missing)),
            hint=f"ckptfmt log {generation.name}",
        )
    confirm(store, objects_of(document), name, outside=outside, again=lambda vanished: None)


def _fresh(target: str | None, verb: str, message: str | None = None) -> dict[str, object]:
    """The fields of a generation that say who made it and when."""
    fresh = draft(target, verb)
    return {"target": target, "verb": verb, "time": fresh.time, "host": fresh.host, "message": message}


def _changed(generation: Generation) -> RefChanged:
    return RefChanged(generation.name, generation.number, generation.target)
