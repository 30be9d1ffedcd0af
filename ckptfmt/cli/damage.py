"""What could not be read while everything else was: told at the end, on stderr, and in the exit code."""

from __future__ import annotations

from ckptfmt.cli.errors import print_problem
from ckptfmt.errors import CkptfmtError
from ckptfmt.problems import Problem


class Damage:
    """Collects what a verb passed over."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def __call__(self, name: str, error: CkptfmtError) -> None:
        """Take note of a ref or base that cannot be read."""
        self._problems.append(Problem(error.code, f"{name}: {error.message}", error.hint, error.exit_code))

    def report(self) -> int:
        """Print what was passed over; the worst exit code, 0 where nothing was."""
        for problem in self._problems:
            print_problem(problem)
        return max((problem.exit_code for problem in self._problems), default=0)
