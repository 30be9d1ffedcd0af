"""The verbs that both front ends call: `Store` and what its methods give back."""

from __future__ import annotations

from ckptfmt.api.finding import DEFAULT_NAME, VARIABLE, find_store
from ckptfmt.api.store import Store

__all__ = ["DEFAULT_NAME", "VARIABLE", "Store", "find_store"]
