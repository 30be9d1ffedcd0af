"""An adapter's configuration, checked before anything is asked of it: it was written elsewhere, by anybody.

Types are those of PEFT's own configurations. Names of modules may be regular expressions, which can take longer than
anybody has time: those that could are tried in a process of their own, which is given up after a while.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from ckptfmt.errors import FormatError

_PATIENCE_SECONDS: Final = 5.0
_HARMLESS_REPEATS: Final = 1
_SHOWN: Final = 60
_MAX_FLOAT32: Final = 3.4028234663852886e38

_TRY: Final = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    found = re.compile(pattern)
    for name in names:
        found.match(name)
"""


def check_configuration(where: str, config: Mapping[str, Any], modules: Collection[str]) -> None:
    """Raise where a configuration is none that PEFT could have written.

    Args:
        where: what to call it in errors.
        config: as plain JSON.
        modules: names that its patterns will be held against.

    Raises:
        FormatError: a value has another type, is no finite number, or is a regular expression that does not parse or
            does not end.
    """
    for key, (expected, fits) in _FIELDS.items():
        value = config.get(key)
        if value is not None and not fits(value):
            raise _malformed(where, f"{key}: expected {expected}, got {_shown(value)}")
    _check_patterns(where, config, modules)


def check_scaling(where: str, module: str, scaling: float) -> None:
    """Raise where a scaling would make infinities of every update.

    Raises:
        FormatError: it is no finite number of fp32.
    """
    if not abs(scaling) <= _MAX_FLOAT32:
        raise _malformed(where, f"the scaling of {module} is {scaling:g}, beyond the numbers of fp32")


def _malformed(where: str, what: str) -> FormatError:
    return FormatError(f"{where}: {what}", hint="mend its adapter_config.json and import it again")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _check_patterns(where: str, config: Mapping[str, Any], modules: Collection[str]) -> None:
    slow: dict[str, tuple[str, str]] = {}
    for key, pattern, compiled in _patterns(config):
        try:
            re.compile(pattern)
            re.compile(compiled)
        except (re.error, RecursionError, OverflowError) as error:
            raise _malformed(where, f"{key}: {_shown(pattern)} is no regular expression: {error}") from error
        if sum(map(compiled.count, "*+{")) > _HARMLESS_REPEATS:
            slow[compiled] = (key, pattern)
    if slow and not _ends(list(slow), modules):
        key, pattern = next(iter(slow.values()))
        what = f"matching {_shown(pattern)} against the names of modules does not end in {_PATIENCE_SECONDS:g} s"
        raise _malformed(where, f"{key}: {what}")


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Field, regular expression, and what PEFT makes of it."""
    for key in ("target_modules", "exclude_modules"):
        value = config.get(key)
        if isinstance(value, str) and value.lower() != "all-linear":
            yield key, value, f"(?:{value})$"
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(key) or ():
            if not re.fullmatch(r"[\w.-]*", pattern):
                yield key, pattern, rf"(.*\.)?({pattern})$"
    layers = config.get("layers_pattern")
    for pattern in [layers] if isinstance(layers, str) else layers or ():
        yield "layers_pattern", pattern, rf".*\.{pattern}\.(\d+)\."


def _ends(patterns: list[str], modules: Collection[str]) -> bool:
    """Tell whether matching patterns against names ends soon. Nothing but a process can be told to stop."""
    names = sorted({module[: at.start()] for module in modules for at in re.finditer(r"\.|$", module)})
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY],
            input=json.dumps([patterns, names]).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_wholes(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_flags(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_flag, value))  # AdaLoRA's.


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _each(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(fits, value.values()))


def _any_of(*fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: any(each(value) for each in fits)


_FIELDS: Final[Mapping[str, tuple[str, Callable[[object], bool]]]] = {
    "r": ("a whole number", _is_whole),
    "lora_alpha": ("a finite number", _is_number),
    "rank_pattern": ("an object of whole numbers", _each(_any_of(_is_whole, _is_flags))),
    "alpha_pattern": ("an object of finite numbers", _each(_is_number)),
    "target_modules": ("a list of names or a regular expression", _any_of(_is_text, _is_texts)),
    "exclude_modules": ("a list of names or a regular expression", _any_of(_is_text, _is_texts)),
    "feedforward_modules": ("a list of names or a regular expression", _any_of(_is_text, _is_texts)),
    "target_parameters": ("a list of names", _is_texts),
    "modules_to_save": ("a list of names", _is_texts),
    "layers_to_transform": ("a whole number or a list of them", _any_of(_is_whole, _is_wholes)),
    "layers_pattern": ("a name or a list of names", _any_of(_is_text, _is_texts)),
    "trainable_token_indices": (
        "a list of whole numbers, or an object of them",
        _any_of(_is_wholes, _each(_is_wholes)),
    ),
    "token_indices": ("a list of whole numbers", _is_wholes),
    "bias": ("a text", _is_text),
    "task_type": ("a text", _is_text),
    "init_lora_weights": ("true, false or a text", _any_of(_is_flag, _is_text)),
    **dict.fromkeys(
        ("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "ensure_weight_tying", "use_qalora"),
        ("true or false", _is_flag),
    ),
}
"""What a field may hold besides null."""
