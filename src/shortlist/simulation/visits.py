"""When users come: visits by hour of day and weekday, and how often they ask for a slate in each.

V visits, N requests."""

__all__ = ["Asked", "schedule", "intensity"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.simulation.people import People
from shortlist.simulation.truth import HOUR_MS

Ints = NDArray[np.int64]

WEEKEND = 1.3  # visits of a Saturday or Sunday against those of another day
PEAK_HOUR = 20.0
MOST = 12  # requests of a visit


@dataclass(frozen=True)
class Asked:
    """Requests of a tick, all [N]: `users`, `start` ms of their visit, whether they open it, and `step`, the how
    manieth request of this user in the tick. In order of step, then user: at one step no user stands twice."""

    users: Ints
    start: Ints
    opens: NDArray[np.bool_]
    step: Ints


def intensity(times: Ints) -> NDArray[np.float64]:
    """Visits at these moments (UTC) against those of an average hour: an evening peak, busier weekends. Mean 1 over
    the week."""
    hour = (times // HOUR_MS) % 24 + 0.5
    weekday = (times // (24 * HOUR_MS) + 3) % 7  # 1970 began on a Thursday; Monday is 0
    weekend = np.where(weekday >= 5, WEEKEND, 1.0) / ((5 + 2 * WEEKEND) / 7)
    return np.asarray((1 + 0.7 * np.cos(2 * np.pi * (hour - PEAK_HOUR) / 24)) * weekend)


def schedule(people: People, low: int, high: int, requests: float, rng: np.random.Generator) -> Asked:
    """Requests whose visits begin in [low, high) ms; `requests` a visit on average, geometric, at most `MOST`."""
    edges = np.unique(np.append(np.arange(low, high, HOUR_MS), [-(-low // HOUR_MS) * HOUR_MS, high]))
    edges = edges[(edges >= low) & (edges <= high)]
    days = intensity(edges[:-1]) * np.diff(edges) / (24 * HOUR_MS)
    counts = rng.poisson(people.rate * days.sum())
    visitors = np.repeat(np.arange(len(people)), counts)
    reached = np.concatenate([[0.0], np.cumsum(days)])
    start = np.interp(rng.random(len(visitors)) * reached[-1], reached, edges).astype(np.int64)
    lengths = np.minimum(rng.geometric(1 / requests, len(visitors)), MOST)
    here = start >= people.joined[visitors]
    visitors, start, lengths = visitors[here], start[here], lengths[here]
    order = np.lexsort((start, visitors))
    users, starts = np.repeat(visitors[order], lengths[order]), np.repeat(start[order], lengths[order])
    ends = np.cumsum(lengths[order])
    opens = np.zeros(len(users), dtype=bool)
    opens[ends - lengths[order]] = True
    first = np.searchsorted(users, users)
    step = np.arange(len(users)) - first
    by_step = np.argsort(step, kind="stable")
    return Asked(users[by_step], starts[by_step], opens[by_step], step[by_step])
