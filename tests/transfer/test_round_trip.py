"""Promise 1, to the byte: every kind of checkpoint, and every odd file, comes back as it was."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from ckptfmt import Store
from ckptfmt.errors import NotFound
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import tensor_digest
from tests.conftest import Made
from tests.containers.pickles import dictionary, tensor, whole
from tests.containers.zips import build, torch_records, torch_zip
from tests.fixtures import hf, nanogpt, peft_adapters, trainer
from tests.transfer.headers import Written, file_of, noise, with_header
from tests.transfer.makers import MAKERS
from tests.transfer.trees import age, files_of, objects_in, photograph, sha256, there_and_back

MIB = 1 << 20


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store that takes in every maker's output."""
    with Store.init(tmp_path_factory.mktemp("filling") / "store") as opened:
        yield opened


@pytest.mark.fixtures
@pytest.mark.parametrize("case", MAKERS)
def test_every_maker(case: str, checkpoint: Made, filling: Store, tmp_path: Path) -> None:
    maker, variant = MAKERS[case]
    source = tmp_path / "source"
    shutil.copytree(checkpoint(maker, **variant), source, symlinks=True)
    age(source)
    everything = photograph(source)
    plan = filling.plan_import(source, name=f"{case}/{{name}}")
    report = filling.import_path(source, name=f"{case}/{{name}}")
    assert not report.failed
    assert [each.ref for each in report.checkpoints] == [each.ref for each in plan.checkpoints]
    taken: set[str] = set(report.left)
    for number, (planned, done) in enumerate(zip(plan.checkpoints, report.checkpoints, strict=True)):
        root = Path(planned.path) if os.path.isdir(planned.path) else Path(planned.path).parent
        target = tmp_path / f"back-{number}"
        filling.restore(done.ref, target)
        below = root.relative_to(source).as_posix()
        found = photograph(target)
        expected = {name: everything[(Path(below) / name).as_posix()] for name in found}
        assert found == expected
        files = {name for name, entry in found.items() if entry[0] == "file"}
        assert files == (set(planned.files) if planned.files is not None else set(files_of(root)))
        assert done.needs_base is None and done.base is None and done.binding == "none"
        assert done.files == len(files) and done.tensors > 0
        taken |= {(Path(below) / name).as_posix() for name in files}
    assert taken == set(files_of(source))
    assert photograph(source) == everything


def test_the_filled_store_verifies(filling: Store) -> None:
    report = filling.verify()
    assert report.objects == len(objects_in(Path(filling.path))) > 0
    assert report.damaged == ()


@pytest.mark.fixtures
@pytest.mark.parametrize(
    "maker, variant",
    [(hf.make, {"dtype": "bfloat16"}), (nanogpt.make, {}), (trainer.make_peft, {}), (peft_adapters.make, {})],
)
def test_efforts_differ_in_size_alone(maker: Any, variant: dict[str, Any], checkpoint: Made, tmp_path: Path) -> None:
    source = checkpoint(maker, **variant)
    seen = []
    sizes = []
    for effort in ("fast", "balanced", "max"):
        with Store.init(tmp_path / effort) as store:
            report = store.import_path(source, name="x/{name}", effort=effort)
            refs = [each.ref for each in report.checkpoints]
            for ref in refs:
                store.restore(ref, tmp_path / f"{effort}-back" / ref)
            seen.append(([each.manifest for each in report.checkpoints], files_of(tmp_path / f"{effort}-back")))
            sizes.append(store.stats().stored_bytes)
    assert seen[0] == seen[1] == seen[2]
    assert sizes[0] >= sizes[1] >= sizes[2]


