"""Hot: what most people take, of late (an operating rule, no paper). E events, I items.

Reads events of chosen actions, their values, and the users' region. Lists: key 0 `global`, further keys
`region:<value>`."""

__all__ = ["Hot"]

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen, nearest
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import GLOBAL, Lists, of_region
from shortlist.schema import Catalogue, Schema

DAY_MS = 86_400_000


class Hot:
    """s(i) = sum over events of i: weight of the action * value * 0.5^((now - time) / half-life).

    `by` says what is summed: `clicks` and `purchases` count events, `amount` sums event values (an event
    without one adds nothing), `region` counts clicks for each region of users beside the global list. A region
    of fewer than `least` counted events gets no list, so whoever asks for it falls back to `global`; a user
    without a region counts there only.
    """

    source = "popular"

    @frozen
    class Config:
        """`actions` counted; none named means every action of weight above 0, for purchases and amount those
        called `purchase`.

        A day suits news, a week goods; no half-life (`inf` in TOML) means plain counts. Of one user's events
        on one item the latest `per_user` count.
        """

        by: Literal["clicks", "purchases", "amount", "region"] = "clicks"
        actions: tuple[str, ...] = ()
        half_life_days: Positive | None = 7.0
        keep: Count = 500
        per_user: Count | None = 5
        least: Annotated[int, Ge(0)] = 50

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config = config
        self.schema = schema
        names = config.actions or (("purchase",) if config.by in ("purchases", "amount") else schema.action_names)
        for name in names:
            if name not in schema.actions:
                hint = f"set actions; {nearest(name, schema.action_names)}"
                raise ConfigError(f"no action is called {name!r}", where="hot.actions", hint=hint)
        if config.by == "region" and schema.region not in schema.users:
            hint = "set schema.region to a field of [schema.users]"
            raise ConfigError("regions need a field of the users", where="hot.by", hint=hint)
        counted = np.isin(schema.action_names, names)
        self.weights: NDArray[np.float32] = np.where(counted, schema.weights, 0).astype(np.float32)
        self.reads: tuple[str, ...] = (
            ("actions", "region", f"user.{schema.region}") if config.by == "region" else ("actions",)
        )

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """Ranked items of each list, at most `keep`. Scores of different `now` do not compare; their order does."""
        log = interactions.liked(self.weights)
        if self.config.per_user is not None:
            log = log.where(_latest(log, self.config.per_user))
        worth = self.weights[log.actions].astype(np.float64)
        if self.config.by == "amount":
            worth *= np.nan_to_num(log.values.astype(np.float64))
        if self.config.half_life_days is not None:
            worth *= np.exp2(-(now - log.times) / (self.config.half_life_days * DAY_MS))
        codes = np.zeros(len(log), dtype=np.int64)
        labels: tuple[str, ...] = (GLOBAL,)
        blocks = [_totals(codes, log.items, worth)]
        if self.config.by == "region" and self.schema.region is not None:
            codes, labels = self._regions(log, catalogue)
            blocks.append(_totals(codes[codes > 0], log.items[codes > 0], worth[codes > 0]))
        owners, items, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return Lists.ranked(owners, items, scores.astype(np.float32), self.config.keep, labels)

    def _regions(self, log: Interactions, catalogue: Catalogue) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """List of each event [E], 0 where its region is unknown or has too few, and the names of all lists."""
        values = catalogue.users.take(str(self.schema.region), log.user_keys)
        known = [value is not None and value == value for value in values]
        names = np.array([str(v) if k else "" for v, k in zip(values, known, strict=True)], dtype=object)
        regions, of_user = np.unique(names, return_inverse=True)
        events = np.diff(log.offsets)
        sizes = np.bincount(of_user, weights=events, minlength=len(regions))
        built = np.flatnonzero((sizes >= self.config.least) & (regions != ""))
        code = np.zeros(len(regions), dtype=np.int64)
        code[built] = np.arange(1, len(built) + 1)
        return np.repeat(code[of_user], events), (GLOBAL, *(of_region(regions[r]) for r in built))


def decayed(
    score: NDArray[np.float64],
    since: NDArray[np.int64],
    value: NDArray[np.float64],
    time: NDArray[np.int64],
    half_life_ms: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One event more per item, without the log: (S, t0) -> (S * 0.5^((t - t0)/H) + v, t). All [N], times in ms.

    An event older than t0 is aged to t0 instead, so late events count right. At any `now` the score is S *
    0.5^((now - t0)/H).
    """
    last = np.maximum(since, time)
    kept = score * np.exp2(-(last - since) / half_life_ms)
    return kept + value * np.exp2(-(last - time) / half_life_ms), last


def _latest(log: Interactions, n: int) -> NDArray[np.bool_]:
    """The n latest events of each (user, item) [E]."""
    pair = np.repeat(np.arange(len(log.user_keys)), np.diff(log.offsets)) * max(len(log.item_keys), 1) + log.columns
    order = np.argsort(pair, kind="stable")
    ends = np.flatnonzero(np.diff(pair[order], append=-1))
    sizes = np.diff(ends, prepend=-1)
    keep = np.empty(len(log), dtype=bool)
    keep[order] = np.repeat(ends, sizes) - np.arange(len(log)) < n
    return keep


def _totals(
    codes: NDArray[np.int64], items: NDArray[np.int64], worth: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Sum of worth by (list, item)."""
    width = int(items.max(initial=0)) + 1
    pairs, at = np.unique(codes * width + items, return_inverse=True)
    sums = np.bincount(at, weights=worth, minlength=len(pairs)).astype(np.float64)
    return pairs // width, pairs % width, sums
