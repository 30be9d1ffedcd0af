"""The error tree: one class for each thing a handler would do differently.

A new failure is a new *code* in `EXIT_CODES`, rarely a new class. Every error names the file and the
place in it, and carries the next command to try as its hint.
"""

from __future__ import annotations

from typing import Final

EXIT_CODES: Final[dict[str, int]] = {
    # InvalidInput: the caller asked for something that cannot be
    "usage": 2,
    "ref-name": 2,
    "name-collision": 2,
    "ambiguous": 2,
    # NotFound
    "not-found": 1,
    "no-store": 10,
    # Format: bytes that are not what they say they are
    "malformed": 5,
    "malformed-document": 5,
    "unsupported-version": 1,
    # Integrity: bytes that are not what was recorded
    "damaged": 3,
    "digest-mismatch": 3,
    "incomplete": 3,
    "base-mismatch": 3,
    "no-binding": 3,
    "changed-while-read": 3,
    # Conflict
    "target-exists": 1,
    "store-exists": 1,
    "needed": 1,
    "moved-on": 11,
    "lost-race": 11,
    # UnsafeFile
    "unsafe-name": 5,
    "unsafe-pickle": 5,
    "unsafe-link": 5,
    # Merge
    "not-mergeable": 1,
    # Storage: the machine below us said no
    "disk-full": 1,
    "read-only": 1,
    "io": 1,
    "interrupted": 130,
}
"""Every code an error may carry, and the exit status the command line ends with for it."""


class CkptfmtError(Exception):
    """The root of all errors that ckptfmt raises on purpose.

    Attributes:
        message: what is wrong and where, one sentence.
        code: a key of `EXIT_CODES`.
        hint: the next command or step to try, or None.
    """

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.exit_code = EXIT_CODES[code]


class InvalidInput(CkptfmtError):  # noqa: N818
    """The arguments cannot be meant: a bad ref name, a collision, an ambiguous prefix."""

    def __init__(self, message: str, *, code: str = "usage", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class NotFound(CkptfmtError):  # noqa: N818
    """What was named is not there."""

    def __init__(self, message: str, *, code: str = "not-found", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class FormatError(CkptfmtError):
    """Bytes that do not parse as what they claim to be."""

    def __init__(self, message: str, *, code: str = "malformed", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class UnsupportedVersion(FormatError):  # noqa: N818
    """A store or document written by a newer ckptfmt."""

    def __init__(self, message: str, *, hint: str | None = "pip install --upgrade ckptfmt") -> None:
        super().__init__(message, code="unsupported-version", hint=hint)


class IntegrityError(CkptfmtError):
    """Bytes that differ from what was recorded of them."""

    def __init__(self, message: str, *, code: str = "damaged", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class DigestMismatch(IntegrityError):  # noqa: N818
    """Content whose digest is not the recorded one.

    Attributes:
        digest: the object that was asked for, 64 hex digits.
    """

    def __init__(self, message: str, *, digest: str, hint: str | None = None) -> None:
        super().__init__(message, code="digest-mismatch", hint=hint)
        self.digest = digest


class IncompleteStore(IntegrityError):  # noqa: N818
    """The store lacks an object that a manifest needs.

    Attributes:
        digest: the object that is missing, 64 hex digits.
    """

    def __init__(self, message: str, *, digest: str, hint: str | None = None) -> None:
        super().__init__(message, code="incomplete", hint=hint)
        self.digest = digest


class BaseMismatch(IntegrityError):  # noqa: N818
    """A base whose content is not the recorded one.

    Attributes:
        tensors: names of the tensors (or files) that differ.
    """

    def __init__(self, message: str, *, tensors: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, code="base-mismatch", hint=hint)
        self.tensors = tensors


class Conflict(CkptfmtError):  # noqa: N818
    """Somebody else was there first: retry, or choose another name."""

    def __init__(self, message: str, *, code: str = "moved-on", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class UnsafeFile(CkptfmtError):  # noqa: N818
    """Input built to harm: a name that escapes, a pickle beyond its bounds."""

    def __init__(self, message: str, *, code: str = "unsafe-name", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class MergeError(CkptfmtError):
    """An adapter that cannot be merged, said before any work."""

    def __init__(self, message: str, *, code: str = "not-mergeable", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)


class StorageError(CkptfmtError):
    """The file system or the network refused: full, read-only, or broken."""

    def __init__(self, message: str, *, code: str = "io", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
