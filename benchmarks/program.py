"""The program: topics in order, a table for people, a document for scripts."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import copying, diffing, listing, memory, merging, reclaiming, starting, terminal
from benchmarks.measuring import Figure, Workplace, note
from benchmarks.report import machine, table, write_lines, write_results

TOPICS: Final[dict[str, Callable[[Workplace], list[Figure]]]] = {
    "starting": starting.measure,
    "listing": listing.measure,
    "copying": copying.measure,
    "memory": memory.measure,
    "merging": merging.measure,
    "reclaiming": reclaiming.measure,
    "diffing": diffing.measure,
    "terminal": terminal.measure,
}
SCRIPTS: Final[dict[str, str]] = {
    "delta": "benchmarks.encodings_delta",
    "known-adapters": "benchmarks.encodings_lowrank_known",
    "lost-adapters": "benchmarks.encodings_lowrank",
}
"""Topics that are programs of their own: they print a table, and stop where bytes did not come back."""

_QUICK_BYTES: Final = 250_000_000


def main() -> int:
    """Measure, print, and write the results down where nothing was left out; exit code 1 if an aim was missed."""
    options = _parse()
    size_bytes = _QUICK_BYTES if options.quick else int(options.size * 1e9)
    directory = Path(tempfile.mkdtemp(prefix="ckptfmt-bench-", dir=options.directory))
    place = Workplace(directory, size_bytes, 3 if options.quick else options.pairs, options.quick)
    figures: dict[str, list[Figure]] = {}
    try:
        about = machine(directory)
        for topic in options.only or (*TOPICS, *SCRIPTS):
            note(topic)
            if topic in SCRIPTS:
                lines = _printed(SCRIPTS[topic], quick=options.quick)
                if not options.quick:
                    write_lines(topic, lines, about)
                continue
            figures[topic] = TOPICS[topic](place)
            print("\n".join(table(figures[topic])), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not options.quick:
        write_results(figures, about, options.size, options.pairs)
    return int(any(figure.met is False for topic in figures.values() for figure in topic))


def _printed(module: str, *, quick: bool) -> list[str]:
    """What a program prints, passed on line by line."""
    words = [sys.executable, "-m", module, *(["--quick"] if quick else [])]
    root = Path(__file__).resolve().parent.parent
    lines = []
    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        sys.exit(f"{module} ended with {process.returncode}")
    return lines


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, nothing written down: does it all run?")
    parser.add_argument("--only", action="append", choices=[*TOPICS, *SCRIPTS], help="one topic; may be given again")
    parser.add_argument("--size", type=float, default=2.2, metavar="GB", help="of the checkpoint that is copied [2.2]")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="measurements of each ratio [5]")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where to work; 30 GB free [temporary]")
    options = parser.parse_args()
    if not options.quick and options.size < 0.5:
        sys.exit("--size: at least 0.5, or --quick")
    return options
