"""The last items of each user, in a ring: memory of a fixed width. U users, M width, N additions."""

__all__ = ["Recent"]

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Recent:
    """`items` [U, M], -1 where there is none yet; in no order."""

    def __init__(self, users: int, width: int) -> None:
        self.items: NDArray[np.int32] = np.full((users, width), -1, dtype=np.int32)
        self._count = np.zeros(users, dtype=np.int64)

    def add(self, users: Ints, items: Ints) -> None:
        """Remember items [N], those of one user in order; of more than M the last stay."""
        order = np.argsort(users, kind="stable")
        users, items = users[order], items[order]
        place = np.arange(len(users)) - np.searchsorted(users, users)
        left = np.searchsorted(users, users, side="right") - np.arange(len(users))
        width = self.items.shape[1]
        at = (self._count[users] + place) % width
        kept = left <= width
        self.items[users[kept], at[kept]] = items[kept]
        last = left == 1
        self._count[users[last]] += place[last] + 1

    def of(self, users: Ints) -> NDArray[np.int32]:
        """What each user had of late [R, M]."""
        rows: NDArray[np.int32] = self.items[users]
        return rows
