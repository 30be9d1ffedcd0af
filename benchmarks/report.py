"""What was seen: a table in Markdown, a JSON document, and the machine it was seen on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Figure
from ckptfmt.storage.machine import file_system_of

_DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
_DOCUMENT: Final = _DOCS / "benchmarks.json"
_PAGE: Final = _DOCS / "benchmarks.md"
_PACKAGES: Final = ("ckptfmt", "blake3", "xxhash", "msgspec", "numpy", "pcodec", "zstandard", "click")
_HEAD: Final = ("| what | aim | seen | lowest to highest | | beside it |", "|---|---|---|---|---|---|")


def table(figures: Iterable[Figure]) -> list[str]:
    """The lines of a Markdown table."""
    return [*_HEAD, *(_line(figure) for figure in figures)]


def _line(figure: Figure) -> str:
    def said(value: float) -> str:
        return {"ratio": f"{value:.2f}", "seconds": f"{value:.3f} s", "MB": f"{value:.0f} MB"}[figure.unit]

    aim = "" if figure.aim is None else f"≤ {said(figure.aim)}"
    spread = "" if figure.low == figure.high else f"{said(figure.low)} to {said(figure.high)}"
    met = {True: "met", False: "**missed**", None: ""}[figure.met]
    return f"| {figure.what} | {aim} | {said(figure.seen)} | {spread} | {met} | {figure.note} |"


def machine(directory: Path) -> dict[str, str]:
    """The machine, and the versions that were measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: version(name) for name in _PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system_of(os.path.realpath(directory)) or "unknown",
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "versions": f"python {platform.python_version()}, " + ", ".join(f"{k} {v}" for k, v in versions.items()),
    }


def write_results(figures: dict[str, list[Figure]], about: dict[str, str], size: float, pairs: int) -> None:
    """Write down the topics that were measured; others stay as they were."""
    document: dict[str, Any] = json.loads(_DOCUMENT.read_text()) if _DOCUMENT.exists() else {}
    page = _PAGE.read_text()
    for topic, measured in figures.items():
        document[topic] = {"machine": about, "size_gb": size, "pairs": pairs, "figures": [asdict(f) for f in measured]}
        page = _replaced(page, topic, [*table(measured), "", _said(about)])
    _DOCUMENT.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    _PAGE.write_text(page)


def write_lines(topic: str, lines: list[str], about: dict[str, str]) -> None:
    """Write down what a program of its own printed."""
    _PAGE.write_text(_replaced(_PAGE.read_text(), topic, [*lines, "", _said(about)]))


def _said(about: dict[str, str]) -> str:
    machine_words = (
        f"{about['cores']} cores ({about['processor']}), {about['memory']}, {about['file system']}, {about['kernel']}"
    )
    return f"{about['date']}, {machine_words}, load {about['load']}; {about['versions']}."


def _replaced(page: str, topic: str, lines: list[str]) -> str:
    """The page with new lines between the two comments of a topic."""
    begin, end = f"<!-- {topic}: begin -->\n", f"<!-- {topic}: end -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{_PAGE.name} has no place for {topic}: {begin.strip()} … {end}")
    return head + begin + "\n".join(lines) + "\n" + end + tail


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
