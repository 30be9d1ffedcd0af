"""Values of other people's files as plain JSON: no NaN, no surrogates, no depth or length without bound."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ckptfmt.containers.protocol import Cut, Inert, TensorAt
from ckptfmt.layouts.protocol import Tree

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 512
"""Longer lists are counted, not copied: the file itself is kept to the byte anyway."""

_INT64: Final = 1 << 63
_MAX_TEXT: Final = 4096
_SCALARS: Final[dict[str, str]] = {
    "F64": "<d",
    "F32": "<f",
    "F16": "<e",
    "I64": "<q",
    "I32": "<i",
    "I16": "<h",
    "I8": "<b",
    "U8": "<B",
    "U16": "<H",
    "U32": "<I",
}


def clean(text: str) -> str:
    """`text` as it can be written in UTF-8: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: Any, depth: int = 0, *, whole: bool = False) -> Any:
    """`value` as plain JSON.

    What is no JSON becomes a name in angle brackets (`<tensor>`, `<pathlib.PosixPath>`), NaN and infinities and
    whole numbers beyond 64 bits become strings. Unless `whole`, lists over `MAX_ITEMS` are counted and long texts cut.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)[:_MAX_TEXT]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return clean(value if whole else value[:_MAX_TEXT])
    if isinstance(value, Inert):
        return f"<{clean(value.name)}>"
    if isinstance(value, TensorAt):
        return "<tensor>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth >= MAX_DEPTH or (len(value) > MAX_ITEMS and not whole):
            return f"<{len(value)} items>"
        if isinstance(value, Mapping):
            return {clean(str(key)): plain(item, depth + 1, whole=whole) for key, item in value.items()}
        if isinstance(value, set | frozenset):
            return sorted((plain(item, depth + 1, whole=whole) for item in value), key=repr)
        return [plain(item, depth + 1, whole=whole) for item in value]
    return f"<{type(value).__name__}>"


def plain_object(value: Any, *, whole: bool = False) -> dict[str, Any]:
    """`plain(value)` where `value` is an object, else {}."""
    result = plain(value, whole=whole)
    return result if isinstance(result, dict) else {}


def text_or_none(value: Any) -> str | None:
    """`value` where it is a string with something in it."""
    return clean(value[:_MAX_TEXT]) if isinstance(value, str) and value.strip() else None


def number_or_none(value: Any) -> float | int | None:
    """`value` where it is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else None
    return value if math.isfinite(value) else None


def count_or_none(value: Any) -> int | None:
    """`value` where it is a whole number of steps or epochs."""
    number = number_or_none(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def flatten(value: Any, prefix: str = "", depth: int = 0) -> dict[str, float | int]:
    """The figures in nested JSON by dotted name; of a list (a history) the last entry counts."""
    number = number_or_none(value)
    if number is not None:
        return {prefix or "value": number}
    if depth >= MAX_DEPTH:
        return {}
    if isinstance(value, list):
        return flatten(value[-1], prefix, depth + 1) if value else {}
    found: dict[str, float | int] = {}
    if isinstance(value, Mapping):
        for key, item in value.items():
            name = clean(str(key))
            found.update(flatten(item, f"{prefix}.{name}" if prefix else name, depth + 1))
            if len(found) > MAX_ITEMS:
                break
    return dict(list(found.items())[:MAX_ITEMS])


def latest(history: Iterable[Any], *, skip: frozenset[str]) -> dict[str, float | int]:
    """The last figure of each name in a list of log records."""
    found: dict[str, float | int] = {}
    for record in history:
        if isinstance(record, Mapping):
            for key, value in record.items():
                number = number_or_none(value)
                if number is not None and key not in skip:
                    found[clean(str(key))] = number
    return found


def scalar(tree: Tree, path: str, cut: Cut, value: Any) -> Any:
    """`value`, or the number in it where it stands for a tensor of one element (nanoGPT's `best_val_loss`)."""
    if not isinstance(value, TensorAt) or not 0 <= value.index < len(cut.tensors):
        return value
    tensor = cut.tensors[value.index]
    if math.prod(tensor.shape) != 1:
        return value
    begin = cut.extents[tensor.extent].offset + tensor.offset
    if tensor.dtype == "BF16":
        return struct.unpack("<f", b"\0\0" + tree.read(path, begin, 2))[0]
    code = _SCALARS.get(tensor.dtype)
    return struct.unpack(code, tree.read(path, begin, struct.calcsize(code)))[0] if code else value


def human(size_bytes: int) -> str:
    """A size for people: 2.6 GB."""
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
