"""`ckptfmt diff`: what people read, what it ends with, and what it is told apart by."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptfmt.api import diff_words
from ckptfmt.api.diffing import diff
from ckptfmt.api.results_diff import ChangedTensor, ChangedValue, Value, ValueChanges
from ckptfmt.cli import diff_tables
from ckptfmt.cli.verbs.diff import lines
from tests.cli.made import Shell, adapter, full, weight_name

NAME = weight_name(1, "q_proj")


def tuned(source: Path, target: Path) -> Path:
    """A copy in which one weight moved by a change of rank one, and whose settings differ."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors[NAME] += np.outer(np.ones(64), np.linspace(0, 0.1, 64)).astype(np.float32)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "hidden_size": 65, "model_type": "llama"}))
    return target


@pytest.fixture
def two(store: Shell, elsewhere: Path) -> Shell:
    """The store of `store`, with `full/base` and `full/tuned`."""
    tuned(elsewhere / "base", elsewhere / "tuned")
    store.ok("import", "./base", "--name", "full/base", "--base", "tiny")
    store.ok("import", "./tuned", "--name", "full/tuned", "--base", "tiny")
    return store


def test_what_changed_is_told(two: Shell) -> None:
    out = two.ok("diff", "full/base", "full/tuned").out
    assert "A  full/base" in out
    assert "base      the same: tiny" in out
    assert "files     2 changed" in out
    assert "tensors   1 changed, 4 same; change 0.0" in out
    [row] = [line for line in out.splitlines() if line.endswith(NAME)]
    change, cosine, largest, elements, bits, rank, name = row.split()
    assert float(change) == pytest.approx(0.058, abs=0.003)
    assert (cosine, largest, elements, rank, name) == ("0.9983", "0.1", "98%", "1", NAME)
    assert bits.endswith("%")
    assert re.search(r"^1 +0\.05\d +\.$", out, re.MULTILINE), "layer 1: q_proj changed, v_proj did not"
    assert re.search(r"^0 +\. +\.$", out, re.MULTILINE)
    assert re.search(r"model\.hidden_size +64 +65", out) or "hidden_size" not in out


def test_exit_codes(two: Shell) -> None:
    assert two.ok("diff", "full/base", "full/tuned").code == 0
    assert two("diff", "full/base", "full/tuned", "--exit-code").code == 4
    assert two("diff", "full/base", "full/base@1", "--exit-code").code == 0
    assert "no differences" in two.ok("diff", "full/base", "./base").out
    assert two("diff", "full/base", "full/none", "--exit-code").code == 1
    assert two("diff", "full/base", "./none").code == 1
    assert two("diff", "full/base", "no ref at all").code == 2
    assert two("diff", "full/base").code == 2
    ran = two("diff", "full/base", "full/tuned", "--exit-code", "--json")
    assert (ran.code, ran.document["summary"]["identical"]) == (4, False)


def test_a_file_that_holds_no_weights_is_a_difference(two: Shell, elsewhere: Path) -> None:
    shutil.copytree(elsewhere / "base", elsewhere / "told")
    (elsewhere / "told" / "README.md").write_text("a model")
    ran = two("diff", "full/base", "./told", "--exit-code")
    assert ran.code == 4
    assert re.search(r"^added +7 B +README\.md$", ran.out, re.MULTILINE)
    assert two("diff", "./told", "full/base", "--exit-code").code == 4


def test_damaged_files_are_malformed_input(two: Shell, elsewhere: Path) -> None:
    data = (elsewhere / "tuned" / "model.safetensors").read_bytes()
    (elsewhere / "tuned" / "model.safetensors").write_bytes(data[:-9])
    ran = two("diff", "full/base", "./tuned")
    assert ran.code == 5
    assert "model.safetensors" in ran.err


def test_two_paths_need_no_store(sh: Shell, elsewhere: Path) -> None:
    full(elsewhere / "one")
    tuned(elsewhere / "one", elsewhere / "two")
    document = sh.json("diff", "./one", str(elsewhere / "two"))
    assert [each["name"] for each in document["tensors"]["changed"]] == [NAME]
    assert document["a"]["kind"] == document["b"]["kind"] == "path"
    assert sh("diff", "./one", "two").code == 10, "a ref needs one"
    assert sh.json("diff", "./one/model.safetensors", "./two/model.safetensors")["tensors"]["same"] == 4


def test_a_name_that_may_be_a_path_is_told_so(two: Shell, elsewhere: Path) -> None:
    ran = two("diff", "full/base", "tuned")
    assert ran.code == 1
    assert "hint: if the path is meant: ./tuned" in ran.err
    (elsewhere / "full").mkdir()
    shutil.copytree(elsewhere / "tuned", elsewhere / "full" / "base")
    out = two.ok("diff", "full/base", "full/tuned").out
    assert "note: A is the store's; the path of that name is ./full/base" in out


def test_the_document_says_all(two: Shell) -> None:
    document = two.json("diff", "full/base", "full/tuned")
    [changed] = document["tensors"]["changed"]
    assert set(changed) == set(ChangedTensor.__struct_fields__)
    assert changed["effective_rank"] == pytest.approx(1.0)
    assert document["tensors"]["same"] == 4 == len(document["tensors"]["same_names"])
    assert {cell["layer"] for cell in document["summary"]["cells"]} == {None, "0", "1"}


