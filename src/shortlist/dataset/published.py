"""The candidates that the makers of a benchmark fixed, put onto a split of the same log."""

from dataclasses import replace

import numpy as np
import polars as pl

from shortlist.dataset.split import Split
from shortlist.errors import DataError

__all__ = ["published"]


def published(split: Split, table: pl.DataFrame) -> Split:
    """The split with the lists of `table` (`user`, `item`, `candidates`, by key) in place of drawn ones.

    Published files keep their defects, which are counted in `defects`. Raises DataError when the table is about other
    held-out events than the split's.
    """
    table = table.sort("user")
    test = split.test
    same = len(test) == len(table) and np.array_equal(test.users, table["user"].to_numpy())
    if not same or not np.array_equal(test.items, table["item"].to_numpy()):
        hint = "use last_out on the log as it was imported"
        raise DataError(
            "the published lists are about other held-out events", where=f"split ({split.protocol})", hint=hint
        )
    lists = table["candidates"].to_numpy().astype(np.int64)
    own = lists[:, 1:] == lists[:, :1]
    asked = np.repeat(np.arange(len(lists)), lists.shape[1] - 1)
    met = split.before_test.histories(test.user_keys).contains(asked, lists[:, 1:].ravel())
    defects = {
        "negatives that are the held-out item": int(own.sum()),
        "negatives met before": int((met & ~own.ravel()).sum()),
    }
    return replace(split, candidates=lists, defects=defects)
