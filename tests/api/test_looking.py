"""What ls, show, log and stats say: the right sizes, the same everywhere, and all of it JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ckptfmt import Store
from ckptfmt.format.manifest import objects_of
from tests.api.test_names import model
from tests.conftest import Made
from tests.fixtures import hf, peft_adapters, stages, trainer
from tests.transfer.headers import Written, file_of, noise
from tests.transfer.trees import objects_in, shard_bytes

pytestmark = pytest.mark.fixtures


@pytest.fixture
def full(store: Store, checkpoint: Made) -> Store:
    """A base, an adapter on it, stages, a Trainer's run."""
    store.add_base("llama", checkpoint(hf.make, steps=0), keep="copy")
    store.import_checkpoint(checkpoint(peft_adapters.make), "adapters/one", base="llama", message="the first")
    store.import_path(checkpoint(stages.make), name="boot/{name}", base="llama")
    store.import_path(checkpoint(trainer.make_bloated), name="sweep/a/{name}", effort="fast")
    return store


def same_as_json(value: Any) -> None:
    """It survives JSON, and plain data of it are what the standard library can write."""
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value
    assert json.loads(json.dumps(msgspec.to_builtins(value), allow_nan=False)) == msgspec.json.decode(
        msgspec.json.encode(value)
    )


def test_everything_is_json(full: Store, checkpoint: Made, tmp_path: Path) -> None:
    source = checkpoint(peft_adapters.make, method="dora")
    results: list[Any] = [
        *full.list_refs(),
        *(full.show(row.ref) for row in full.list_refs()),
        *(full.log(row.ref) for row in full.list_refs()),
        full.stats(),
        full.verify(),
        full.restore("adapters/one", tmp_path / "back"),
        full.plan_import(source, name="x"),
        full.import_path(source, name="x"),
        full.tag("x", ("a",)),
        full.bind("x", "llama"),
        *full.list_bases(),
        full.verify_base("llama"),
        full.keep_base("llama"),
    ]
    for result in results:
        same_as_json(result)


def test_a_row_says_what_show_says(full: Store) -> None:
    rows = full.list_refs()
    assert [row.ref for row in rows] == sorted(row.ref for row in rows) and len(rows) == 9
    for row in rows:
        shown = full.show(row.ref)
        manifest = shown.manifest
        assert (row.manifest, row.generation, row.layout) == (shown.id, shown.generation, manifest.layout)
        assert (row.logical_bytes, row.stored_bytes) == (shown.logical_bytes, shown.stored_bytes)
        assert row.logical_bytes == sum(file.size for file in manifest.files)
        assert row.metrics == manifest.metrics and row.step == manifest.step
        assert row.base == (manifest.base.name if manifest.base else None)
        assert row.needs_base is None
        assert sum(stored.logical_bytes for stored in shown.encodings.values()) == sum(objects_of(manifest).values())
        assert sum(stored.stored_bytes for stored in shown.encodings.values()) == shown.stored_bytes
        assert sum(stored.objects for stored in shown.encodings.values()) == len(objects_of(manifest))
        assert [each.name for each in shown.tensor_encodings] == [tensor.name for tensor in manifest.tensors]
        assert row.created.endswith("Z") and len(row.created) == 20
    assert {row.ref: row.stage for row in rows if row.stage} == {
        f"boot/stage_{n}_{kind}": n for n in (1, 2, 3) for kind in ("lora", "outputs")
    }
    assert any(row.step == 4 and "eval_loss" in row.metrics for row in rows if row.ref.startswith("sweep"))


def test_patterns(full: Store) -> None:
    everything = [row.ref for row in full.list_refs()]

    def refs(pattern: str) -> list[str]:
        return [row.ref for row in full.list_refs(pattern)]

    assert refs("boot") == refs("boot/") == refs("boot/*") == [ref for ref in everything if ref.startswith("boot/")]
    assert refs("*lora") == ["boot/stage_1_lora", "boot/stage_2_lora", "boot/stage_3_lora"]
    assert refs("adapters/one") == ["adapters/one"]
    assert refs("boo") == refs("nothing") == refs("bases") == refs("adapters/one/two") == []
    assert refs("*") == everything
    assert refs("boot/stage_[12]_outputs") == ["boot/stage_1_outputs", "boot/stage_2_outputs"]


