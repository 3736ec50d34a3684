"""Loops that array code cannot say well, compiled on first use (docs/decisions/compiled-loops.md).

Import this only inside a function: it loads numba. A loop releases the interpreter lock, so plain threads
share its rows.
"""

__all__ = ["loop", "summing", "dividing", "in_blocks"]

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import caching
from numba.core.dispatcher import Dispatcher

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Base: Any = caching.IndexDataCacheFile  # numba has no types


def loop(function: F) -> F:
    """Compile on first call. The result is cached beside the source, else in the user's cache folder
    (NUMBA_CACHE_DIR moves it); where neither can be written, every process compiles for itself."""
    return _compiled(function, False)


def summing(function: F) -> F:
    """As `loop`, for one whose sums may be taken in any order, several terms at once. What rounding does then is a
    matter of the processor, not of the threads."""
    return _compiled(function, {"reassoc", "contract", "nsz"})


def dividing(function: F) -> F:
    """As `loop`, for one whose divisions by zero are infinite and stop nothing: several are done at once."""
    return _compiled(function, False, "numpy")


def _compiled(function: F, fastmath: bool | set[str], errors: str = "python") -> F:
    how: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": errors}
    try:
        made = njit(cache=True, **how)(function)
    except RuntimeError:  # numba found no folder it may write to
        return cast(F, njit(**how)(function))
    if cache := getattr(made, "_cache", None):  # none where compiling is switched off
        files = cache._cache_file
        stamp = _stamp(files._source_stamp, function.__globals__)
        cache._cache_file = Files(files._cache_path, files._index_name.removesuffix(".nbi"), stamp)
    return cast(F, made)


def _stamp(own: Any, names: Mapping[str, Any]) -> str:
    """Of the source of a loop and of the loops its module has from elsewhere: code of these may be part of its own.
    numba asks the first alone, and runs old code where only the others have changed."""
    caches: list[Any] = [getattr(value, "_cache", None) for value in names.values() if isinstance(value, Dispatcher)]
    others = {repr(cache._cache_file._source_stamp) for cache in caches if hasattr(cache, "_cache_file")}
    return hashlib.sha256(repr((own, sorted(others))).encode()).hexdigest()


class Files(Base):  # type: ignore[misc]
    """Compiled code of one loop on disk: for each version of its source and each kind of arguments a file of its own,
    there before the index names it.

    numba itself numbers the files and writes the index first. Two processes that compile at once, or one that reads
    while another compiles a changed source, then take each other's code and call it with arguments of another kind.
    """

    def save(self, key: Any, data: Any) -> None:
        own = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:16]
        name = f"{self._index_name.removesuffix('.nbi')}.{own}.nbc"
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


def in_blocks(work: Callable[[int, int], T], rows: int, size: int) -> list[T]:
    """`work(low, high)` over blocks of rows, results in order, on the cores this process may use."""
    starts = range(0, rows, size)
    with ThreadPoolExecutor(max(1, min(len(os.sched_getaffinity(0)), len(starts)))) as pool:
        return list(pool.map(lambda low: work(low, min(low + size, rows)), starts))
