"""Hot: what most people take, of late (an operating rule, no paper). E events, I items.

Reads events of chosen actions, their values, and the users' region and country. Lists: key 0 `global`, further keys
`country:<value>` and `region:<value>`."""

__all__ = ["Hot"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen, nearest
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import GLOBAL, Lists, of_country, of_region
from shortlist.schema import Catalogue, Schema, text

DAY_MS = 86_400_000
Ints = NDArray[np.int64]
Real = NDArray[np.float64]


class Hot:
    """s(i) = sum over events of i: weight of the action * value * 0.5^((now - time) / half-life).

    `by` says what is summed: `clicks` and `purchases` count events, `amount` sums event values (an event
    without one adds nothing), `region` counts clicks for each region of users beside the global list, and for each
    `country`, if that names a field. A region of fewer than `least` counted events gets no list: whoever asks for it
    gets that of the country, and where this has too few as well `global` (source `popular`). A user without a region
    counts elsewhere only. Regions of two countries have names of their own.

    Everybody gets a list, an item that nobody took is in none. Events that come in later need no pass over the log:
    `updated`, for who keeps a list up to date between trainings; no command of ours does yet.
    """

    source: ClassVar[str] = "popular"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`actions` counted; none named means every action of weight above 0, for purchases and amount those
        called `purchase`.

        A day suits news, a week goods; no half-life (`inf` in TOML) means plain counts. Of one user's events
        on one item the latest `per_user` count. `engine` sums as tables, of a log that arrays in memory do not hold
        (docs/decisions/spark.md).
        """

        by: Literal["clicks", "purchases", "amount", "region"] = "clicks"
        actions: tuple[str, ...] = ()
        half_life_days: Positive | None = 7.0
        keep: Count = 500
        per_user: Count | None = 5
        least: Annotated[int, Ge(0)] = 50
        country: str | None = None
        engine: Literal["polars", "duckdb", "spark"] | None = None

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
        if config.country is not None and config.by != "region":
            hint = 'set by = "region", or take country away'
            raise ConfigError("a country is what a region is in", where="hot.country", hint=hint)
        if config.country is not None and config.country not in schema.users:
            what, hint = f"no user field is called {config.country!r}", nearest(config.country, list(schema.users))
            raise ConfigError(what, where="hot.country", hint=hint)
        counted = np.isin(schema.action_names, names)
        self.weights: NDArray[np.float32] = np.where(counted, schema.weights, 0).astype(np.float32)
        levels: list[tuple[str, Callable[[object], str]]] = []
        if config.country is not None:
            levels.append((config.country, of_country))
        if config.by == "region" and schema.region is not None:
            levels.append((schema.region, of_region))
        self.levels = tuple(levels)
        fields = tuple(f"user.{name}" for name, _ in levels)
        self.reads: tuple[str, ...] = ("actions", "region", *fields) if levels else ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """Ranked items of each list, at most `keep`. Scores of different `now` do not compare; their order does."""
        log = interactions.liked(self.weights)
        if self.config.engine is not None:
            return self._as_tables(self.config.engine, log, catalogue, now)
        if self.config.per_user is not None:
            log = log.where(_latest(log, self.config.per_user))
        worth = self.worth(log)
        if self.config.half_life_days is not None:
            worth *= np.exp2(-(now - log.times) / (self.config.half_life_days * DAY_MS))
        labels = [GLOBAL]
        blocks = [_totals(np.zeros(len(log), dtype=np.int64), log.items, worth)]
        for field, label in self.levels:
            place, names = self._by(field, log, catalogue)
            known = place >= 0
            blocks.append(_totals(place[known] + len(labels), log.items[known], worth[known]))
            labels += [label(name) for name in names]
        owners, items, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return Lists.ranked(owners, items, scores.astype(np.float32), self.config.keep, tuple(labels))

    def _as_tables(self, engine: str, log: Interactions, catalogue: Catalogue, now: int) -> Lists:
        from shortlist.models.blocks.tabled import events, lists, opened
        from shortlist.tables.hot import hot

        config, labels, users, numbers = self.config, [GLOBAL], [], []
        for field, label in self.levels:
            of_user, names = self._names(field, log, catalogue)
            known = names[of_user] != ""
            users.append(log.user_keys[known])
            numbers.append(of_user[known] + len(labels))
            labels += [label(name) for name in names]
        with opened(engine, "hot.engine") as tables:
            own = tables.table({"user": np.concatenate(users), "list": np.concatenate(numbers)}) if users else None
            ranked = hot(
                events(tables, log, self.weights), now=now, keep=config.keep, amount=config.by == "amount",
                per_user=config.per_user, lists=own, least=config.least, settle=tables.settled,
                half_life_ms=None if config.half_life_days is None else config.half_life_days * DAY_MS,
            )  # fmt: skip
            found = lists(tables, ranked, "list", "item", None, labels=tuple(labels))
        return replace(found, keys=np.arange(len(found)))

    def worth(self, log: Interactions) -> Real:
        """What each event adds at its own moment [E]."""
        worth = self.weights[log.actions].astype(np.float64)
        return worth * np.nan_to_num(log.values.astype(np.float64)) if self.config.by == "amount" else worth

    def _by(self, field: str, log: Interactions, catalogue: Catalogue) -> tuple[Ints, list[str]]:
        """List of each event [E] by its user's field, -1 where that is unknown or has too few, and their names."""
        of_user, names = self._names(field, log, catalogue)
        events = np.diff(log.offsets)
        sizes = np.bincount(of_user, weights=events, minlength=len(names))
        built = np.flatnonzero((sizes >= self.config.least) & (names != ""))
        code = np.full(len(names), -1, dtype=np.int64)
        code[built] = np.arange(len(built))
        return np.repeat(code[of_user], events), names[built].tolist()

    def _names(self, field: str, log: Interactions, catalogue: Catalogue) -> tuple[Ints, NDArray[np.object_]]:
        """The field of each user [U] as its place among all there are, and these, ascending; nothing is empty."""
        values = text(catalogue.users.take(field, log.user_keys)).to_list()
        names, of_user = np.unique(np.array([v or "" for v in values], dtype=object), return_inverse=True)
        return of_user, names


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


@dataclass(frozen=True)
class Standing:
    """The scores of one list without its log: `items` [I] ascending, `score` [I] as of `since` [I] (ms).

    Where a user's events on an item count only so often, those that do are held: `held` are users, items and times [H]
    in the order they came, `worth` [H] what they added.
    """

    items: Ints
    score: Real
    since: Ints
    held: tuple[Ints, Ints, Ints]
    worth: Real

    @classmethod
    def empty(cls) -> "Standing":
        none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float64)
        return cls(none, nothing, none, (none, none, none), nothing)

    def lists(self, now: int, config: Hot.Config) -> Lists:
        """The ranked list, `global`, as `Hot.solve` has it."""
        score = self.score * np.exp2(-(now - self.since) / _half_life_ms(config))
        owners = np.zeros(len(self.items), dtype=np.int64)
        return Lists.ranked(owners, self.items, score.astype(np.float32), config.keep, (GLOBAL,))


