"""What every test may use: where the public data sets are, and generated columns."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Two cores shared with other work make single examples slow now and then; the examples themselves stay the same.
ALLOWED = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)  # of a store, say, that all examples write to
settings.register_profile("shortlist", deadline=None, derandomize=True, suppress_health_check=ALLOWED)
settings.load_profile("shortlist")

# In the background of a shell SIGINT is ignored, here and in every process that a test starts to interrupt it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder() -> Path | None:
    """The folder of public data sets (SHORTLIST_DATA), or None: then a test uses data it generates."""
    value = os.environ.get("SHORTLIST_DATA")
    return Path(value) if value and Path(value).is_dir() else None


@pytest.fixture
def rng() -> np.random.Generator:
    """Dice with a fixed seed."""
    return np.random.default_rng(20240601)
