"""Refs as a tree of runs: the parts of their names between slashes are its branches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ckptfmt.api.results import RefRow
from ckptfmt_tui.models.filters import fits, words_of

Order = Literal["name", "size", "time"]
ORDERS: Final[tuple[Order, ...]] = ("name", "size", "time")


@dataclass(frozen=True, slots=True)
class Branch:
    """A run, or a directory of runs: what lies below one part of the names.

    Attributes:
        name: the last part of its name.
        path: its whole name, without a slash at the end.
        children: branches and refs below it, in order.
        refs: how many refs lie below.
        logical_bytes, exclusive_bytes: sums over them.
        stored_bytes: the largest of what one of them takes and the sum of what each alone takes: a lower bound of what
            all of them take, which share objects.
        newest: the newest creation time below.
    """

    name: str
    path: str
    children: tuple[Branch | RefRow, ...]
    refs: int
    logical_bytes: int
    stored_bytes: int
    exclusive_bytes: int
    newest: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the tree as it is shown: `depth` counts from 0; `open` is None for a ref."""

    depth: int
    node: Branch | RefRow
    open: bool | None

    @property
    def path(self) -> str:
        """The node's whole name."""
        return self.node.path if isinstance(self.node, Branch) else self.node.ref


@dataclass(slots=True)
class _Growing:
    """A branch while it is built."""

    branches: dict[str, _Growing] = field(default_factory=dict)
    refs: list[RefRow] = field(default_factory=list)


def tree(rows: Iterable[RefRow], order: Order) -> tuple[Branch | RefRow, ...]:
    """The tree of some refs. A ref that stands beside refs below its own name stays a ref of its own."""
    top = _Growing()
    for row in rows:
        at = top
        for part in row.ref.split("/")[:-1]:
            at = at.branches.setdefault(part, _Growing())
        at.refs.append(row)
    return _children(top, "", order)


def _children(growing: _Growing, path: str, order: Order) -> tuple[Branch | RefRow, ...]:
    made: list[Branch | RefRow] = [*growing.refs]
    for name, each in growing.branches.items():
        whole = f"{path}/{name}" if path else name
        children = _children(each, whole, order)
        own = sum(child.exclusive_bytes for child in children)
        made.append(
            Branch(
                name=name,
                path=whole,
                children=children,
                refs=sum(child.refs if isinstance(child, Branch) else 1 for child in children),
                logical_bytes=sum(child.logical_bytes for child in children),
                stored_bytes=max(*(child.stored_bytes for child in children), own),
                exclusive_bytes=own,
                newest=max(_time(child) for child in children),
            )
        )
    return tuple(sorted(made, key=lambda node: _rank(node, order)))


def _rank(node: Branch | RefRow, order: Order) -> tuple[object, ...]:
    name = _natural(node.name if isinstance(node, Branch) else node.ref.rpartition("/")[2])
    if order == "size":
        return (-node.exclusive_bytes, -node.stored_bytes, name)
    if order == "time":
        return (tuple(-ord(letter) for letter in _time(node)), name)
    return (name,)


def _time(node: Branch | RefRow) -> str:
    return node.newest if isinstance(node, Branch) else node.created


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """`step-9` before `step-10`."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for letter in [*name, ""]:
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        if letter:
            parts.append((1, 0, letter))
    return tuple(parts)


def lines(nodes: Sequence[Branch | RefRow], closed: frozenset[str]) -> tuple[Line, ...]:
    """The tree's lines, those below a closed branch left out."""
    made: list[Line] = []
    waiting = [(0, node) for node in reversed(nodes)]
    while waiting:
        depth, node = waiting.pop()
        if isinstance(node, Branch):
            is_open = node.path not in closed
            made.append(Line(depth, node, is_open))
            if is_open:
                waiting += [(depth + 1, child) for child in reversed(node.children)]
        else:
            made.append(Line(depth, node, None))
    return tuple(made)


DAMAGED: Final = "damaged"


def damaged_row(ref: str) -> RefRow:
    """A row for a ref that cannot be read: its layout is `DAMAGED`, and nothing else is known."""
    return RefRow(
        ref=ref,
        generation=0,
        manifest="",
        layout=DAMAGED,
        stage=None,
        step=None,
        parent=None,
        base=None,
        binding="none",
        needs_base=None,
        created="",
        logical_bytes=0,
        stored_bytes=0,
        exclusive_bytes=0,
        metrics={},
        labels=(),
        pinned=False,
    )


def text_of(row: RefRow) -> str:
    """What a filter looks at: name, layout, base, binding, labels and metrics, in small letters."""
    parts = [
        row.ref,
        row.layout,
        row.base or "",
        row.binding,
        "" if row.stage is None else f"stage {row.stage}",
        *row.labels,
        *row.metrics,
        "pinned" if row.pinned else "",
        "needs base" if row.needs_base else "",
    ]
    return " ".join(parts).lower()


def fitting(rows: Sequence[RefRow], texts: Sequence[str], words: str) -> Sequence[RefRow]:
    """Rows in whose text every word of `words` stands, small letters as capitals.

    Args:
        rows: all of them.
        texts: `text_of` each.
        words: separated by spaces; none fits all.
    """
    wanted = words_of(words)
    if not wanted:
        return rows
    return [row for row, text in zip(rows, texts, strict=True) if fits(text, wanted)]


def branches(nodes: Iterable[Branch | RefRow]) -> frozenset[str]:
    """The paths of all branches."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Branch):
            found.add(node.path)
            waiting += node.children
    return frozenset(found)


def lowest(nodes: Iterable[Branch | RefRow]) -> frozenset[str]:
    """The paths of the branches in which refs lie: folded, what is left is an overview."""
    found: set[str] = set()
    waiting = [node for node in nodes if isinstance(node, Branch)]
    while waiting:
        branch = waiting.pop()
        if any(isinstance(child, RefRow) for child in branch.children):
            found.add(branch.path)
        waiting += [child for child in branch.children if isinstance(child, Branch)]
    return frozenset(found)


def place_of(made: Sequence[Line], path: str | None, before: int) -> int:
    """Where the cursor goes: to the node of that path, else to the nearest one that is left of what it lay in.

    Args:
        made: the lines.
        path: the node that the cursor was on; None: none.
        before: the line that it was on.
    """
    places = {line.path: at for at, line in enumerate(made)}
    if path is not None and path in places:
        return places[path]
    return max(min(before, len(made) - 1), 0)
