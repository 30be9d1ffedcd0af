"""Full model and base to a PEFT adapter: the rank that PEFT merged in is found, and merging back is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt.api.converting import convert
from ckptfmt.errors import BaseMismatch, IntegrityError, InvalidInput, MergeError
from tests.convert.made import loads_whole, logits, make_tuned
from tests.fixtures import hf, nanogpt, peft_adapters
from tests.fixtures.common import quiet

Made = Callable[..., Path]


@quiet
def applied(base: Path, adapter: Path) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(loads_whole(base), adapter)


@quiet
def merged_by_peft(base: Path, adapter: Path) -> Any:
    return applied(base, adapter).merge_and_unload()


def bits_differing(one: Any, other: Any) -> int:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    return sum(int((value != theirs[key]).sum()) for key, value in mine.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_merge_of_peft_is_taken_apart(checkpoint: Made, tmp_path: Path, kind: hf.Kind, dtype: str) -> None:
    place = checkpoint(make_tuned, kind=kind, dtype=dtype)
    done = convert(place / "full", tmp_path / "a", to="peft", base=place / "base", unverified_base=True)
    assert done.rank == 4
    assert done.saved_whole == ()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert {config["r"], *config["rank_pattern"].values()} == {2, 4}
    assert set(config["target_modules"]) == ({"c_attn", "c_fc"} if kind == "gpt2" else {"q_proj", "v_proj", "up_proj"})
    assert config["fan_in_fan_out"] is (kind == "gpt2")
    model = applied(place / "base", tmp_path / "a")
    full = loads_whole(place / "full")
    close = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 5e-3}[dtype]
    assert torch.allclose(logits(model).float(), logits(full).float(), atol=close)
    merged = model.merge_and_unload()
    assert bits_differing(merged, full) == done.elements_differing, "the count is that of PEFT's own merge"
    assert done.exact is (done.elements_differing == 0)
    assert done.max_relative_error is not None
    assert 0 < done.max_relative_error < {"float32": 1e-5, "bfloat16": 0.2, "float16": 0.05}[dtype]


def test_what_is_not_of_low_rank_is_kept_whole(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_tuned, head=True)
    done = convert(place / "full", tmp_path / "a", to="peft", base=place / "base", unverified_base=True)
    assert done.saved_whole == ("lm_head", "model.norm")
    assert "2 modules are kept whole (modules_to_save): no low-rank updates" in done.notes
    full = loads_whole(place / "full")
    merged = merged_by_peft(place / "base", tmp_path / "a")
    assert bits_differing(merged, full) == done.elements_differing
    for key in ("lm_head.weight", "model.norm.weight"):
        assert torch.equal(merged.state_dict()[key], full.state_dict()[key])


@quiet
def make_wide(directory: Path) -> None:
    """A base and a fine-tune whose updates are exact in fp32: powers of two on weights that have few bits."""
    from transformers import AutoModelForCausalLM

    hf.make(directory / "base", steps=0)
    model = AutoModelForCausalLM.from_pretrained(directory / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    model.save_pretrained(directory / "base")
    weight = model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[3, 5] += 2**-7
        model.model.layers[1].mlp.down_proj.weight.copy_(torch.randn(32, 64))
    model.save_pretrained(directory / "full")


def test_exact_gives_the_same_bits(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_wide)
    done = convert(
        place / "full", tmp_path / "a", to="peft", base=place / "base", unverified_base=True, tolerance="exact"
    )
    assert done.exact
    assert done.elements_differing == 0
    assert done.max_relative_error == 0.0
    assert done.rank == 1
    assert done.saved_whole == ("model.layers.1.mlp.down_proj",)
    merged = merged_by_peft(place / "base", tmp_path / "a")
    assert bits_differing(merged, loads_whole(place / "full")) == 0


@quiet
def make_embedded(directory: Path, *, kind: hf.Kind) -> None:
    """`make_tuned` on a tied base, its embedding trained in full: `tuned`."""
    from transformers import AutoModelForCausalLM

    make_tuned(directory, kind=kind, tied=True)
    model = AutoModelForCausalLM.from_pretrained(directory / "full")
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(torch.randn(200, 32) * 0.01)
    model.save_pretrained(directory / "tuned")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_tied_embedding(checkpoint: Made, tmp_path: Path, kind: hf.Kind) -> None:
    """PEFT can keep `embed_tokens` tied; another name it unties. The head is saved with the same values."""
    place = checkpoint(make_embedded, kind=kind)
    done = convert(place / "tuned", tmp_path / "a", to="peft", base=place / "base", unverified_base=True)
    assert done.saved_whole == ("lm_head", "transformer.wte" if kind == "gpt2" else "model.embed_tokens")
    tuned = loads_whole(place / "tuned")
    assert tuned.lm_head.weight is tuned.get_input_embeddings().weight
    convert(tmp_path / "a", tmp_path / "m", to="hf", base=place / "base", unverified_base=True)
    merged, theirs = loads_whole(tmp_path / "m"), merged_by_peft(place / "base", tmp_path / "a")
    for model in (merged, theirs):
        assert torch.equal(model.lm_head.weight, tuned.lm_head.weight)
        assert torch.equal(model.get_input_embeddings().weight, tuned.lm_head.weight)
        assert bits_differing(model, tuned) == done.elements_differing
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) is (kind == "llama")


def test_a_model_in_another_precision_than_its_base(checkpoint: Made, tmp_path: Path) -> None:
    """Saved in fp32 after training on a bf16 base: what was only cast is no update."""
    place = checkpoint(make_tuned, dtype="bfloat16")
    loads_whole(place / "full").float().save_pretrained(tmp_path / "wide")
    done = convert(tmp_path / "wide", tmp_path / "a", to="peft", base=place / "base", unverified_base=True)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert done.saved_whole == () or set(config["target_modules"]) <= {"q_proj", "v_proj", "up_proj"}


def test_the_base_must_be_vouched_for(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_tuned)
    given: dict[str, Any] = {"to": "peft", "base": place / "base"}
    with pytest.raises(IntegrityError, match="nothing says that this is the base") as caught:
        convert(place / "full", tmp_path / "a", **given)
    assert caught.value.code == "no-binding"
    assert caught.value.exit_code == 3
    assert "--unverified-base" in str(caught.value.hint)
    with pytest.raises(BaseMismatch, match="not the base that is expected"):
        convert(place / "full", tmp_path / "a", **given, expect_root="0" * 64)
    with pytest.raises(InvalidInput, match="at least 16 digits"):
        convert(place / "full", tmp_path / "a", **given, expect_root="0" * 8)
    with pytest.raises(InvalidInput, match="contradict"):
        convert(place / "full", tmp_path / "a", **given, expect_root="0" * 64, unverified_base=True)
    assert not (tmp_path / "a").exists()
    unverified = convert(place / "full", tmp_path / "a", **given, unverified_base=True)
    assert unverified.binding == "none"
    assert any("the base was not verified" in note for note in unverified.notes)
    assert unverified.base_root is not None
    verified = convert(place / "full", tmp_path / "b", **given, expect_root=unverified.base_root[:20])
    assert verified.binding == "stated"
    assert not any("verified" in note for note in verified.notes)


def test_models_that_do_not_belong_together(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_tuned)
    options: dict[str, Any] = {"to": "peft", "unverified_base": True}
    with pytest.raises(MergeError, match="is no fine-tune of"):
        convert(checkpoint(hf.make, kind="mixtral"), tmp_path / "a", base=place / "base", **options)
    with pytest.raises(MergeError, match="does not differ"):
        convert(place / "base", tmp_path / "a", base=place / "base", **options)
    with pytest.raises(MergeError, match="is of low rank"):
        convert(checkpoint(hf.make, seed=3), tmp_path / "a", base=place / "base", **options)
    with pytest.raises(IntegrityError, match="only against its base"):
        convert(place / "full", tmp_path / "a", to="peft")
    assert not (tmp_path / "a").exists()


def test_an_adapter_is_merged_without_a_store(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_tuned)
    with pytest.raises(IntegrityError, match="an adapter needs its base"):
        convert(place / "adapter", tmp_path / "m", to="hf")
    done = convert(place / "adapter", tmp_path / "m", to="hf", base=place / "base", unverified_base=True)
    assert done.binding == "none"
    assert bits_differing(loads_whole(tmp_path / "m"), loads_whole(place / "full")) == 0
    record = json.loads((tmp_path / "m" / "ckptfmt_merge.json").read_text())
    assert record["base"]["root"] == done.base_root
    assert record["base"]["binding"] == "none"
    convert(place / "adapter", tmp_path / "u", to="universal", base=place / "base", unverified_base=True)
    state = torch.load(tmp_path / "u" / "ckpt.pt", weights_only=True)["model"]
    full = loads_whole(place / "full").state_dict()
    assert all(torch.equal(state[key], value) for key, value in full.items())


def test_an_adapter_to_peft_is_its_own_files(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_tuned)
    done = convert(place / "adapter", tmp_path / "a", to="peft")
    assert set(done.files) == {"adapter_config.json", "adapter_model.safetensors"}
    for name in done.files:
        assert (tmp_path / "a" / name).read_bytes() == (place / "adapter" / name).read_bytes()
    several = checkpoint(peft_adapters.make_several)
    convert(several, tmp_path / "style", to="peft", adapter="style")
    assert (tmp_path / "style" / "adapter_model.safetensors").read_bytes() == (
        several / "style" / "adapter_model.safetensors"
    ).read_bytes()
    with pytest.raises(InvalidInput, match="no adapter 'other'"):
        convert(several, tmp_path / "x", to="peft", adapter="other")


def test_an_adapter_without_its_settings_is_refused(checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(peft_adapters.make_unmerged)
    for target, options in (("peft", {}), ("hf", {"base": checkpoint(hf.make), "unverified_base": True})):
        with pytest.raises(MergeError, match="scaling is not known"):
            convert(place, tmp_path / "a", to=target, **options)  # type: ignore[arg-type]


def test_lora_of_a_universal_checkpoint_becomes_peft(checkpoint: Made, tmp_path: Path) -> None:
    """Unmerged on Hugging Face's GPT-2 of the main weights it computes what nanoGPT computes with it."""
    first = checkpoint(nanogpt.make, lora=True, merged=False)
    done = convert(first, tmp_path / "a", to="peft")
    assert "it changes the input embedding" in done.notes[1]
    document = torch.load(first / "ckpt.pt", weights_only=True)
    main = {key.replace(".main_weight", ""): value for key, value in document["model"].items() if "lora_" not in key}
    (tmp_path / "main").mkdir()
    torch.save({**document, "model": main}, tmp_path / "main" / "ckpt.pt")
    convert(tmp_path / "main", tmp_path / "base", to="hf")
    model = nanogpt.Gpt(nanogpt.LORA)
    model.load_state_dict(document["model"])
    assert torch.allclose(logits(applied(tmp_path / "base", tmp_path / "a")), logits(model), atol=1e-5)
