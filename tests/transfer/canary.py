"""Imports and restores files that would run code if anybody unpickled them, under an audit hook."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ckptfmt import Store
from tests.containers.payloads import CANARY, payloads
from tests.containers.zips import torch_zip

FORBIDDEN = (
    "import", "exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "os.startfile",
    "subprocess.", "socket.", "ctypes.", "pickle.", "code.", "marshal.", "webbrowser.", "builtins.input", "urllib.",
    "builtins.breakpoint",
)  # fmt: skip
watching: list[bool] = []


def hook(event: str, arguments: tuple[object, ...]) -> None:
    forbidden = event.startswith(FORBIDDEN) or (event == "open" and arguments[0] == CANARY)
    if watching and forbidden:
        os.write(2, f"CANARY: {event} {arguments!r}\n".encode())
        os._exit(66)


def main() -> None:
    place = Path(sys.argv[1])
    cases = payloads()
    names = {name: f"{number:04d}.pt" for number, name in enumerate(cases)}
    for directory in ("warm", "hostile"):
        (place / directory).mkdir(exist_ok=True)
    (place / "warm" / "0.pt").write_bytes(torch_zip(b"\x80\x02}q\x00.", {"0": bytes(16)}))
    (place / "warm" / "1.bin").write_bytes(torch_zip(b"\x80\x02R.", {}))
    for name, data in cases.items():
        (place / "hostile" / names[name]).write_bytes(torch_zip(data, {"0": bytes(16)}))
    number = sum(1 for _ in place.glob("store-*"))
    with Store.init(place / f"store-{number}") as store:
        store.import_path(place / "warm", name="warm", damaged_as_opaque=True)
        store.restore("warm", place / f"warm-back-{number}")
        store.show("warm")  # Each verb loads what it needs when it is first called.
        modules = set(sys.modules)
        sys.addaudithook(hook)
        watching.append(True)
        report = store.import_path(place / "hostile", name="hostile", damaged_as_opaque=True)
        done = store.restore("hostile", place / f"back-{number}")
        shown = store.show("hostile")
        watching.clear()
    answer = {
        "files": len(cases),
        "restored": done.files,
        "damaged": sum(file.damaged for file in shown.manifest.files),
        "opaque": len(report.checkpoints[0].opaque),
        "modules": sorted(set(sys.modules) - modules),
    }
    if os.path.lexists(CANARY):
        raise SystemExit("the canary is there")
    if "--prove" in sys.argv:  # That the hook would have seen it.
        import pickle

        watching.append(True)
        pickle.loads(cases["os.system GLOBAL REDUCE"])
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
