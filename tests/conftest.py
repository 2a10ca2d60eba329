"""What the tests share: the data folder, which is no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data that FIELDSTONE_DATA names."""
    named = os.environ.get("FIELDSTONE_DATA")
    if not named:
        pytest.skip("FIELDSTONE_DATA names no data folder")
    return Path(named)
