"""What the tests share: the data folder, which is no part of the repository."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# how fast cases are made is the machine's affair: tests share its cores
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("shared"), max_examples=30)


def pytest_configure(config: pytest.Config) -> None:
    """A hundred cases of each property, as hypothesis has it; where the slow tests are left out, thirty."""
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "shared")


_frozen = 0
"""Modules that were loaded when `pytest_runtest_setup` last froze them."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What stays loaded is taken out of the garbage collector's sight.

    A trainer collects garbage when it ends. Over all that torch and its like hold that took 0.32 s, of 0.49 s
    in which a tiny encoder is tuned.
    """
    global _frozen
    if len(sys.modules) > _frozen + 50:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data that FIELDSTONE_DATA names."""
    named = os.environ.get("FIELDSTONE_DATA")
    if not named:
        pytest.skip("FIELDSTONE_DATA names no data folder")
    return Path(named)
