"""Models of transformers that were saved again in another way: every large tensor is stored against what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptfmt import Store
from ckptfmt.encodings.references import parse_reference
from ckptfmt.store.store import open_store
from tests.fixtures.common import VOCABULARY, batch, quiet, train
from tests.fixtures.nanogpt import STANDARD, Gpt
from tests.transfer.trees import photograph

pytestmark = pytest.mark.fixtures

State = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"
WIDTH = 64
SMALLEST = 2048
"""Bytes below which nothing is stored against anything."""
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


@quiet
def model_of(kind: str, seed: int = 0, **more: Any) -> Any:
    """A fresh tiny model in bfloat16."""
    import transformers

    config = getattr(transformers, f"{kind}Config")
    names = [name for name in (f"{kind}ForCausalLM", f"{kind}LMHeadModel") if hasattr(transformers, name)]
    torch.manual_seed(seed)
    model = getattr(transformers, names[0])(config(**{**COMMON, **more}))
    return model.bfloat16()


@quiet
def saved(model: Any, directory: Path, **how: Any) -> Path:
    model.save_pretrained(directory, **how)
    return directory


@torch.no_grad()
def tuned(model: Any, scale: float = 3e-5) -> Any:
    """A fine-tune: every weight moves a little."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_((parameter.float() + torch.randn(parameter.shape) * scale).to(parameter.dtype))
    return model


def rewritten(source: Path, target: Path, change: Callable[[State], State]) -> Path:
    """The same model with its tensors arranged in another way, as converters write it."""
    target.mkdir(parents=True)
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(source / WEIGHTS)).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    return target


def stored_as(store: Store, name: str) -> dict[str, tuple[str, str]]:
    """Encoding and reference of every model tensor that is large enough."""
    engine = open_store(str(store.path))
    manifest = engine.manifest(engine.resolve(name)[0])
    found = {}
    for tensor in manifest.tensors:
        extent = manifest.files[tensor.file].extents[tensor.extent]
        if extent.length >= SMALLEST and tensor.role == "model" and len(tensor.shape) < 4:  # Causal masks have four.
            copies = engine.catalog().find(extent.digest)
            if not copies:  # It lies in the base.
                continue
            stored = copies[0].stored
            found[tensor.name] = stored.encoding, stored.reference
    engine.close()
    return found


