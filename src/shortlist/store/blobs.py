"""Bytes by key, with the log offset they stand at: what every home of online state offers.

A namespace (`user`, `item`, `value`, `lists.<channel>`) maps int64 keys to blobs. One writer, many readers; a change
and its offset become visible together or not at all.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blobs", "Change"]

Change = tuple[NDArray[np.int64], Sequence[bytes | None]]  # keys [K], distinct, and their blobs; None deletes


class Blobs(Protocol):
    """Opened for one fingerprint: what the blobs mean. A store of another one is refused with an ArtifactError."""

    @property
    def offset(self) -> int:
        """The log offset the state stands at, 0 before the first."""
        ...

    def get(self, namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
        """Blobs of keys [K], None where there is none; all of one moment."""
        ...

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        """Write changes and the offset in one transaction. `replace` first drops every namespace that is named.

        Raises DataError when it cannot be written: then nothing has changed.
        """
        ...

    def keys(self, namespace: str) -> NDArray[np.int64]:
        """All keys of a namespace, ascending."""
        ...

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """(keys, bytes) of every namespace."""
        ...

    def close(self) -> None: ...
