"""What a verb works with: the store it was pointed to, where its result goes, who is told of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt.cli import output
from ckptfmt.cli.progress import terminal_progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ckptfmt.api import Store
    from ckptfmt.cli.output import Line
    from ckptfmt.progress import Progress


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one verb.

    Attributes:
        stated_store: what `--store` said.
        as_json: whether the result is to be one JSON document.
    """

    stated_store: str | None
    as_json: bool

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store, open.

        Raises:
            NotFound: there is none (`no-store`).
        """
        from ckptfmt.api import Store, find_store

        with Store.open(find_store(self.stated_store)) as store:
            yield store

    @contextmanager
    def found_store(self) -> Iterator[Store | None]:
        """The store, open, or None where there is none and none was stated: for what works without one."""
        from ckptfmt.api import Store, find_store
        from ckptfmt.errors import NotFound

        try:
            path = find_store(self.stated_store)
        except NotFound:
            yield None
            return
        with Store.open(path) as store:
            yield store

    def progress(self) -> AbstractContextManager[Progress]:
        """Progress on the terminal, if there is one and a person reads it."""
        return terminal_progress(wanted=not self.as_json)

    def give(self, document: object, lines: Callable[[], list[Line]]) -> None:
        """Print the result: `document` under `--json`, else the lines that `lines` makes."""
        if self.as_json:
            output.print_document(document)
        else:
            output.print_lines(lines())

    def note(self, *lines: Line) -> None:
        """Print what is not the result on stderr; nothing under `--json`."""
        if lines and not self.as_json:
            output.print_notes(list(lines))

    def refs(self, prefix: str) -> list[str]:
        """Refs that begin with `prefix`."""
        with self.store() as store:
            return store.complete(prefix)

    def bases(self) -> list[str]:
        """Names of the bases."""
        with self.store() as store:
            return [base.name for base in store.list_bases()]
