"""The Python face, as the documentation shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ckptfmt
from ckptfmt.api import find_store
from ckptfmt.errors import NotFound
from tests.api.test_names import model
from tests.conftest import Made
from tests.fixtures import hf, peft_adapters
from tests.transfer.trees import files_of


@pytest.mark.fixtures
def test_the_example(checkpoint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ckptfmt.Store.init("runs.ckptfmt").close()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run_000").symlink_to(checkpoint(peft_adapters.make))

    store = ckptfmt.Store.open("runs.ckptfmt")
    store.add_base("llama-3.1-8b", checkpoint(hf.make, steps=0))
    done = store.import_checkpoint("results/run_000", name="sweep/run_000", base="llama-3.1-8b")

    assert done.logical_bytes > 5000 and 0 < done.new_bytes < done.logical_bytes
    assert (done.ref, done.base, done.layout) == ("sweep/run_000", "llama-3.1-8b", "peft")
    store.restore("sweep/run_000", "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "results" / "run_000")
    store.close()


def test_an_import_is_light() -> None:
    """Neither the package nor a store that is opened and listed loads torch, transformers or textual."""
    script = (
        "import sys, ckptfmt; assert 'ckptfmt.api' not in sys.modules; ckptfmt.Store;"
        "heavy = ('torch', 'textual', 'transformers', 'peft', 'huggingface_hub');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError):
        ckptfmt.nothing  # noqa: B018


def test_which_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stated, else by the environment, else the nearest above."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(NotFound) as caught:
        find_store()
    assert (caught.value.exit_code, caught.value.hint) == (10, "ckptfmt init")
    ckptfmt.Store.init(tmp_path / ".ckptfmt").close()
    assert find_store() == str(tmp_path / ".ckptfmt")
    ckptfmt.Store.init(tmp_path / "a" / ".ckptfmt").close()
    assert ckptfmt.Store.open().path == str(tmp_path / "a" / ".ckptfmt")
    monkeypatch.setenv("CKPTFMT_STORE", str(tmp_path / "elsewhere"))
    assert find_store() == str(tmp_path / "elsewhere")
    assert find_store("stated") == "stated"
    with pytest.raises(NotFound):
        ckptfmt.Store.open()


def test_paths_may_be_anything_path_like(tmp_path: Path) -> None:
    source = model(tmp_path / "m", 1)
    with ckptfmt.Store.init(str(tmp_path / "s")) as store:
        first = store.import_checkpoint(str(source), "a")
        assert store.import_checkpoint(os.path.join(source, ""), "b").manifest == first.manifest
        store.restore("a", str(tmp_path / "back"))
    assert files_of(tmp_path / "back") == files_of(source)
