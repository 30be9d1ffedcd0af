"""What the command line says leads on: each hint is something that can be done next, by the verb that was asked."""

from __future__ import annotations

import errno
import shlex
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.reclaim.taking import bases_outside
from ckptfmt.storage import durable
from tests.cli.made import Ran, Shell, adapter, full, lying
from tests.cli.test_errors import change_the_base
from tests.faults import seam


def hint_of(ran: Ran) -> str:
    assert ran.code != 0 and ran.err.count("hint: ") == 1, ran
    return ran.err.partition("hint: ")[2].strip()


@pytest.mark.parametrize(
    ("line", "has_the_option"),
    [
        ("import ./lying --name x", True),
        ("diff ./lying ./other", False),
        ("base add x ./lying", False),
        ("convert ./lying ./out --to universal", False),
    ],
)
def test_a_damaged_file_hints_at_an_option_of_the_verb(store: Shell, line: str, has_the_option: bool) -> None:
    lying(Path("lying"))
    ran = store(*line.split())
    assert ran.code == 5
    assert ("--damaged-as-opaque" in hint_of(ran)) is has_the_option
    assert "save it again" in hint_of(ran)


def test_a_name_of_a_base_hints_at_the_bases(store: Shell) -> None:
    assert hint_of(store("show", "bases/nobody")) == "ckptfmt base ls"
    assert hint_of(store("show", "nobody")) == "ckptfmt ls"


def test_the_beginning_of_names_is_told_with_what_is_below(store: Shell) -> None:
    for words in (["show", "runs"], ["diff", "runs", "full/other"], ["restore", "runs", "./out"]):
        ran = store(*words)
        assert ran.code == 1 and "no ref 'runs'; below it are runs/stage-1 [not-found]" in ran.err
        assert hint_of(ran) == "ckptfmt ls runs"
    store.ok("rm", "runs/stage-1")
    assert "below it" not in store("show", "runs").err


def test_a_pattern_where_a_name_is_wanted_says_where_patterns_go(store: Shell) -> None:
    ran = store("rm", "runs/*")
    assert ran.code == 2 and "[ref-name]" in ran.err
    assert hint_of(ran).startswith("patterns are for 'ckptfmt ls' and 'ckptfmt prune'")
    assert [row["ref"] for row in store.json("ls", "runs/*")] == ["runs/stage-1"]
    assert hint_of(store("rm", "runs//x")) == "a name such as runs/exp1/stage-2"


def test_the_beginning_of_an_id_says_how_long_it_has_to_be(store: Shell) -> None:
    manifest = store.json("show", "full/other")["id"]
    ran = store("show", manifest[:5])
    assert ran.code == 1 and "give at least 8" in ran.err
    assert hint_of(ran) == f"ckptfmt show {manifest[:8]}"
    store.ok("show", manifest[:8])
    assert "digits" not in store("show", "abcde").err  # No id begins so.
    # Two that begin alike: as far as that goes, and one more.
    directory = next(Path(".ckptfmt/manifests").rglob(f"{manifest}.json")).parent
    (directory / f"{manifest[:20]}{'0' * 44}.json").write_bytes(b"{}")
    ran = store("show", manifest[:10])
    assert ran.code == 2 and "begins 2 manifest ids; give at least 21 digits [ambiguous]" in ran.err
    assert "give at least 21" in store("show", manifest[:7]).err


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("init ./new", "another directory: ckptfmt init PATH"),
        ("restore runs/stage-1 ./out", "another directory to write to"),
        ("merge runs/stage-1 ./out", "another directory to write to"),
    ],
)
def test_where_nothing_may_be_written_another_place_is_named(store: Shell, line: str, instead: str) -> None:
    observer = seam.failing_with(errno.EACCES, 0, lasting=True)
    observer.only = lambda call: call == "mkdir"
    with durable.observed(observer):
        ran = store(*line.split())
    assert observer.hit
    assert ran.code == 1 and "[read-only]" in ran.err
    assert hint_of(ran) == f"check the permissions, or choose {instead}"


def test_a_path_in_a_hint_is_one_word(store: Shell) -> None:
    place = Path("my store").absolute()
    assert hint_of(store("ls", "--store", str(place))) == f"ckptfmt init '{place}'"
    for name in ("one", "two"):
        full(Path("my models") / name)
    hint = hint_of(store("import", "./my models", "--name", "m"))
    assert shlex.split(hint)[2].endswith("my models"), hint


