"""`ckptfmt version`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

from ckptfmt.cli.session import Session
from ckptfmt.cli.text import facts
from ckptfmt.cli.verb import verb

_STANDS_ON: Final = ("torch", "safetensors", "peft", "huggingface-hub", "numpy", "blake3", "zstandard", "pcodec")


def own_version() -> str:
    """The version of this ckptfmt."""
    return _version("ckptfmt") or "unknown"


@verb("version", store=False, example="ckptfmt version --json")
def command(session: Session) -> None:
    """Print the versions of ckptfmt and of what it stands on."""
    versions = {name: _version(name) for name in _STANDS_ON}
    python = platform.python_version()
    document = {"version": own_version(), "python": python, "platform": platform.platform(), "packages": versions}
    pairs = [("ckptfmt", own_version()), ("python", python), ("platform", platform.platform())]
    session.give(document, lambda: facts([*pairs, *((name, found or "missing") for name, found in versions.items())]))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
