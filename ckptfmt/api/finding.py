"""Which store is meant."""

from __future__ import annotations

import os
from typing import Final

from ckptfmt.errors import NotFound

DEFAULT_NAME: Final = ".ckptfmt"
VARIABLE: Final = "CKPTFMT_STORE"


def find_store(stated: str | None = None, start: str | None = None) -> str:
    """The store to use: `stated`, else `CKPTFMT_STORE`, else the nearest `.ckptfmt` at or above `start`.

    Raises:
        NotFound: none of these (`no-store`).
    """
    if stated or os.environ.get(VARIABLE):
        return stated or os.environ[VARIABLE]
    directory = os.path.abspath(start or os.getcwd())
    while True:
        candidate = os.path.join(directory, DEFAULT_NAME)
        if os.path.isdir(candidate):
            return candidate
        parent = os.path.dirname(directory)
        if parent == directory:
            raise NotFound(
                "no store: neither --store nor CKPTFMT_STORE is given, and there is no .ckptfmt here or above",
                code="no-store",
                hint="ckptfmt init",
            )
        directory = parent
