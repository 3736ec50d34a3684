"""What the makers of a benchmark fixed, put onto the same log: candidates to rank, or which pairs are held out."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import TEST, TRAIN, VALID, Split
from shortlist.errors import DataError

__all__ = ["published", "parts"]


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


def parts(events: Interactions, table: pl.DataFrame) -> NDArray[np.int8]:
    """Roles of the events [E]: those of `table` (`user`, `item`, `part`: "test" or "valid"; by key), else TRAIN.

    A pair of the table is held out whole, with all its events. Raises DataError when pairs of the table are not in
    the log.
    """
    width = 1 + int(max(events.items.max(initial=0), table["item"].max() or 0))
    codes = table["user"].to_numpy() * width + table["item"].to_numpy()
    role = np.where((table["part"] == "test").to_numpy(), TEST, VALID).astype(np.int8)
    order = np.argsort(codes, kind="stable")
    codes, role = codes[order], role[order]
    asked = events.users * width + events.items
    at = np.minimum(np.searchsorted(codes, asked), max(len(codes) - 1, 0))
    there = codes[at] == asked if len(codes) else np.zeros(len(asked), dtype=bool)
    lost = len(np.unique(codes)) - len(np.unique(asked[there]))
    if lost:
        hint = "`shortlist import --fresh` brings the log and its split anew"
        raise DataError(f"{lost} held-out pairs are not in the log", where="split (published)", hint=hint)
    roles = np.full(len(events), TRAIN, dtype=np.int8)
    roles[there] = role[at[there]]
    return roles
