"""Bytes by key, with the log offset they stand at: what every home of online state offers.

A namespace (`user`, `item`, `value`, `lists.<channel>`) maps int64 keys to blobs. One writer, many readers; a change
and its offset become visible together or not at all.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError

__all__ = ["Blobs", "Change", "check", "lost", "taken"]

Change = tuple[NDArray[np.int64], Sequence[bytes | None]]  # keys [K], distinct, and their blobs; None deletes


class Blobs(Protocol):
    """Opened for one fingerprint: what the blobs mean. A store of another one is refused with an ArtifactError.

    Every method raises DataError while the store cannot be had.
    """

    @property
    def offset(self) -> int:
        """The log offset the state stands at, 0 before the first."""
        ...

    def get(self, namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
        """Blobs of keys [K], None where there is none; all of one moment."""
        ...

    def read(self, asked: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, list[bytes | None]], int]:
        """Blobs of keys of several namespaces, and the offset they stand at: all of one moment."""
        ...

    def claim(self) -> None:
        """Become the one writer, or stay it. Raises DataError while another is."""
        ...

    def leave(self) -> None:
        """Be the writer no more; go on reading."""
        ...

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        """Write changes and the offset in one transaction. `replace` first drops every namespace that is named.

        Claims the store. Raises DataError when it cannot be written: then nothing has changed.
        """
        ...

    def stage(self, changes: Mapping[str, Change], *, first: bool = False) -> None:
        """Lay changes aside, where no reader sees them. `first` drops what was laid aside before."""
        ...

    def adopt(self, offset: int) -> None:
        """What was laid aside becomes the whole state, in one transaction; all that was there before goes."""
        ...

    def keys(self, namespace: str) -> NDArray[np.int64]:
        """All keys of a namespace, ascending."""
        ...

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """(keys, bytes of their blobs) of every namespace that has a key."""
        ...

    def close(self) -> None: ...


def check(changes: Mapping[str, Change]) -> None:
    """Raises ValueError for a change no caller may ask for: keys that are negative or repeated, or too few blobs."""
    for namespace, (keys, blobs) in changes.items():
        if len(keys) != len(blobs):
            raise ValueError(f"{namespace}: {len(keys)} keys and {len(blobs)} blobs")
        if len(keys) and (int(keys.min()) < 0 or len(np.unique(keys)) != len(keys)):
            raise ValueError(f"{namespace}: keys must be distinct and not negative")


def taken(where: str, who: str = "") -> DataError:
    """Another process is the writer."""
    hint = "one process writes a store: end it, or let this one read only"
    return DataError(f"another process writes this store{f' ({who})' if who else ''}", where=where, hint=hint)


def lost(where: str) -> DataError:
    """The store was there and is empty now."""
    return DataError("the store has lost its state", where=where, hint="run `shortlist backfill`")
