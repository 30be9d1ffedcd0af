"""Cuts every payload with an audit hook that ends the process at the first sign of anything being done."""

from __future__ import annotations

import os
import sys

from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.errors import CkptfmtError
from tests.containers.payloads import payloads
from tests.containers.reading import survives
from tests.containers.zips import torch_zip

FORBIDDEN = (
    "import", "exec", "compile", "open", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pickle.", "code.",
    "marshal.", "webbrowser.", "builtins.input", "builtins.breakpoint", "urllib.", "tempfile.", "glob.", "pathlib.",
)  # fmt: skip
watching: list[bool] = []


def hook(event: str, arguments: object) -> None:
    if watching and event.startswith(FORBIDDEN):
        os.write(2, f"CANARY: {event} {arguments!r}\n".encode())
        os._exit(66)


def main() -> None:
    cases = payloads()
    files = {name: torch_zip(data, {"0": bytes(16)}) for name, data in cases.items()}
    survives(torch_zip(b"\x80\x02N.", {}), "warm.pt")
    survives(torch_zip(b"\x80\x02R.", {}), "warm.pt")
    modules = set(sys.modules)
    sys.addaudithook(hook)
    outcomes = {Cut: 0, Opaque: 0, CkptfmtError: 0}
    watching.append(True)
    for data in files.values():
        result = survives(data, "payload.pt")
        for kind in outcomes:
            outcomes[kind] += isinstance(result, kind)
    watching.clear()
    new = set(sys.modules) - modules
    print(len(files), outcomes[Cut], outcomes[Opaque], outcomes[CkptfmtError], sorted(new))
    if "--prove" in sys.argv:  # that the hook would have seen it
        import pickle

        watching.append(True)
        pickle.loads(cases["os.system GLOBAL REDUCE"])


if __name__ == "__main__":
    main()