def test_stats_add_up(full: Store) -> None:
    stats = full.stats()
    rows = full.list_refs()
    assert (stats.checkpoints, stats.bases) == (len(rows), 1)
    assert stats.logical_bytes == sum(row.logical_bytes for row in rows)
    assert stats.logical_bytes == sum(run.logical_bytes for run in stats.by_run.values())
    assert stats.stored_bytes == sum(each.stored_bytes for each in stats.by_encoding.values())
    assert sum(each.objects for each in stats.by_encoding.values()) == len(objects_in(Path(full.path)))
    assert stats.shard_bytes == shard_bytes(Path(full.path)) > stats.stored_bytes
    assert sum(run.checkpoints for run in stats.by_run.values()) == len(rows)
    assert {run: each.checkpoints for run, each in stats.by_run.items()} == {
        "adapters": 1, "boot": 6, "sweep/a": 2
    }  # fmt: skip
    for run, each in stats.by_run.items():
        mine = [row for row in rows if (row.ref.rpartition("/")[0] or row.ref) == run]
        assert each.exclusive_bytes == sum(row.exclusive_bytes for row in mine)


def test_the_storage_plans(full: Store) -> None:
    """Seed 0: adapters only, with the final stage merged, all stages merged."""
    plans = {plan.name: plan.bytes for plan in full.stats().plans}
    base = full.list_bases()[0].bytes
    bound = [row for row in full.list_refs() if row.base is not None]
    assert len(plans) == 3 and len(bound) == 7
    least, final, most = plans.values()
    assert base < least < final < most
    assert most - least == len({row.manifest for row in bound}) * base
    assert (final - least) % base == 0 and 0 < final - least < most - least


def test_exclusive_bytes_are_what_a_drop_would_free(full: Store) -> None:
    before = full.stats().stored_bytes
    for row in full.list_refs():
        full.drop(row.ref)
        assert before - full.stats().stored_bytes == row.exclusive_bytes, row.ref
        full.rollback(f"{row.ref}@{row.generation}")
        assert full.stats().stored_bytes == before
    assert sum(row.exclusive_bytes for row in full.list_refs()) < before


def test_shared_and_exclusive_by_hand(store: Store, tmp_path: Path) -> None:
    """Three models: one tensor of its own each, one that two share, one that all share. All stored raw."""
    sizes = {"own": 1000, "two": 2000, "all": 4000}
    for number in range(3):
        directory = tmp_path / f"m{number}"
        directory.mkdir()
        seeds = {"own": number, "two": 10 if number < 2 else 11, "all": 20}
        tensors = [Written(part, "U8", (size,), noise(size, seeds[part])) for part, size in sizes.items()]
        (directory / "model.safetensors").write_bytes(file_of(*tensors, metadata={"n": "x" * 600 + str(number)}))
        store.import_checkpoint(directory, f"m{number}")
    rows = {row.ref: row for row in store.list_refs()}
    skeletons = {ref: row.stored_bytes - 7000 for ref, row in rows.items()}
    assert all(0 < size < 1000 for size in skeletons.values())
    for ref in ("m0", "m1"):
        assert rows[ref].exclusive_bytes == 1000 + skeletons[ref]
    assert rows["m2"].exclusive_bytes == 3000 + skeletons["m2"]
    assert store.stats().stored_bytes == 3 * 1000 + 2 * 2000 + 4000 + sum(skeletons.values())
    store.rename("m2", "other")
    store.import_checkpoint(tmp_path / "m2", "twice")
    rows = {row.ref: row for row in store.list_refs()}
    assert rows["other"].exclusive_bytes == rows["twice"].exclusive_bytes == 0  # Dropping one frees nothing.
    runs = store.stats().by_run
    assert {run: each.exclusive_bytes for run, each in runs.items()} == {
        ref: row.exclusive_bytes for ref, row in rows.items()
    }
    store.drop("twice")
    assert {row.ref: row for row in store.list_refs()}["other"].exclusive_bytes == 3000 + skeletons["m2"]


