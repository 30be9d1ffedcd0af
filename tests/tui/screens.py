"""The screens that have a picture in `snapshots/`, and the store that they show: the same to the byte everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as jobs
from msgspec import structs
from safetensors.numpy import load_file, save_file

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.format import documents
from ckptfmt.format.refs import Generation

LAYERS = 4
WIDTH = 32
MODULES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "mlp.up_proj": (2 * WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, 2 * WIDTH),
}
TRAINED = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
RANK = 4
LONG_AGO = 1_600_000_000


STORE = "store.ckptfmt"
CLEANED = "cleaned.ckptfmt"
DATA = "/data"
"""What the directory of the tests is called in the pictures."""


@dataclass(frozen=True)
class Screen:
    """A screen.

    Attributes:
        name: of its picture.
        page: that the application begins with.
        keys: what is waited for, and the keys that are pressed then; as often as needed.
        shown: what stands there at last.
        marks: A and B of a diff.
        store: the one that is shown: of `make_store`, or of `make_cleaned`.
        open: shows what no key leads to without typing where this machine's directories are.
    """

    name: str
    page: str = "store"
    keys: tuple[tuple[str, ...], ...] = ()
    shown: tuple[str, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)
    store: str = STORE
    open: Callable[[CkptfmtApp], object] | None = None


def _path(app: CkptfmtApp) -> object:
    from ckptfmt_tui.widgets.path_picker import PathPicker

    return app.push_screen(PathPicker("Take in what lies at", "people/", "any"))


def _import(app: CkptfmtApp) -> object:
    from ckptfmt_tui.screens.taking_in import ImportPage

    return app.push_screen(ImportPage(jobs.Import(f"{DATA}/people", "taken/{name}")))


def _merge(app: CkptfmtApp) -> object:
    from ckptfmt_tui.screens.merge import MergePage

    page = app.screen
    assert isinstance(page, MergePage)
    page._choose("stages/stage-1")
    return page._into(f"{DATA}/stage-1-merged")


def _scan(app: CkptfmtApp) -> object:
    from ckptfmt_tui.screens.cleanup import CleanupPage

    assert isinstance(app.screen, CleanupPage)
    return app.screen._chosen(f"{DATA}/trees")


_DIFF = {"a": "bases/tiny-llama", "b": "merged/stage-2"}
SCREENS: tuple[Screen, ...] = (
    Screen("store", shown=("checkpoint-300", "smaller", "merged")),
    Screen("help", keys=(("checkpoint-300", "question_mark"),), shown=("Keys: Store", "Mark this checkpoint")),
    Screen(
        "checkpoint",
        keys=(("checkpoint-300", "slash"), ("", *"stages", "enter"), ("stage-1", "home", "down", "down", "enter")),
        shown=("stages/stage-2", "binding", "manifest"),
    ),
    Screen("diff-none", page="diff", shown=("Two checkpoints side by side",)),
    Screen("diff", page="diff", marks=_DIFF, shown=("CHANGE", "A is the base of B", "done in")),
    Screen("diff-heat", page="diff", marks=_DIFF, keys=(("CHANGE", "h"),), shown=("LAYER", "by layer and module")),
    Screen(
        "diff-settings",
        page="diff",
        marks={"a": "sweep/lr-1e-4/checkpoint-100", "b": "stages/stage-3"},
        keys=(("CHANGE", "s"),),
        shown=("KEY", "lora_alpha"),
    ),
    Screen(
        "tensor",
        keys=(
            ("checkpoint-300", "slash"),
            ("", *"stages", "enter"),
            ("stage-1", "home", "down", "down", "enter"),
            ("binding", "t", "enter"),
        ),
        shown=("deviation", "how many", "done in"),
    ),
    Screen(
        "confirmation",
        keys=(("checkpoint-300", "slash"), ("", *"stages", "enter"), ("stage-1", "home", "down", "down", "d")),
        shown=("Drop stages/stage-2?", "Do it (y)"),
    ),
    Screen(
        "import-path",
        open=_path,
        shown=("tiny-llama/", "use this directory"),
    ),
    Screen("import", open=_import, shown=("takes in", "y: do it")),
    Screen("merge-none", page="merge", shown=("MERGED IN THIS ORDER",)),
    Screen("merge", page="merge", open=_merge, shown=("stage 1: stages/stage-1", "are free")),
    Screen("cleanup-none", page="cleanup", shown=("no directory yet",)),
    Screen("cleanup", page="cleanup", open=_scan, shown=("cleaning all frees", "done in")),
    Screen(
        "cleanup-plan",
        page="cleanup",
        open=_scan,
        keys=(("cleaning all frees", "p"),),
        shown=("y: do it", "goes"),
    ),
    Screen(
        "cleanup-word",
        page="cleanup",
        open=_scan,
        keys=(("cleaning all frees", "p"), ("y: do it", "y")),
        shown=("To do it, type",),
    ),
    Screen("receipts", page="cleanup", store=CLEANED, keys=(("no directory yet", "r"),), shown=("held", "taken in as")),
    Screen("verify", page="verify", keys=(("WHAT", "a"),), shown=("all sound", "done in")),
    Screen("gc", page="gc", shown=("nothing to do", "objects stay")),
    Screen(
        "prune",
        page="gc",
        keys=(("objects stay", "n"), ("Keep last", "tab", "1", "enter")),
        shown=("drops", "y: do it"),
    ),
    Screen("bases", page="bases", shown=("tiny-llama", "bound to it")),
    Screen("jobs", page="jobs", shown=("no job was started yet",)),
)
"""A page joins by a line."""


def _weights(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Multiples of 1/64: their products and sums are exact in any order, on any machine."""
    return (random.integers(-16, 17, shape) / 64).astype(np.float32)