def test_efforts_differ_in_size(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    values = np.random.default_rng(0).normal(0, 0.02, MIB).astype(np.float32)
    tensors = [Written("w", "F32", (1024, 1024), values.tobytes()), Written("b", "BF16", (MIB,), values.tobytes()[::2])]
    (source / "model.safetensors").write_bytes(file_of(*tensors))
    sizes, ids = [], set()
    for effort in ("fast", "balanced", "max"):
        with Store.init(tmp_path / effort) as store:
            report = there_and_back(store, source, tmp_path / f"{effort}-back", effort=effort)
            ids.add(report.manifest)
            sizes.append(report.new_bytes)
            assert ("planes" in report.encodings) == (effort != "fast")
            assert store.verify().damaged == ()
    assert len(ids) == 1
    assert sizes[0] > sizes[1] >= sizes[2]


# --- directories -----------------------------------------------------------------------------------------------------


def test_modes_mtimes_empty_directories_and_links(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "deep" / "er" / "empty too").mkdir(parents=True)
    (source / "sub").mkdir()
    (source / "model.safetensors").write_bytes(file_of(Written("w", "F32", (2, 2), noise(16))))
    (source / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (source / "zero.bin").write_bytes(b"")
    (source / "zero.txt").write_bytes(b"")
    (source / "näme with spaces and 'quotes' \u202e\U0001f600").write_bytes(b"x")
    age(source)
    (source / "sub" / "run.sh").chmod(0o4755)
    (source / "latest.safetensors").symlink_to("model.safetensors")
    (source / "sub" / "up").symlink_to("../model.safetensors")
    (source / "here").symlink_to("sub")
    (source / "linked-alone").mkdir()
    (source / "linked-alone" / "self").symlink_to("self")
    os.utime(source / "sub", ns=(1, 1_234_567_890_987_654_321))
    os.utime(source, ns=(1, 999_999_999_999_999_999))
    report = there_and_back(store, source, tmp_path / "back")
    shown = store.show("back").manifest
    assert shown.directories == ("deep/er/empty too", "empty")
    assert {link.path for link in shown.links} == {"here", "latest.safetensors", "linked-alone/self", "sub/up"}
    assert [(each.path, each.reason) for each in report.opaque] == [("zero.bin", "an empty file")]


def test_links_and_empty_directories_of_a_directory_with_checkpoints_inside(store: Store, tmp_path: Path) -> None:
    """A Trainer's output: the final model at the top, a series below. Each gets what lies beside its own files."""
    source = tmp_path / "out"
    for place in (source, source / "checkpoint-1", source / "checkpoint-2"):
        (place / "runs" / "empty").mkdir(parents=True)
        (place / "model.safetensors").write_bytes(file_of(Written("w", "F32", (2,), noise(8, len(place.name)))))
        (place / "config.json").write_text("{}")
        (place / "trainer_state.json").write_text('{"global_step": 1}')
        (place / "same.json").symlink_to("config.json")
    (source / "latest").symlink_to("checkpoint-2")
    age(source)
    everything = photograph(source)
    report = store.import_path(source, name="run/{name}")
    assert [each.ref for each in report.checkpoints] == ["run", "run/checkpoint-1", "run/checkpoint-2"]
    for ref, place in (("run", ""), ("run/checkpoint-1", "checkpoint-1/"), ("run/checkpoint-2", "checkpoint-2/")):
        store.restore(ref, tmp_path / "back" / ref.replace("/", "-"))
        found = photograph(tmp_path / "back" / ref.replace("/", "-"))
        assert found == {name: everything[(place + name).removesuffix("/.")] for name in found}
        assert {"runs", "runs/empty", "same.json"} <= found.keys()
    assert "latest" in photograph(tmp_path / "back" / "run")
    assert store.import_path(source, name="run/{name}").new_bytes < 2000


def test_one_file_among_others_takes_nothing_of_theirs(store: Store, tmp_path: Path) -> None:
    """Files that are a checkpoint each bring what belongs to them, and no links or empty directories."""
    source = tmp_path / "out"
    (source / "logs").mkdir(parents=True)
    for step in (1, 2):
        torch.save({"model_state_dict": {"w": torch.ones(step)}, "step": step}, source / f"checkpoint_step{step}.pt")
    (source / "tokenizer.json").write_text("{}")
    (source / "latest.txt").symlink_to("checkpoint_step2.pt")
    os.mkfifo(source / "logs" / "pipe")
    store.import_checkpoint(source / "checkpoint_step1.pt", "one")
    store.restore("one", tmp_path / "back")
    assert photograph(tmp_path / "back", attributes=False).keys() == {".", "checkpoint_step1.pt", "tokenizer.json"}


def test_files_that_differ_in_their_suffix_alone(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "out"
    source.mkdir()
    for name in ("best.pt", "best.ckpt"):
        torch.save({"model_state_dict": {"w": torch.ones(3)}, "step": 7}, source / name)
    plan = store.plan_import(source, name="x/{name}")
    assert [(Path(each.path).name, each.ref) for each in plan.checkpoints] == [
        ("best.ckpt", "x/best.ckpt"),
        ("best.pt", "x/best.pt"),
    ]


def test_a_restore_into_an_existing_empty_directory(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    age(source)
    (tmp_path / "back").mkdir(mode=0o700)
    there_and_back(store, source, tmp_path / "back")


def test_an_empty_directory_and_a_directory_of_nothing_but_empty_ones(store: Store, tmp_path: Path) -> None:
    """There is nothing to take in, and whoever named such a path meant another one; links are something."""
    (tmp_path / "nothing").mkdir()
    (tmp_path / "hollow" / "a" / "b").mkdir(parents=True)
    (tmp_path / "history" / ".git").mkdir(parents=True)
    for name in ("nothing", "hollow", "history"):
        with pytest.raises(NotFound, match="nothing there") as caught:
            store.import_checkpoint(tmp_path / name, name)
        assert caught.value.exit_code == 1 and (".git" in caught.value.message) is (name == "history")
    assert store.list_refs() == []
    (tmp_path / "hollow" / "a" / "link").symlink_to("../b")
    there_and_back(store, tmp_path / "hollow", tmp_path / "back", "hollow")


def test_one_file(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(file_of(Written("w", "F32", (1,), noise(4))))
    (source / "beside.txt").write_text("not part of it")
    store.import_checkpoint(source / "model.safetensors", "one")
    store.restore("one", tmp_path / "back")
    assert files_of(tmp_path / "back") == {"model.safetensors": sha256(source / "model.safetensors")}


def test_a_relative_path_and_a_path_through_a_link(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(file_of(Written("w", "F32", (1,), noise(4))))
    (tmp_path / "link").symlink_to("source")
    monkeypatch.chdir(tmp_path)
    first = store.import_checkpoint("source", "a")
    assert store.import_checkpoint(tmp_path / "link", "b").manifest == first.manifest
    assert store.import_checkpoint("link/model.safetensors", "c").files == 1
    store.restore("a", "back")
    assert files_of(tmp_path / "back") == files_of(source)


# --- safetensors -----------------------------------------------------------------------------------------------------

WEIRD_NAMES = [
    "", " ", ".", "..", "../../etc/passwd", "/absolute", "a\nb", "tab\t", "nul\0byte", "\u202eright to left",
    "e\u0301 and \u00e9", "\U0001f600" * 20, "x" * 5000, "__metadata", "quote\"back\\slash", "\ufeff", "\uffff",
    "%s {} $x",
]  # fmt: skip


def _special() -> dict[str, bytes]:
    some = [Written(f"layer.{n}.weight", "F32", (4, n + 1), noise(16 * (n + 1), n)) for n in range(5)]
    empty = [
        Written("e0", "F32", (0,), b""),
        Written("a", "I8", (3,), b"abc"),
        Written("e1", "BF16", (3, 0, 2), b""),
        Written("e2", "F64", (0, 0), b""),
        Written("b", "U8", (), b"z"),
        Written("e3", "BOOL", (0,), b""),
    ]
    huge = {f"key {n}": json.dumps({"nested": json.dumps({"again": "é\u2028" * n})}) for n in range(200)}
    return {
        "shuffled": file_of(*(some[n] for n in (3, 0, 4, 1, 2)), keys=[some[n].name for n in (1, 4, 2, 0, 3)]),
        "metadata unicode": file_of(*some, metadata={"é\U0001f600": "ü\u202e\\\"'", "": "", "\n": "\0"}),
        "metadata huge": file_of(*some, metadata={"log": "line\n" * 300_000}),
        "metadata nested JSON": file_of(*some, metadata=huge),
        "metadata empty": file_of(*some, metadata={}),
        "metadata last": with_header(
            '{"w":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"},"__metadata__":{"format":"pt"}}', b"w"
        ),
        "escaped header": with_header(
            b'{"\\u00e9\\ud83d\\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"w"
        ),
        "spread header": with_header(
            '{\n\t"w" : {"dtype" : "U8",\r\n "shape" : [ 1 ] , "data_offsets" : [0 , 1]}}\n\n', b"w"
        ),
        "empty tensors": file_of(*empty),
        "nothing but empty tensors": file_of(*(tensor for tensor in empty if not tensor.data)),
        "0-dim": file_of(Written("s", "F64", (), noise(8)), Written("t", "BF16", (), noise(2))),
        "many dimensions": file_of(Written("s", "U8", (1,) * 40 + (2,), b"ab")),
        "padding 1": file_of(*some, padding=1),
        "padding 4096": file_of(*some, padding=4096),
        "padding 2 MiB": file_of(*some, padding=2 * MIB),
        "zero tensors": file_of(),
        "zero tensors, metadata": file_of(metadata={"format": "pt"}, padding=7),
        "weird names": file_of(*(Written(name, "U8", (n + 1,), noise(n + 1, n)) for n, name in enumerate(WEIRD_NAMES))),
        "same bytes often": file_of(*(Written(f"w{n}", "F16", (8,), b"\0" * 16) for n in range(50))),
        "same bytes, other dtypes": file_of(
            Written("a", "F32", (4,), noise(16)), Written("b", "I64", (2,), noise(16)),
            Written("c", "U8", (16,), noise(16)),
        ),
        "odd addresses": file_of(Written("a", "U8", (3,), b"abc"), Written("b", "F64", (2,), noise(16)), padding=5),
    }  # fmt: skip


@pytest.mark.parametrize("case", _special())
def test_safetensors(case: str, store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = _special()[case]
    (source / "model.safetensors").write_bytes(data)
    with safetensors.safe_open(source / "model.safetensors", "numpy") as opened:
        count = len(list(opened.keys()))
    report = there_and_back(store, source, tmp_path / "back")
    assert report.tensors == count and report.opaque == ()
    [file] = store.show("back").manifest.files
    assert file.container == "safetensors" and sum(extent.length for extent in file.extents) + 8 < len(data)
    assert store.verify().damaged == ()


TORCH_DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
    "uint8", "bool", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float4_e2m1fn_x2",
]  # fmt: skip


@pytest.mark.parametrize("effort", ["fast", "balanced", "max"])
def test_every_dtype(effort: Any, store: Store, tmp_path: Path) -> None:
    """By torch's writer where it has the dtype; and every name that the format knows, by hand."""
    source = tmp_path / "source"
    source.mkdir()
    tensors = {}
    for name in TORCH_DTYPES:
        dtype = getattr(torch, name)
        width = torch.empty(0, dtype=dtype).element_size()
        raw = torch.frombuffer(bytearray(b"\0\1" * (1500 * width)), dtype=torch.uint8)
        if name != "bool":
            raw = torch.frombuffer(bytearray(noise(3000 * width)), dtype=torch.uint8)
        tensors[name] = raw.view(dtype).reshape(30, 100)
    save_file(tensors, source / "torch.safetensors")
    save_numpy({"i": np.arange(7, dtype=np.uint16), "f": np.ones((), np.float16)}, source / "numpy.safetensors")
    known = [name for name in BITS if name != "C128"]
    by_hand = [Written(name, name, (8, 40), noise(BITS[name] * 40, len(name))) for name in known]
    (source / "by_hand.safetensors").write_bytes(file_of(*by_hand))
    with safetensors.safe_open(source / "by_hand.safetensors", "numpy") as opened:
        assert sorted(opened.keys()) == sorted(known)
    report = there_and_back(store, source, tmp_path / "back", effort=effort)
    assert report.tensors == len(tensors) + 2 + len(known)
    manifest = store.show("back").manifest
    assert {tensor.dtype for tensor in manifest.tensors} == set(known)
    assert {tensor.dtype for tensor in manifest.tensors if manifest.files[tensor.file].path[0] == "t"} >= {
        "F4", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BF16", "C64", "BOOL"
    }  # fmt: skip
    assert store.verify().damaged == ()


def test_a_large_file_that_spills(store: Store, tmp_path: Path) -> None:
    """40 MiB in one shard with reserved header room: a tensor over many frames, a tail, and small ones after it."""
    source = tmp_path / "source"
    source.mkdir()
    tensors = [
        Written("head", "F32", (1000,), noise(4000)),
        Written("large", "BF16", (4096, 4483), noise(2 * 4096 * 4483, 1)),
        Written("ones", "F32", (1024, 1024), np.ones((1024, 1024), np.float32).tobytes()),
        Written("tail", "U8", (12345,), noise(12345, 2)),
    ]
    (source / "model.safetensors").write_bytes(file_of(*tensors))
    (source / "other.txt").write_bytes(noise(3 * MIB + 1, 3))
    report = there_and_back(store, source, tmp_path / "back")
    assert report.logical_bytes > 40 * MIB
    [shard] = list(Path(store.path, "shards").rglob("*.safetensors"))
    with shard.open("rb") as file:
        header = file.read(struct.unpack("<Q", file.read(8))[0])
    assert header.endswith(b"    ")  # Reserved and padded.
    assert report.new_bytes < report.logical_bytes - 3 * MIB  # The ones were encoded.
    assert store.verify().damaged == ()


@pytest.mark.fixtures
def test_a_shard_as_a_checkpoint(checkpoint: Made, filling: Store, store: Store, tmp_path: Path) -> None:
    """A shard is a safetensors file like any other, and imports; into its own store too."""
    filling.import_checkpoint(checkpoint(hf.make), "shard/origin")
    shards = sorted(Path(filling.path, "shards").rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy2(shards[-1], source)
    assert there_and_back(store, source, tmp_path / "back").tensors > 10
    there_and_back(filling, source, tmp_path / "back-2", "shard/again")


# --- torch zip -------------------------------------------------------------------------------------------------------


def _training_state(change: int | None = None) -> dict[str, Any]:
    """About 100 MB of tensors in the company that real scripts give them; `change` edits one of eight layers."""
    generator = torch.Generator().manual_seed(0)
    layers = {f"layers.{n}.weight": torch.randn(1024, 3072, generator=generator) for n in range(8)}
    if change is not None:
        layers[f"layers.{change}.weight"][17, 4] += 1
    shared = layers["layers.0.weight"]
    pool = torch.randn(64, 64, generator=generator)
    return {
        "model": {
            **layers, "tied.weight": shared, "a view": shared[:10], "transposed": pool.t(), "sliced": pool[::2, 5:60:3]
        },
        "args": argparse.Namespace(lr=3e-4, out=PosixPath("/data/out"), layers=[1, 2], dtype=torch.bfloat16),
        "best": np.float64(1.5),
        "epoch": np.int64(3),
        "history": np.arange(6, dtype=np.float32).reshape(2, 3),
        "where": PosixPath("runs/1"),
        "rng": torch.get_rng_state(),
        "names": collections.Counter({"a": 1}),
        "nested": [({"deep": (torch.ones(2), None, True)},)],
    }  # fmt: skip


def test_unknown_classes_beside_100_mb_of_tensors(store: Store, tmp_path: Path) -> None:
    """What we do not interpret stays inert: it costs the deduplication of the tensors beside it nothing."""
    for name, change in (("first", None), ("second", 5)):
        (tmp_path / name).mkdir()
        torch.save(_training_state(change), tmp_path / name / "state.pt")
    first = there_and_back(store, tmp_path / "first", tmp_path / "back-1", "first", effort="fast")
    assert first.logical_bytes > 100e6 and first.opaque == ()
    assert first.tensors == 8 + 4 + 2
    layer = 4 * 1024 * 3072
    before = objects_in(Path(store.path))
    second = there_and_back(store, tmp_path / "second", tmp_path / "back-2", "second", effort="fast")
    assert layer <= second.new_bytes < layer + 20_000
    new = objects_in(Path(store.path)) - before
    assert len(new) <= 2  # The layer, and the skeleton: its zip directory holds CRCs.
    third = store.import_checkpoint(tmp_path / "first" / "state.pt", "third", effort="fast")
    assert third.new_bytes == 0 and third.manifest == first.manifest


def test_shared_and_strided_storages_by_content(store: Store, tmp_path: Path) -> None:
    """A view's digest is that of its elements in C order: the same as of a contiguous copy saved elsewhere."""
    base = torch.arange(4096, dtype=torch.float32).reshape(64, 64)
    views = {
        "whole": base,
        "transposed": base.t(),
        "slice": base[3:7],
        "every other": base[::2, ::3],
        "expanded": base[0].expand(5, 64),
        "reversed shape": base.permute(1, 0)[5],
        "0-dim": base[3, 3],
        "empty": base[:0],
    }
    (tmp_path / "views").mkdir()
    torch.save(views, tmp_path / "views" / "model.pt")
    (tmp_path / "copies").mkdir()
    save_file(
        {name: value.clone().contiguous() for name, value in views.items()}, tmp_path / "copies/model.safetensors"
    )
    there_and_back(store, tmp_path / "views", tmp_path / "back", "views")
    there_and_back(store, tmp_path / "copies", tmp_path / "back-2", "copies")
    shown = {name: store.show(name).manifest for name in ("views", "copies")}
    digests = {
        name: {tensor.name: tensor_digest(manifest, tensor) for tensor in manifest.tensors if tensor.role == "model"}
        for name, manifest in shown.items()
    }
    assert digests["copies"].keys() == views.keys()
    for name, digest in digests["views"].items():
        assert digest == digests["copies"][name], name
    [file] = shown["views"].files
    assert len(file.extents) == 1 and file.extents[0].length == 4 * 4096


def test_zip_without_crc_and_with_zip64(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    old = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(300, 7), "s": torch.zeros(())}, source / "nocrc.pt")
    finally:
        torch.serialization.set_crc32_options(old)
    large = {"compressed": 0xFFFFFFFF, "size": 0xFFFFFFFF}
    wide = struct.pack("<HHQQ", 1, 16, 16, 16)
    records = torch_records(whole(dictionary(w=tensor("0", 4, (2, 2)))), {"0": noise(16)})
    for record in records:
        if record.name.endswith("data/0"):
            record.flags, record.local, record.central, record.extra, record.central_extra = 0, large, large, wide, wide
    (source / "zip64.pt").write_bytes(build(records, zip64=True))
    report = there_and_back(store, source, tmp_path / "back")
    assert report.tensors == 3 and report.opaque == ()


def test_pt_files_that_are_kept_whole_say_why(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    value = {"w": torch.ones(4)}
    torch.save(value, source / "old.pt", _use_new_zipfile_serialization=False)
    (source / "bare.pt").write_bytes(pickle.dumps({"w": [1, 2]}))
    (source / "text.pt").write_text("not a checkpoint")
    (source / "empty.pt").write_bytes(b"")
    (source / "deep.pt").write_bytes(torch_zip(whole(b"]" * 2000 + b"a" * 1999), {}))
    with zipfile.ZipFile(source / "squeezed.pt", "w", zipfile.ZIP_DEFLATED) as squeezed:
        squeezed.writestr("archive/data.pkl", pickle.dumps(1, 2))
        squeezed.writestr("archive/version", "3")
    report = there_and_back(store, source, tmp_path / "back")
    reasons = {each.path: each.reason for each in report.opaque}
    assert reasons.keys() == {"old.pt", "bare.pt", "text.pt", "empty.pt", "deep.pt", "squeezed.pt"}
    assert "before 1.6" in reasons["old.pt"] and "bare pickle" in reasons["bare.pt"]
    assert "compressed" in reasons["squeezed.pt"] and "empty" in reasons["empty.pt"]
    assert all(reasons.values())
    assert not any(file.damaged for file in store.show("back").manifest.files)
