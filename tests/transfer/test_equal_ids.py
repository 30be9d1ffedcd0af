"""Equal contents have equal ids, wherever they lay and however they were named."""

from __future__ import annotations

import shutil
from pathlib import Path

from ckptfmt import Store
from tests.conftest import Made


def test_a_damaged_file_names_no_absolute_path(store: Store, tmp_path: Path) -> None:
    ids = []
    for place in ("here", "there/deeper"):
        directory = tmp_path / place
        directory.mkdir(parents=True)
        (directory / "model.safetensors").write_bytes(b"\xff" * 64)
        report = store.import_path(directory, name=place.replace("/", "-"), damaged_as_opaque=True)
        ids.append(report.checkpoints[0].manifest)
    assert ids[0] == ids[1]
    assert str(tmp_path) not in repr(store.show("here").manifest)


def test_binding_to_the_same_base_again_changes_nothing(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    from tests.fixtures import chains

    made = checkpoint(chains.make, "chain")
    store.add_base("llama", made / "base")
    shutil.copytree(made / "stage_1", tmp_path / "adapter")
    report = store.import_checkpoint(tmp_path / "adapter", "one", base="llama")
    bound = store.bind("one", "llama")
    assert (bound.manifest, bound.generation) == (report.manifest, report.generation)
