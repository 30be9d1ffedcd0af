"""Never the wrong base: nothing appears unless every tensor of the base is the recorded one."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.errors import BaseMismatch, CkptfmtError, Conflict, IntegrityError, MergeError
from tests.fixtures import experts, peft_adapters
from tests.merge.comparing import differing


@pytest.fixture
def own_base(chain: Path, tmp_path: Path) -> Path:
    shutil.copytree(chain / "base", tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def bound(store: Any, own_base: Path, chain: Path) -> Any:
    store.add_base("llama", own_base)
    store.import_checkpoint(chain / "stage_1", "one", base="llama")
    return store


def refused(store: Any, ref: str, out: Path) -> CkptfmtError:
    with pytest.raises(CkptfmtError) as error:
        store.merge(ref, out)
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if "partial" in path.name]
    return error.value


def change_one_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_one_changed_bit_in_a_tensor_that_the_adapter_touches(bound: Any, own_base: Path, tmp_path: Path) -> None:
    change_one_bit(sorted(own_base.glob("*.safetensors"))[-1], -5)
    error = refused(bound, "one", tmp_path / "out")
    assert isinstance(error, BaseMismatch) and error.exit_code == 3
    assert len(error.tensors) == 1 and error.tensors[0] in error.message


def test_one_changed_bit_in_a_tensor_that_no_adapter_touches(bound: Any, own_base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    for path in own_base.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        if "model.norm.weight" in tensors:
            tensors["model.norm.weight"][3] += 1
            save_file(tensors, path, metadata)
    error = refused(bound, "one", tmp_path / "out")
    assert isinstance(error, BaseMismatch) and error.tensors == ("model.norm.weight",)


def test_another_known_base_in_its_place_is_recognised(bound: Any, own_base: Path, chain: Path, tmp_path: Path) -> None:
    bound.add_base("llama-v2", chain / "continue_1")
    for path in own_base.iterdir():
        path.unlink()
    for path in (chain / "continue_1").iterdir():
        shutil.copy2(path, own_base)
    # The recorded base had other files, so these are named by where they lie.
    error = refused(bound, "one", tmp_path / "out")
    assert isinstance(error, BaseMismatch) and error.exit_code == 3


def test_same_files_of_another_revision(bound: Any, own_base: Path, chain: Path, tmp_path: Path) -> None:
    """Same names, same sizes, same shapes; other weights, which another base of the store records."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    revision = tmp_path / "revision"
    shutil.copytree(own_base, revision)
    for path in revision.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({name: value * 2 for name, value in load_file(path).items()}, path, metadata)
    bound.add_base("llama-rev2", revision)
    for path in revision.iterdir():
        shutil.copy2(path, own_base)
    error = refused(bound, "one", tmp_path / "out")
    assert isinstance(error, BaseMismatch)
    assert "llama-rev2" in error.message and len(error.tensors) > 5


def test_a_base_that_is_gone(bound: Any, own_base: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_base)
    error = refused(bound, "one", tmp_path / "out")
    assert isinstance(error, BaseMismatch) and "last seen in" in error.message and "--path" in (error.hint or "")


def test_a_base_that_moved_is_found_where_it_was_verified(
    bound: Any, own_base: Path, chain: Path, tmp_path: Path
) -> None:
    own_base.rename(tmp_path / "elsewhere")
    assert bound.verify_base("llama", path=tmp_path / "elsewhere").ok
    bound.merge("one", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "continue_1") == 0


def test_a_kept_base_needs_no_files(bound: Any, own_base: Path, chain: Path, tmp_path: Path) -> None:
    bound.keep_base("llama")
    shutil.rmtree(own_base)
    bound.merge("one", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "continue_1") == 0


def test_a_base_that_is_edited_while_the_merge_runs(bound: Any, own_base: Path, tmp_path: Path) -> None:
    class Editing:
        done = False

        def begin(self, label: str, total_bytes: int | None) -> None:
            pass

        def advance(self, done_bytes: int) -> None:
            if not self.done:
                Editing.done = True
                change_one_bit(sorted(own_base.glob("*.safetensors"))[-1], -1)

        def end(self) -> None:
            pass

    with pytest.raises(BaseMismatch):
        bound.merge("one", tmp_path / "out", progress=Editing())
    assert not (tmp_path / "out").exists()


def test_no_binding_is_refused_and_the_name_is_only_a_hint(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_1", "one")
    error = refused(store, "one", tmp_path / "out")
    assert isinstance(error, IntegrityError) and (error.code, error.exit_code) == ("no-binding", 3)
    assert error.hint == "ckptfmt bind one --base NAME" and "no proof" in error.message
    store.bind("one", "llama")
    store.merge("one", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "continue_1") == 0


def test_a_mixture_of_experts_is_refused_and_one_expert_is_not(store: Any, checkpoint: Any, tmp_path: Path) -> None:
    made = checkpoint(experts.make, "mixture", weights="none")
    store.import_checkpoint(made / "checkpoint-4", "moe")
    error = refused(store, "moe", tmp_path / "out")
    assert isinstance(error, MergeError) and error.exit_code == 1
    assert "router" in error.message and "--adapter expert_0" in (error.hint or "")


def test_a_prompt_tuned_adapter_is_refused_before_any_work(
    store: Any, chain: Path, checkpoint: Any, tmp_path: Path
) -> None:
    store.add_base("llama", chain / "base")
    store.import_checkpoint(checkpoint(peft_adapters.make, "prompt", method="prompt"), "prompt")
    store_error: CkptfmtError | None = None
    try:
        store.bind("prompt", "llama")
    except CkptfmtError as error:
        store_error = error
    error = store_error or refused(store, "prompt", tmp_path / "out")
    assert error.exit_code in (1, 3)


def test_a_target_that_is_not_empty(bound: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    with pytest.raises(Conflict):
        bound.merge("one", tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "kept"


def test_two_merges_into_one_target_give_one_result(bound: Any, chain: Path, tmp_path: Path) -> None:
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(type(bound).open(bound.path).merge("one", tmp_path / "out"))
        except CkptfmtError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [item for item in outcomes if isinstance(item, CkptfmtError)]
    assert len(errors) <= 1 and all(isinstance(error, Conflict) for error in errors)
    assert differing(tmp_path / "out", chain / "continue_1") == 0