def test_another_process_and_a_lost_catalog_say_the_same(
    full: Store, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, stats = full.list_refs(), full.stats()
    with Store.open(full.path) as again:
        assert (again.list_refs(), again.stats()) == (rows, stats)
    monkeypatch.setenv("CKPTFMT_CACHE", str(tmp_path / "fresh"))
    with Store.open(full.path) as fresh:
        assert (fresh.list_refs(), fresh.stats(), fresh.verify().damaged) == (rows, stats, ())
    copied = tmp_path / "copied"
    shutil.copytree(full.path, copied)
    with Store.open(copied) as copy:
        assert (copy.list_refs(), copy.stats()) == (rows, stats)
        copy.drop("adapters/one")
        copy.import_checkpoint(model(tmp_path / "m", 1), "only-here")
    assert full.list_refs() == rows
    assert len(list(own_cache.glob("*.sqlite"))) == 1 and len(list((tmp_path / "fresh").glob("*.sqlite"))) == 2


def test_an_empty_store(store: Store) -> None:
    assert store.list_refs() == [] and store.list_bases() == [] and store.complete("") == []
    stats = store.stats()
    assert (stats.checkpoints, stats.bases, stats.logical_bytes, stats.stored_bytes, stats.plans) == (0, 0, 0, 0, ())
    report = store.verify()
    assert (report.objects, report.bytes, report.damaged) == (0, 0, ())


def test_log(full: Store, checkpoint: Made) -> None:
    entries = full.log("boot/stage_3_outputs").lineage
    assert [step.refs for step in entries] == [(f"boot/stage_{n}_outputs",) for n in (3, 2, 1)]
    assert [step.lineage.stage if step.lineage else None for step in entries] == [3, 2, 1]
    assert entries[0].metrics["success_rate"] == 0.8
    [generation] = full.log("adapters/one").generations
    assert (generation.verb, generation.message, generation.number) == ("import", "the first", 1)
    assert generation.origin == str(checkpoint(peft_adapters.make))
    # A dropped ancestor stays in the lineage, without a name; so does one whose ref has moved on.
    full.drop("boot/stage_2_outputs")
    assert [step.refs for step in full.log("boot/stage_3_outputs").lineage][1] == ()
    assert full.log("boot/stage_2_outputs").lineage == () and len(full.log("boot/stage_2_outputs").generations) == 2


def test_what_changes_while_a_store_is_open(store: Store, tmp_path: Path) -> None:
    """Refs and objects that another process adds are seen at once."""
    store.import_checkpoint(model(tmp_path / "m", 1), "mine")
    assert [row.ref for row in store.list_refs()] == ["mine"]
    with Store.open(store.path) as other:
        other.import_checkpoint(model(tmp_path / "m", 2), "theirs")
        assert [row.ref for row in store.list_refs()] == ["mine", "theirs"]
        store.restore("theirs", tmp_path / "back")
        store.drop("mine")
        assert [row.ref for row in other.list_refs()] == ["theirs"]
        assert other.stats().checkpoints == 1 and other.verify().damaged == ()


def test_a_clock_that_is_too_coarse(store: Store, tmp_path: Path) -> None:
    """Two changes of a ref within one tick of the file system's clock: a listing never shows the older one."""
    store.import_checkpoint(model(tmp_path / "m", 1), "run")
    assert store.list_refs()[0].labels == ()
    directory = Path(store.path, "refs", "run")
    tick = directory.stat().st_mtime_ns
    store.tag("run", ("best",))
    os.utime(directory, ns=(tick, tick))
    assert store.list_refs()[0].labels == ("best",)
