"""A project's log as interactions: keys, times, actions as codes of the schema."""

import numpy as np
import polars as pl

from shortlist.config import Project
from shortlist.dataset.interactions import Interactions
from shortlist.events import workspace

__all__ = ["interactions"]


def interactions(project: Project) -> Interactions:
    """Imported and live events, in order of (user, time, offset); those of undeclared actions are left out.

    Raises DataError when nothing was imported.
    """
    names = workspace.schema(project).action_names
    known = workspace.events(project).filter(pl.col("action").is_in(list(names)))
    code = pl.col("action").replace_strict(list(names), list(range(len(names))), return_dtype=pl.Int16)
    columns = known.select("offset", "user", "item", "time_ms", "value", code=code)
    frame = columns.collect(engine="streaming").sort("offset")
    return Interactions.of(
        frame["user"].to_numpy(),
        frame["item"].to_numpy(),
        frame["time_ms"].to_numpy(),
        frame["code"].to_numpy(),
        frame["value"].fill_null(np.nan).to_numpy(),
    )
