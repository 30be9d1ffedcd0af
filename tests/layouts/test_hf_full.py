from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ckptfmt.errors import UnsafeFile
from tests.fixtures import dcp, hf
from tests.layouts.conftest import Made
from tests.layouts.reading import names_of, read, roles_of

pytestmark = pytest.mark.fixtures
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_names_are_those_of_the_model(made: Made, kind: hf.Kind, pickled: bool, sharded: bool) -> None:
    directory, names = made(hf.make, kind=kind, pickled=pickled, sharded=sharded)
    reading = read(directory)
    assert reading.layout == "hf-full"
    assert reading.settings["model"]["model_type"] == kind
    assert not reading.notes
    model = names_of(reading, "model")
    assert len(model) == len(reading.tensors)
    if kind == "llama" or pickled:
        assert model == names
    elif kind == "gpt2":
        # safetensors refuses to write tied tensors twice, so transformers leaves the head out.
        assert model == [name for name in names if name != "lm_head.weight"]
    else:
        # transformers 5 fuses experts in memory and writes them one by one, as version 4 did.
        assert "model.layers.0.block_sparse_moe.experts.3.w2.weight" in model


def test_tied_tensors_stay_two(made: Made) -> None:
    directory, _ = made(hf.make, kind="gpt2", pickled=True)
    assert {"lm_head.weight", "transformer.wte.weight"} <= set(names_of(read(directory), "model"))


def test_a_missing_shard_is_a_note(made: Made, tmp_path: Path) -> None:
    directory, names = made(hf.make, sharded=True)
    partial = _copy(directory, tmp_path)
    lost = sorted(partial.glob("model-*.safetensors"))[1]
    lost.unlink()
    reading = read(partial)
    assert set(names_of(reading, "model")) < set(names)
    assert any("1 of 7 files not there" in note and lost.name in note for note in reading.notes)
    (partial / INDEX).unlink()
    assert any("of 7 weight files" in note for note in read(partial).notes)


@pytest.mark.parametrize(
    "value",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "a\\b",
        "..",
        ".",
        "",
        "a\0b",
        "a\nb",
        "C:x",
        "x" * 300,
        None,
        3,
        ["a"],
        {"file": "x"},
    ],
)
def test_an_index_that_names_no_base_name_is_refused(made: Made, tmp_path: Path, value: object) -> None:
    directory, _ = made(hf.make, sharded=True)
    hostile = _copy(directory, tmp_path)
    index = json.loads((hostile / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = value
    (hostile / INDEX).write_text(json.dumps(index))
    with pytest.raises(UnsafeFile, match=r"index\.json: weight_map\['lm_head\.weight'\]"):
        read(hostile)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"weight_map": []}', '{"weight_map": null}', "\xff"])
def test_a_broken_index_is_a_note(made: Made, tmp_path: Path, text: str) -> None:
    directory, names = made(hf.make, sharded=True)
    broken = _copy(directory, tmp_path)
    (broken / INDEX).write_bytes(text.encode("latin-1"))
    reading = read(broken)
    assert names_of(reading, "model") == names
    assert any(INDEX in note for note in reading.notes)


def test_a_broken_config_is_a_note(made: Made, tmp_path: Path) -> None:
    directory, names = made(hf.make)
    broken = _copy(directory, tmp_path)
    (broken / "config.json").write_text("{")
    reading = read(broken)
    assert names_of(reading, "model") == names
    assert reading.notes == ("config.json is not a JSON object: kept to the byte, not read",)


def test_a_tensor_in_two_shards_counts_where_the_index_says(made: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory, names = made(hf.make, sharded=True)
    doubled = _copy(directory, tmp_path)
    index = json.loads((doubled / INDEX).read_text())["weight_map"]
    right = index["model.norm.weight"]
    wrong = next(file for file in sorted(set(index.values())) if file != right)
    tensors = load_file(doubled / wrong)
    tensors["model.norm.weight"] = load_file(doubled / right)["model.norm.weight"] + 1
    save_file(tensors, doubled / wrong)
    reading = read(doubled)
    assert names_of(reading, "model") == names
    model = next(tensor for tensor in reading.tensors if tensor.name == "model.norm.weight" and tensor.role == "model")
    assert model.path == right
    assert any("there twice" in note and "model.norm.weight" in note for note in reading.notes)


def test_an_index_and_its_files_that_disagree_are_noted(made: Made, tmp_path: Path) -> None:
    directory, names = made(hf.make, sharded=True)
    other = _copy(directory, tmp_path)
    index = json.loads((other / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = index["weight_map"].pop("model.norm.weight")
    (other / INDEX).write_text(json.dumps(index))
    reading = read(other)
    assert names_of(reading, "model") == names
    assert any("do not hold: 'model.extra.weight'" in note for note in reading.notes)
    assert any("not named in" in note and "'model.norm.weight'" in note for note in reading.notes)


def test_two_formats_of_one_model_are_one_model(made: Made, tmp_path: Path) -> None:
    directory, names = made(hf.make)
    pickled, _ = made(hf.make, pickled=True)
    both = _copy(directory, tmp_path)
    shutil.copy(pickled / "pytorch_model.bin", both)
    (both / "original").mkdir()
    shutil.copy(pickled / "pytorch_model.bin", both / "original" / "consolidated.00.pth")
    reading = read(both)
    assert {tensor.path for tensor in reading.tensors if tensor.role == "model"} == {"model.safetensors"}
    assert roles_of(reading) == {
        ("model", None): len(names),
        ("state", "pytorch_model"): len(names),
        ("state", "original/consolidated.00"): len(names),
    }
    assert any("both hold weights" in note for note in reading.notes)


def test_wrapper_prefixes_go(made: Made, tmp_path: Path) -> None:
    import torch

    _, names = made(hf.make)
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "base_model.model."):
        torch.save({prefix + name: torch.ones(1) for name in names}, tmp_path / "pytorch_model.bin")
        assert names_of(read(tmp_path), "model") == names, prefix
    torch.save(
        {name.replace("self_attn", "self_attn._orig_mod"): torch.ones(1) for name in names},
        tmp_path / "pytorch_model.bin",
    )
    assert names_of(read(tmp_path), "model") == names


def test_a_prefix_that_not_every_key_has_is_a_name(tmp_path: Path) -> None:
    import torch

    torch.save({"module.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert names_of(read(tmp_path), "model") == ["head.weight", "module.weight"]


def test_pieces_of_tensors_are_no_model(made: Made) -> None:
    directory, shapes = made(dcp.make)
    reading = read(directory)
    assert {tensor.role for tensor in reading.tensors} == {"state"}
    names = [tensor.name for tensor in reading.tensors]
    assert len(set(names)) == len(names) == 2 * len(shapes)
    assert {"model.norm.weight[0:4]", "model.norm.weight[4:8]", "lm_head.weight[3:6,0:4]"} <= set(names)
    assert any("pieces of tensors" in note for note in reading.notes)


def _copy(directory: Path, to: Path) -> Path:
    return Path(shutil.copytree(directory, to / directory.name))