def taken(store: Store, base: Path, run: Path, tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Import against a base, restore, and tell how each tensor is stored: all against something."""
    store.add_base("base", base)
    store.import_checkpoint(run, "run", base="base")
    store.restore("run", tmp_path / "back")
    assert photograph(tmp_path / "back") == photograph(run)
    found = stored_as(store, "run")
    assert {encoding for encoding, _ in found.values()} <= {"delta", "lowrank"}, found
    assert store.verify().damaged == ()
    return found


def first_steps(found: dict[str, tuple[str, str]], module: str) -> set[str]:
    """What references of some tensors begin with: `fuse`, `slice`, …"""
    return {reference.partition(":")[0] for name, (_, reference) in found.items() if f".{module}." in name}


@torch.no_grad()
def fused(llama: Any) -> Any:
    """A Llama as Phi-3, which fuses q, k and v, and gate and up: the same function."""
    phi = model_of("Phi3", seed=5, num_key_value_heads=2)
    state = dict(llama.state_dict())
    for name in phi.state_dict():
        if ".qkv_proj." in name:
            state[name] = torch.cat([state.pop(name.replace("qkv_proj", f"{part}_proj")) for part in "qkv"])
        if ".gate_up_proj." in name:
            parts = (name.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj"))
            state[name] = torch.cat([state.pop(part) for part in parts])
    phi.load_state_dict(state)
    assert torch.allclose(phi(batch()).logits, llama(batch()).logits, atol=0.05)
    return phi


def test_fused_projections_are_stored_against_separate_ones(store: Store, tmp_path: Path) -> None:
    base = saved(model_of("Llama", num_key_value_heads=2), tmp_path / "base")
    run = saved(tuned(fused(model_of("Llama", num_key_value_heads=2))), tmp_path / "run")
    found = taken(store, base, run, tmp_path)
    assert first_steps(found, "qkv_proj") == first_steps(found, "gate_up_proj") == {"fuse"}
    assert store.show("run").encodings["delta"].stored_bytes < 0.5 * store.show("run").encodings["delta"].logical_bytes


def test_separate_projections_are_stored_against_fused_ones(store: Store, tmp_path: Path) -> None:
    llama = model_of("Llama", num_key_value_heads=2)
    base = saved(fused(llama), tmp_path / "base")
    found = taken(store, base, saved(tuned(llama), tmp_path / "run"), tmp_path)
    for module in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        assert first_steps(found, module) == {"slice"}


@pytest.mark.parametrize("onto", ["separate", "fused"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]])
def test_an_adapter_of_separate_projections_predicts_the_fused_merge(
    store: Store, tmp_path: Path, targets: list[str], onto: str
) -> None:
    merged = with_adapter(tmp_path, targets)
    run = saved(fused(merged), tmp_path / "run")
    if onto == "fused":
        saved(fused(model_of("Llama", num_key_value_heads=2)), tmp_path / "phi")
    store.add_base("base", tmp_path / ("phi" if onto == "fused" else "base"))
    store.import_checkpoint(tmp_path / "adapter", "adapter")
    store.import_checkpoint(run, "run", base="base")
    found = stored_as(store, "run")
    fused_names = {"qkv_proj", "gate_up_proj"} if "up_proj" in targets else {"qkv_proj"}
    predicted = {name for name, (encoding, _) in found.items() if encoding == "lowrank"}
    assert predicted == {name for name in found if name.split(".")[-2] in fused_names}
    assert {found[name][1].count(":product:") for name in predicted if "qkv" in name} == {
        len(set("qkv") & {target[0] for target in targets if target[1:] == "_proj"})
    }
    lowrank = store.show("run").encodings["lowrank"]
    assert lowrank.stored_bytes < lowrank.logical_bytes / 20
    store.restore("run", tmp_path / "back")
    assert photograph(tmp_path / "back") == photograph(run)


@quiet
def with_adapter(directory: Path, targets: list[str]) -> Any:
    """A base, an adapter trained on it, and the Llama that PEFT merges of both."""
    import peft

    saved(model_of("Llama", num_key_value_heads=2), directory / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets)
    model = peft.get_peft_model(model_of("Llama", num_key_value_heads=2), config)
    train(model, 3)
    model.save_pretrained(directory / "adapter")
    return model.merge_and_unload()


GPT2: dict[str, Any] = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64}


def apart(tensors: State) -> State:
    """GPT-2's `c_attn` (in, 3 x out) as three linear layers (out, in), as GPT-J names them."""
    result = {}
    for name, tensor in tensors.items():
        if ".c_attn." in name:
            parts = tensor.T.chunk(3) if tensor.ndim == 2 else tensor.chunk(3)
            for letter, part in zip("qkv", parts, strict=True):
                result[name.replace("c_attn", f"{letter}_proj")] = part
        else:
            result[name] = tensor
    return result


def apart_as_they_lie(tensors: State) -> State:
    """The same, each still (in, out)."""
    turn = lambda name, tensor: tensor.T if "_proj.weight" in name and "c_proj" not in name else tensor  # noqa: E731
    return {name: turn(name, tensor) for name, tensor in apart(tensors).items()}


@pytest.mark.parametrize("change", [apart, apart_as_they_lie])
@pytest.mark.parametrize("parts", ["run", "base"])
def test_gpt2_attention_together_and_apart(
    store: Store, tmp_path: Path, change: Callable[[State], State], parts: str
) -> None:
    base, run = (
        saved(make(model_of("GPT2", **GPT2)), tmp_path / f"as-it-is-{make.__name__}") for make in (quiet_one, tuned)
    )
    if parts == "run":
        run = rewritten(run, tmp_path / "run", change)
    else:
        base = rewritten(base, tmp_path / "base", change)
    found = taken(store, base, run, tmp_path)
    steps = {
        reference.partition(":")[0] for name, (_, reference) in found.items() if "_proj" in name and "c_" not in name
    }
    assert steps <= ({"slice", "transpose"} if parts == "run" else set())
    assert first_steps(found, "c_attn") == (set() if parts == "run" else {"fuse"})


def quiet_one(model: Any) -> Any:
    return model


def by_heads_apart(heads: int) -> Callable[[State], State]:
    """GPT-NeoX' `query_key_value`, head after head, as three linear layers."""

    def change(tensors: State) -> State:
        result = {}
        for name, tensor in tensors.items():
            if "query_key_value" in name:
                cut = tensor.view(heads, 3, -1, *tensor.shape[1:])
                for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
                    result[name.replace("query_key_value", part)] = cut[:, index].reshape(-1, *tensor.shape[1:])
            else:
                result[name] = tensor
        return result

    return change


@pytest.mark.parametrize("parts", ["run", "base"])
def test_projections_that_lie_head_after_head(store: Store, tmp_path: Path, parts: str) -> None:
    base, run = (
        saved(make(model_of("GPTNeoX")), tmp_path / f"as-it-is-{make.__name__}") for make in (quiet_one, tuned)
    )
    if parts == "run":
        run = rewritten(run, tmp_path / "run", by_heads_apart(4))
    else:
        base = rewritten(base, tmp_path / "base", by_heads_apart(4))
    found = taken(store, base, run, tmp_path)
    names = [name for name in found if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "query_key_value")]
    assert len(names) == (6 if parts == "run" else 2)
    for name in names:
        reference = parse_reference(found[name][1])
        step = reference.fuse or reference.steps[0]
        assert step.outer == 4  # type: ignore[union-attr]


