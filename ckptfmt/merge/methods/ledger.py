"""What a plan collects while it goes through an adapter: steps by base tensor, and what else the merge changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ckptfmt.errors import MergeError
from ckptfmt.merge.methods.bases import Base
from ckptfmt.merge.methods.steps import Held, InTurn, Step, TensorRows, TensorWhole
from ckptfmt.merge.protocol import Adapter, Changes, ModuleChange, RowChange, Setting, Spec

_UNMERGED: Final = "use it unmerged, with peft"


@dataclass
class Ledger:
    """The changes of one adapter, as they are found.

    Attributes:
        steps: by base tensor, in order. A tensor that several modules share has the steps of all of them.
        shapes: new shapes of tensors that the adapter resizes.
        added: tensors that the base lacks: dtype and shape, the base tensor they start from, their steps.
    """

    adapter: Adapter
    base: Base
    setting: Setting
    steps: dict[str, list[Step]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    added: dict[str, tuple[Spec, str | None, list[Step]]] = field(default_factory=dict)
    modules: list[ModuleChange] = field(default_factory=list)
    scaling: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def held(self, name: str) -> Held:
        """One of the adapter's tensors."""
        return Held(self.adapter, name)

    def add(self, target: str, step: Step) -> None:
        """Change a base tensor, after what already changes it."""
        self.base.dtype(target)
        self.steps.setdefault(target, []).append(step)

    def add_module(self, change: ModuleChange) -> None:
        """Change the tensors of a module, after whatever other module shares one of them."""
        before = [each for each in self.modules if not set(each.targets).isdisjoint(change.targets)]
        self.modules = [each for each in self.modules if each not in before]
        self.modules.append(InTurn((*before, change)) if before else change)

    def shape(self, target: str) -> tuple[int, ...]:
        """A base tensor's shape after the merge."""
        return self.shapes.get(target, self.base.tensors[target].shape)

    def note(self, sentence: str) -> None:
        """Say something once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def error(self, message: str, hint: str | None = None) -> MergeError:
        """An error that names the adapter."""
        message = " ".join(message.split())  # What peft says may have many lines.
        return MergeError(f"adapter {self.adapter.name} cannot be merged: {message}", hint=hint or _UNMERGED)

    def changes(self) -> Changes:
        """All of it, as the execution takes it."""
        read = {source for _, source, _ in self.added.values() if source}
        whole = {name for name in self.steps if name in self.shapes or name in read}
        modules = [*self.modules, *(self._whole(name) for name in sorted(whole | read)), *self._fresh()]
        rows: tuple[RowChange, ...] = tuple(
            TensorRows(name, tuple(steps), _height(self.base.tensors[name]))
            for name, steps in sorted(self.steps.items())
            if name not in whole
        )
        return Changes(rows, tuple(modules), dict(sorted(self.scaling.items())), dict(self.config), tuple(self.notes))

    def _whole(self, name: str) -> TensorWhole:
        """A resized tensor, with those that are made from it."""
        spec = Spec(self.base.tensors[name].dtype, self.shape(name))
        given: dict[str, tuple[Spec, str | None, tuple[Step, ...]]] = {
            name: (spec, None if name in self.shapes else name, tuple(self.steps.get(name, ())))
        }
        for added, (found, source, steps) in self.added.items():
            if source == name:
                given[added] = (found, source, tuple(steps))
        return TensorWhole(tuple(given), given)

    def _fresh(self) -> list[TensorWhole]:
        fresh: Mapping[str, tuple[Spec, str | None, list[Step]]] = self.added
        return [
            TensorWhole((name,), {name: (spec, None, tuple(steps))})
            for name, (spec, source, steps) in sorted(fresh.items())
            if source is None
        ]


def _height(spec: Spec) -> int:
    return spec.shape[0] if spec.shape else 1
