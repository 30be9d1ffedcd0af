"""The verbs that move names: rm, rename, tag, pin, rollback, bind. All are compare-and-swap."""

from __future__ import annotations

from msgspec import structs

from ckptfmt.api.results import Bound, RefChanged
from ckptfmt.errors import Conflict, InvalidInput, NotFound
from ckptfmt.format.manifest import Manifest
from ckptfmt.format.refs import BASES, Generation, check_name
from ckptfmt.store.bases import find_base
from ckptfmt.store.publish import pinned
from ckptfmt.store.refs import draft
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import Content, bind


def drop(store: Store, ref: str) -> RefChanged:
    """Drop a ref by a tombstone: its generations stay, so `rollback` brings it back."""
    seen = _checkpoint_ref(store, ref)
    if seen.pinned:
        raise Conflict(f"ref {ref!r} is pinned", code="needed", hint=f"ckptfmt pin {ref} --off")
    return _changed(store.refs.swap(seen, draft(None, "rm")))


def rename(store: Store, old: str, new: str) -> RefChanged:
    """Give a ref another name: the new one begins with what the old one named, the old one is dropped.

    Stopped between the two, both stand, and the same call goes on.
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

    store.refs.append(new, make)
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
        return _changed(seen)
    return _changed(store.refs.swap(seen, structs.replace(seen, **_fresh(seen.target, "tag"), labels=wanted)))


def pin(store: Store, ref: str, *, off: bool) -> RefChanged:
    """Protect a ref from rm and prune, or stop protecting it."""
    seen = _checkpoint_ref(store, ref)
    if seen.pinned is not off:
        return _changed(seen)
    return _changed(store.refs.swap(seen, structs.replace(seen, **_fresh(seen.target, "pin"), pinned=not off)))


def rollback(store: Store, name: str) -> RefChanged:
    """Return to an earlier generation by appending one that is like it; also brings a dropped ref back."""
    ref, at, number = name.partition("@")
    if not at or not number.isdecimal():
        raise InvalidInput(f"{name!r}: say which generation, as in {ref}@3", hint=f"ckptfmt log {ref}")
    if int(number) not in store.refs.numbers(check_name(ref)):
        raise NotFound(f"ref {ref!r} has no generation {int(number)}", hint=f"ckptfmt log {ref}")
    old = store.refs.read(ref, int(number))
    if old.target is None:
        raise NotFound(f"{name!r} is where the ref was dropped", hint=f"ckptfmt log {ref}")
    newest = store.refs.newest(ref) or old
    if newest.target == old.target:
        return _changed(newest)
    _still_there(store, old)
    return _changed(store.refs.swap(newest, structs.replace(old, **_fresh(old.target, "rollback", f"to @{number}"))))


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
        return Bound(ref, seen.number, seen.target or "", old.base.name, old.base.binding, old.base.evidence)
    link = bind(found.name, found.digest, found.record, _content(old), evidence=f"bind --base {base}")
    manifest = structs.replace(old, base=link)
    digest = store.put_manifest(manifest)
    with pinned(store, digest):
        generation = seen
        if digest != seen.target:
            generation = store.refs.swap(seen, structs.replace(seen, **_fresh(digest, "bind")))
    return Bound(ref, generation.number, digest, base, link.binding, link.evidence)


def _content(manifest: Manifest) -> Content:
    return Content(manifest.files, manifest.directories, manifest.links, manifest.tensors)


def _checkpoint_ref(store: Store, ref: str) -> Generation:
    if ref.startswith(BASES):
        raise InvalidInput(f"{ref!r} names a base", code="ref-name", hint="ckptfmt base --help")
    return store.refs.current(check_name(ref))


def _still_there(store: Store, generation: Generation) -> None:
    """An old generation's manifest is a gc root only for a while."""
    if generation.name.startswith(BASES):
        store.record(generation.target or "")
    else:
        store.manifest(generation.target or "")


def _fresh(target: str | None, verb: str, message: str | None = None) -> dict[str, object]:
    """The fields of a generation that say who made it and when."""
    fresh = draft(target, verb)
    return {"target": target, "verb": verb, "time": fresh.time, "host": fresh.host, "message": message}


def _changed(generation: Generation) -> RefChanged:
    return RefChanged(generation.name, generation.number, generation.target)
