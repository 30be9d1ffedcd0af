"""A merge as it is shown: what onto what, how the base stands, what came of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ckptfmt.api.recipes import RecipeReport, RecipeStep
from ckptfmt.api.results import BaseVerified, MergeReport, RefRow
from ckptfmt.wording import count, short, size
from ckptfmt_tui.models.base_rows import verified_lines
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Row, Said

COLUMNS: Final = (
    Column("at", "", 3, 0, "right"),
    Column("what", "MERGED IN THIS ORDER", 28, 0, grows=True),
    Column("method", "METHOD", 8, 1),
    Column("rank", "RANK", 5, 2, "right"),
    Column("how", "HOW", 32, 3, grows=True),
)
PICK_COLUMNS: Final = (Column("ref", "CHECKPOINT", 28, 0, grows=True), Column("told", "", 24, 1, grows=True))
_HOWS: Final = {
    "continue": "on the merged stage before",
    "stack": "beside the adapters before",
    "resume": "goes on training the adapter before",
    "parent-only": "on the base merged with its parent alone",
    None: "",
}
_BINDINGS: Final = {
    "recorded": "recorded when it was saved",
    "proven": "proven: full weights of the same checkpoint agree",
    "stated": "stated by whoever took it in",
    "none": "unknown",
}
_MOST_NAMED: Final = 20


def recipe_rows(recipe: RecipeReport) -> tuple[Row, ...]:
    """The base, then each adapter in the order of the merge."""
    base = Row(
        {
            "at": "",
            "what": f"base {recipe.base}",
            "method": size(recipe.base_bytes),
            "rank": "",
            "how": f"root {short(recipe.base_root)}, {recipe.binding}",
        },
        "bold",
        (
            f"root {recipe.base_root}",
            f"{_BINDINGS[recipe.binding]}: {recipe.evidence}",
            "the store holds all of it" if recipe.kept else f"its files lie in {recipe.path or 'no known place'}",
        ),
    )
    return (base, *(_step(at, step) for at, step in enumerate(recipe.steps, 1)))


def _step(at: int, step: RecipeStep) -> Row:
    name = ", ".join(step.refs) or short(step.manifest)
    stage = f"stage {step.stage}: " if step.stage is not None else ""
    weight = "" if step.weight == 1 else f" × {step.weight:g}"
    how = _HOWS[step.how] if at > 1 else ""
    held = f"held in {step.dtype}" if step.dtype not in (None, "output") else ""
    return Row(
        {
            "at": f"+{at}",
            "what": f"{stage}{name}{weight}",
            "method": step.method.lower(),
            "rank": "" if step.rank is None else str(step.rank),
            "how": ", ".join(each for each in (how, held) if each),
        },
        "",
        (f"adapter {step.adapter!r} of manifest {step.manifest}", how or "trained on the base"),
    )


@dataclass(frozen=True, slots=True)
class Mergeable:
    """A checkpoint to pick: what is told of it, and why it cannot be merged, where its manifest says so."""

    ref: str
    told: str
    refusal: str | None


def mergeable(rows: Iterable[RefRow], refusals: Mapping[str, str]) -> tuple[Mergeable, ...]:
    """Checkpoints to pick from, in their order: also those that cannot be merged, each with the reason."""
    return tuple(Mergeable(row.ref, f"{row.layout}  {row.base or 'no base'}", refusals.get(row.ref)) for row in rows)


@dataclass(frozen=True, slots=True)
class BaseState:
    """How a base stands before a merge. `stands`: whether a merge onto it can begin."""

    stands: bool
    lines: tuple[Said, ...]


def verified(report: BaseVerified) -> BaseState:
    """A base that was compared with its record."""
    lines = verified_lines(report, most=_MOST_NAMED)
    if report.ok:
        return BaseState(stands=True, lines=lines)
    hint = f"hint: ckptfmt base verify {report.name} --path DIR, with a DIR that holds the recorded files"
    return BaseState(stands=False, lines=(*lines, Said("Nothing is merged onto it.", "bad"), Said(hint, "warn")))


def merged(report: MergeReport) -> tuple[Said, ...]:
    """What a merge wrote."""
    told = [
        Said(
            f"{report.out}: {size(report.bytes)} in {report.seconds:.1f} s, "
            f"{count(report.tensors_changed, 'tensor')} changed",
            "good",
        ),
        Said(f"{count(len(report.adapters), 'adapter')} of {count(report.stages, 'stage')} on base {report.base}"),
        Said(f"every base tensor was compared; {report.binding}: {report.evidence}", "dim"),
        Said(f"root {report.root}", "dim"),
    ]
    if report.trained_on:
        told.append(Said(f"trained on {report.trained_on!r}, merged onto {report.base!r}", "warn"))
    return (*told, *(Said(f"note: {note}") for note in report.notes))


Dtype = Literal["bf16", "fp16", "fp32"] | None
DTYPES: Final[tuple[Dtype, ...]] = (None, "bf16", "fp16", "fp32")
Form = Literal["hf", "universal"]
FORMS: Final[tuple[Form, ...]] = ("hf", "universal")
FORM_WORDS: Final[dict[Form, str]] = {"hf": "a Hugging Face directory", "universal": "a directory with ckpt.pt"}
