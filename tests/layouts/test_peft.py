from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ckptfmt.layouts import canonical_config
from tests.fixtures import hf, peft_adapters
from tests.layouts.conftest import Made
from tests.layouts.reading import names_of, read, roles_of

pytestmark = pytest.mark.fixtures

PEFT_TYPES = {
    "lora": "LORA",
    "dora": "LORA",
    "lora-head": "LORA",
    "ia3": "IA3",
    "loha": "LOHA",
    "lokr": "LOKR",
    "prompt": "PROMPT_TUNING",
}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("method", PEFT_TYPES)
def test_every_method(made: Made, method: peft_adapters.Method, pickled: bool) -> None:
    directory, names = made(peft_adapters.make, method=method, pickled=pickled)
    reading = read(directory)
    assert reading.layout == "peft"
    (adapter,) = reading.adapters
    assert (adapter.name, adapter.path, adapter.method) == ("default", "", PEFT_TYPES[method])
    assert adapter.base_hint == reading.base_hint == hf.NAME
    assert names_of(reading, "adapter", "default") == names["default"]
    assert len(reading.tensors) == len(names["default"])
    assert not reading.notes


def test_what_a_merge_needs_is_in_the_configuration(made: Made) -> None:
    directory, _ = made(peft_adapters.make, method="lora-head")
    config = read(directory).adapters[0].config
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, True)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["modules_to_save"] == ["lm_head"]
    assert config["rank_pattern"] == {"v_proj": 2}


def test_several_adapters(made: Made) -> None:
    directory, names = made(peft_adapters.make_several)
    reading = read(directory)
    assert [(adapter.name, adapter.path) for adapter in reading.adapters] == [
        ("default", ""),
        ("ref", "ref"),
        ("style", "style"),
    ]
    for name in names:
        assert names_of(reading, "adapter", name) == names[name]


def test_the_order_of_sets_and_keys_means_nothing() -> None:
    one = {"target_modules": ["v_proj", "q_proj"], "r": 4, "layer_replication": [[0, 2], [1, 3]], "alpha": float("nan")}
    two = {"alpha": float("nan"), "layer_replication": [[0, 2], [1, 3]], "r": 4, "target_modules": ["q_proj", "v_proj"]}
    assert canonical_config(one) == canonical_config(two)
    assert list(canonical_config(one)) == list(canonical_config(two))
    assert canonical_config(one)["alpha"] == "nan"
    assert canonical_config({"layer_replication": [[1, 3], [0, 2]]}) != canonical_config(
        {"layer_replication": [[0, 2], [1, 3]]}
    )


def test_a_configuration_is_kept_whole_whatever_is_in_it() -> None:
    ranks = {f"layers.{n}": [True, False] for n in range(2000)}
    pattern = "|".join(f"layers.{n}" for n in range(2000))
    assert canonical_config({"rank_pattern": ranks, "exclude_modules": pattern}) == {
        "exclude_modules": pattern,
        "rank_pattern": ranks,
    }
    mixed: list[object] = [{"b": 1}, 10, "a", [2], 2, None, {"b": 1}, 2.5]
    assert canonical_config({"target_modules": mixed}) == canonical_config({"target_modules": mixed[::-1]})


@pytest.mark.parametrize("config", ["{", "[]", '{"peft_type": 3, "target_modules": {"a": NaN}, "revision": []}', ""])
def test_a_broken_configuration_still_reads(made: Made, tmp_path: Path, config: str) -> None:
    directory, names = made(peft_adapters.make)
    broken = Path(shutil.copytree(directory, tmp_path / "broken"))
    (broken / "adapter_config.json").write_text(config)
    reading = read(broken)
    assert reading.adapters[0].method == "LORA"
    assert reading.base_hint is None
    assert names_of(reading, "adapter", "default") == names["default"]


def test_tensors_without_a_configuration(made: Made, tmp_path: Path) -> None:
    directory, _ = made(peft_adapters.make, method="ia3")
    lone = Path(shutil.copytree(directory, tmp_path / "lone"))
    (lone / "adapter_config.json").unlink()
    reading = read(lone)
    assert reading.adapters[0].method == "IA3"
    assert any("its scaling and base are not known" in note for note in reading.notes)


def test_a_configuration_without_tensors(made: Made, tmp_path: Path) -> None:
    directory, _ = made(peft_adapters.make)
    lone = Path(shutil.copytree(directory, tmp_path / "lone"))
    (lone / "adapter_model.safetensors").unlink()
    reading = read(lone)
    assert len(reading.adapters) == 1
    assert any("no tensors" in note for note in reading.notes)


def test_weights_beside_an_adapter_are_noted(made: Made, tmp_path: Path) -> None:
    directory, _ = made(peft_adapters.make)
    full, names = made(hf.make)
    both = Path(shutil.copytree(directory, tmp_path / "both"))
    shutil.copy(full / "model.safetensors", both)
    reading = read(both)
    assert reading.layout == "peft"
    assert names_of(reading, "model") == names
    assert any("stand beside adapters ('default')" in note for note in reading.notes)


@pytest.mark.parametrize("method", ["lora", "dora", "lora-head", "ia3", "loha"])
def test_an_adapter_inside_full_weights(made: Made, method: peft_adapters.Method) -> None:
    """The state dict of a wrapped model: base weights get their own names, the adapter's those PEFT would write."""
    directory, names = made(peft_adapters.make_unmerged, method=method)
    reading = read(directory)
    assert names_of(reading, "model") == names["model"]
    assert names_of(reading, "adapter", "default") == names["default"]
    (adapter,) = reading.adapters
    assert (adapter.method, adapter.path) == (PEFT_TYPES[method], "pytorch_model.bin")
    assert roles_of(reading).keys() == {("model", None), ("adapter", "default")}
    if method == "lora":
        assert adapter.config == {"r": 4}
    if method == "lora-head":
        assert adapter.config["r"] in (2, 4)
        assert json.dumps(adapter.config["rank_pattern"])
