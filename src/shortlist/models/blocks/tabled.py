"""A solver's way to an engine of table work and back: its events as a table, the ranked rows as lists.

Import only inside a function: it loads the tables room.
"""

__all__ = ["opened", "events", "lists"]

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError
from shortlist.forms import Lists
from shortlist.tables.engine import Frame, Tables, opened

ROW = 60  # bytes of a ranked row while it becomes part of a list


def events(tables: Tables, log: Interactions, weights: NDArray[np.float32]) -> Frame:
    """The events [E] as a log of `tables/lists.py`, `weights` by action code."""
    return tables.table(
        {
            "user": log.users,
            "item": log.items,
            "time_ms": log.times,
            "offset": np.arange(len(log)),  # equal times stay in log order
            "weight": weights[log.actions].astype(np.float64),
            "value": np.where(np.isfinite(log.values), log.values, np.nan).astype(np.float64),
        }
    )


def lists(tables: Tables, ranked: Frame, by: str, of: str, budget_bytes: int | None, **names: Any) -> Lists:
    """The rows (by, of, `score`) of each `by` as a list. Raises CapacityError where they are too many to hold."""
    rows = tables.result(ranked)
    n = int(rows.select(pl.len()).collect().item())
    if budget_bytes is not None and n * ROW > budget_bytes:
        what = f"{n} rows of lists need {n * ROW / 2**30:.1f} GiB, the budget is {budget_bytes / 2**30:.1f} GiB"
        raise CapacityError(what, where=tables.where.partition(".")[0], hint="raise budget_bytes or lower keep")
    found = rows.collect()
    owners, items, scores = (found[name].to_numpy() for name in (by, of, "score"))
    return Lists.ranked(owners, items, scores.astype(np.float32), **names)
