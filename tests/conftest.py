"""What every test may use: where the public data sets are, and generated columns."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Two cores shared with other work make single examples slow now and then; the examples themselves stay the same.
settings.register_profile("shortlist", deadline=None, derandomize=True)
settings.load_profile("shortlist")


@pytest.fixture(scope="session")
def data_folder() -> Path | None:
    """The folder of public data sets (SHORTLIST_DATA), or None: then a test uses data it generates."""
    value = os.environ.get("SHORTLIST_DATA")
    return Path(value) if value and Path(value).is_dir() else None


@pytest.fixture
def rng() -> np.random.Generator:
    """Dice with a fixed seed."""
    return np.random.default_rng(20240601)
