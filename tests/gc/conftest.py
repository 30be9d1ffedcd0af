"""A fast place for stores, as for the store's own tests."""

from __future__ import annotations

from tests.store.conftest import quick

__all__ = ["quick"]
