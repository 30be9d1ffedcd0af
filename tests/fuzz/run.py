"""Fuzz one target, guided by coverage: `python -m tests.fuzz.run TARGET [libFuzzer's arguments and directories]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["ckptfmt"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS

LIMITS = ("-rss_limit_mb=2048", "-malloc_limit_mb=1024", "-timeout=10", "-max_len=8192", "-print_final_stats=1")


def main() -> None:
    name, *arguments = sys.argv[1:]
    target = TARGETS[name]
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        for token in target.tokens:
            words.write('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n')
        words.flush()
        dictionary = [f"-dict={words.name}"] if target.tokens else []
        atheris.Setup([sys.argv[0], *LIMITS, *dictionary, *arguments], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
