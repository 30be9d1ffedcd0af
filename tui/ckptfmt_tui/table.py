"""The table of pages: which class shows each. A page's module is loaded when it is first shown."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ckptfmt_tui.screens.page import Page

_CLASSES: Final[dict[str, str]] = {
    "store": "ckptfmt_tui.screens.store:StorePage",
    "diff": "ckptfmt_tui.screens.diff:DiffPage",
    "merge": "ckptfmt_tui.screens.merge:MergePage",
    "cleanup": "ckptfmt_tui.screens.cleanup:CleanupPage",
    "verify": "ckptfmt_tui.screens.verify:VerifyPage",
    "gc": "ckptfmt_tui.screens.gc:GcPage",
    "bases": "ckptfmt_tui.screens.bases:BasesPage",
    "jobs": "ckptfmt_tui.screens.jobs:JobsPage",
}


def page_class(name: str) -> type[Page]:
    """The class of a page."""
    module, _, attribute = _CLASSES[name].partition(":")
    found: type[Page] = getattr(import_module(module), attribute)
    return found
