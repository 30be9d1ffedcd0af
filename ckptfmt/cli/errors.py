"""The outermost boundary: every way a verb can fail becomes a message, a hint and an exit code. Never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click

from ckptfmt.cli import output
from ckptfmt.errors import EXIT_CODES, BaseMismatch, CkptfmtError, StorageError

TRACEBACK_VARIABLE: Final = "CKPTFMT_TRACEBACK"
"""Set to 1, it makes a bug print its traceback."""

_MOST_TENSORS: Final = 10
_HINTS: Final = {
    "usage": "the verb's --help says what it takes",
    "io": "check the path and the disk under it, and run the same command again",
}
"""What to try where an error does not say."""
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

    def as_lines(self) -> list[output.Line]:
        """What stands on stderr."""
        message = " ".join(self.message.split())
        lines: list[output.Line] = [output.Styled(f"ckptfmt: error: {message} [{self.code}]", "red")]
        unnamed = [name for name in self.tensors if name not in message]
        lines += [f"  {name}" for name in unnamed[:_MOST_TENSORS]]
        if len(unnamed) > _MOST_TENSORS:
            lines.append(f"  and {len(unnamed) - _MOST_TENSORS} more")
        return [*lines, f"hint: {self.hint}"] if self.hint else lines


def guarded(work: Callable[[], int], *, as_json: bool) -> int:
    """Run `work` and report what it raises.

    Returns:
        Its exit code, or that of the error.
    """
    try:
        try:
            code = work()
        finally:
            output.flush()
        return code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        output.discard(sys.stdout)
        return 0
    except (KeyboardInterrupt, click.Abort):
        problem = _interrupted()
    except CkptfmtError as error:
        problem = problem_of(error)
    except click.ClickException as error:
        problem = _misused(error)
    except OSError as error:
        problem = problem_of(_storage_error(error))
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a bug is one line, not a traceback
        problem = _bug(error)
    _report(problem, as_json=as_json)
    return problem.exit_code


def problem_of(error: CkptfmtError) -> Problem:
    """An error of ours as it is told."""
    tensors = error.tensors if isinstance(error, BaseMismatch) else ()
    return Problem(error.code, error.message, error.hint or _HINTS.get(error.code), error.exit_code, tensors)


def print_problem(problem: Problem) -> None:
    """Tell people of a problem, on stderr."""
    output.print_notes(problem.as_lines())


def _report(problem: Problem, *, as_json: bool) -> None:
    try:
        if as_json:
            output.print_document({"error": problem.as_document()})
        else:
            print_problem(problem)
    except OSError:  # Nobody can be told; the exit code is left.
        output.discard(sys.stdout)
        output.discard(sys.stderr)


def _interrupted() -> Problem:
    return Problem(
        "interrupted",
        "interrupted; nothing half-published",
        "run the same command again: what the store has already is not written twice",
        EXIT_CODES["interrupted"],
    )


def _misused(error: click.ClickException) -> Problem:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "ckptfmt"
    hint = f"{path} --help"
    if isinstance(error, click.NoSuchOption) and error.option_name in ("--store", "--json") and path == "ckptfmt":
        hint = f"put {error.option_name} after the verb, as in: ckptfmt ls {error.option_name}"
    message = " ".join(error.format_message().split()).rstrip(".").replace(". Did you", "; did you")
    message = message.replace(". Choose from: ", ", one of ")
    return Problem("usage", message[:1].lower() + message[1:], hint, EXIT_CODES["usage"])


def _storage_error(error: OSError) -> StorageError:
    """An `OSError` that no floor below has put into words."""
    reason = error.strerror or str(error)
    message = f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason
    if error.errno in _FULL:
        return StorageError(message, code="disk-full", hint="free some space and run the same command again")
    if error.errno in _READ_ONLY:
        return StorageError(message, code="read-only", hint="check the permissions, or choose another --store")
    return StorageError(message, code="io")


def _bug(error: Exception) -> Problem:
    traceback_wanted = os.environ.get(TRACEBACK_VARIABLE) == "1"
    if traceback_wanted:
        import traceback

        output.print_notes([line for part in traceback.format_exception(error) for line in part.rstrip().split("\n")])
    message = f"a bug in ckptfmt: {type(error).__name__}: {error}"
    hint = "please report it" if traceback_wanted else f"please report it, with what {TRACEBACK_VARIABLE}=1 prints"
    return Problem("bug", message, hint, 1)
