"""The in-memory storage keeps the contract."""

from __future__ import annotations

import pytest

from ckptfmt.storage.memory import MemoryStorage
from tests.storage.conformance import StorageConformance


class MemoryRaw:
    def __init__(self, storage: MemoryStorage) -> None:
        self._values = storage._values

    def get(self, key: str) -> bytes | None:
        found = self._values.get(key)
        return None if found is None else found[0]

    def set(self, key: str, data: bytes) -> None:
        self._values[key] = (data, 1)

    def keys(self) -> set[str]:
        return set(self._values)


class TestMemoryStorage(StorageConformance):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()

    @pytest.fixture
    def raw(self, storage: MemoryStorage) -> MemoryRaw:
        return MemoryRaw(storage)