def _full(directory: Path) -> Path:
    random = np.random.default_rng(1)
    tensors = {
        f"model.layers.{layer}.{module}.weight": _weights(random, shape)
        for layer in range(LAYERS)
        for module, shape in MODULES.items()
    }
    tensors["model.embed_tokens.weight"] = _weights(random, (64, WIDTH))
    tensors["lm_head.weight"] = _weights(random, (64, WIDTH))
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _adapter(directory: Path, seed: int, alpha: int) -> Path:
    random = np.random.default_rng(100 + seed)
    tensors = {}
    for layer in range(LAYERS):
        for module in TRAINED:
            rows, columns = MODULES[module]
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = _weights(random, (RANK, columns))
            tensors[f"{stem}.lora_B.weight"] = _weights(random, (rows, RANK)) * np.float32((layer + 1) / 4)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "acme/tiny-llama",
        "r": RANK,
        "lora_alpha": alpha,
        "target_modules": [module.rpartition(".")[2] for module in TRAINED],
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _merged(directory: Path, base: Path, adapter: Path, alpha: int) -> Path:
    shutil.copytree(base, directory)
    weights, factors = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in weights:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in factors:
            product = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
            weights[name] = weights[name] + np.float32(alpha / RANK) * product
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _worn(directory: Path, base: Path, seed: int) -> None:
    """A checkpoint with the base's weights beside its adapter."""
    shutil.copy(base / "model.safetensors", _adapter(directory, seed, alpha=8))


def settle(top: Path) -> None:
    """Let all below have been written long ago."""
    for path in (top, *top.rglob("*")):
        os.utime(path, (LONG_AGO, LONG_AGO))


def make_trees(top: Path) -> None:
    """Make `trees`, to be cleaned up."""
    for step in (100, 200):
        _worn(top / "trees" / "run-1" / f"checkpoint-{step}", top / "people" / "tiny-llama", step)
    _worn(top / "trees" / "run-2", top / "people" / "tiny-llama", 7)


def make_cleaned(top: Path) -> None:
    """Make a copy of the store which a cleanup of `worn` went into."""
    shutil.copytree(top / STORE, top / CLEANED)
    _worn(top / "worn" / "run", top / "people" / "tiny-llama", 9)
    settle(top / "worn")
    with Store.open(top / CLEANED) as store:
        cleaning.execute(store, cleaning.plan(store, [top / "worn"]))


class Clock:
    """A minute passes whenever it is read."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)

    def now(self, zone: object) -> datetime:
        """The time, as `datetime.now` gives it."""
        self._now += timedelta(minutes=1)
        return self._now


def make_store(people: Path, path: Path) -> Iterator[str]:
    """Make the checkpoints in `people` and a store of them at `path`; gives each name as it is taken in."""
    base = _full(people / "tiny-llama")
    with Store.init(path) as store:
        store.add_base("tiny-llama", base, keep="copy")
        for step in (100, 200, 300):
            made = _adapter(people / f"checkpoint-{step}", step, alpha=8)
            history = [
                {"step": at, "epoch": at / 100, "loss": 4 - at / 128, "eval_loss": 4.25 - at / 128}
                for at in range(100, step + 1, 100)
            ]
            state = {"global_step": step, "epoch": step / 100, "log_history": history}
            (made / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
            yield store.import_path(made, name=f"sweep/lr-1e-4/checkpoint-{step}", base="tiny-llama").checkpoints[0].ref
        parent = None
        for stage in (1, 2, 3):
            made = _adapter(people / f"stage-{stage}", stage, alpha=4 * stage)
            name = f"stages/stage-{stage}"
            store.import_path(made, name=name, base="tiny-llama", parent=parent, stage=stage)
            parent = name
            yield name
        for stage in (1, 2):
            made = _merged(people / f"merged-{stage}", base, people / f"stage-{stage}", alpha=4 * stage)
            yield store.import_path(made, name=f"merged/stage-{stage}", base="tiny-llama").checkpoints[0].ref
        store.tag("sweep/lr-1e-4/checkpoint-300", ("best",))
        store.pin("sweep/lr-1e-4/checkpoint-300")
    _say_where(path, people)


def _say_where(store: Path, people: Path) -> None:
    """Let each generation say that its files came from `/data`: wherever the tests' directories are."""
    for path in (store / "refs").rglob("*.json"):
        found = documents.unseal(path.read_bytes(), Generation, where=path.name)
        if found.origin is not None:
            moved = structs.replace(found, origin=found.origin.replace(str(people.resolve()), "/data"))
            path.write_bytes(documents.seal(moved))


def plain(svg: str) -> str:
    """A picture without what is another one each time, or needs a network: the terminal's number, fonts."""
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
