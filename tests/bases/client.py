"""A process of its own with the real Hub client in it: does what each argument, a JSON list, says."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from ckptfmt import Store
from ckptfmt.errors import CkptfmtError


def act(store: Store, verb: str, *arguments: Any) -> Any:
    if verb == "download":
        from huggingface_hub import snapshot_download

        return snapshot_download(*arguments)
    if verb == "download-file":
        from huggingface_hub import hf_hub_download

        return hf_hub_download(*arguments)
    if verb == "add":
        name, source, *revision = arguments
        return store.add_base(name, source, revision=revision[0] if revision else None)
    if verb == "verify":
        return store.verify_base(*arguments)
    return store.verify_base(*arguments, full=True)


def main() -> None:
    answers = []
    with Store.open(sys.argv[1]) as store:
        for step in sys.argv[2:]:
            try:
                answers.append(msgspec.to_builtins(act(store, *json.loads(step))))
            except CkptfmtError as error:
                answers.append({"error": [error.code, error.exit_code, error.message, error.hint]})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
