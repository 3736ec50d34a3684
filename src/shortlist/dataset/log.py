"""A project's log as interactions: keys, times, actions as codes of the schema, log offsets and context."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Project
from shortlist.dataset.interactions import Interactions
from shortlist.events import workspace

__all__ = ["interactions", "joinable"]


def interactions(project: Project) -> Interactions:
    """Imported and live events, in order of (user, time, offset); those of undeclared actions are left out.

    Raises DataError when nothing was imported.
    """
    schema = workspace.schema(project)
    names = schema.action_names
    known = workspace.events(project).filter(pl.col("action").is_in(list(names)))
    code = pl.col("action").replace_strict(list(names), list(range(len(names))), return_dtype=pl.Int16)
    own = ["propensity"] if schema.propensity else []
    columns = known.select("offset", "user", "item", "time_ms", "value", *own, *schema.context, code=code)
    frame = columns.collect(engine="streaming").sort("offset")
    return Interactions.of(
        frame["user"].to_numpy(),
        frame["item"].to_numpy(),
        frame["time_ms"].to_numpy(),
        frame["code"].to_numpy(),
        frame["value"].fill_null(np.nan).to_numpy(),
        frame["offset"].to_numpy(),
        {name: _raw(frame[name]) for name in schema.context},
        _chances(frame["propensity"]) if own else None,
    )


def joinable(project: Project) -> pl.DataFrame:
    """What `logged.join` needs of every event: offset, user, item, action, value, time_ms, request_id, event_id."""
    names = ("offset", "user", "item", "action", "value", "time_ms", "request_id", "event_id")
    return workspace.events(project).select(names).collect(engine="streaming")


def _chances(column: pl.Series) -> NDArray[np.float64]:
    """Probabilities, NaN where there is none: what a live event tells is not checked when it comes."""
    told = column.fill_null(np.nan).to_numpy()
    chances: NDArray[np.float64] = np.where((told > 0) & (told <= 1), told, np.nan)
    return chances


def _raw(column: pl.Series) -> NDArray[Any]:
    """Numbers with NaN, or objects with None, where a value is missing."""
    if column.dtype.is_numeric():
        numbers: NDArray[Any] = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return numbers
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_list()
    return values