def updated(hot: Hot, standing: Standing, events: Interactions) -> Standing:
    """The standing after some events more, which may be late: at any `now` as if all had been in one log.

    Time and memory grow with the events and what is held, not with the log.
    """
    log, n, half_life_ms = events.liked(hot.weights), hot.config.per_user, _half_life_ms(hot.config)
    order = np.argsort(log.log_offsets, kind="stable")
    fresh, worth = (log.users[order], log.items[order], log.times[order]), hot.worth(log)[order]
    held, before = standing.held, len(standing.worth)
    change, moved = worth, np.ones(len(worth), dtype=bool)
    if n is not None:
        users, items, times = (np.concatenate(columns) for columns in zip(held, fresh, strict=True))
        worth = np.concatenate([standing.worth, worth])
        counts = np.zeros(len(users), dtype=bool)
        order = np.lexsort((times, items, users))  # stable: at equal times in the order they came
        ends = np.flatnonzero((np.diff(users[order], append=-1) != 0) | (np.diff(items[order], append=-1) != 0))
        sizes = np.diff(ends, prepend=-1)
        counts[order] = np.repeat(ends, sizes) - np.arange(len(users)) < n
        fresh, change = (users, items, times), np.where(counts, worth, -worth)
        moved = counts != (np.arange(len(users)) < before)  # held so far and no more, or new and held from now on
        held, standing_worth = (users[counts], items[counts], times[counts]), worth[counts]
    else:
        standing_worth = standing.worth
    items, times, change = fresh[1][moved], fresh[2][moved], change[moved]
    every = np.union1d(standing.items, items)
    at, old = np.searchsorted(every, items), np.searchsorted(every, standing.items)
    last = np.full(len(every), np.iinfo(np.int64).min)
    np.maximum.at(last, at, times)
    score, since = np.zeros(len(every)), last.copy()
    score[old], since[old] = standing.score, standing.since
    last = np.where(np.isin(every, items), last, since)
    aged = change * np.exp2(-(last[at] - times) / half_life_ms)
    sums = np.bincount(at, weights=aged, minlength=len(every)).astype(np.float64)
    score, since = decayed(score, since, sums, last, half_life_ms)
    return Standing(every, score, since, held, standing_worth)


def _half_life_ms(config: Hot.Config) -> float:
    return np.inf if config.half_life_days is None else config.half_life_days * DAY_MS


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
