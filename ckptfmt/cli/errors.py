"""The outermost boundary: every way a verb can fail becomes a message, a hint and an exit code. Never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

import click

from ckptfmt.cli import output
from ckptfmt.errors import EXIT_CODES, CkptfmtError
from ckptfmt.problems import Problem, interrupted, problem_of, storage_error

TRACEBACK_VARIABLE: Final = "CKPTFMT_TRACEBACK"
"""Set to 1, it makes a bug print its traceback."""


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
        problem = interrupted()
    except CkptfmtError as error:
        problem = problem_of(error)
    except click.ClickException as error:
        problem = _misused(error)
    except OSError as error:
        problem = problem_of(storage_error(error))
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a bug is one line, not a traceback
        problem = _bug(error)
    _report(problem, as_json=as_json)
    return problem.exit_code


def print_problem(problem: Problem) -> None:
    """Tell people of a problem, on stderr."""
    first, *rest = problem.lines()
    output.print_notes([output.Styled(f"ckptfmt: {first}", "red"), *rest])


def _report(problem: Problem, *, as_json: bool) -> None:
    try:
        if as_json:
            output.print_document({"error": problem.as_document()})
        else:
            print_problem(problem)
    except OSError:  # Nobody can be told; the exit code is left.
        output.discard(sys.stdout)
        output.discard(sys.stderr)


def _misused(error: click.ClickException) -> Problem:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "ckptfmt"
    hint = f"{path} --help"
    if isinstance(error, click.NoSuchOption) and error.option_name in ("--store", "--json") and path == "ckptfmt":
        hint = f"put {error.option_name} after the verb, as in: ckptfmt ls {error.option_name}"
    message = " ".join(error.format_message().split()).rstrip(".").replace(". Did you", "; did you")
    message = message.replace(". Choose from: ", ", one of ")
    return Problem("usage", message[:1].lower() + message[1:], hint, EXIT_CODES["usage"])


def _bug(error: Exception) -> Problem:
    traceback_wanted = os.environ.get(TRACEBACK_VARIABLE) == "1"
    if traceback_wanted:
        import traceback

        output.print_notes([line for part in traceback.format_exception(error) for line in part.rstrip().split("\n")])
    message = f"a bug in ckptfmt: {type(error).__name__}: {error}"
    hint = "please report it" if traceback_wanted else f"please report it, with what {TRACEBACK_VARIABLE}=1 prints"
    return Problem("bug", message, hint, 1)
