"""Named key maps between universal `.pt` checkpoints and Hugging Face's names: pure, over names, shapes and settings.

Two maps are known. `nanogpt-gpt2`: GPT-2 as nanoGPT writes it, whose linear layers keep (out, in) where Hugging
Face's `Conv1D` keeps (in, out), with `model_args` in place of `config.json`. `same-names`: a Hugging Face state dict
inside a `.pt`. Source of the first: `GPT.from_pretrained` in nanoGPT's `model.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ckptfmt.errors import MergeError
from ckptfmt.merge.protocol import Spec
from ckptfmt.wording import few

HF_CONFIG: Final = "hf_config"
"""Key of a universal checkpoint's `config` under which we keep the `config.json` that the model came with."""

EMBEDDINGS: Final = ("transformer.wte.weight", "wte.weight", "model.embed_tokens.weight", "embed_tokens.weight")
HEAD: Final = "lm_head.weight"

MASKS: Final = re.compile(r"(.*\.)?(attn\.(bias|masked_bias)|rotary_emb\.inv_freq|position_ids)")
"""Buffers that models compute: some files hold them, others do not. A bias of one dimension is none of them."""
_BLOCK: Final = re.compile(
    r"transformer\.h\.(?P<layer>\d+)\.(?P<module>ln_[12]|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)"
    r"\.(?P<leaf>weight|bias)"
)
_TOP: Final = frozenset({"transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", HEAD})
_UNSUPPORTED: Final = ("add_cross_attention", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
_BARE: Final = ("wte.", "wpe.", "ln_f.", "h.")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a tensor goes: its new name, dtype and shape; `transposed` if that is the transpose of what it was."""

    name: str
    spec: Spec
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Renaming:
    """A model in other names.

    Attributes:
        map: name of the key map.
        tensors: by source name; a source tensor that is not here is left out.
        aliases: further target names, each for the target tensor that it shares.
        zeros: target tensors that the source lacks because they are zero.
        settings: the target's `config.json`, or its `model_args`.
        notes: sentences that a user should know.
    """

    map: str
    tensors: Mapping[str, Placed]
    aliases: Mapping[str, str] = field(default_factory=dict)
    zeros: Mapping[str, Spec] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A model to be renamed.

    Attributes:
        specs: its tensors.
        twins: names of tensors that repeat another one, with that one's name.
        config: its `config.json`: that of its directory, or the one kept inside a universal checkpoint.
        model_args: those of a universal checkpoint.
    """

    specs: Mapping[str, Spec]
    twins: Mapping[str, str]
    config: Mapping[str, Any]
    model_args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A named key map: each direction gives None where the source is not of its kind."""

    name: str
    needs: str
    to_universal: Callable[[Source], Renaming | None]
    to_hf: Callable[[Source], Renaming | None]


def to_universal(source: Source) -> Renaming:
    """The names of a Hugging Face model in a universal checkpoint, under the first map that it fits."""
    return next(found for each in KEY_MAPS.values() if (found := each.to_universal(source)) is not None)


def to_hf(source: Source, where: str) -> Renaming:
    """The names of a universal checkpoint's model for Hugging Face, under the first map that it fits.

    Raises:
        MergeError: it fits none.
    """
    for each in KEY_MAPS.values():
        found = each.to_hf(source)
        if found is not None:
            return found
    known = "; ".join(f"{each.name} ({each.needs})" for each in KEY_MAPS.values())
    raise MergeError(
        f"{where}: no key map fits its tensors ({few(sorted(source.specs))}): "
        f"Hugging Face's names for them are not known. There are: {known}",
        hint="if the names are Hugging Face's already, put the model's config.json beside the file",
    )


def same_universal(source: Source) -> Renaming:
    """A universal checkpoint's own names, twins as aliases."""
    kept = {name: Placed(name, spec) for name, spec in source.specs.items() if name not in source.twins}
    return Renaming("same-names", kept, aliases=dict(source.twins), settings=dict(source.model_args))


def _gpt2_to_universal(source: Source) -> Renaming | None:
    config = source.config
    if config.get("model_type") != "gpt2" or any(config.get(key) for key in _UNSUPPORTED):
        return None
    tensors: dict[str, Placed] = {}
    for name, spec in source.specs.items():
        full = name if not name.startswith(_BARE) else f"transformer.{name}"
        if MASKS.fullmatch(full) and len(spec.shape) != 1:
            continue
        placed = _gpt2_place(full, spec)
        if placed is None:
            return None
        tensors[name] = placed
    targets = {placed.name: placed.spec for placed in tensors.values()}
    if not targets.keys() >= _TOP - {HEAD}:
        return None
    width = targets["transformer.wte.weight"].shape[1]
    if config.get("n_inner") not in (None, 4 * width):
        return None
    aliases = {} if HEAD in targets else {HEAD: "transformer.wte.weight"}
    settings = {
        "n_layer": _layers(targets),
        "n_head": config.get("n_head", 12),
        "n_embd": width,
        "block_size": targets["transformer.wpe.weight"].shape[0],
        "bias": True,
        "vocab_size": targets["transformer.wte.weight"].shape[0],
        "dropout": config.get("resid_pdrop", 0.1),
    }
    activation = config.get("activation_function", "gelu_new")
    notes = (
        (f"the model was made with activation {activation}; nanoGPT's own code computes the exact gelu",)
        if activation != "gelu"
        else ()
    )
    return Renaming("nanogpt-gpt2", tensors, aliases=aliases, settings=settings, notes=notes)


def _gpt2_to_hf(source: Source) -> Renaming | None:
    arguments = source.model_args
    if not {"n_head", "n_layer", "n_embd"} <= arguments.keys():
        return None
    tensors: dict[str, Placed] = {}
    for name, spec in source.specs.items():
        if (MASKS.fullmatch(name) and len(spec.shape) != 1) or (name == HEAD and name in source.twins):
            continue
        placed = _gpt2_place(name, spec)
        if placed is None:
            return None
        tensors[name] = placed
    targets = {placed.name: placed.spec for placed in tensors.values()}
    if not targets.keys() >= _TOP - {HEAD} or not _is_linear(source.specs, arguments["n_embd"]):
        return None
    zeros = {
        name.removesuffix("weight") + "bias": Spec(spec.dtype, spec.shape[-1:])
        for name, spec in targets.items()
        if name.endswith(".weight")
        and (_BLOCK.fullmatch(name) or ".ln_f." in name)
        and name.removesuffix("weight") + "bias" not in targets
    }
    tied = HEAD not in targets
    settings = {**_gpt2_config(arguments, targets), **source.config, "tie_word_embeddings": tied}
    notes = [] if tied else ["input and output embeddings differ: tie_word_embeddings is false"]
    if zeros:
        notes.append(f"{len(zeros)} biases that the model does not have are zero")
    return Renaming("nanogpt-gpt2", tensors, zeros=zeros, settings=settings, notes=tuple(notes))


def _gpt2_config(arguments: Mapping[str, Any], targets: Mapping[str, Spec]) -> dict[str, Any]:
    dropout = arguments.get("dropout", 0.0)
    vocabulary, width = targets["transformer.wte.weight"].shape
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu",
        "n_layer": _layers(targets),
        "n_head": arguments["n_head"],
        "n_embd": width,
        "n_positions": targets["transformer.wpe.weight"].shape[0],
        "vocab_size": vocabulary,
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
        "layer_norm_epsilon": 1e-5,
        **_token_ids(vocabulary),
        **_dtype(targets["transformer.wte.weight"]),
    }