def test_only_a_verb_that_is_nearly_meant_is_named(sh: Shell) -> None:
    assert "did you mean" not in sh("frob").err
    for typed, meant in (("imprt", "import"), ("rolback", "rollback"), ("verfy", "verify"), ("restroe", "restore")):
        assert f"{meant!r}" in sh(typed).err


def test_every_bad_name_of_many_is_told_before_anything_is_written(store: Shell) -> None:
    for name in ("a" * 190, "fine", "b" * 195):
        full(Path("many") / name)
    before = store.json("ls")
    ran = store("import", "./many", "--name", "sweep/longer/{name}")
    assert ran.code == 2 and "2 of 3 names cannot be given" in ran.err and "[ref-name]" in ran.err
    assert "a" * 190 in ran.err and "b" * 195 in ran.err and "fine" not in ran.err
    for name in ("run 1", "run+1", "run-2", "run 2", "run=2"):
        full(Path("alike") / name)
    ran = store("import", "./alike", "--name", "{name}")
    assert ran.code == 2 and "both be called 'run-1'" in ran.err and "all be called 'run-2'" in ran.err
    assert store.json("ls") == before


def test_prune_tells_of_patterns_that_nothing_fits(store: Shell) -> None:
    ran = store.ok("prune", "runs/*", "sweep/*", "--keep-last", "1")
    assert "no ref fits 'sweep/*'" in ran.err and "'runs/*'" not in ran.err
    assert store.json("prune", "runs/*", "sweep/*", "--keep-last", "1")["unmatched"] == ["sweep/*"]


def test_a_rollback_needs_no_number(store: Shell) -> None:
    full(Path("next"), seed=9)
    store.ok("import", "./next", "--name", "full/other")
    assert "full/other@3 is" in store.ok("rollback", "full/other").out
    assert "as full/other@1 was" not in store.ok("rollback", "full/other").out
    assert store.json("rollback", "full/other@1")["returned_to"] == 1


def test_an_exact_copy_of_a_base_is_called_one(store: Shell) -> None:
    full(Path("copy"))
    ran = store.ok("import", "./copy", "--name", "copy")
    assert "copy: an exact copy of base 'tiny': every tensor is the same" in ran.err
    assert "an exact copy of base 'tiny'" in store.ok("show", "copy").out
    assert store.json("show", "copy")["copy_of"] == "tiny"
    for ref in ("full/other", "runs/stage-1"):
        assert store.json("show", ref)["copy_of"] is None
        assert "exact copy" not in store.ok("show", ref).out


def test_optimize_counts_what_ls_counts(store: Shell) -> None:
    """Two names of one checkpoint are one piece of work, and it says so."""
    store.ok("import", "./other", "--name", "full/again")
    ran = store.ok("optimize", "--quick")
    assert len(store.json("ls")) == 3 and "2 checkpoints (1 other name of the same): " in ran.out
    done = {each["ref"]: each["also"] for each in store.json("optimize", "--quick")["checkpoints"]}
    assert done == {"full/again": ["full/other"], "runs/stage-1": []}


def stages(directory: Path) -> Path:
    for number in (1, 2, 3):
        adapter(directory / f"stage_{number}", seed=number)
    return directory


def test_stages_that_are_linked_by_their_names_alone_say_what_a_merge_lacks(store: Shell) -> None:
    stages(Path("boot"))
    ran = store.ok("import", "./boot", "--name", "b/{name}", "--base", "tiny")
    assert store("merge", "b/stage_2", "./out").code == 1
    (note,) = [line for line in ran.err.splitlines() if line.startswith("note: ")]
    assert "b/stage_2, b/stage_3: " in note
    command = note[note.index("ckptfmt import") : note.index(" continue") + len(" continue")]
    told = store.ok(*shlex.split(command)[1:])
    assert "note: " not in told.err
    store.ok("merge", "b/stage_2", "./out")
    assert store.json(*shlex.split(command)[1:])["notes"] == []
    # One at a time, too; full models have nothing to be merged.
    alone = store.json("import", "./boot/stage_2", "--name", "c/two", "--base", "tiny", "--parent", "runs/stage-1")
    assert "--parent runs/stage-1 --how continue" in alone["notes"][0]
    words = ("./boot/stage_2", "--name", "c/three", "--base", "tiny", "--parent", "runs/stage-1")
    dtyped = store.json("import", *words, "--stage-dtype", "bf16", "--damaged-as-opaque")["notes"][0]
    assert "--stage-dtype bf16 --damaged-as-opaque --how continue" in dtyped  # Another one would be merged otherwise.
    for number in (1, 2):
        full(Path("whole") / f"stage_{number}", seed=number)
    assert store.json("import", "./whole", "--name", "w/{name}")["notes"] == []


