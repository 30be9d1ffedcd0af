"""What is compared with: one pass of hashes over every file of a directory, in plain Python.

python benchmarks/hashing.py both|both-threads|blake3|blake3-threads DIRECTORY
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import blake3

_READ_BYTES = 4 << 20


def passed(path: str, updates: list[Callable[[bytes], object]]) -> int:
    """Read a file once and give every part to each of `updates`; returns its bytes."""
    length = 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            length += len(data)
            for update in updates:
                update(data)
    return length


def both(path: str) -> int:
    """BLAKE3 and SHA-256, one after the other."""
    return passed(path, [hashlib.sha256().update, blake3.blake3().update])


def both_threads(path: str) -> int:
    """SHA-256 in a second thread, at most six parts behind."""
    sha256 = hashlib.sha256()
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:

        def behind(data: bytes) -> None:
            waiting.append(pool.submit(sha256.update, data))
            if len(waiting) > 6:
                waiting.pop(0).result()

        return passed(path, [behind, blake3.blake3().update])


def only_blake3(path: str) -> int:
    """BLAKE3 alone."""
    return passed(path, [blake3.blake3().update])


def main(which: str, directory: str) -> None:
    """Hash and print the number of bytes."""
    found = [os.path.join(root, name) for root, _, names in os.walk(directory) for name in names]
    one = {"both": both, "both-threads": both_threads, "blake3": only_blake3, "blake3-threads": only_blake3}[which]
    with ThreadPoolExecutor(2 if which == "blake3-threads" else 1) as pool:
        print(sum(pool.map(one, sorted(found))))


if __name__ == "__main__":
    main(*sys.argv[1:])
