from __future__ import annotations

from pathlib import Path

import pytest

from tests.fsck.damaging import World


@pytest.fixture
def world(quick: Path) -> World:
    return World(quick).make()
