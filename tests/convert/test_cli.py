"""`export`, `convert` and `merge --format`: keys of `--json`, exit codes, hints, text for people."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt import Store
from tests.cli.made import Shell
from tests.convert.made import loads_whole, logits, make_tuned, nano_model
from tests.fixtures import experts, nanogpt, peft_adapters, stages

Made = Callable[..., Path]

KEYS = {
    *("out", "format", "exact", "files", "key_map", "rank", "elements_differing", "max_relative_error"),
    *("saved_whole", "base", "base_root", "binding", "notes"),
}


@pytest.fixture
def sh(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    shell = Shell(capsys)
    shell.ok("init")
    return shell


@pytest.fixture
def tuned(checkpoint: Made, sh: Shell) -> Path:
    """A store with a referenced base, an adapter and a full fine-tune on it."""
    place = checkpoint(make_tuned)
    sh.ok("base", "add", "tiny", str(place / "base"))
    sh.ok("import", str(place / "adapter"), "--name", "adapter", "--base", "tiny")
    sh.ok("import", str(place / "full"), "--name", "full")
    return place


def test_a_full_model_to_peft(sh: Shell, tuned: Path) -> None:
    ran = sh("export", "full", "out", "--format", "peft", "--json")
    assert ran.code == 3
    assert ran.error["code"] == "no-binding"
    assert ran.error["hint"] == "ckptfmt bind full --base NAME"
    found = sh.json("export", "full", "out", "--format", "peft", "--base", "tiny")
    assert found.keys() == KEYS
    assert (found["rank"], found["binding"], found["base"]) == (4, "stated", "tiny")
    assert found["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    sh.ok("bind", "full", "--base", "tiny")
    told = sh.ok("export", "full", "bound", "--format", "peft").out
    assert "rank      4 at most, 0 modules kept whole" in told
    assert "exact     no: merged back," in told
    assert "base      tiny  root " in told
    assert sh("export", "full", "bound", "--format", "peft").code == 1
    sh.ok("import", "./out", "--name", "again", "--base", "tiny")
    merged = loads_whole(Path(sh.json("merge", "again", "m")["out"]))
    full = loads_whole(tuned / "full").state_dict()
    differing = sum(int((value != full[key]).sum()) for key, value in merged.state_dict().items())
    assert differing == found["elements_differing"]


def test_an_adapter_is_merged_with_the_checks_of_merge(sh: Shell, tuned: Path, tmp_path: Path) -> None:
    found = sh.json("export", "adapter", "hf", "--format", "hf")
    assert found.keys() == KEYS
    assert (found["exact"], found["base"], found["binding"]) == (True, "tiny", "stated")
    assert "ckptfmt_merge.json" in found["files"]
    full = loads_whole(tuned / "full").state_dict()
    assert all(torch.equal(value, full[key]) for key, value in loads_whole(tmp_path / "hf").state_dict().items())
    sh.ok("export", "adapter", "u", "--format", "universal")
    state = torch.load(tmp_path / "u" / "ckpt.pt", weights_only=True)["model"]
    assert all(torch.equal(state[key], value) for key, value in full.items())
    sh.ok("import", str(tuned / "adapter"), "--name", "lonely")
    ran = sh("export", "lonely", "x", "--format", "hf", "--json")
    assert (ran.code, ran.error["code"]) == (3, "no-binding")
    assert not (tmp_path / "x").exists()


def test_an_adapter_to_peft_is_its_own_files(sh: Shell, tuned: Path, tmp_path: Path) -> None:
    found = sh.json("export", "adapter", "a", "--format", "peft")
    assert (found["exact"], found["base"]) == (True, "tiny")
    for name in found["files"]:
        assert (tmp_path / "a" / name).read_bytes() == (tuned / "adapter" / name).read_bytes()


def test_merge_into_a_universal_checkpoint(sh: Shell, tuned: Path, tmp_path: Path) -> None:
    done = sh.json("merge", "adapter", "u", "--format", "universal")
    assert sorted(path.name for path in (tmp_path / "u").iterdir()) == [
        *("README.md", "ckpt.pt", "ckptfmt_merge.json", "generation_config.json", "tokenizer.json"),
        "tokenizer_config.json",
    ]
    record = json.loads((tmp_path / "u" / "ckptfmt_merge.json").read_text())
    assert (record["written_as"], record["key_map"], record["root"]) == ("universal", "same-names", done["root"])
    assert "Format" not in sh("merge", "adapter", "v", "--format", "gguf").err
    assert sh("merge", "adapter", "v", "--format", "gguf").code == 2
    document = torch.load(tmp_path / "u" / "ckpt.pt", weights_only=True)
    assert document["config"]["hf_config"]["model_type"] == "llama"
    sh.ok("import", "./u", "--name", "universal")
    sh.ok("export", "universal", "back", "--format", "hf")
    full = loads_whole(tuned / "full")
    assert torch.equal(logits(loads_whole(tmp_path / "back")), logits(full))


def test_a_universal_base_that_is_only_referenced(sh: Shell, checkpoint: Made, tmp_path: Path) -> None:
    """An adapter in PEFT's names on nanoGPT's model: merged into a `.pt`, and, by the key map, into GPT-2."""
    first = checkpoint(nanogpt.make, lora=True, merged=False)
    document = torch.load(first / "ckpt.pt", weights_only=True)
    main = {key.replace(".main_weight", ""): value for key, value in document["model"].items() if "lora_" not in key}
    (tmp_path / "main").mkdir()
    torch.save({**document, "model": main, "model_args": nanogpt.STANDARD}, tmp_path / "main" / "ckpt.pt")
    sh.ok("convert", str(first), "peft", "--to", "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    config["fan_in_fan_out"] = False
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config))
    sh.ok("base", "add", "nano", "./main")
    sh.ok("import", "./peft", "--name", "p", "--base", "nano")
    sh.ok("merge", "p", "hf")
    sh.ok("merge", "p", "u", "--format", "universal")
    model = loads_whole(tmp_path / "hf")
    reference = nano_model(first, nanogpt.LORA)
    assert torch.allclose(logits(model), logits(reference), atol=1e-5)
    written = torch.load(tmp_path / "u" / "ckpt.pt", weights_only=True)
    assert written["model_args"] == nanogpt.STANDARD
    assert written["iter_num"] == 250


def test_lora_in_a_pt_needs_no_other_base(sh: Shell, checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(nanogpt.make, lora=True, merged=False)
    sh.ok("import", str(first), "--name", "nano")
    found = sh.json("export", "nano", "hf", "--format", "hf")
    assert found["key_map"] == "nanogpt-gpt2"
    reference = nano_model(first, nanogpt.LORA)
    assert torch.allclose(logits(loads_whole(tmp_path / "hf")), logits(reference), atol=1e-5)


def test_convert_says_whether_the_base_was_verified(sh: Shell, checkpoint: Made) -> None:
    place = checkpoint(make_tuned)
    words: list[Any] = ["convert", str(place / "full"), "out", "--to", "peft", "--base", str(place / "base")]
    ran = sh(*words, "--json")
    assert (ran.code, ran.error["code"]) == (3, "no-binding")
    assert "--unverified-base" in ran.error["hint"]
    ran = sh(*words, "--expect-root", "f" * 64)
    assert ran.code == 3
    assert "[base-mismatch]" in ran.err
    found = sh.json(*words, "--unverified-base")
    assert found.keys() == KEYS
    assert found["binding"] == "none"
    assert any("not verified" in note for note in found["notes"])
    words[2] = "again"
    told = sh.ok(*words, "--expect-root", found["base_root"], "--tolerance", "0.01").out
    assert "  stated" in told
    assert "not verified" not in told


def test_refusals_have_codes_and_hints(sh: Shell, checkpoint: Made, tuned: Path) -> None:
    del tuned
    sh.ok("import", str(checkpoint(experts.make) / "checkpoint-2"), "--name", "moe")
    ran = sh("export", "moe", "x", "--format", "peft", "--json")
    assert ran.code == 2
    assert "--adapter" in ran.error["hint"]
    ran = sh("export", "moe", "x", "--format", "hf", "--json")
    assert ran.code in (1, 3)
    assert sh("export", "nothing", "x", "--format", "hf").code == 1
    assert sh("export", "full", "x").code == 2
    assert sh("export", "full", "x", "--format", "peft", "--base", "tiny", "--tolerance", "2").code == 2
    assert sh("convert", "./nowhere", "x", "--to", "hf").code == 1
    assert sh("convert", "./nowhere", "x", "--to", "hf", "--expect-root", "f" * 64).code == 2
    sh.ok("import", str(checkpoint(peft_adapters.make_unmerged)), "--name", "unmerged")
    ran = sh("export", "unmerged", "x", "--format", "hf", "--json")
    assert (ran.code, ran.error["code"]) == (1, "not-mergeable")
    assert "save_pretrained" in ran.error["hint"]
    assert not Path("x").exists()


def test_a_base_that_changed_leaves_nothing_behind(sh: Shell, checkpoint: Made, tmp_path: Path) -> None:
    place = checkpoint(make_tuned)
    for name in ("base", "full"):
        (tmp_path / name).mkdir()
        for path in (place / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    sh.ok("base", "add", "tiny", "./base")
    sh.ok("import", "./full", "--name", "full", "--base", "tiny")
    data = bytearray((tmp_path / "base" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "base" / "model.safetensors").write_bytes(data)
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = sh("export", "full", "out", "--format", "peft", "--json")
    assert (ran.code, ran.error["code"]) == (3, "base-mismatch")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_python_face(checkpoint: Made, store: Store, tmp_path: Path) -> None:
    store.import_checkpoint(checkpoint(nanogpt.make), name="nano")
    done = store.export("nano", tmp_path / "hf", format="hf")
    assert done.files == ("config.json", "model.safetensors")
    assert store["nano"].manifest.layout == "universal"


def test_stages_export_their_own_adapter(checkpoint: Made, sh: Shell) -> None:
    place = checkpoint(stages.make)
    first = sorted(path for path in place.iterdir() if path.is_dir())[0]
    sh.ok("import", str(first), "--name", "stage")
    found = sh.json("export", "stage", "a", "--format", "peft")
    assert "adapter_config.json" in found["files"]
