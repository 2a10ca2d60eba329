"""What the tests share: the data folder, which is no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# how fast cases are made is the machine's affair: tests share its cores
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data that FIELDSTONE_DATA names."""
    named = os.environ.get("FIELDSTONE_DATA")
    if not named:
        pytest.skip("FIELDSTONE_DATA names no data folder")
    return Path(named)
