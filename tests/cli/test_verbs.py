"""What verbs do and say, beyond the keys of their documents."""

from __future__ import annotations

from pathlib import Path

from tests.cli.made import Shell, full
from tests.cli.test_errors import change_the_base, damage_a_shard


def test_restore_gives_the_files_back(store: Shell, elsewhere: Path) -> None:
    ran = store.ok("restore", "full/other", "./out")
    assert ran.out.startswith("2 files, ")
    for name in ("model.safetensors", "config.json"):
        assert (elsewhere / "out" / name).read_bytes() == (elsewhere / "other" / name).read_bytes()


def test_verify_names_what_is_damaged_and_whom_it_harms(store: Shell, elsewhere: Path) -> None:
    full(elsewhere / "twin", seed=5)
    store.ok("import", "./twin", "--name", "full/twin")
    assert store.ok("verify", "--all").out.endswith("all sound\n")
    damage_a_shard(elsewhere)
    ran = store("verify", "--all")
    assert ran.code == 3
    assert ran.out.startswith("damaged: object ")
    assert "3 checkpoints and 1 base harmed" in ran.out
    assert "  harms full/other\n  harms full/twin\n" in ran.out
    document = store("verify", "--all", "--json")
    assert document.code == 3
    damaged = document.document["damaged"]
    assert any({"full/other", "full/twin"} <= set(each["checkpoints"]) for each in damaged)
    parts = [store("verify", "--all", "--subset", f"{part}/3", "--json").document for part in (1, 2, 3)]
    whole = document.document
    assert sum(part["objects"] for part in parts) == whole["objects"]


def test_a_base_that_changed_is_told_apart(store: Shell, elsewhere: Path) -> None:
    assert "is what was recorded" in store.ok("base", "verify", "tiny").out
    change_the_base(elsewhere)
    ran = store("base", "verify", "tiny")
    assert ran.code == 3
    assert "is NOT what was recorded" in ran.out
    assert "differs: model.layers.1.self_attn.v_proj.weight" in ran.out
    document = store("base", "verify", "tiny", "--json")
    assert document.code == 3
    assert (document.document["ok"], document.document["mismatched"]) == (
        False,
        ["model.layers.1.self_attn.v_proj.weight"],
    )
    full(elsewhere / "moved")
    assert store.json("base", "verify", "tiny", "--path", "./moved")["ok"] is True


def test_a_dropped_name_comes_back(store: Shell) -> None:
    ran = store.ok("rm", "runs/stage-1")
    assert ran.out == "dropped runs/stage-1\n"
    assert "ckptfmt rollback runs/stage-1@1" in ran.err
    assert store("show", "runs/stage-1").code == 1
    told = store.ok("log", "runs/stage-1").out
    assert told.startswith("generations of runs/stage-1\n") and "dropped" in told
    store.ok("rollback", "runs/stage-1@1")
    assert store.json("show", "runs/stage-1")["generation"] == 3


def test_a_pinned_name_is_not_dropped(store: Shell) -> None:
    store.ok("pin", "runs/stage-1")
    assert "pinned" in store.ok("ls").out
    ran = store("rm", "runs/stage-1")
    assert ran.code == 1
    assert "hint: ckptfmt pin runs/stage-1 --off" in ran.err
    store.ok("pin", "runs/stage-1", "--off")
    store.ok("rm", "runs/stage-1")


def test_of_several_names_each_is_dropped_that_can_be(store: Shell) -> None:
    store.ok("pin", "runs/stage-1")
    ran = store("rm", "full/other", "runs/stage-1", "runs/none")
    assert (ran.code, ran.out) == (1, "dropped full/other\n")
    assert "hint: ckptfmt pin runs/stage-1 --off" in ran.err
    assert "no ref 'runs/none'" in ran.err
    assert [row["ref"] for row in store.json("ls")] == ["runs/stage-1"]
    store.ok("rollback", "full/other@1")
    store.ok("pin", "runs/stage-1", "--off")
    assert store.json("rm", "full/other")["generation"] == 4
    store.ok("rollback", "full/other@1")
    ran = store("rm", "full/other", "runs/stage-1", "runs/none", "--json")
    assert [each["ref"] for each in ran.document["dropped"]] == ["full/other", "runs/stage-1"]
    assert [each["code"] for each in ran.document["failed"]] == ["not-found"]


def test_labels_are_listed(store: Shell) -> None:
    store.ok("tag", "runs/stage-1", "best", "published")
    assert store.json("ls", "runs/*")[0]["labels"] == ["best", "published"]
    assert "best, published" in store.ok("ls").out
    store.ok("tag", "runs/stage-1", "best", "--remove")
    assert store.json("ls", "runs/*")[0]["labels"] == ["published"]


def test_a_renamed_checkpoint_has_its_new_name_only(store: Shell) -> None:
    assert store.ok("rename", "runs/stage-1", "runs/one").out == "runs/stage-1 is now runs/one\n"
    assert [row["ref"] for row in store.json("ls", "runs/*")] == ["runs/one"]


def test_show_tells_what_a_checkpoint_is(store: Shell) -> None:
    told = store.ok("show", "runs/stage-1").out
    for part in ("runs/stage-1@1", "peft", "tiny (stated: --base tiny)", "8 adapter (F32)", "LORA", "r 4", "q_proj"):
        assert part in told
    tensors = store.ok("show", "runs/stage-1", "--tensors").out.splitlines()
    assert len(tensors) == 1 + 8
    assert "lora_A" in tensors[1]
    assert "4x64" in tensors[1]


def test_bases_are_listed(store: Shell, elsewhere: Path) -> None:
    told = store.ok("base", "ls").out
    assert "reference" in told
    assert str(elsewhere / "base") in told
    assert "copied in" in store.ok("base", "keep", "tiny").out
    assert "already" in store.ok("base", "keep", "tiny").out
    assert "copy" in store.ok("base", "ls").out


def test_stats_tell_of_plans(store: Shell) -> None:
    told = store.ok("stats").out
    for part in ("checkpoints", "logical -> stored", "ENCODING", "RUN", "adapters only", "all stages merged"):
        assert part in told


def test_a_listing_by_pattern(store: Shell) -> None:
    assert "runs/stage-1" not in store.ok("ls", "full/*").out
    ran = store.ok("ls", "nothing/*")
    assert ran.out == ""
    assert "no checkpoints like 'nothing/*'" in ran.err


def test_a_base_that_is_away_is_one_matter(store: Shell, elsewhere: Path) -> None:
    """However many objects lie there; which they are is for scripts."""
    store.ok("import", "./base", "--name", "full/copy", "--base", "tiny")
    (elsewhere / "base").rename(elsewhere / "away")
    ran = store("verify", "--all")
    assert ran.code == 3
    assert ran.out.count("damaged: ") == 1 and ran.out.count("harms full/copy") == 1
    named = store("verify", "--all", "--json").document["damaged"]
    assert len(named) > 1 and f"damaged: {len(named)} objects" in ran.out
