"""Elements that differ from PEFT's merge, for every method and option: `python -m benchmarks.merge_equality [word]`."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from tests.merge_methods.cases import CASES, DTYPES
from tests.merge_methods.equality import compare


def main(words: list[str]) -> int:
    """Print the table; the exit status tells whether anything differs that has no reason."""
    import peft
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    print(f"torch {torch.__version__}, peft {peft.__version__}, transformers {transformers.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; elements that differ / elements that the merge changes")
    print(f"| {'method and option':42} | {'model':8} |" + "|".join(f" {dtype:16} " for dtype in DTYPES) + "|")
    print(f"|{'-' * 44}|{'-' * 10}|" + "|".join("-" * 18 for _ in DTYPES) + "|")
    bad = 0
    for case in CASES:
        if words and not any(word.lower() in case.name.lower() for word in words):
            continue
        for kind in case.kinds:
            outcomes = [compare(case, kind, dtype) for dtype in DTYPES]
            cells = "|".join(f" {each.elements:6} / {each.changed:7} " for each in outcomes)
            print(f"| {case.name:42} | {kind:8} |{cells}|" + (f" {case.reason}" if case.reason else ""), flush=True)
            bad += sum((bool(each.elements) and not case.reason) or bool(each.config) for each in outcomes)
    print(f"{bad} combinations differ without a reason")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
