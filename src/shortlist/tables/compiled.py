"""Loops that array code cannot say well, compiled on first use (docs/decisions/compiled-loops.md).

Import this only inside a function: it loads numba. A loop releases the interpreter lock, so plain threads
share its rows.
"""

__all__ = ["loop", "in_blocks"]

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def loop(function: F) -> F:
    """Compile on first call. The result is cached beside the source, else in the user's cache folder
    (NUMBA_CACHE_DIR moves it); where neither can be written, every process compiles for itself."""
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no folder it may write to
        return cast(F, njit(nogil=True)(function))


def in_blocks(work: Callable[[int, int], T], rows: int, size: int) -> list[T]:
    """`work(low, high)` over blocks of rows, results in order, on the cores this process may use."""
    starts = range(0, rows, size)
    with ThreadPoolExecutor(max(1, min(len(os.sched_getaffinity(0)), len(starts)))) as pool:
        return list(pool.map(lambda low: work(low, min(low + size, rows)), starts))
