"""Errors as they are told, in the same words on every front end."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from ckptfmt.errors import EXIT_CODES, BaseMismatch, CkptfmtError, StorageError

_HINTS: Final = {
    "usage": "the verb's --help says what it takes",
    "io": "check the path and the disk under it, and run the same command again",
}
"""What to try where an error does not say."""
_MOST_TENSORS: Final = 10
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, as it is told. `tensors` are the names that a base mismatch lists."""

    code: str
    message: str
    hint: str | None
    exit_code: int
    tensors: tuple[str, ...] = ()

    def as_document(self) -> dict[str, object]:
        """What stands under `error` in a JSON document."""
        named: dict[str, object] = {"tensors": list(self.tensors)} if self.tensors else {}
        return {"code": self.code, "message": self.message, "hint": self.hint, **named}

    def lines(self) -> list[str]:
        """The error, the names that it lists, and its hint: a line each."""
        message = " ".join(self.message.split())
        unnamed = [name for name in self.tensors if name not in message]
        told = [f"error: {message} [{self.code}]", *(f"  {name}" for name in unnamed[:_MOST_TENSORS])]
        if len(unnamed) > _MOST_TENSORS:
            told.append(f"  and {len(unnamed) - _MOST_TENSORS} more")
        return [*told, f"hint: {self.hint}"] if self.hint else told


def problem_of(error: CkptfmtError) -> Problem:
    """An error of ours as it is told."""
    tensors = error.tensors if isinstance(error, BaseMismatch) else ()
    return Problem(error.code, error.message, error.hint or _HINTS.get(error.code), error.exit_code, tensors)


def storage_error(error: OSError) -> StorageError:
    """An `OSError` that no floor below has put into words."""
    reason = error.strerror or str(error)
    message = f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason
    if error.errno in _FULL:
        return StorageError(message, code="disk-full", hint="free some space and run the same command again")
    if error.errno in _READ_ONLY:
        return StorageError(message, code="read-only", hint="check the permissions, or choose another --store")
    return StorageError(message, code="io")


def interrupted() -> Problem:
    """Work that was stopped by whoever asked for it."""
    return Problem(
        "interrupted",
        "interrupted; nothing half-published",
        "run the same command again: what the store has already is not written twice",
        EXIT_CODES["interrupted"],
    )
