"""Blobs in this process: dicts. For tests, and for servers that fill their state anew at every start.

An entry takes its blob and some 140 bytes around it (measured, CPython 3.11).
"""

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shortlist.store.blobs import Change, check

__all__ = ["Memory"]

Side = dict[str, dict[int, bytes]]


class Memory:
    """A store that lives and dies with the process. Threads may share it."""

    def __init__(self, fingerprint: str = "") -> None:
        self.fingerprint = fingerprint
        self._lock = threading.Lock()
        self._live: Side = {}
        self._aside: Side = {}
        self._offset = 0

    @property
    def offset(self) -> int:
        return self._offset

    def get(self, namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
        return self.read({namespace: keys})[0][namespace]

    def read(self, asked: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, list[bytes | None]], int]:
        plain = {namespace: keys.tolist() for namespace, keys in asked.items()}
        with self._lock:
            found = {}
            for namespace, keys in plain.items():
                held = self._live.get(namespace, {})
                found[namespace] = [held.get(key) for key in keys]
            return found, self._offset

    def claim(self) -> None:
        """Nobody else has it."""

    def leave(self) -> None:
        """Nobody else could take over."""

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        check(changes)
        with self._lock:
            _write(self._live, changes, replace)
            self._offset = offset

    def stage(self, changes: Mapping[str, Change], *, first: bool = False) -> None:
        check(changes)
        if first:
            self._aside = {}
        _write(self._aside, changes, False)

    def adopt(self, offset: int) -> None:
        with self._lock:
            self._live, self._aside, self._offset = self._aside, {}, offset

    def keys(self, namespace: str) -> NDArray[np.int64]:
        with self._lock:
            return np.array(sorted(self._live.get(namespace, ())), dtype=np.int64)

    def sizes(self) -> dict[str, tuple[int, int]]:
        with self._lock:
            return {
                name: (len(held), sum(map(len, held.values()))) for name, held in sorted(self._live.items()) if held
            }

    def close(self) -> None:
        """Nothing is kept open."""


def _write(side: Side, changes: Mapping[str, Change], replace: bool) -> None:
    for namespace, (keys, blobs) in changes.items():
        held = side.setdefault(namespace, {})
        if replace:
            held.clear()
        for key, blob in zip(keys.tolist(), blobs, strict=True):
            if blob is None:
                held.pop(key, None)
            else:
                held[key] = blob
