"""Settings and metrics compared: nested JSON under flat key paths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptfmt.format.manifest import Adapter, Json, Manifest


@dataclass(frozen=True, slots=True)
class ComparedValues:
    """Values that only B has, that only A has, and that differ; in order of their keys. `same` counts the others."""

    added: tuple[tuple[str, Json], ...]
    removed: tuple[tuple[str, Json], ...]
    changed: tuple[tuple[str, Json, Json], ...]
    same: int


def flat(values: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Nested objects as one, keys joined by '.'; lists and empty objects are values."""
    found: dict[str, Json] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def settings_of(manifest: Manifest, names: Mapping[str, str] | None = None) -> dict[str, Json]:
    """A checkpoint's hyperparameters, and those of its adapters under `adapters.<name>`.

    Args:
        manifest: the checkpoint.
        names: other names for its adapters: of those that are compared with adapters of other names.
    """
    found = flat(manifest.settings)
    for adapter in manifest.adapters:
        found |= _adapter_settings(adapter, (names or {}).get(adapter.name, adapter.name))
    return found


def _adapter_settings(adapter: Adapter, name: str) -> dict[str, Json]:
    return {f"adapters.{name}.method": adapter.method} | flat(adapter.config, f"adapters.{name}.")


def compare_values(a: Mapping[str, Json], b: Mapping[str, Json]) -> ComparedValues:
    """Compare two flat mappings."""
    both = sorted(a.keys() & b.keys())
    changed = tuple((key, a[key], b[key]) for key in both if not is_equal(a[key], b[key]))
    return ComparedValues(
        added=tuple((key, b[key]) for key in sorted(b.keys() - a.keys())),
        removed=tuple((key, a[key]) for key in sorted(a.keys() - b.keys())),
        changed=changed,
        same=len(both) - len(changed),
    )


def is_equal(a: Any, b: Any) -> bool:
    """Whether two JSON values are: 1 equals 1.0 and not true, NaN equals NaN."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)
