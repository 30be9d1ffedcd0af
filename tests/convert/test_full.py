"""Full models both ways: every tensor comes back, the models compute the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt.api.converting import convert
from ckptfmt.errors import Conflict, InvalidInput, MergeError
from ckptfmt.merge import renamed_writer
from tests.convert.made import loads_whole, logits, nano_model
from tests.fixtures import hf, nanogpt, peft_adapters, training_pt

Made = Callable[..., Path]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_hf_to_universal_and_back(checkpoint: Made, tmp_path: Path, kind: hf.Kind, dtype: str) -> None:
    first = checkpoint(hf.make, kind=kind, dtype=dtype)
    there = convert(first, tmp_path / "u", to="universal")
    assert there.exact
    assert there.key_map == ("nanogpt-gpt2" if kind == "gpt2" else "same-names")
    assert "ckpt.pt" in there.files
    back = convert(tmp_path / "u" / "ckpt.pt", tmp_path / "hf", to="hf")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(back.files)
    model, again = loads_whole(first), loads_whole(tmp_path / "hf")
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    for key, value in state.items():
        assert value.dtype == other[key].dtype, key
        assert torch.equal(value, other[key]), key
    assert torch.equal(logits(model), logits(again))
    config, kept = (json.loads((place / "config.json").read_text()) for place in (first, tmp_path / "hf"))
    assert config == {**kept, "tie_word_embeddings": config.get("tie_word_embeddings", True)}


def test_the_universal_file_is_one_that_everybody_reads(checkpoint: Made, tmp_path: Path) -> None:
    convert(checkpoint(hf.make, kind="gpt2"), tmp_path / "u", to="universal")
    document = torch.load(tmp_path / "u" / "ckpt.pt", weights_only=True)
    assert list(document) == ["model", "model_args", "iter_num", "best_val_loss", "config"]
    assert document["model_args"] == {
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 32,
        "block_size": 64,
        "bias": True,
        "vocab_size": 200,
        "dropout": 0.1,
    }
    model = document["model"]
    assert model["transformer.wte.weight"].data_ptr() == model["lm_head.weight"].data_ptr()
    assert model["transformer.h.0.attn.c_attn.weight"].shape == (96, 32)
    ours, theirs = nano_model(tmp_path / "u", document["model_args"]), loads_whole(checkpoint(hf.make, kind="gpt2"))
    for block in theirs.transformer.h:  # The fixture's GPT computes the exact gelu, as nanoGPT does.
        block.mlp.act = torch.nn.GELU()
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-6)


@pytest.mark.parametrize("variant", [{}, {"compiled": True}])
def test_nanogpt_to_hf_and_back(checkpoint: Made, tmp_path: Path, variant: dict[str, Any]) -> None:
    first = checkpoint(nanogpt.make, **variant)
    done = convert(first, tmp_path / "hf", to="hf")
    assert done.key_map == "nanogpt-gpt2"
    model = loads_whole(tmp_path / "hf")
    assert model.config.activation_function == "gelu"
    assert model.lm_head.weight is model.transformer.wte.weight
    plain = checkpoint(nanogpt.make) if variant else first
    ours = nano_model(plain, {})
    assert torch.allclose(logits(model), logits(ours), atol=1e-6)
    convert(tmp_path / "hf", tmp_path / "again", to="universal")
    state = torch.load(tmp_path / "again" / "ckpt.pt", weights_only=True)["model"]
    for key, value in torch.load(plain / "ckpt.pt", weights_only=True)["model"].items():
        assert key.endswith(".attn.bias") or torch.equal(state[key], value), key


def test_biases_that_do_not_exist_are_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = {**nanogpt.STANDARD, "bias": False}
    model = nanogpt.Gpt(args)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(("ln_f.bias", ".c_fc.bias"))}
    tmp_path.joinpath("n").mkdir()
    torch.save({"model": state, "model_args": args, "iter_num": 3}, tmp_path / "n" / "ckpt.pt")
    done = convert(tmp_path / "n", tmp_path / "hf", to="hf")
    assert "7 biases that the model does not have are zero" in done.notes
    found = loads_whole(tmp_path / "hf").state_dict()
    assert not found["transformer.h.0.attn.c_attn.bias"].any()
    assert torch.equal(found["transformer.h.0.attn.c_attn.weight"], state["transformer.h.0.attn.c_attn.weight"].T)


@pytest.mark.parametrize("merged", [True, False])
def test_lora_inside_a_universal_checkpoint_is_merged(checkpoint: Made, tmp_path: Path, merged: bool) -> None:
    """Its embedding and its head differ afterwards, so they are no longer tied."""
    done = convert(checkpoint(nanogpt.make, lora=True, merged=merged), tmp_path / "hf", to="hf")
    assert "input and output embeddings differ: tie_word_embeddings is false" in done.notes
    model = loads_whole(tmp_path / "hf")
    reference = nano_model(checkpoint(nanogpt.make, lora=True, merged=False), nanogpt.LORA)
    assert torch.allclose(logits(model), logits(reference), atol=1e-5)


def test_universal_stays_universal(checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(nanogpt.make, lora=True, merged=False)
    done = convert(first, tmp_path / "u", to="universal")
    assert "3 LoRA layers were merged into their main weights" in done.notes
    document = torch.load(tmp_path / "u" / "ckpt.pt", weights_only=True)
    old = torch.load(first / "ckpt.pt", weights_only=True)
    assert document["iter_num"] == 250
    assert document["model_args"] == old["model_args"]
    assert document["config"] == old["config"]
    assert document["best_val_loss"] == pytest.approx(old["best_val_loss"].item())
    assert "optimizer" not in document
    reference = nano_model(first, nanogpt.LORA)
    assert torch.allclose(logits(nano_model_untied(document)), logits(reference), atol=1e-5)


def nano_model_untied(document: dict[str, Any]) -> Any:
    model = nanogpt.Gpt(nanogpt.STANDARD)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.load_state_dict(document["model"])
    return model


def test_shards_and_pickles_become_one_safetensors_file(checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(hf.make, sharded=True, pickled=True)
    convert(first, tmp_path / "hf", to="hf")
    state = loads_whole(tmp_path / "hf").state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loads_whole(checkpoint(hf.make)).state_dict().items())


def test_a_large_tensor_is_transposed_by_way_of_a_file(
    checkpoint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(checkpoint(nanogpt.make), tmp_path / "whole", to="hf")
    turned: list[int] = []
    real = renamed_writer._turned
    monkeypatch.setattr(renamed_writer, "_turned", lambda *given: turned.append(given[-1]) or real(*given))
    monkeypatch.setattr(renamed_writer.RenamedWriter.__init__, "__kwdefaults__", {"held_bytes": 5000})
    convert(checkpoint(nanogpt.make), tmp_path / "parts", to="hf")
    assert turned == [1250] * 6, "three of four weights a layer are larger than 5000 bytes"
    one, other = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["config.json", "model.safetensors"]


def test_names_without_a_map_are_refused(checkpoint: Made, tmp_path: Path) -> None:
    for maker, variant in ((training_pt.make, {"model_type": "gpt2"}), (training_pt.make, {"model_type": "bigram"})):
        with pytest.raises(MergeError, match="no key map fits") as caught:
            convert(checkpoint(maker, **variant), tmp_path / "out", to="hf")
        assert "nanogpt-gpt2" in caught.value.message
        assert "same-names" in caught.value.message
        assert "config.json" in str(caught.value.hint)
        assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_a_config_beside_the_file_names_the_map(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(training_pt.make, model_type="gpt2")
    (tmp_path / "in").mkdir()
    for path in place.iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    config = (checkpoint(hf.make, kind="gpt2") / "config.json").read_bytes()
    (tmp_path / "in" / "config.json").write_bytes(config)
    assert convert(tmp_path / "in", tmp_path / "out", to="hf").key_map == "same-names"
    state = torch.load(next(place.glob("*.pt")), weights_only=True)["model_state_dict"]
    found = loads_whole(tmp_path / "out").state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_a_target_that_is_there_is_never_written_over(checkpoint: Made, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(Conflict):
        convert(checkpoint(nanogpt.make), tmp_path / "out", to="hf")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_what_is_no_single_model_is_refused(checkpoint: Made, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "many" / f"run_{number}").mkdir(parents=True)
        for path in checkpoint(nanogpt.make).iterdir():
            (tmp_path / "many" / f"run_{number}" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InvalidInput, match="holds 2 checkpoints"):
        convert(tmp_path / "many", tmp_path / "out", to="hf")
    with pytest.raises(InvalidInput, match="say something of a --base"):
        convert(checkpoint(nanogpt.make), tmp_path / "out", to="hf", unverified_base=True)
    with pytest.raises(InvalidInput, match="none of hf, peft, universal"):
        convert(checkpoint(nanogpt.make), tmp_path / "out", to="gguf")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="neither 'exact' nor a number"):
        convert(checkpoint(peft_adapters.make), tmp_path / "out", to="peft", tolerance="much")
