"""What a pickle is read into: plain scalars, lists and tuples, and these stand-ins, none of which can do anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptfmt.containers.bounds import MAX_NAME_CHARACTERS

Value = object
"""None, bool, int, float, str, list, tuple, or one of the classes below."""


@dataclass(slots=True, eq=False)
class Pairs:
    """A dict, as the pairs set on it in order; the last one of a key counts."""

    items: list[tuple[Value, Value]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function by its dotted name. It is never looked up."""

    name: str


@dataclass(slots=True, eq=False)
class InertObject:
    """What a class or function outside the table was asked to make, with all that was given to it."""

    name: str
    arguments: Value = ()
    states: list[Value] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    items: list[Value] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class StorageValue:
    """A persistent id: record `data/<key>` holds `count` elements of `element_bytes` bytes.

    `kind` is the storage class. `dtype` is None where we have no name for it; an untyped storage counts bytes and
    its dtype is up to each view.
    """

    key: str
    kind: str
    dtype: str | None
    element_bytes: int
    count: int

    @property
    def size_bytes(self) -> int:
        """Bytes that the record must have."""
        return self.count * self.element_bytes


@dataclass(slots=True, eq=False)
class TensorValue:
    """A tensor: `offset` and `strides` in elements. `rewritten` once a later opcode set a state on it."""

    storage: StorageValue
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    rewritten: bool = False


def global_name(module: str, name: str) -> str:
    """The dotted name of a global, cut off where it is absurdly long."""
    return f"{module[:MAX_NAME_CHARACTERS]}.{name[:MAX_NAME_CHARACTERS]}"


def name_of(value: Value) -> str:
    """What to call `value` where it stands for something that we do not interpret."""
    if isinstance(value, Global | InertObject):
        return value.name
    if isinstance(value, StorageValue):
        return f"torch.{value.kind}"
    if isinstance(value, TensorValue):
        return "torch.Tensor"
    if isinstance(value, Pairs):
        return "builtins.dict"
    return f"builtins.{type(value).__name__}"
