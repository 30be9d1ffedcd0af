"""The verbs that both front ends call: `Store` and what its methods give back."""

from __future__ import annotations

from ckptfmt.api.store import DEFAULT_NAME, VARIABLE, Store, find_store

__all__ = ["DEFAULT_NAME", "VARIABLE", "Store", "find_store"]
