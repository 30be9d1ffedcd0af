"""Adapters made by somebody who means harm, or by a disk that did: a clear refusal, soon, and nothing left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptfmt import load_into
from ckptfmt.api.converting import convert
from ckptfmt.errors import CkptfmtError, FormatError, InvalidInput, MergeError
from ckptfmt.merge.methods import configuration
from tests.cli import made

STEM = "base_model.model.model.layers.0.self_attn.q_proj."
A, B = STEM + "lora_A.weight", STEM + "lora_B.weight"
EMBEDDING = "base_model.model.model.embed_tokens."
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def based(store: Any, tmp_path: Path) -> Any:
    store.add_base("tiny", made.full(tmp_path / "base"))
    made.adapter(tmp_path / "adapter")
    return store


def configure(tmp_path: Path, **changes: Any) -> None:
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(tmp_path: Path, change: Callable[[Tensors], Any]) -> None:
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(store: Any, tmp_path: Path) -> CkptfmtError:
    """The error of the merge in the store, which is that of the conversion without one; nothing is left of either."""
    store.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CkptfmtError) as error:
        store.merge("one", tmp_path / "out")
    with pytest.raises(CkptfmtError) as again:
        convert(tmp_path / "adapter", tmp_path / "out", to="hf", base=tmp_path / "base", unverified_base=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert again.value.code == error.value.code
    assert error.value.hint and "default" in error.value.message and "\n" not in error.value.message
    return error.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "4"),
        ("r", 1e400),
        ("lora_alpha", "8"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", 10**40),
        ("lora_alpha", 1e308),
        ("lora_alpha", [1]),
        ("target_modules", 5),
        ("target_modules", "["),
        ("rank_pattern", [1]),
        ("rank_pattern", {"[": 4}),
        ("rank_pattern", {"q_proj": "4"}),
        ("alpha_pattern", {"q_proj": float("nan")}),
        ("modules_to_save", 5),
        ("modules_to_save", "q_proj"),
        ("init_lora_weights", ["a"]),
        ("target_parameters", [5]),
        ("trainable_token_indices", "x"),
        ("task_type", ["a"]),
        ("use_rslora", "no"),
    ],
)
def test_a_configuration_of_wrong_types_is_malformed(based: Any, tmp_path: Path, field: str, value: Any) -> None:
    configure(tmp_path, **{field: value})
    error = refused(based, tmp_path)
    assert isinstance(error, FormatError) and error.exit_code == 5
    assert field in error.message or "scaling" in error.message


@pytest.mark.parametrize(
    "changes", [{"target_modules": "(.*.*.*.*.*.*)*x"}, {"rank_pattern": {"(.+)+x": 4}}, {"exclude_modules": "(.+)+x"}]
)
def test_a_pattern_that_explodes_is_given_up(
    based: Any, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "_PATIENCE_SECONDS", 0.5)
    configure(tmp_path, **changes)
    began = time.monotonic()
    error = refused(based, tmp_path)
    assert error.exit_code == 5 and "does not end" in error.message
    assert time.monotonic() - began < 20


def test_a_pattern_with_many_repeats_that_ends_is_merged(based: Any, tmp_path: Path) -> None:
    configure(
        tmp_path, target_modules=r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.x)"
    )
    based.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    assert based.merge("one", tmp_path / "out").tensors_changed == 4


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda held: held.update({A: held[A].to(torch.int8)}), "I8"),
        (lambda held: held.update({B: held[B] > 0}), "BOOL"),
        (lambda held: held.update({A: held[A].to(torch.complex64)}), "C64"),
        (lambda held: held.update({A: torch.from_numpy(np.zeros((4, 64), np.uint16))}), "U16"),
        (lambda held: held.update({A: held[A] * float("nan")}), "NaN"),
        (lambda held: held.update({B: held[B] * float("inf")}), "NaN"),
        (lambda held: held.update({name: held[name][:0] for name in (A, B)}), "empty"),
        (lambda held: held.pop(B), "lora_B"),
        (lambda held: held.update({A: held[B].clone(), B: held[A].clone()}), "rank"),
        (lambda held: held.update({A: held[A].repeat(2, 1), B: held[B].repeat(1, 2)}), "its configuration says 4"),
        (lambda held: held.update({A: torch.tensor(1.0)}), "size mismatch"),
        (lambda held: held.update({STEM + "lora_magnitude_vector": torch.ones(3)}), "lora_magnitude_vector"),
        (lambda held: held.update({STEM + "lora_magnitude_vector": torch.tensor(1.0)}), "lora_magnitude_vector"),
        (lambda held: held.update({EMBEDDING + "token_adapter.trainable_tokens_delta": torch.tensor(1.0)}), "tokens"),
        (lambda held: held.update({EMBEDDING + "weight": torch.zeros(32, 64, dtype=torch.int32)}), "I32"),
        (lambda held: held.update({EMBEDDING + "weight": torch.zeros(0, 64)}), "empty"),
        (lambda held: held.update({A.replace("layers.0", "layers.99"): held[A].clone()}), "layers.99"),
    ],
)
def test_tensors_that_are_no_adapter_of_the_base(
    based: Any, tmp_path: Path, change: Callable[[Tensors], Any], word: str
) -> None:
    rewrite(tmp_path, change)
    error = refused(based, tmp_path)
    assert isinstance(error, MergeError) and error.exit_code == 1
    assert word in error.message


def test_a_head_without_rows_or_columns(based: Any, tmp_path: Path) -> None:
    configure(tmp_path, modules_to_save=["lm_head"])
    rewrite(tmp_path, lambda held: held.update({"base_model.model.lm_head.weight": torch.tensor(1.0)}))
    assert "lm_head.weight" in refused(based, tmp_path).message


def test_tensors_that_peft_ignores_are_told(based: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, lambda held: held.update({"stray": torch.ones(3)}))
    based.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    assert any("'stray'" in note for note in based.merge("one", tmp_path / "out").notes)


@pytest.mark.parametrize("content", [b"\xff{", b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"])
def test_a_base_whose_configuration_cannot_be_read(based: Any, tmp_path: Path, content: bytes) -> None:
    made.full(tmp_path / "broken", seed=3)
    (tmp_path / "broken/config.json").write_bytes(content)
    based.add_base("broken", tmp_path / "broken")
    based.import_checkpoint(tmp_path / "adapter", "one", base="broken")
    with pytest.raises(FormatError, match=r"config\.json"):
        based.merge("one", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number(based: Any, tmp_path: Path, weight: float) -> None:
    based.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    with pytest.raises(InvalidInput, match="finite"):
        based.merge("one", tmp_path / "out", adapters={"default": weight})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["merge", "export", "restore"])
def test_nothing_is_written_into_the_store(based: Any, tmp_path: Path, verb: str) -> None:
    based.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    (tmp_path / "link").symlink_to(based.path)
    more = {"format": "peft"} if verb == "export" else {}
    for place in (Path(based.path) / "out", tmp_path / "link" / "shards" / "out"):
        with pytest.raises(InvalidInput, match="inside the store"):
            getattr(based, verb)("one", place, **more)
        assert not place.exists()


def test_how_that_contradicts_the_lineage(based: Any, tmp_path: Path) -> None:
    based.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    made.adapter(tmp_path / "next", seed=2)
    based.import_checkpoint(tmp_path / "next", "two", base="tiny", parent="one", how="continue")
    with pytest.raises(InvalidInput, match="continue"):
        based.merge("two", tmp_path / "out", how="stack")
    assert not (tmp_path / "out").exists()
    assert based.merge("two", tmp_path / "out", how="continue").stages == 2


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "73264"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file"),
    ],
)
def test_a_base_that_lost_a_file_says_which(
    based: Any, tmp_path: Path, damage: Callable[[Path], Any], word: str
) -> None:
    based.import_checkpoint(tmp_path / "adapter", "one", base="tiny")
    damage(tmp_path / "base/model.safetensors")
    with pytest.raises(CkptfmtError) as error:
        based.merge("one", tmp_path / "out")
    assert error.value.exit_code == 3 and "model.safetensors" in error.value.message and word in error.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"alpha_pattern": {"(.+)+x": 4}}, {"alpha_pattern": [1]}, {"lora_alpha": "8"}])
def test_loading_into_a_model_asks_nothing_of_such_a_configuration(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "_PATIENCE_SECONDS", 0.5)
    made.adapter(tmp_path / "adapter")
    configure(tmp_path, **changes)
    with pytest.raises(FormatError) as error:
        load_into(torch.nn.Linear(2, 2), tmp_path / "adapter")
    assert error.value.exit_code == 5
