"""Makes `v1-delta/`, a golden store whose objects are stored against others, and the files of a base that it refers to.

It was run once; what it made never changes again.

python -m tests.format.golden.make_delta DIRECTORY
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Final, Literal

import torch

from ckptfmt import Store
from tests.format.golden.make import digests_below, forget_this_machine
from tests.format.relatives import after, model, recast, resized, stacked, trained, turned, write_model

NAME: Final = "v1-delta"


def main(work: Path) -> None:
    kept, far = model(1), model(2)
    run = after(kept, trained(3))
    steps = [model(4)]
    for step in range(2):
        steps.append(trained(5 + step)(steps[-1]))
    models = {
        "runs/grown": (after(run, resized(75)), "kept"),
        "runs/turned": (after(run, turned, recast(torch.float32)), "kept"),
        "runs/stacked": (after(run, stacked), "kept"),
        "runs/kept-f32": (after(kept, recast(torch.float32)), "kept"),
        "runs/far": (after(far, trained(7)), "far"),
        "runs/far-f16": (after(far, trained(8), recast(torch.float16)), "far"),
        **{f"run/checkpoint-{number}": (tensors, None) for number, tensors in enumerate(steps, 1)},
    }
    expected = {}
    bases: dict[str, tuple[dict[str, torch.Tensor], Literal["copy", "reference"]]]
    bases = {"kept": (kept, "copy"), "far": (far, "reference")}
    with Store.init(work / NAME) as store:
        for base, (tensors, keep) in bases.items():
            store.add_base(base, write_model(work / base, tensors), keep=keep)
        for ref, (tensors, base_name) in models.items():
            directory = write_model(work / ref, tensors)
            digest = store.import_checkpoint(directory, ref, base=base_name, message="golden").manifest
            expected[digest] = digests_below(directory)
        refs = {row.ref: row.manifest for row in store.list_refs()}
    forget_this_machine(work / NAME)
    shutil.move(work / "far", work / f"{NAME}-base")
    (work / f"{NAME}.json").write_text(json.dumps({"refs": refs, "manifests": expected}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
