"""Whole days of the calendar: some days to learn from, the days after them to be tested on (six and the seventh, as
logs of exposures are usually cut).

One cut for all users, so as in `global_time` nothing learned from lies after anything asked about. Items that appear
after the cut stay: they are cold, and `evaluate` reports them apart.
"""

import datetime
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from shortlist.config import Count, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import OUT, TEST, TRAIN, VALID, Split
from shortlist.errors import ConfigError, DataError

__all__ = ["Days"]

DAY_MS, HOUR_MS = 86_400_000, 3_600_000


class Days:
    """The first `train` days, the last `valid` of which are validation, and the `test` days after them; what lies
    outside is left out. `start` is the first day, `2021-06-24`; that of the first event where it is empty. Days begin
    at midnight `utc_offset_hours` ahead of UTC.
    """

    @frozen
    class Config:
        train: Count = 6
        valid: Annotated[int, Ge(0)] = 1
        test: Count = 1
        start: str = ""
        utc_offset_hours: Annotated[float, Ge(-12), Le(14)] = 0.0

    def __init__(self, config: Config) -> None:
        if config.valid >= config.train:
            what = f"{config.valid} of {config.train} days are validation"
            raise ConfigError(what, where="split.valid", hint="leave a day to learn from")
        self.config, self.first = config, _day(config.start) if config.start else None

    def split(self, interactions: Interactions, rng: np.random.Generator) -> Split:
        """Throws no dice. Raises DataError when a part has no events."""
        times = interactions.times
        if not len(times) or times.min() == times.max():
            hint = "use last_out for a log without times"
            raise DataError("all events have the same time", where="split (days)", hint=hint)
        config = self.config
        day = (times + int(config.utc_offset_hours * HOUR_MS)) // DAY_MS
        day = day - (day.min() if self.first is None else self.first)
        roles = np.full(len(interactions), OUT, dtype=np.int8)
        roles[(day >= 0) & (day < config.train - config.valid)] = TRAIN
        roles[(day >= config.train - config.valid) & (day < config.train)] = VALID
        roles[(day >= config.train) & (day < config.train + config.test)] = TEST
        return Split(interactions, roles, "days", "global").checked()


def _day(start: str) -> int:
    """Days since 1970."""
    try:
        return datetime.date.fromisoformat(start).toordinal() - datetime.date(1970, 1, 1).toordinal()
    except ValueError:
        raise ConfigError(f"{start!r} is no date", where="split.start", hint='write "2021-06-24"') from None
