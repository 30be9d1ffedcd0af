"""Every method and option of the equality table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from tests.merge_methods.equality import HIDDEN, Case

LINEAR: Final[dict[str, list[str]]] = {
    "llama": ["q_proj", "v_proj", "down_proj", "up_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "mixtral": ["q_proj", "v_proj"],
}
SQUARE: Final[dict[str, list[str]]] = {
    "llama": ["q_proj", "o_proj"],
    "gpt2": ["attn.c_proj", "c_attn"],
    "mixtral": ["q_proj", "o_proj"],
}
INPUT: Final = {"llama": "embed_tokens", "gpt2": "wte", "mixtral": "embed_tokens"}
NORMS: Final = {
    "llama": ["input_layernorm", "norm"],
    "gpt2": ["ln_1", "ln_f"],
    "mixtral": ["input_layernorm", "norm"],
}
MODELS: Final = ("llama", "gpt2", "mixtral")
PLAIN: Final = ("llama", "mixtral")
"""Models without Conv1D, for the methods that peft puts on `nn.Linear` only."""
TIED: Final = ("llama", "gpt2")
EXPERTS: Final = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def config(name: str, targets: Mapping[str, Any] | None = LINEAR, **options: Any) -> Callable[[str], Any]:
    """A configuration of peft; an option that is a function is given the kind of model."""

    def make(kind: str) -> Any:
        import peft

        given = {key: value(kind) if callable(value) else value for key, value in options.items()}
        if targets is not None:
            given.setdefault("target_modules", targets[kind])
        return getattr(peft, name)(task_type="CAUSAL_LM", **given)

    return make


def lora(**options: Any) -> Callable[[str], Any]:
    return config("LoraConfig", **{"r": 4, "lora_alpha": 8, **options})


def variant(field: str, name: str, **options: Any) -> Callable[[str], Any]:
    """LoRA with the configuration object of a variant, on square modules."""

    def make(kind: str) -> Any:
        import peft.tuners.lora.config as configs

        return lora(**{field: getattr(configs, name)(**options)}, target_modules=SQUARE[kind])(kind)

    return make


def also(*names: str) -> Callable[[str], list[str]]:
    """The linear modules and others; "input" is the input embedding."""
    return lambda kind: [*LINEAR[kind], *(INPUT[kind] if name == "input" else name for name in names)]


def only(*names: str) -> Callable[[str], list[str]]:
    return lambda kind: [INPUT[kind] if name == "input" else name for name in names]


def grow(model: Any) -> None:
    """Ten more tokens."""
    model.resize_token_embeddings(540)


def version_4(place: Path, *, router: bool = False) -> None:
    """An adapter of a mixture as transformers 4 named its modules: one pair of factors an expert."""
    from safetensors.torch import save_file

    wide = {"w1": (48, HIDDEN), "w3": (48, HIDDEN), "w2": (HIDDEN, 48)}
    modules: dict[str, tuple[int, int]] = {}
    for layer in range(2):
        at = f"base_model.model.model.layers.{layer}"
        modules[f"{at}.self_attn.q_proj"] = (HIDDEN, HIDDEN)
        for expert in range(4):
            for name, shape in wide.items():
                modules[f"{at}.block_sparse_moe.experts.{expert}.{name}"] = shape
        if router:
            modules[f"{at}.block_sparse_moe.gate"] = (4, HIDDEN)
    tensors = {}
    for module, (out, into) in modules.items():
        tensors[f"{module}.lora_A.weight"] = torch.randn(4, into) * 0.2
        tensors[f"{module}.lora_B.weight"] = torch.randn(out, 4) * 0.2
    place.mkdir()
    save_file(tensors, place / "adapter_model.safetensors")
    targets = ["q_proj", "w1", "w2", "w3"] + (["gate"] if router else [])
    document = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": targets}
    (place / "adapter_config.json").write_text(json.dumps(document))


LORA_CASES: Final = (
    Case("LORA", lora()),
    Case("LORA rslora", lora(use_rslora=True)),
    Case(
        "LORA rank and alpha patterns",
        lora(
            rank_pattern=lambda kind: {LINEAR[kind][0]: 2, "layers.1.self_attn.v_proj": 3},
            alpha_pattern=lambda kind: {f"^.*1.*{LINEAR[kind][1]}": 3},
        ),
    ),
    Case("LORA kept in 16 bits", lora(), autocast=False),
    Case("LORA kept in 16 bits, embedding", lora(target_modules=also("input")), autocast=False),
    Case("LORA regex targets", lora(target_modules=r".*1\.(self_attn|attn)\.(q_proj|c_attn)")),
    Case("LORA layers_to_transform", lora(layers_to_transform=[1])),
    Case("LORA all-linear", lora(target_modules="all-linear")),
    Case("LORA init gaussian", lora(init_lora_weights="gaussian")),
    Case("LORA init orthogonal", lora(init_lora_weights="orthogonal")),
    Case("LORA init pissa", lora(init_lora_weights="pissa", target_modules=lambda kind: SQUARE[kind])),
    Case("LORA init olora", lora(init_lora_weights="olora", target_modules=lambda kind: SQUARE[kind]), PLAIN),
    Case("LORA init mica", lora(init_lora_weights="mica", target_modules=lambda kind: SQUARE[kind])),
    Case("LORA embedding", lora(target_modules=also("input"))),
    Case("LORA head", lora(target_modules=also("lm_head"))),
    Case("LORA embedding and head", lora(target_modules=also("input", "lm_head"))),
    Case("LORA embedding, tied", lora(target_modules=also("input")), ("llama",), tied=True),
    Case("LORA head, tied", lora(target_modules=also("lm_head")), ("llama",), tied=True),
    Case("LORA embedding and head, tied", lora(target_modules=also("input", "lm_head")), TIED, tied=True),
    Case(
        "LORA embedding and head, ensure tying",
        lora(target_modules=also("input", "lm_head"), ensure_weight_tying=True),
        TIED,
        tied=True,
    ),
    Case("LORA bias all", lora(bias="all")),
    Case("LORA bias lora_only", lora(bias="lora_only")),
    Case(
        "LORA lora_bias",
        lora(lora_bias=True, target_modules=lambda kind: ["q_proj"] if kind == "llama" else LINEAR[kind]),
        TIED,
    ),
    Case("LORA head in full", lora(modules_to_save=["lm_head"])),
    Case("LORA head in full, tied", lora(modules_to_save=["lm_head"]), ("llama",), tied=True),
    Case("LORA embedding in full", lora(modules_to_save=only("input"))),
    Case("LORA embedding in full, tied", lora(modules_to_save=only("input")), ("llama",), tied=True),
    Case("LORA both in full, tied", lora(modules_to_save=only("input", "lm_head")), ("llama",), tied=True),
    Case(
        "LORA both in full, ensure tying",
        lora(modules_to_save=only("input", "lm_head"), ensure_weight_tying=True),
        TIED,
        tied=True,
    ),
    Case(
        "LORA embedding in full, ensure tying",
        lora(modules_to_save=only("input"), ensure_weight_tying=True),
        TIED,
        tied=True,
    ),
    Case("LORA norms in full", lora(modules_to_save=lambda kind: ["ln_f"] if kind == "gpt2" else ["norm"])),
    Case("LORA larger vocabulary, both in full", lora(modules_to_save=only("input", "lm_head")), prepare=grow),
    Case(
        "LORA larger vocabulary, LoRA on both",
        lora(target_modules=also("input", "lm_head")),
        prepare=grow,
        options={"save_embedding_layers": True},
    ),
    Case("LORA larger vocabulary, saved", lora(), prepare=grow, options={"save_embedding_layers": True}),
    Case("LORA tokens", lora(trainable_token_indices=[1, 5, 300, 529])),
    Case("LORA tokens, tied", lora(trainable_token_indices=[1, 5, 300, 529]), ("llama",), tied=True),
    Case(
        "LORA tokens of both, tied",
        lora(trainable_token_indices=lambda kind: {INPUT[kind]: [1, 300], "lm_head": [1, 300]}),
        TIED,
        tied=True,
    ),
    Case(
        "LORA other tokens of both, tied",
        lora(trainable_token_indices=lambda kind: {INPUT[kind]: [1, 300], "lm_head": [1, 301]}),
        TIED,
        tied=True,
    ),
    Case("LORA experts", lora(target_parameters=EXPERTS, target_modules=["q_proj"]), ("mixtral",)),
    Case("LORA experts, down only", lora(target_parameters=EXPERTS[1:], target_modules=[]), ("mixtral",)),
    Case(
        "LORA experts, patterns",
        lora(
            target_parameters=EXPERTS,
            target_modules=["q_proj"],
            rank_pattern={"experts.down_proj": 2},
            use_rslora=True,
        ),
        ("mixtral",),
    ),
    Case(
        "LORA experts kept in 16 bits",
        lora(target_parameters=EXPERTS, target_modules=["q_proj"]),
        ("mixtral",),
        autocast=False,
    ),
    Case(
        "LORA router",
        lora(target_parameters=["mlp.gate.weight"], target_modules=["v_proj"]),
        ("mixtral",),
    ),
    Case("LORA experts of transformers 4", lora(), ("mixtral",), write=version_4),
    Case(
        "LORA experts and router of transformers 4",
        lora(),
        ("mixtral",),
        write=lambda place: version_4(place, router=True),
    ),
    Case("LORA parameter", lora(target_parameters=["q_proj.weight"], target_modules=["v_proj"]), ("llama",)),
    Case("DoRA", lora(use_dora=True)),
    Case("DoRA rslora, pattern", lora(use_dora=True, use_rslora=True, rank_pattern=lambda kind: {LINEAR[kind][0]: 2})),
    Case("DoRA embedding", lora(use_dora=True, target_modules=also("input"))),
    Case("DoRA kept in 16 bits", lora(use_dora=True), autocast=False),
    Case("DoRA head, tied", lora(use_dora=True, target_modules=also("lm_head")), TIED, tied=True),
    Case(
        "DoRA embedding and head, tied", lora(use_dora=True, target_modules=also("input", "lm_head")), TIED, tied=True
    ),
    Case("KaSA", variant("kasa_config", "KasaConfig"), PLAIN),
    Case("VeLoRA", variant("velora_config", "VeloraConfig")),
    Case("MonteCLoRA", variant("monteclora_config", "MontecloraConfig")),
    Case(
        "BD-LoRA",
        variant("use_bdlora", "BdLoraConfig", target_modules_bd_a=["q_proj"], nblocks=2, match_strict=False),
        PLAIN,
    ),
)

LAYER_CASES: Final = (
    Case("ADALORA", config("AdaLoraConfig", r=4, init_r=4, target_r=4, lora_alpha=8, total_step=10)),
    Case("BEFT", config("BeftConfig", {"llama": ["v_proj"]}), ("llama",)),
    Case("BOFT", config("BOFTConfig", boft_block_size=4), PLAIN),
    Case("BOFT two factors", config("BOFTConfig", boft_block_size=4, boft_n_butterfly_factor=2), PLAIN),
    Case("C3A", config("C3AConfig", block_size=16), PLAIN),
    Case("DEFT", config("DeftConfig", r=4)),
    Case("DEFT qr", config("DeftConfig", r=4, decomposition_method="qr")),
    Case("DELORA", config("DeloraConfig", r=4), PLAIN),
    Case("FOURIERFT", config("FourierFTConfig", n_frequency=50)),
    Case("FROD", config("FrodConfig", progressbar=False)),
    Case(
        "GLORA",
        config("GloraConfig", r=4),
        PLAIN,
        reason="its bias is a matrix-vector product of the base, whose last bit follows where that lies in memory",
    ),
    Case("GRALORA", config("GraloraConfig", r=4, alpha=8)),
    Case("GRALORA hybrid", config("GraloraConfig", r=4, alpha=8, hybrid_r=2)),
    Case("HIRA", config("HiraConfig", r=4)),
    Case("HRA", config("HRAConfig", r=4), PLAIN),
    Case("HRA Gram-Schmidt", config("HRAConfig", r=4, apply_GS=True), PLAIN),
    Case("HRA bias all", config("HRAConfig", r=4, bias="all"), PLAIN),
    Case(
        "IA3",
        config(
            "IA3Config",
            feedforward_modules=lambda kind: {"llama": ["down_proj"], "gpt2": ["c_fc"], "mixtral": []}[kind],
        ),
    ),
    Case("LN_TUNING", config("LNTuningConfig", NORMS)),
    Case("LOHA", config("LoHaConfig", r=4, alpha=8), PLAIN),
    Case("LOHA head in full", config("LoHaConfig", r=4, alpha=8, modules_to_save=["lm_head"]), PLAIN),
    Case("LOKR", config("LoKrConfig", r=4, alpha=8), PLAIN),
    Case("LOKR both", config("LoKrConfig", r=2, alpha=8, decompose_both=True, decompose_factor=4), PLAIN),
    Case("MISS", config("MissConfig", r=4), PLAIN),
    Case("MISS bat", config("MissConfig", r=4, init_weights="bat"), PLAIN),
    Case("MISS mini", config("MissConfig", r=4, init_weights="mini", mini_r=2), PLAIN),
    Case("OFT", config("OFTConfig", oft_block_size=8), PLAIN),
    Case("OFT Cayley", config("OFTConfig", oft_block_size=8, use_cayley_neumann=False), PLAIN),
    Case("OFT constrained", config("OFTConfig", oft_block_size=8, coft=True), PLAIN),
    Case("OFT shared block", config("OFTConfig", oft_block_size=8, block_share=True), PLAIN),
    Case("OSF", config("OSFConfig", effective_rank=8), PLAIN),
    Case("PEANUT", config("PeanutConfig", r=4), PLAIN),
    Case("PSOFT", config("PsoftConfig", r=4), PLAIN),
    Case("PVERA", config("PveraConfig", r=8)),
    Case("RANDLORA", config("RandLoraConfig", r=4)),
    Case("RANDLORA projection from its seed", config("RandLoraConfig", r=4, save_projection=False)),
    Case("ROAD 1", config("RoadConfig", group_size=8), PLAIN),
    Case("ROAD 2", config("RoadConfig", group_size=8, variant="road_2"), PLAIN),
    Case("ROAD 4", config("RoadConfig", group_size=8, variant="road_4"), PLAIN),
    Case("SHIRA", config("ShiraConfig", r=4, random_seed=3), PLAIN),
    Case("SUPERTUNING", config("SupertuningConfig", sparsity=0.9), PLAIN),
    Case("SUPERTUNING with LoRA", config("SupertuningConfig", sparsity=0.9, r=4, lora_alpha=8), PLAIN),
    Case("TINYLORA", config("TinyLoraConfig", r=2, u=8)),
    Case("TINYLORA tied", config("TinyLoraConfig", r=2, u=8, weight_tying=1.0)),
    Case("TRAINABLE_TOKENS", config("TrainableTokensConfig", target_modules=only("input"), token_indices=[3, 4, 500])),
    Case("UNILORA", config("UniLoraConfig", r=4, theta_d_length=64)),
    Case("VBLORA", config("VBLoRAConfig", r=4, num_vectors=16, vector_length=16)),
    Case(
        "VBLORA top k only",
        config("VBLoRAConfig", r=4, num_vectors=16, vector_length=16, save_only_topk_weights=True),
    ),
    Case("VERA", config("VeraConfig", r=8)),
    Case("VERA projection from its seed", config("VeraConfig", r=8, save_projection=False)),
    Case("WAVEFT", config("WaveFTConfig", n_frequency=50)),
)

CASES: Final = (*LORA_CASES, *LAYER_CASES)
DTYPES: Final = ("bfloat16", "float16", "float32")