def test_adapters_are_told_as_updates(store: Shell, elsewhere: Path) -> None:
    adapter(elsewhere / "stage-2", seed=2, rank=6)
    store.ok("import", "./stage-2", "--name", "runs/stage-2", "--parent", "runs/stage-1", "--how", "continue")
    out = store.ok("diff", "runs/stage-1", "runs/stage-2").out
    assert "lineage   B was trained from A" in out
    assert "adapter default: updates of 4 modules differ; change 1." in out
    assert re.search(r"4/6 .* model\.layers\.1\.self_attn\.q_proj$", out, re.MULTILINE)
    assert "lora_A" not in out, "factors tell nothing beside the updates"
    assert re.search(r"adapters\.default\.r +4 +6", out)


def test_factors_that_are_no_numbers_have_no_change_to_tell(elsewhere: Path) -> None:
    adapter(elsewhere / "one")
    shutil.copytree(elsewhere / "one", elsewhere / "two")
    tensors = load_file(elsewhere / "two" / "adapter_model.safetensors")
    for each in tensors.values():
        each[...] = np.nan
    save_file(tensors, elsewhere / "two" / "adapter_model.safetensors", metadata={"format": "pt"})
    report = diff(None, elsewhere / "one", elsewhere / "two")
    said = str(diff_tables.adapter_lines(report.adapters, None, None)[0])
    assert "change not finite" in said
    assert "from 0" not in said


def test_a_model_against_an_adapter_is_told_in_a_sentence(two: Shell) -> None:
    out = two.ok("diff", "full/base", "runs/stage-1").out
    assert "note: A is a full model and B an adapter (LORA): their weights are not compared" in out
    assert "lora_A" not in out


def report_of(elsewhere: Path, layers: int, modules: tuple[str, ...]) -> Any:
    """A model in which everything changed."""
    for at, name in enumerate(("one", "two")):
        random = np.random.default_rng(at)
        tensors = {
            f"model.layers.{layer}.{module}.weight": random.standard_normal((4, 4)).astype(np.float32)
            for layer in range(layers)
            for module in modules
        }
        (elsewhere / name).mkdir()
        save_file(tensors, elsewhere / name / "model.safetensors")
        settings = {"model_type": "llama", "architectures": [f"A very long name of an architecture {at} " * 4]}
        (elsewhere / name / "config.json").write_text(json.dumps(settings))
    return diff(None, str(elsewhere / "one"), str(elsewhere / "two"))


LLAMA = (
    *("input_layernorm", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "post_attention_layernorm"),
    *("self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"),
)


@pytest.mark.parametrize(
    "modules", [LLAMA[1:4], LLAMA, tuple(f"a.very.long.name.of.module.number_{at}" for at in range(9))]
)
@pytest.mark.parametrize("most", [3, None])
def test_it_fits_a_terminal(elsewhere: Path, modules: tuple[str, ...], most: int | None) -> None:
    report = report_of(elsewhere, 12, modules)
    told = [line if isinstance(line, str) else line.text for line in lines(report, width=80, most=most)]
    sides = {report.a.name, report.b.name}
    assert [line for line in told if len(line) > 80 and not any(side in line for side in sides)] == []
    text = "\n".join(told)
    long = modules[0].startswith("a.very")
    assert any(line.startswith("LAYER") for line in told) != long, "a table where it fits"
    assert ("IN LAYER" in text) == long, "else a line a module"
    assert ("--all shows all" in text) == (most is not None)
    if modules == LLAMA:
        [header] = [line for line in told if line.startswith("LAYER")]
        assert header.split() == ["LAYER", "input_…", "down", "gate", "up", "post_a…", "k", "o", "q", "v"]


def test_nothing_is_sent_that_a_terminal_obeys(sh: Shell, elsewhere: Path) -> None:
    evil = "w\x1b[2J\x07"
    for name in ("one", "two"):
        (elsewhere / name).mkdir()
        save_file({evil: np.full(3, ord(name[0]), np.float32)}, elsewhere / name / "model.safetensors")
        (elsewhere / name / "config.json").write_text(json.dumps({"model_type": evil + name, evil: name}))
    out = sh.ok("diff", "./one", "./two").out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[2J" in out


def test_numbers_are_short() -> None:
    assert [diff_words.number(each) for each in (0.0, 0.012345, 1.2345e-5, 1234.5, None)] == [
        "0",
        "0.012",
        "1.2e-5",
        "1.2e3",
        "",
    ]
    assert [diff_words.share(each) for each in (0.0, 1e-5, 0.005, 0.05, 0.5, 1.0, None)] == [
        "0%",
        "<0.01%",
        "0.50%",
        "5.0%",
        "50%",
        "100%",
        "",
    ]


def test_all_and_top(elsewhere: Path, sh: Shell) -> None:
    report_of(elsewhere, 12, LLAMA[1:4])
    assert sh.ok("diff", "./one", "./two", "--top", "5").out.count("up_proj.weight") < 5
    assert "and 31 changed tensors more" in sh.ok("diff", "./one", "./two", "--top", "5").out
    out = sh.ok("diff", "./one", "./two", "--all").out
    assert out.count("up_proj.weight") == 12
    assert "more" not in out
    assert "RANK" not in sh.ok("diff", "./one", "./two", "--no-rank").out


def test_values_that_look_alike_are_told_with_all_their_digits() -> None:
    found = ValueChanges(
        (Value("new", 0.1),), (), (ChangedValue("loss", 5.29170, 5.29171), ChangedValue("lr", 1e-3, 2e-3)), 0
    )
    told = [
        line if isinstance(line, str) else line.text for line in diff_tables.value_lines("Metrics", found, 80, None)
    ]
    assert [line.split() for line in told] == [
        ["METRICS", "A", "B"],
        ["loss", "5.2917", "5.29171"],
        ["lr", "0.001", "0.002"],
        ["new", "-", "0.1"],
    ]
