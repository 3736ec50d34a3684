"""Waiting for what another thread or process does: for the thing itself, never for a time."""

import time
from collections.abc import Callable

__all__ = ["until"]


def until(true: Callable[[], bool], within_s: float = 120.0) -> bool:
    """Wait until something holds. False when it does not for so long that it never will, on a loaded machine too."""
    last = time.monotonic() + within_s
    while not true():
        if time.monotonic() > last:
            return False
        time.sleep(0.005)
    return True
