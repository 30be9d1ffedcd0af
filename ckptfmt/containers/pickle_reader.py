"""A pickle machine that cannot do anything: it reads opcodes into inert values and never imports or calls by name.

The opcode table and the readers of arguments are those of `pickletools`. Source of what each opcode means:
`pickletools` and `Lib/pickle.py` of Python 3.11 to 3.13, protocols 0 to 5.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import IO, Any, Final

from ckptfmt.containers.bounds import (
    MAX_CONTAINERS,
    MAX_INTEGER_BITS,
    MAX_MARKS,
    MAX_MEMO,
    MAX_NUMBER_CHARACTERS,
    MAX_OPCODES,
    NotInterpreted,
)
from ckptfmt.containers.rebuild import reduce_known, storage_of
from ckptfmt.containers.values import Global, InertObject, Pairs, StorageValue, TensorValue, Value, global_name, name_of
from ckptfmt.errors import FormatError

_HIGHEST_PROTOCOL: Final = 5


def read_pickle(data: bytes, *, where: str) -> tuple[Value, list[StorageValue]]:
    """Read the one value that the pickle `data` holds, and every storage that it names, each key once.

    Raises:
        FormatError: it is no pickle, or tells two things of one storage; the message names the opcode's byte.
        NotInterpreted: it goes beyond the bounds, or is of a protocol that we do not know.
    """
    machine = _Machine()
    stream = io.BytesIO(data)
    for _ in range(MAX_OPCODES):
        place = stream.tell()
        opcode = stream.read(1)
        try:
            if opcode == b".":
                return machine.result(len(data) - stream.tell()), list(machine.storages.values())
            if not opcode:
                raise ValueError("the pickle ends before its STOP")
            step, reader = _OPCODES[opcode]
            step(machine, reader(stream) if reader else None)
        except (ValueError, IndexError, KeyError) as error:
            what = _COMPLAINTS.get(type(error)) or str(error)[:200]
            raise FormatError(f"{where}: byte {place}: {what}") from None
    raise NotInterpreted(f"a pickle of more than {MAX_OPCODES} opcodes")


_COMPLAINTS: Final[dict[type[Exception], str]] = {
    IndexError: "the pickle takes more off its stack than it put there",
    KeyError: "no pickle opcode, or a memo entry that was never made",
}


_COSTS: Final[dict[type, int]] = {Pairs: 2, InertObject: 4}
"""Units of the budget, about 100 bytes each; everything else costs one."""


class _Machine:
    """The stack, the stacks below its marks, and the memo."""

    __slots__ = ("below", "budget", "memo", "stack", "storages")

    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.below: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.storages: dict[str, StorageValue] = {}
        self.budget = MAX_CONTAINERS

    def result(self, left: int) -> Value:
        value = self.stack.pop()
        if self.stack or self.below or left:
            raise ValueError("the pickle ends with more than one value, an open mark or bytes left over")
        return value

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise NotInterpreted(f"a pickle that makes more than {MAX_CONTAINERS} lists, tuples, dicts and objects")

    def push_made(self, value: Value) -> None:
        self.spend(_COSTS.get(type(value), 1))
        self.stack.append(value)

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.below) >= MAX_MARKS:
            raise NotInterpreted(f"a pickle that nests more than {MAX_MARKS} marks")
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Value]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def keep(self, index: int) -> None:
        if len(self.memo) >= MAX_MEMO:
            raise NotInterpreted(f"a pickle with more than {MAX_MEMO} memo entries")
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, InertObject):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise ValueError(f"items added to a {name_of(target)}")

    def set_items(self, items: list[Value]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise ValueError("a key without a value")
        if not isinstance(target, Pairs | InertObject):
            raise ValueError(f"keys set on a {name_of(target)}")
        pairs = target.items if isinstance(target, Pairs) else target.pairs
        pairs.extend(zip(items[::2], items[1::2], strict=True))

    def dictionary(self, items: list[Value]) -> None:
        self.push_made(Pairs())
        self.set_items(items)

    def call(self, function: Value, arguments: Value) -> None:
        """REDUCE, NEWOBJ, INST and OBJ, which differ in what they do to a class but not in what we make of it."""
        if isinstance(function, Global) and isinstance(arguments, tuple):
            self.push_made(reduce_known(function, arguments, self.spend))
        else:
            self.push_made(InertObject(name_of(function), arguments))

    def call_with_keywords(self) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.push_made(InertObject(name_of(function), (arguments, keywords)))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, InertObject):
            target.states.append(state)
        elif isinstance(target, TensorValue):
            target.rewritten = True
        elif not isinstance(target, Pairs | list):  # attributes of a state dict (`_metadata`) say nothing of tensors
            self.push_made(InertObject(name_of(self.stack.pop()), (target,), [state]))

    def persistent(self) -> None:
        identifier = self.stack.pop()
        storage = storage_of(identifier)
        if storage is None:
            self.push_made(InertObject("persistent id", identifier))
            return
        known = self.storages.setdefault(storage.key, storage)
        if (known.kind, known.count) != (storage.kind, storage.count):
            raise ValueError(
                f"storage {storage.key!r} is once {known.count} elements of {known.kind}, "
                f"once {storage.count} of {storage.kind}"
            )
        self.push(known)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global whose name is no string")
        self.named(module, name)

    def named(self, module: str, name: str) -> None:
        self.push_made(Global(global_name(module, name)))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise IndexError
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        machine.push_made(items)

    return step


def _constant(value: Value) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _fresh(make: Callable[[], Value]) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        machine.push_made(make())

    return step


def _integer(machine: _Machine, value: Any) -> None:
    machine.push(value if value.bit_length() <= MAX_INTEGER_BITS else Global("builtins.int"))


def _text(machine: _Machine, value: str) -> None:
    """A string; lone surrogates, which no document could hold, are spelled out."""
    if not value.isascii():
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    machine.push(value)


def _old_text(machine: _Machine, value: str) -> None:
    """A string of Python 2, which `pickletools` reads as Latin-1; torch.load takes it for UTF-8."""
    try:
        machine.push(value.encode("latin-1").decode("utf-8"))
    except UnicodeDecodeError:
        machine.push(Global("builtins.bytes"))


def _pop_two(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _instance(machine: _Machine, names: tuple[str, str]) -> None:
    machine.call(Global(global_name(*names)), tuple(machine.above_mark()))


def _object(machine: _Machine, _: Any) -> None:
    items = machine.above_mark()
    machine.call(items[0], tuple(items[1:]))


def _protocol(_: _Machine, version: int) -> None:
    if version > _HIGHEST_PROTOCOL:
        raise NotInterpreted(f"a pickle of protocol {version}")


def _ignore(_: Value) -> None:
    """Only that the value was there matters."""


def _inert(name: str) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(Global(name))


_STEPS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": _protocol,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: _ignore(machine.above_mark()),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),  # noqa: FBT003
    "NEWFALSE": _constant(False),  # noqa: FBT003
    **dict.fromkeys(("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _integer),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), lambda machine, value: machine.push(value)),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _old_text),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _inert("builtins.bytes")),
    "BYTEARRAY8": _inert("builtins.bytearray"),
    "NEXT_BUFFER": _inert("out-of-band buffer"),
    "READONLY_BUFFER": lambda machine, _: _ignore(machine.stack[-1]),
    "EMPTY_LIST": _fresh(list),
    "EMPTY_SET": _fresh(list),
    "EMPTY_DICT": _fresh(Pairs),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE": lambda machine, _: machine.push_made(tuple(machine.above_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine, _: machine.push_made(machine.above_mark()),
    "FROZENSET": lambda machine, _: machine.push_made(machine.above_mark()),
    "DICT": lambda machine, _: machine.dictionary(machine.above_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.above_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.above_mark()),
    "SETITEM": _pop_two,
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, index: machine.keep(index)),
    "MEMOIZE": lambda machine, _: machine.keep(len(machine.memo)),
    "GLOBAL": lambda machine, names: machine.named(*names),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _inert("registered extension")),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.reduce(),
    "NEWOBJ_EX": lambda machine, _: machine.call_with_keywords(),
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": _inert("persistent id"),
    "BINPERSID": lambda machine, _: machine.persistent(),
}


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("the pickle ends within a line")
    return line[:-1]


def _two_lines(stream: IO[bytes]) -> tuple[str, str]:
    return _line(stream).decode("utf-8"), _line(stream).decode("utf-8")


def _short_line(stream: IO[bytes]) -> bytes:
    line = _line(stream)
    if len(line) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number of {len(line)} digits")
    return line


def _read_int(stream: IO[bytes]) -> int | bool:
    line = _short_line(stream)
    return line == b"01" if line in (b"00", b"01") else int(line)


def _read_index(stream: IO[bytes]) -> int:
    return int(_short_line(stream))


def _read_long(stream: IO[bytes]) -> int:
    return int(_short_line(stream).removesuffix(b"L"))


def _read_float(stream: IO[bytes]) -> float:
    return float(_short_line(stream))


def _read_string(stream: IO[bytes]) -> str:
    line = _line(stream)
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("a string without quotes")
    return line[1:-1].decode("latin-1")


_LINES: Final[dict[str, Callable[[IO[bytes]], Any]]] = {
    # pickletools' own readers of these convert numbers of any length, and take backslashes in names for escapes.
    "GLOBAL": _two_lines,
    "INST": _two_lines,
    "PERSID": _line,
    "INT": _read_int,
    "LONG": _read_long,
    "FLOAT": _read_float,
    "GET": _read_index,
    "PUT": _read_index,
    "STRING": _read_string,
}

_OPCODES: Final[dict[bytes, tuple[Callable[[_Machine, Any], None], Callable[[IO[bytes]], Any] | None]]] = {
    opcode.code.encode("latin-1"): (
        _STEPS[opcode.name],
        _LINES.get(opcode.name) or (opcode.arg.reader if opcode.arg else None),
    )
    for opcode in pickletools.opcodes
    if opcode.name != "STOP"
}
