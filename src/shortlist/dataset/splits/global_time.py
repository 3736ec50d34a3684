"""One cut in time for all users: recall learns before T1, rankers on T1..T2, validation T2..T3, test after.

The honest protocol: nothing learned from lies after anything asked about.
"""

import numpy as np

from shortlist.config import Fraction, Share, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import RANK, TEST, TRAIN, VALID, Split
from shortlist.errors import ConfigError, DataError

__all__ = ["GlobalTime"]


class GlobalTime:
    """Shares of the events in order of time; what is left over is test. A cut never parts events of the same time."""

    @frozen
    class Config:
        train: Fraction = 0.7
        rank: Share = 0.1
        valid: Fraction = 0.1

    def __init__(self, config: Config) -> None:
        total = round(config.train + config.rank + config.valid, 9)
        if total >= 1:
            raise ConfigError(
                f"train, rank and valid add up to {total:g}", where="split", hint="leave a share for test"
            )
        self.config = config

    def split(self, interactions: Interactions, rng: np.random.Generator) -> Split:
        """Throws no dice. Raises DataError when the log is too short to be cut."""
        t1, t2, t3 = self.cuts(interactions.times)
        roles = np.full(len(interactions), TRAIN, dtype=np.int8)
        roles[interactions.times >= t1] = RANK
        roles[interactions.times >= t2] = VALID
        roles[interactions.times >= t3] = TEST
        return Split(interactions, roles, "global_time", "global").checked()

    def cuts(self, times: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> tuple[int, int, int]:
        """T1, T2, T3 in ms: a part begins with the first event at its cut."""
        if not len(times) or times.min() == times.max():
            hint = "use last_out for a log without times"
            raise DataError("all events have the same time", where="split (global_time)", hint=hint)
        ordered = np.sort(times)
        shares = np.cumsum([self.config.train, self.config.rank, self.config.valid])
        t1, t2, t3 = (int(ordered[int(round(share * len(ordered), 9))]) for share in shares)
        return t1, t2, t3
