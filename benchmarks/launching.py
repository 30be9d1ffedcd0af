"""Run a command and write down what it took. A process of its own: the largest resident set of a command includes
that of whoever forked it, so the one that forks must be small.

python benchmarks/launching.py RESULT COMMAND...
"""

import json
import os
import sys
import time


def main(result: str, words: list[str]) -> None:
    """Write wall and CPU seconds, largest resident set in bytes and exit code as JSON to `result`."""
    begin = time.perf_counter()
    process = os.posix_spawnp(words[0], words, os.environ)
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - begin
    cpu = usage.ru_utime + usage.ru_stime
    with open(result, "w", encoding="utf-8") as file:
        json.dump([wall, cpu, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)], file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
