"""Settings and metrics as rows: nested documents, one line a leaf, under headings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptfmt.api.results import RefRow
from ckptfmt.format.manifest import Manifest
from ckptfmt.wording import value


@dataclass(frozen=True, slots=True)
class Setting:
    """A row: `group` says whose it is; a heading has no key."""

    group: str
    key: str
    told: str


def settings_rows(manifest: Manifest) -> tuple[Setting, ...]:
    """The settings of a checkpoint, and those of each of its adapters."""
    rows: list[Setting] = []
    for adapter in manifest.adapters:
        group = f"adapter {adapter.name}"
        rows.append(Setting(group, "method", adapter.method))
        rows.append(Setting(group, "path", adapter.path))
        if adapter.base_hint:
            rows.append(Setting(group, "says its base is", adapter.base_hint))
        rows += [Setting(group, key, told) for key, told in leaves(adapter.config)]
    for name, each in manifest.settings.items():
        if isinstance(each, Mapping):
            rows += [Setting(name, key, told) for key, told in leaves(each)]
        else:
            rows.append(Setting("settings", name, value(each)))
    return tuple(rows)


def leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of nested mappings by its dotted name; lists count as leaves."""
    for name, each in document.items():
        whole = f"{prefix}{name}"
        if isinstance(each, Mapping) and each:
            yield from leaves(each, f"{whole}.")
        else:
            yield whole, value(each)


def numbers_of(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number among nested metrics by its dotted name."""
    for name, each in metrics.items():
        whole = f"{prefix}{name}"
        if isinstance(each, Mapping):
            yield from numbers_of(each, f"{whole}.")
        elif isinstance(each, int | float) and not isinstance(each, bool):
            yield whole, float(each)


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric over the checkpoints of a run: `axis` says what `x` counts; `refs` names each point."""

    metric: str
    axis: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    refs: tuple[str, ...]


def curves(rows: Sequence[RefRow]) -> dict[str, Curve]:
    """The metrics of a run's checkpoints, by step where each one tells its step, else by stage, else by age.

    What has no metric, such as a model that a Trainer saved at its end, is no point of any curve, and has no say.
    """
    rows = [row for row in rows if any(numbers_of(row.metrics))]
    axis = next((axis for axis in ("step", "stage") if all(getattr(row, axis) is not None for row in rows)), "")
    ordered = sorted(rows, key=lambda row: (getattr(row, axis) if axis else 0, row.created, row.ref))
    points: dict[str, list[tuple[float, float, str]]] = {}
    for number, row in enumerate(ordered, 1):
        at = float(getattr(row, axis)) if axis else float(number)
        for name, told in numbers_of(row.metrics):
            points.setdefault(name, []).append((at, told, row.ref))
    return {
        name: Curve(
            name,
            axis or "checkpoint",
            tuple(point[0] for point in found),
            tuple(point[1] for point in found),
            tuple(point[2] for point in found),
        )
        for name, found in sorted(points.items())
    }
