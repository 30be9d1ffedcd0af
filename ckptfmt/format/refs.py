"""Refs and the store's own document: the few mutable things, kept as numbered immutable generations."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from ckptfmt.errors import InvalidInput

REF_TAG: Final = "ckptfmt/ref"
STORE_TAG: Final = "ckptfmt/store"
PIN_TAG: Final = "ckptfmt/pin"
TRASH_TAG: Final = "ckptfmt/trash"

MAX_NAME_BYTES: Final = 200
BASES: Final = "bases/"
"""Refs below this name base records; all others name manifests."""

_NAME = re.compile(r"[A-Za-z0-9._/-]+")


class Attributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mode and mtime of one path of an import, `.` being its top directory. They come back with a restore."""

    path: str
    mode: int
    mtime_ns: int


class Generation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="format", tag=REF_TAG
):
    """Generation `number` of ref `name`. A `target` of None is a tombstone: the ref was dropped.

    `host` and `origin` say where the files lay (for a base: where they lie); `time` is UTC, ISO 8601.
    """

    version: int
    name: str
    number: int
    target: str | None
    verb: str
    time: str
    host: str
    previous: int | None = None
    origin: str | None = None
    message: str | None = None
    labels: tuple[str, ...] = ()
    pinned: bool = False
    keep: Literal["copy", "reference"] | None = None
    attributes: tuple[Attributes, ...] = ()


class StoreDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag=STORE_TAG):
    """`store.json`: written once, when the store is made."""

    version: int
    store_id: str
    hash: Literal["blake3-256"]
    created: str


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag=PIN_TAG):
    """A writer's claim on a manifest or a base record while it publishes: a root for gc."""

    version: int
    manifest: str
    host: str
    time: str


class TrashMarker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag=TRASH_TAG):
    """Who took out what lies beside it. Its age is that of its file."""

    version: int
    host: str
    time: str


def check_name(name: str) -> str:
    """Return `name` if it is a ref name.

    Raises:
        InvalidInput: with what is wrong with it.
    """
    parts = name.split("/")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES or not all(parts) or {".", ".."} & set(parts):
        raise InvalidInput(
            f"{name!r} is no ref name: use letters, digits, '.', '_', '-' and '/', at most {MAX_NAME_BYTES}, "
            "and no empty, '.' or '..' part",
            code="ref-name",
            hint="patterns are for 'ckptfmt ls' and 'ckptfmt prune': name each one here, as 'ckptfmt ls' lists them"
            if set(name) & set("*?")
            else "a name such as runs/exp1/stage-2",
        )
    return name


def directory_of(name: str) -> str:
    """The directory below `refs/` that holds the generations of `name`: '/' becomes ','."""
    return check_name(name).replace("/", ",")


def name_of(directory: str) -> str:
    """The inverse of `directory_of`."""
    return directory.replace(",", "/")
