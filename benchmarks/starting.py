"""How long it takes until something is done: `ckptfmt --help`, and loading the verbs."""

from __future__ import annotations

import sys

from benchmarks.measuring import Figure, Workplace, command, in_turn, run_timed, summary

_HELP_AIM_SECONDS = 0.15


def measure(place: Workplace) -> list[Figure]:
    """Whole processes, from start to end."""
    helped, loaded, bare = in_turn(
        [
            lambda: run_timed(command("--help"), cache=place.cache),
            lambda: run_timed([sys.executable, "-c", "import ckptfmt.api"], cache=place.cache),
            lambda: run_timed([sys.executable, "-c", "pass"], cache=place.cache),
        ],
        5 if place.quick else 21,
    )
    if "import" not in run_timed(command("--help"), cache=place.cache).output:
        raise SystemExit("--help names no verbs")
    return [
        summary("help", "`ckptfmt --help`, whole command", helped, aim=_HELP_AIM_SECONDS),
        summary("loading", "`python -c 'import ckptfmt.api'`", loaded, aim=None),
        summary("python", "`python -c pass`", bare, aim=None),
    ]
