"""One stage of a prediction, as its text says it: an update that is the product of two factors, and its rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptfmt.encodings.factors import FACTOR_TYPES, FLOATS, INTEGERS, MAX_RANK, WIDTHS, scale_of
from ckptfmt.encodings.rounding import RULES
from ckptfmt.errors import FormatError

MAX_RIGHT: Final = 1 << 24
"""Elements of a factor that is held in memory."""
FORMS: Final = frozenset({"product", "transposed", "across"})
"""The update is U x V; its transpose; U times the transpose of V, which is stored (columns, rank)."""
_NUMBER: Final = "(0|[1-9][0-9]{0,11})"
_STAGE: Final = re.compile(
    rf"{_NUMBER}:(product|transposed|across):{_NUMBER}x{_NUMBER}x{_NUMBER}:([\w>]+):([\w>]+):([0-9a-f]{{8}}):([-\w]+)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One update: a product of U and V, scaled, added to some rows.

    Attributes:
        begin: first row that it is added to.
        rows: rows of U.
        rank: columns of U, rows of V.
        columns: columns of V.
        left: a key of `factors.FACTOR_TYPES`: how U is read.
        right: likewise V; both are floats, or both integers.
        scale: bits of a float32; for integers a positive power of two.
        rule: a key of `rounding.RULES`.
        form: a member of `FORMS`.
    """

    begin: int
    rows: int
    rank: int
    columns: int
    left: str
    right: str
    scale: int
    rule: str
    form: str = "product"

    @property
    def name(self) -> str:
        """`<begin>:<form>:<rows>x<rank>x<columns>:<U's type>:<V's type>:<scale>:<rule>`."""
        shape = f"{self.rows}x{self.rank}x{self.columns}"
        return f"{self.begin}:{self.form}:{shape}:{self.left}:{self.right}:{self.scale:08x}:{self.rule}"

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the update."""
        return (self.columns, self.rows) if self.form == "transposed" else (self.rows, self.columns)

    def lengths(self) -> tuple[int, int]:
        """Bytes of U and of V."""
        left, right = (WIDTHS[FACTOR_TYPES[each].stored] for each in (self.left, self.right))
        return self.rows * self.rank * left, self.rank * self.columns * right

    def check(self) -> None:
        """Make sure that there can be such a stage.

        Raises:
            FormatError: there cannot.
        """
        types = {FACTOR_TYPES[each].read if each in FACTOR_TYPES else each for each in (self.left, self.right)}
        known = types <= set(FLOATS) or types <= set(INTEGERS)
        if not known or self.rule not in RULES or self.form not in FORMS:
            raise FormatError(f"no prediction can be made by {self.name!r}: no such elements, form or rule")
        scale = scale_of(self.scale)
        if self.left in INTEGERS and scale.mantissa != 1:
            raise FormatError(f"no prediction can be made by {self.name!r}: integers are scaled by powers of two")
        if not 0 < self.rank <= MAX_RANK or not self.rows or not self.columns or self.begin < 0:
            raise FormatError(f"no prediction can be made by {self.name!r}: impossible shapes")
        if self.rank * self.shape[1] > MAX_RIGHT:
            raise FormatError(f"no prediction can be made by {self.name!r}: more than {MAX_RIGHT} elements in a factor")


def parse_stage(text: str) -> Stage:
    """Read what `Stage.name` gives.

    Raises:
        FormatError: it is no such text.
    """
    """Read what `Stage.name` gives.

    Raises:
        FormatError: it is no such text.
    """
    match = _STAGE.fullmatch(text)
    if match is None:
        raise FormatError(f"no prediction can be made by {text!r}")
    begin, form, rows, rank, columns, left, right, scale, rule = match.groups()
    shape = int(rows), int(rank), int(columns)
    return Stage(int(begin), *shape, left, right, int(scale, 16), rule, form)
