"""ckptfmt: a content-addressed store for fine-tuned model checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptfmt.errors import CkptfmtError
from ckptfmt.version import __version__

if TYPE_CHECKING:
    from ckptfmt.api import Store
    from ckptfmt.integrations.load_into import load_into

__all__ = ["CkptfmtError", "Store", "__version__", "load_into"]


def __getattr__(name: str) -> object:
    """Load the verbs when they are asked for: `import ckptfmt` alone stays light."""
    if name == "Store":
        from ckptfmt.api import Store  # noqa: PLC0415

        return Store
    if name == "load_into":
        from ckptfmt.integrations.load_into import load_into  # noqa: PLC0415

        return load_into
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
