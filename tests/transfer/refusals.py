"""How a refusal must look: the right class, code and exit code; file and place named; a hint; nothing half-stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckptfmt import Store
from ckptfmt.errors import CkptfmtError
from tests.transfer.trees import nothing_unfinished, store_files


@contextmanager
def refused(store: Store, kind: type[CkptfmtError], code: str, exit_code: int, *parts: str) -> Iterator[None]:
    """What is done inside is refused as said, the message holds `parts`, and the store's files stay as they are."""
    before = store_files(Path(store.path))
    refs = [(row.ref, row.generation, row.manifest) for row in store.list_refs()]
    with pytest.raises(CkptfmtError) as caught:
        yield
    error = caught.value
    assert type(error) is kind, error.message
    assert (error.code, error.exit_code) == (code, exit_code), error.message
    for part in parts:
        assert part in error.message, (part, error.message)
    assert error.message.isprintable() and len(error.message) < 2000, error.message
    assert error.hint and error.hint.isprintable(), error.message
    assert store_files(Path(store.path)) == before
    assert nothing_unfinished(Path(store.path))
    assert [(row.ref, row.generation, row.manifest) for row in store.list_refs()] == refs


class Meddling:
    """Progress that does something to the files once so many bytes were read."""

    def __init__(self, after_bytes: int, act: Callable[[], Any]) -> None:
        self._left = after_bytes
        self._act: Callable[[], Any] | None = act

    def begin(self, label: str, total_bytes: int | None) -> None:
        pass

    def advance(self, done_bytes: int) -> None:
        self._left -= done_bytes
        if self._left <= 0 and self._act is not None:
            act, self._act = self._act, None
            act()

    def end(self) -> None:
        pass

    @property
    def acted(self) -> bool:
        return self._act is None
