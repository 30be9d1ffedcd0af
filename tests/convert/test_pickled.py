"""A `.pt` read from objects: the same bytes as the file's, the same settings, and nothing of it run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt.convert.checkpoint import read_checkpoint
from ckptfmt.errors import FormatError
from ckptfmt.merge.pickled import ObjectSource
from ckptfmt.progress import SILENT
from tests.fixtures import hf, nanogpt

Made = Callable[..., Path]


def test_a_file_put_together_from_objects(checkpoint: Made) -> None:
    place = checkpoint(nanogpt.make) / "ckpt.pt"
    data = place.read_bytes()
    found = read_checkpoint(str(place), SILENT)
    source = ObjectSource(found.manifest.files[0], found.objects)
    assert source.size == len(data)
    assert source.read(0, len(data)) == data
    for offset in range(0, len(data), 997):
        for length in (0, 1, 64, 5000):
            if offset + length <= len(data):
                assert source.read(offset, length) == data[offset : offset + length]
    with pytest.raises(FormatError, match="outside the file"):
        source.read(len(data), 1)


def test_settings_as_plain_values(checkpoint: Made) -> None:
    found = read_checkpoint(str(checkpoint(nanogpt.make)), SILENT).pickled
    assert found is not None
    carried = found.carried()
    assert carried["model_args"] == nanogpt.STANDARD
    assert carried["iter_num"] == 250
    assert isinstance(carried["best_val_loss"], float)
    assert carried["config"]["dataset"] == "letters"
    assert read_checkpoint(str(checkpoint(hf.make)), SILENT).pickled is None
    assert read_checkpoint(str(checkpoint(hf.make, pickled=True)), SILENT).pickled is None
