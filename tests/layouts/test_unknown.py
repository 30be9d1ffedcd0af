from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptfmt.errors import FormatError
from ckptfmt.layouts import LAYOUTS
from tests.layouts.reading import names_of, read, roles_of


def test_nothing_known_is_kept_as_state(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    torch.save([torch.ones(2), {"x": torch.ones(3)}], tmp_path / "two.pt")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "train.bin").write_bytes(bytes(100))
    reading = read(tmp_path)
    assert reading.layout == "unknown"
    assert roles_of(reading) == {("state", "one"): 1, ("state", "two"): 2}


def test_no_tensor_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert read(tmp_path).layout == "unknown"
    assert not read(tmp_path).tensors


def test_a_lone_state_dict_is_a_model(tmp_path: Path) -> None:
    save_file({"_orig_mod.a.weight": torch.ones(2)}, tmp_path / "anything.safetensors")
    assert names_of(read(tmp_path), "model") == ["a.weight"]


def test_a_lone_pickled_state_dict_is_a_model(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "a.bias": torch.ones(2)}, tmp_path / "weights.pth")
    assert names_of(read(tmp_path), "model") == ["a.bias", "a.weight"]


def test_a_lone_list_of_tensors_is_not(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "weights.pth")
    assert roles_of(read(tmp_path)) == {("state", "weights"): 1}


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors", "other.safetensors"])
def test_a_file_that_lies_about_itself_is_refused(tmp_path: Path, name: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-1])
    with pytest.raises(FormatError, match=name):
        read(tmp_path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    torch.save({"a\ud800": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (name,) = names_of(read(tmp_path), "model")
    assert name.encode() == b"a\\ud800"


def test_the_most_specific_comes_first() -> None:
    assert list(LAYOUTS) == [
        "experts",
        "torchtune",
        "stage",
        "trainer",
        "peft",
        "hf-full",
        "universal",
        "training-pt",
        "unknown",
    ]