def _dtype(spec: Spec) -> dict[str, str]:
    named = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}.get(spec.dtype)
    return {"dtype": named} if named else {}


def _token_ids(vocabulary: int) -> dict[str, Any]:
    """GPT-2's own end of text where the vocabulary is large enough for it; else none is known."""
    end = 50256 if vocabulary > 50256 else None
    return {"bos_token_id": end, "eos_token_id": end}


def _gpt2_place(name: str, spec: Spec) -> Placed | None:
    block = _BLOCK.fullmatch(name)
    if block is None:
        return Placed(name, spec) if name in _TOP or name == "transformer.ln_f.bias" else None
    linear = block["leaf"] == "weight" and not block["module"].startswith("ln_")
    if linear and len(spec.shape) != 2:
        return None
    return Placed(name, Spec(spec.dtype, spec.shape[::-1]), transposed=True) if linear else Placed(name, spec)


def _is_linear(specs: Mapping[str, Spec], width: int) -> bool:
    """Tell nanoGPT's (3 * width, width) from a `Conv1D` under the same name."""
    first = specs.get("transformer.h.0.attn.c_attn.weight")
    return first is not None and first.shape == (3 * width, width)


def _layers(names: Mapping[str, Spec]) -> int:
    return len({found["layer"] for name in names if (found := _BLOCK.fullmatch(name))})


def _same_to_universal(source: Source) -> Renaming:
    kept = {name: Placed(name, spec) for name, spec in source.specs.items() if name not in source.twins}
    aliases = dict(source.twins)
    embedding = next((name for name in EMBEDDINGS if name in source.specs), None)
    architectures = source.config.get("architectures") or [""]
    headed = isinstance(architectures[0], str) and architectures[0].endswith(("ForCausalLM", "LMHeadModel"))
    if embedding is not None and HEAD not in source.specs and headed:
        aliases[HEAD] = embedding
    return Renaming("same-names", kept, aliases=aliases)


def _same_to_hf(source: Source) -> Renaming | None:
    if not source.config.get("model_type"):
        return None
    # An untied head that happens to equal the embedding is a tensor of its own: nobody would tie it again.
    untied = source.config.get("tie_word_embeddings") is False
    twins = {name for name in source.twins if not (untied and name == HEAD)}
    kept = {name: Placed(name, spec) for name, spec in source.specs.items() if name not in twins}
    return Renaming("same-names", kept, settings=dict(source.config))


_MAPS: Final = (
    KeyMap(
        "nanogpt-gpt2",
        "nanoGPT's names, with n_layer, n_head and n_embd in model_args",
        _gpt2_to_universal,
        _gpt2_to_hf,
    ),
    KeyMap("same-names", "Hugging Face's names, with the model's config.json", _same_to_universal, _same_to_hf),
)

KEY_MAPS: Final[Mapping[str, KeyMap]] = {each.name: each for each in _MAPS}
"""Every key map by name, the most specific first; the last takes any Hugging Face model into a universal one."""
