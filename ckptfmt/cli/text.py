"""Numbers and tables as people read them. Plain string work: ten thousand rows take a fraction of a second."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from ckptfmt.cli.output import Line, Styled
from ckptfmt.wording import clean

_LEAST_LAST_COLUMN: Final = 8


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    width: int | None = None,
    indent: str = "",
) -> list[Line]:
    """Columns under a header, two spaces apart. A column without any content is left out.

    Args:
        header: names of the columns.
        rows: cells, as many in each row as there are columns.
        right: names of columns that are aligned on their right.
        width: columns of the terminal: the last column is cut to fit. None: it is as long as it is.
        indent: goes before every line.
    """
    cleaned = [[clean(cell) for cell in row] for row in rows]
    kept = [index for index in range(len(header)) if any(row[index] for row in cleaned)]
    if not kept:
        return []
    widths = [max(len(header[index]), *(len(row[index]) for row in cleaned)) for index in kept]
    if width is not None:
        room = width - len(indent) - sum(widths[:-1]) - 2 * (len(kept) - 1)
        if room < widths[-1] and len(kept) > 1:
            widths[-1] = max(room, _LEAST_LAST_COLUMN)
    cells = [
        f"{{:{'>' if header[index] in right else '<'}{each}.{each}}}" for index, each in zip(kept, widths, strict=True)
    ]
    form = indent + "  ".join(cells)
    lines: list[Line] = [Styled(form.format(*(header[index] for index in kept)).rstrip(), "bold")]
    lines += [form.format(*(row[index] for index in kept)).rstrip() for row in cleaned]
    return lines


def facts(pairs: Sequence[tuple[str, str]]) -> list[Line]:
    """`name  value` lines, aligned; pairs without a value are left out."""
    told = [(name, told) for name, told in pairs if told]
    column = max((len(name) for name, _ in told), default=0)
    return [f"{name:<{column}}  {told}" for name, told in told]
