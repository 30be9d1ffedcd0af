"""What stands beside merged weights: configuration, tokenizer, a model card, and the record of the merge."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from typing import Any, Final

import torch

from ckptfmt.errors import FormatError
from ckptfmt.format.manifest import BaseRecord, File, Manifest
from ckptfmt.merge.plan import MergePlan
from ckptfmt.merge.recipe import Recipe
from ckptfmt.store.objects import Objects
from ckptfmt.version import __version__

RECORD: Final = "ckptfmt_merge.json"
CARD: Final = "README.md"
CONFIG: Final = "config.json"

_TOKENIZER: Final = re.compile(
    r"(tokenizer|vocab|merges|special_tokens_map|added_tokens|chat_template|preprocessor_config|processor_config"
    r"|spiece|sentencepiece)[^/]*|[^/]*\.(tiktoken|jinja)"
)
_OF_BASE: Final = re.compile(r"generation_config\.json|[^/]*\.py|LICENSE[^/]*|NOTICE[^/]*|USE_POLICY[^/]*")
_WEIGHTS: Final = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|index\.json|gguf|h5|msgpack|onnx)")
_MAX_BYTES: Final = 1 << 30

TORCH_NAMES: Final[dict[str, str]] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def beside_files(base: BaseRecord | Manifest, own: Manifest | None) -> dict[str, tuple[BaseRecord | Manifest, File]]:
    """The files that go beside the merged weights: the tokenizer that was saved with the adapter, else the base's."""
    chosen: dict[str, tuple[BaseRecord | Manifest, File]] = {}
    for file in base.files:
        named = _TOKENIZER.fullmatch(file.path) or _OF_BASE.fullmatch(file.path)
        if named and "/" not in file.path and not _WEIGHTS.fullmatch(file.path):
            chosen[file.path] = (base, file)
    trained = [file for file in own.files if _TOKENIZER.fullmatch(file.path)] if own else []
    if trained:
        # Half of one tokenizer and half of another would be neither.
        chosen = {path: item for path, item in chosen.items() if not _TOKENIZER.fullmatch(path)}
        chosen |= {file.path: (own, file) for file in trained if own is not None}
    return chosen


def read_config(base: BaseRecord | Manifest, objects: Objects) -> dict[str, Any]:
    """The base's `config.json`; empty where it has none.

    Raises:
        FormatError: it is not JSON.
    """
    file = next((file for file in base.files if file.path == CONFIG and file.content is not None), None)
    if file is None or file.content is None or file.size > _MAX_BYTES:
        return {}
    try:
        found = json.loads(objects.read(file.content, file.size))
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"the base's {CONFIG} is not JSON: {error}", hint="mend it and record the base again: ckptfmt base add"
        ) from error
    return found if isinstance(found, dict) else {}


def merged_config(config: Mapping[str, Any], plan: MergePlan, dtype: str | None) -> dict[str, Any]:
    """The configuration of the merged model."""
    merged = {**config, **plan.config_changes}
    if dtype is not None:
        key = "torch_dtype" if "torch_dtype" in merged and "dtype" not in merged else "dtype"
        merged[key] = TORCH_NAMES[dtype]
    return merged


def merge_record(
    recipe: Recipe, plan: MergePlan, *, root: str, dtype: str | None, device: str, threads: int
) -> dict[str, Any]:
    """What the merge did, for whoever wants to know or repeat it."""
    return {
        "format": "ckptfmt/merge",
        "version": 1,
        "base": {
            "name": recipe.base.name,
            "root": recipe.base.root,
            "binding": recipe.base.binding,
            "evidence": recipe.base.evidence,
        },
        "trained_on": recipe.trained_on,
        "stages": recipe.stages,
        "adapters": [
            {
                "manifest": item.manifest,
                "adapter": item.adapter.name,
                "method": item.adapter.method,
                "digest": item.adapter.digest,
                "weight": item.weight,
                "held_in": item.dtype or "base",
                "scaling": dict(sorted(scaling.items())),
            }
            for item, scaling in zip(recipe.ingredients, plan.scaling, strict=True)
        ],
        "root": root,
        "dtype": dtype or "keep",
        "tensors_changed": len(plan.changed),
        "computed": {
            "device": device,
            "threads": threads,
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "ckptfmt": __version__,
        },
        "notes": list(plan.notes),
    }


def model_card(name: str, record: Mapping[str, Any], license_name: str | None) -> str:
    """A model card that names base, root and stages."""
    base = record["base"]
    lines = ["---", "library_name: transformers", f"base_model: {base['name']}"]
    lines += [f"license: {license_name}"] if license_name else []
    lines += ["tags:", "- merge", "---", "", f"# {name}", ""]
    bound = f"model root `{base['root']}`, {base['binding']}: {base['evidence']}"
    lines += [f"Base `{base['name']}` ({bound}), with merged into it:", ""]
    lines += [
        f"{number}. adapter `{item['adapter']}` ({item['method']}) of `{item['manifest'][:16]}`"
        + ("" if item["weight"] == 1.0 else f", weight {item['weight']:g}")
        for number, item in enumerate(record["adapters"], 1)
    ]
    if record["trained_on"]:
        lines += [
            "",
            f"The adapter says it was trained on `{record['trained_on']}`; it was merged onto the base above.",
        ]
    computed = record["computed"]
    lines += [
        "",
        f"Model root of the result: `{record['root']}`. Merged on {computed['device']} with torch {computed['torch']}, "
        f"{computed['threads']} threads; `{RECORD}` holds the whole record.",
        "",
    ]
    return "\n".join(lines)
