"""Measure ckptfmt, and write docs/benchmarks.md and docs/benchmarks.json.

python benchmarks/run.py [--quick] [--only TOPIC] [--size GB] [--directory DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.program import main

    sys.exit(main())
