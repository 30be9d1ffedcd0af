"""What a cleanup takes in is bound to the base that its plan names, as an import with that base would bind it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptfmt.api import Store, cleaning
from ckptfmt.api.scanning import scan
from ckptfmt.cli.app import run
from tests.conftest import Made
from tests.fixtures import chains
from tests.reclaim.making import Place, settle

pytestmark = pytest.mark.fixtures


@pytest.fixture
def chain(checkpoint: Made) -> Path:
    return checkpoint(chains.make)


def beside(chain: Path, target: Path, model: str) -> None:
    """An adapter with a full model's files beside it."""
    shutil.copytree(chain / "stage_1", target)
    shutil.copy2(chain / model / "config.json", target)
    for path in (chain / model).glob("model*"):
        shutil.copy2(path, target)


def saved_again(base: Path, target: Path) -> None:
    """The same tensors in one file, where the base has several."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    tensors = {name: each for path in sorted(base.glob("*.safetensors")) for name, each in load_file(path).items()}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    shutil.copy2(base / "config.json", target)


@pytest.mark.parametrize("inside", [True, False], ids=["base in the tree", "base elsewhere"])
def test_what_a_cleanup_takes_in_is_bound_to_the_base_of_its_plan(place: Place, chain: Path, inside: bool) -> None:
    base = place.tree / "base" if inside else place.root / "base"
    shutil.copytree(chain / "base", base)
    place.store.add_base("tiny", base)
    shutil.copytree(chain / "continue_1", place.tree / "export")
    shutil.copytree(chain / "float16_1", place.tree / "cast")
    saved_again(base, place.tree / "again")
    beside(chain, place.tree / "adapter_and_merged", "continue_1")
    if inside:
        beside(chain, place.tree / "adapter_and_base", "base")
    settle(place.tree)
    planned = place.plan(name="x/{name}")
    named = {each.ref: each.base for each in planned.shown.checkpoints}
    wanted: dict[str, str | None] = {"x/export": "tiny", "x/again": "tiny", "x/adapter_and_merged": None}
    wanted |= {"x/cast": None}  # Its matrices are not the base's.
    wanted |= {"x/adapter_and_base": "tiny"} if inside else {}
    assert {ref: named[ref] for ref in wanted} == wanted
    done = cleaning.execute(place.store, planned)
    assert done.refused == ()
    rows = {row.ref: (row.base, row.binding) for row in place.store.list_refs("x")}
    assert rows["x/export"] == rows["x/again"] == ("tiny", "stated")
    assert rows["x/adapter_and_merged"] == rows["x/cast"] == (None, "none")  # It may be a later stage's.
    if inside:
        assert rows["x/adapter_and_base"] == ("tiny", "proven")
    # As an import would have done it: the same manifest, but for the words of the evidence.
    link = place.store.show("x/export").manifest.base
    assert cleaning.undo_cleanup(place.store, done.receipt or "").refused == ()
    place.store.import_path(place.tree / "export", name="y", base="tiny")
    other = place.store.show("y").manifest.base
    assert link is not None and other is not None
    assert (link.root, link.record, link.leaves, link.binding) == (
        other.root,
        other.record,
        other.leaves,
        other.binding,
    )
    assert "cleanup" in link.evidence


def test_an_adapter_beside_what_only_seems_to_be_the_base_is_not_bound(place: Place, chain: Path) -> None:
    """Samples of all its tensors are those of the base; one that the adapter touches is not."""
    base = place.tree / "base"
    saved_again(chain / "base", base)
    place.store.add_base("tiny", base)
    beside(chain, place.tree / "near", "base")
    for path in (place.tree / "near").glob("model*"):
        path.unlink()
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith("layers.0.mlp.down_proj.weight")]
    save_file(tensors, place.tree / "near" / "model.safetensors", {"format": "pt"})
    settle(place.tree)
    planned = place.plan(name="x/{name}")
    assert [each.base for each in planned.shown.checkpoints if each.ref == "x/near"] == ["tiny"]
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[5] += 1  # After the plan, and with the samples that it relied on.
    save_file(tensors, place.tree / "near" / "model.safetensors", {"format": "pt"})
    cleaning.execute(place.store, planned)
    rows = {row.ref: (row.base, row.binding) for row in place.store.list_refs("x")}
    assert rows["x/near"] == (None, "none")


def test_a_base_that_is_not_what_it_was_binds_nothing(place: Place, chain: Path) -> None:
    shutil.copytree(chain / "base", place.root / "base")
    place.store.add_base("tiny", place.root / "base")
    shutil.copytree(chain / "continue_1", place.tree / "export")
    settle(place.tree)
    planned = place.plan(name="x/{name}")
    assert [each.base for each in planned.shown.checkpoints] == ["tiny"]
    shutil.rmtree(place.root / "base")
    assert cleaning.execute(place.store, planned).refused == ()
    (row,) = place.store.list_refs("x")
    assert (row.base, row.needs_base) == (None, None)


def test_an_exact_copy_of_a_base_is_called_one(place: Place, chain: Path) -> None:
    shutil.copytree(chain / "base", place.root / "base")
    place.store.add_base("tiny", place.root / "base")
    saved_again(chain / "base", place.tree / "again")
    shutil.copytree(chain / "continue_1", place.tree / "export")
    settle(place.tree)
    reasons = {Path(row.path).parent.name: row for row in scan([place.tree], store=place.store).redundant}
    assert reasons["again"].reason.startswith("an exact copy of base 'tiny' of the store")
    assert (reasons["again"].kind, reasons["again"].proof) == ("base-copy", "identical")
    assert "shares matrices with base 'tiny'" in reasons["export"].reason
    shutil.copytree(chain / "base", place.tree / "base")
    reasons = {Path(row.path).parent.name: row for row in scan([place.tree]).redundant}
    assert "an exact copy of " in reasons["again"].reason and "shares matrices" in reasons["export"].reason


def test_an_undo_tells_of_the_names_that_stay(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.bloated("one")
    place.bloated("two", seed=1)
    place.store.import_path(place.tree / "two", name="mine")
    done = place.clean(name="x/{name}")
    assert done.refs == ("x/one",)
    report = cleaning.undo_cleanup(place.store, done.receipt or "")
    assert report.refs == ("x/one",) and report.files == 2 and path.exists()
    # What was dropped since is not told of.
    monkeypatch.chdir(place.tree)
    again = place.clean(name="x/{name}")
    assert again.receipt is not None and again.refs == ()  # The store has it already.
    capsys.readouterr()
    assert run(["cleanup", "--undo", done.receipt or "", "--store", place.store.path]) == 0
    told = capsys.readouterr().err
    assert "1 name of the cleanup stands in the store still; 'ckptfmt rm x/one' drops it" in told
    place.store.drop("x/one")
    run(["cleanup", "--undo", done.receipt or "", "--store", place.store.path])
    assert "in the store still" not in capsys.readouterr().err


def test_a_manifest_that_a_cleanup_bound_is_made_again(place: Place, chain: Path) -> None:
    """It is lost: what it said of its base is known again only by the words that it said it in."""
    shutil.copytree(chain / "base", place.root / "base")
    place.store.add_base("tiny", place.root / "base")
    shutil.copytree(chain / "continue_1", place.tree / "export")
    settle(place.tree)
    done = cleaning.execute(place.store, place.plan(name="x/{name}"))
    assert cleaning.undo_cleanup(place.store, done.receipt or "").refused == ()
    shown = place.store.show("x/export")
    assert shown.manifest.base is not None and shown.manifest.base.binding == "stated"
    lost = Path(place.store.path) / "manifests" / shown.id[:2] / f"{shown.id}.json"
    lost.unlink()
    with Store.open(place.store.path) as store:
        assert store.fsck(repair=True).problems == ()
        assert store.show("x/export").manifest == shown.manifest
    assert lost.exists()
