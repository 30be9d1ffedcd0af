"""What a model is written as: Hugging Face's directory or a universal checkpoint, from either."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ckptfmt.digest import Buffer
from ckptfmt.format.manifest import BaseRecord, Manifest, tensor_digest
from ckptfmt.merge.hf_writer import HfWriter
from ckptfmt.merge.pickled import PickledDocument, pickled_document
from ckptfmt.merge.plan import MergePlan
from ckptfmt.merge.renamed_writer import RenamedWriter, renamed_outputs
from ckptfmt.merge.universal_names import HEAD, HF_CONFIG, Renaming, Source, same_universal, to_hf, to_universal
from ckptfmt.merge.universal_writer import UniversalWriter
from ckptfmt.store.objects import Objects

Format = Literal["hf", "universal"]


class ClosingWriter(Protocol):
    """A `ModelWriter` that lets go of its files after an error."""

    def begin(self, name: str) -> None:
        """See `ModelWriter.begin`."""
        ...

    def write(self, data: Buffer) -> None:
        """See `ModelWriter.write`."""
        ...

    def finish(self) -> None:
        """See `ModelWriter.finish`."""
        ...

    def abort(self) -> None:
        """Let go of files; harmless after `finish`."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """How a plan's tensors are written.

    Attributes:
        format: what they are written as.
        renaming: their other names; None where they keep them.
        config: the `config.json` of the result; empty for a universal checkpoint, which has none.
        beside: what stands beside the model in a universal checkpoint.
    """

    format: Format
    plan: MergePlan
    renaming: Renaming | None
    config: Mapping[str, Any]
    beside: Mapping[str, Any]

    @property
    def map(self) -> str | None:
        """Name of the key map that was needed."""
        return self.renaming.map if self.renaming else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a user should know."""
        return self.renaming.notes if self.renaming else ()

    def open(self, directory: str) -> ClosingWriter:
        """A writer into a directory that exists."""
        outputs = self.plan.outputs
        if self.renaming is None:
            return HfWriter(directory, outputs)
        if self.format == "universal":
            return UniversalWriter(directory, outputs, self.renaming, self.beside)
        inner = HfWriter(directory, renamed_outputs(outputs, self.renaming))
        return _Both(RenamedWriter(inner, outputs, self.renaming, scratch=directory), inner)


class _Both:
    """A writer around another: both let go of their files."""

    def __init__(self, outer: RenamedWriter, inner: HfWriter) -> None:
        self.begin = outer.begin
        self.write = outer.write
        self.finish = outer.finish
        self._writers = (outer, inner)

    def abort(self) -> None:
        """See `ClosingWriter.abort`."""
        for writer in self._writers:
            writer.abort()


def choose_form(
    document: Manifest | BaseRecord,
    objects: Objects,
    config: Mapping[str, Any],
    plan: MergePlan,
    wanted: Format,
    *,
    where: str,
) -> Form:
    """How the outputs of `plan`, over the model of `document`, are written as `wanted`.

    Args:
        document: whose model the plan begins with.
        objects: its bytes.
        config: its `config.json`, with what the plan changes; empty where it has none.
        plan: what is done to it.
        wanted: the format.
        where: what to call it in errors.

    Raises:
        MergeError: no key map leads there.
    """
    pickled = pickled_document(document, objects)
    if pickled is None and wanted == "hf":
        return Form("hf", plan, None, config, {})
    source = _source(document, config, plan, pickled)
    if pickled is None:
        renaming = to_universal(source)
        return Form("universal", plan, renaming, {}, _fresh(renaming, config))
    if wanted == "hf":
        renaming = to_hf(source, where)
        return Form("hf", plan, renaming, renaming.settings, {})
    renaming = same_universal(source)
    return Form("universal", plan, renaming, {}, pickled.carried())


def _fresh(renaming: Renaming, config: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the model of a checkpoint that was not trained as one: nothing is known of its training."""
    kept = {HF_CONFIG: dict(config)} if config else {}
    return {"model_args": dict(renaming.settings), "iter_num": 0, "best_val_loss": None, "config": kept}


def _source(
    document: Manifest | BaseRecord, config: Mapping[str, Any], plan: MergePlan, pickled: PickledDocument | None
) -> Source:
    carried = pickled.carried() if pickled else {}
    inside = carried.get("config", {})
    kept = inside.get(HF_CONFIG, {}) if isinstance(inside, Mapping) else {}
    arguments = carried.get("model_args", {})
    specs = {item.name: item.spec for item in plan.outputs}
    return Source(
        specs=specs,
        twins=twins_of(document, specs, plan.changed),
        config={**kept, **config},
        model_args=arguments if isinstance(arguments, Mapping) else {},
    )


def twins_of(document: Manifest | BaseRecord, names: Collection[str], changed: Collection[str]) -> dict[str, str]:
    """Tensors that lie in the files where another one lies, by the other's name; a head is the other's twin.

    A tensor that is changed is nobody's twin, but for those that all changes treat alike: they are written twice.
    """
    places: dict[object, list[str]] = {}
    for tensor in document.tensors:
        if tensor.role == "model" and tensor.name in names and tensor.name not in changed:
            place = (tensor.file, tensor.extent, tensor.offset, tensor.shape, tensor.strides)
            digest = tensor_digest(document, tensor)
            # Saved twice, a head and its embedding are one all the same: they are equal, as untied ones never stay.
            places.setdefault(digest if tensor.name == HEAD or _is_embedding(tensor.name) else place, []).append(
                tensor.name
            )
    twins: dict[str, str] = {}
    for found in places.values():
        first, *others = sorted(found, key=lambda name: (name == HEAD, name))
        twins.update((name, first) for name in others)
    return twins


def _is_embedding(name: str) -> bool:
    return name.endswith(("wte.weight", "embed_tokens.weight"))
