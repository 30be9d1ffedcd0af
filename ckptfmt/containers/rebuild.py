"""The fixed table of globals that a torch pickle may name and be understood; every other name stays inert.

Nothing here is looked up in a module: names are compared as text, and what their functions would make is worked out
from their arguments. Source of the argument lists: `torch/_utils.py` and `torch/_tensor.py` of torch 1.4 to 2.13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ckptfmt.containers.bounds import MAX_RANK
from ckptfmt.containers.values import Global, InertObject, Pairs, StorageValue, TensorValue, Value

Spend = Callable[[int], None]
"""Accounts for that many elements copied; raises NotInterpreted beyond the bound."""

UNTYPED: Final = "UntypedStorage"

_STORAGES: Final[Mapping[str, tuple[str | None, int]]] = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "ComplexFloatStorage": ("C64", 8),
    "ComplexDoubleStorage": ("C128", 16),
    "QInt8Storage": (None, 1),
    "QUInt8Storage": (None, 1),
    "QInt32Storage": (None, 4),
    "QUInt4x2Storage": (None, 1),
    "QUInt2x4Storage": (None, 1),
    UNTYPED: (None, 1),
}

_DTYPES: Final[Mapping[str, str]] = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e8m0fnu": "F8_E8M0",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
    "torch.complex64": "C64",
    "torch.complex128": "C128",
}

_MAX_ARGUMENTS: Final = 8
"""More than any function of the table takes: an argument tuple may be reached a million times over the memo."""

_PLAIN_TENSOR_TYPES: Final = frozenset(
    {
        "torch.Tensor",
        "torch._tensor.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
    }
)


def storage_of(identifier: Value) -> StorageValue | None:
    """The storage that a persistent id names, or None where it is of a kind that torch.save does not write.

    Raises:
        ValueError: it is a storage by its first word and contradicts itself.
    """
    if not isinstance(identifier, tuple) or not identifier or identifier[0] != "storage":
        return None
    if len(identifier) != 5:
        raise ValueError(f"a storage of {len(identifier)} parts, expected 5")
    _, cls, key, _, count = identifier
    if not isinstance(cls, Global):
        raise ValueError("a storage without a class")
    module, _, kind = cls.name.rpartition(".")
    if not module.startswith("torch") or kind not in _STORAGES:
        return None
    if not isinstance(key, str) or len(key) > 1000:
        raise ValueError("a storage whose key is no short string")
    dtype, element_bytes = _STORAGES[kind]
    return StorageValue(key, kind, dtype, element_bytes, _count(count, "number of elements"))


def reduce_known(function: Global, arguments: tuple[Value, ...], spend: Spend) -> Value:
    """What `function` makes of `arguments` if it is in the table, else an inert object that keeps them.

    Raises:
        ValueError: the function is known, and would fail or read outside its storage's element counts.
        NotInterpreted: by way of `spend`.
    """
    known = _FUNCTIONS.get(function.name) if len(arguments) <= _MAX_ARGUMENTS else None
    result = known(arguments, spend) if known else None
    return InertObject(function.name, arguments) if result is None else result


def _count(value: Value, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{what}: expected a whole number below 2^63")
    return value


def _counts(value: Value, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_RANK:
        raise ValueError(f"{what}: expected a tuple of at most {MAX_RANK} whole numbers")
    return tuple(_count(item, what) for item in value)


def _tensor(arguments: tuple[Value, ...], dtype: Value = None, extra: tuple[Value, ...] = ()) -> Value:
    storage, offset, shape, strides = arguments[:4]
    if any(not isinstance(item, Pairs) or item.items for item in extra if item is not None):
        return None  # conjugate or negative bit: the values are not the stored bytes
    if not isinstance(storage, StorageValue):
        if isinstance(storage, InertObject):
            return None
        raise ValueError("a tensor without a storage")
    sizes, steps = _counts(shape, "shape"), _counts(strides, "strides")
    if len(sizes) != len(steps):
        raise ValueError(f"a tensor of {len(sizes)} dimensions with {len(steps)} strides")
    begin = _count(offset, "storage offset")
    name = storage.dtype if dtype is None else _DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    if dtype is None and storage.kind == UNTYPED:
        name = "U8"
    elif dtype is not None and storage.kind != UNTYPED and name != storage.dtype:
        raise ValueError(f"a tensor of dtype {name} on a torch.{storage.kind}")
    return None if name is None else TensorValue(storage, name, begin, sizes, steps)


def _of_length(arguments: tuple[Value, ...], *lengths: int) -> None:
    if len(arguments) not in lengths:
        raise ValueError(f"{len(arguments)} arguments, expected {' or '.join(map(str, lengths))}")


def _rebuild_tensor(arguments: tuple[Value, ...], _: Spend) -> Value:
    _of_length(arguments, 4)
    return _tensor(arguments)


def _rebuild_tensor_v2(arguments: tuple[Value, ...], _: Spend) -> Value:
    _of_length(arguments, 6, 7)
    return _tensor(arguments, extra=arguments[6:])


def _rebuild_tensor_v3(arguments: tuple[Value, ...], _: Spend) -> Value:
    _of_length(arguments, 7, 8)
    if not isinstance(arguments[6], Global):
        raise ValueError("a tensor without a dtype")
    return _tensor(arguments, arguments[6], arguments[7:])


def _rebuild_parameter(arguments: tuple[Value, ...], _: Spend) -> Value:
    _of_length(arguments, 3, 4)
    return arguments[0] if isinstance(arguments[0], TensorValue) else None


def _rebuild_from_type(arguments: tuple[Value, ...], spend: Spend) -> Value:
    """A tensor with Python attributes; one of a subclass stays inert, as its bytes may mean anything."""
    _of_length(arguments, 4)
    function, cls, inner, _ = arguments
    if not isinstance(function, Global) or not isinstance(cls, Global) or not isinstance(inner, tuple):
        return None
    if cls.name not in _PLAIN_TENSOR_TYPES or function.name not in _TENSOR_FUNCTIONS:
        return None
    return _TENSOR_FUNCTIONS[function.name](inner, spend)


def _sequence(arguments: tuple[Value, ...], spend: Spend) -> Value:
    """A set or list of one list or tuple."""
    if not arguments:
        return []
    if len(arguments) != 1 or not isinstance(arguments[0], list | tuple):
        return None
    spend(len(arguments[0]))
    return list(arguments[0])


def _size(arguments: tuple[Value, ...], _: Spend) -> Value:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else None


def _mapping(arguments: tuple[Value, ...], spend: Spend) -> Value:
    """A dict of nothing, of a dict, or of a list of pairs."""
    given = arguments[0] if arguments else []
    if len(arguments) > 1 or not isinstance(given, Pairs | list | tuple):
        return None
    items = given.items if isinstance(given, Pairs) else given
    spend(len(items))
    result = Pairs()
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            return None
        result.items.append((item[0], item[1]))
    return result


def _defaultdict(arguments: tuple[Value, ...], spend: Spend) -> Value:
    return _mapping(arguments[1:], spend)


_Function = Callable[[tuple[Value, ...], Spend], Value]

_TENSOR_FUNCTIONS: Final[Mapping[str, _Function]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}

_FUNCTIONS: Final[Mapping[str, _Function]] = {
    **_TENSOR_FUNCTIONS,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _defaultdict,
    "builtins.dict": _mapping,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "__builtin__.dict": _mapping,
    "__builtin__.list": _sequence,
    "__builtin__.set": _sequence,
    "__builtin__.frozenset": _sequence,
}