def test_strangers_that_are_bound_to_a_base_are_told(store: Shell) -> None:
    """They are taken in as before: a base may be stated of anything."""
    full(Path("many/kin"), seed=1)
    full(Path("many/wide"), seed=2, width=96)
    adapter(Path("many/fits"), seed=3)
    adapter(Path("many/broad"), seed=4, width=96)
    done = store.json("import", "./many", "--name", "m/{name}", "--base", "tiny")
    assert done["failed"] == [] and {each["binding"] for each in done["checkpoints"]} == {"stated"}
    notes = {each["ref"]: each["notes"] for each in done["checkpoints"]}
    assert notes["m/kin"] == notes["m/fits"] == []
    assert "5 of 5 tensors fit none of base 'tiny'" in notes["m/wide"][0]
    assert "8 of 8 tensors fit none of base 'tiny'" in notes["m/broad"][0]
    assert "fit none of base 'tiny'" in store.ok("import", "./many/wide", "--name", "w", "--base", "tiny").out


def test_what_needs_a_base_that_nobody_named_is_marked(store: Shell) -> None:
    """As dangerous as one that is bound to it: without the base's files neither comes back."""
    store.ok("import", "./base", "--name", "unbound")
    assert store.json("show", "unbound")["needs_base"]["name"] == "tiny"
    for out in (store.ok("ls", "unbound").out, store.ok("import", "./base", "--name", "unbound").out):
        assert "needs tiny *" in out


def test_only_bases_that_are_needed_are_named(store: Shell) -> None:
    """Bases share small files: who has one of them kept after the other, and deletes that, loses what needs it."""
    full(Path("second"), seed=9)
    store.ok("base", "add", "second", "./second")
    assert Path("second/config.json").read_bytes() == Path("base/config.json").read_bytes()
    for name, base in (("one", "base"), ("two", "second")):
        store.ok("import", f"./{base}", "--name", name)
    needed = {row["ref"]: row["needs_base"] for row in store.json("ls") if row["ref"] in ("one", "two")}
    assert {ref: (base["name"], base["others"]) for ref, base in needed.items()} == {
        "one": ("tiny", []),
        "two": ("second", []),
    }
    store.ok("bind", "two", "--base", "tiny")  # Whatever is said of it, its tensors lie in the other one.
    assert store.json("show", "two")["needs_base"]["name"] == "second"
    with Store.open(".ckptfmt") as opened:  # And that one alone is what a cleanup copies in.
        assert [base.name for base in bases_outside(opened.engine, opened.show("two").manifest)] == ["second"]


def test_a_name_that_stands_for_something_else_from_now_on_says_how_to_return(store: Shell) -> None:
    again = store.ok("import", "./other", "--name", "full/other")
    assert "until now" not in again.err
    told = store.ok("import", "./stage-1", "--name", "full/other").err
    assert "full/other: named another checkpoint until now; 'ckptfmt rollback full/other@1' returns to it" in told
    store.ok("rollback", "full/other@1")
    assert store.json("show", "full/other")["layout"] == "hf-full"
    assert "until now" not in store.ok("base", "add", "tiny", "./base").err
    told = store.ok("base", "add", "tiny", "./other").err
    assert "'ckptfmt rollback bases/tiny@1' returns to it" in told
    store.ok("rollback", "bases/tiny@1")
    assert store.json("base", "verify", "tiny")["ok"]


def test_a_base_that_changed_hints_at_itself(store: Shell, elsewhere: Path) -> None:
    """A checkpoint is stored against it, so that a restore meets the difference: by content, not by name."""
    full(elsewhere / "again")
    store.ok("import", "./again", "--name", "full/again", "--base", "tiny")
    store.ok("restore", "full/again", "./before")
    change_the_base(elsewhere)
    ran = store("restore", "full/again", "./after")
    assert ran.code == 3 and "the copy in base 'tiny' is not what was recorded" in ran.err
    assert hint_of(ran) == "ckptfmt base verify tiny --full"
    assert store(*hint_of(ran).split()[1:]).code == 3