def test_gpt2_by_nanogpt_is_found_in_transformers_own(store: Store, tmp_path: Path) -> None:
    """Linear layers are the transposes of `Conv1D`, square ones too, which no shape tells."""
    gpt = Gpt({**STANDARD, "n_embd": WIDTH, "block_size": WIDTH}).bfloat16()
    base_model = model_of("GPT2", **GPT2)
    state = {
        name: tensor.T if tensor.ndim == 2 and ".c_" in name else tensor
        for name, tensor in base_model.state_dict().items()
    }
    gpt.load_state_dict({**gpt.state_dict(), **state})
    base = saved(base_model, tmp_path / "base")
    (tmp_path / "run").mkdir()
    torch.save({"model": tuned(gpt).state_dict(), "model_args": STANDARD}, tmp_path / "run" / "ckpt.pt")
    found = taken(store, base, tmp_path / "run", tmp_path)
    for module in ("c_attn", "c_proj", "c_fc"):
        assert first_steps(found, module) == {"transpose"}


@pytest.mark.parametrize("bare", ["run", "base"])
def test_gpt2_with_and_without_its_prefix(store: Store, tmp_path: Path, bare: str) -> None:
    base_model, run_model = model_of("GPT2", **GPT2), tuned(model_of("GPT2", **GPT2))
    base = saved(base_model.transformer if bare == "base" else base_model, tmp_path / "base")
    run = saved(run_model.transformer if bare == "run" else run_model, tmp_path / "run")
    assert ("transformer.wte.weight" in load_file(run / WEIGHTS)) == (bare == "base")
    found = taken(store, base, run, tmp_path)
    assert {reference for _, reference in found.values()} == {""}


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "GPTNeoX"])
@pytest.mark.parametrize("tied", ["run", "base"])
def test_tied_and_untied(store: Store, tmp_path: Path, kind: str, tied: str) -> None:
    more = GPT2 if kind == "GPT2" else {}
    base = saved(model_of(kind, tie_word_embeddings=tied == "base", **more), tmp_path / "base")
    run = saved(
        with_embeddings_of(base, tuned(model_of(kind, tie_word_embeddings=tied == "run", **more))), tmp_path / "run"
    )
    heads = [
        {name for name in load_file(each / WEIGHTS) if name in ("lm_head.weight", "embed_out.weight")}
        for each in (base, run)
    ]
    assert [len(each) for each in heads] == [int(tied != "base"), int(tied != "run")]
    taken(store, base, run, tmp_path)


@torch.no_grad()
def with_embeddings_of(base: Path, model: Any) -> Any:
    """Head and embedding as a model has them that was untied, or tied again: both near the base's embedding."""
    tensors = load_file(base / WEIGHTS)
    name = next(each for each in tensors if each.endswith(("wte.weight", "embed_tokens.weight", "embed_in.weight")))
    for seed, layer in enumerate((model.get_input_embeddings(), model.get_output_embeddings())):
        noise = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(seed)) * 3e-5
        layer.weight.copy_((tensors[name].float() + noise).to(layer.weight.dtype))
    return model


@pytest.mark.parametrize("fused_in", ["run", "base"])
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2Moe"])
def test_experts_by_both_versions_of_transformers(store: Store, tmp_path: Path, kind: str, fused_in: str) -> None:
    """Version 5 holds all experts in one tensor, and writes that, or what version 4 wrote."""
    more: dict[str, Any] = {"num_key_value_heads": 2, "num_experts_per_tok": 2}
    more |= {"num_local_experts": 4} if kind == "Mixtral" else {"num_experts": 4, "moe_intermediate_size": 96}
    base = saved(model_of(kind, **more), tmp_path / "base", save_original_format=fused_in != "base")
    run = saved(tuned(model_of(kind, **more)), tmp_path / "run", save_original_format=fused_in != "run")
    found = taken(store, base, run, tmp_path)
    experts = {reference.partition(":")[0] for name, (_, reference) in found.items() if ".experts." in name}
    assert experts == {"fuse" if fused_in == "run" else "slice"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_an_export_in_another_type(store: Store, tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    more = GPT2 if kind == "GPT2" else {}
    base = saved(model_of(kind, **more), tmp_path / "base")
    run = saved(tuned(model_of(kind, **more)).to(dtype), tmp_path / "run")
    found = taken(store, base, run, tmp_path)
    name = {torch.float16: "F16", torch.float32: "F32"}[dtype]
    assert {reference for _, reference in found.values()} == {f"cast:BF16:{name}"}


@pytest.mark.parametrize("rows", [VOCABULARY + 24, VOCABULARY - 24])
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_a_resized_embedding(store: Store, tmp_path: Path, kind: str, rows: int) -> None:
    more = GPT2 if kind == "GPT2" else {}
    base = saved(model_of(kind, **more), tmp_path / "base")
    model = tuned(model_of(kind, **more))
    quiet(model.resize_token_embeddings)(rows)
    found = taken(store, base, saved(model, tmp_path / "run"), tmp_path)
    resized = {reference for _, reference in found.values() if reference}
    assert resized and all(f":0+{rows}" in reference for reference in resized)
