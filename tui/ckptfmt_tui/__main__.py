"""The application alone, for a process that is told its size and keys by another one: see `web`."""

from __future__ import annotations

import argparse
import sys

from ckptfmt_tui.app import run


def main(words: list[str]) -> int:
    """Run it until it is left."""
    parser = argparse.ArgumentParser(prog="python -m ckptfmt_tui")
    parser.add_argument("store")
    parser.add_argument("--read-only", action="store_true")
    stated = parser.parse_args(words)
    return run(stated.store, read_only=stated.read_only)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
