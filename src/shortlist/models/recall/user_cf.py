"""UserCF: users who took the same items (Resnick et al., CSCW 1994; inverse user frequency: Breese, Heckerman, Kadie,
UAI 1998; significance weighting: Herlocker et al., SIGIR 1999). U users, I items, E list entries, R rows.

Reads who took what, values where ratings count, and the users' region. Lists: user -> similar users; beside them
`taken`: user -> items, latest first, and `rated`: user -> items by value."""

__all__ = ["UserCF"]

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError, DataError
from shortlist.forms import Built, Lists
from shortlist.models.blocks.limits import fits
from shortlist.schema import Catalogue, Schema, text

ROWS = 64  # rows a thread takes at once
Short = NDArray[np.int32]
Ints = NDArray[np.int64]
Single = NDArray[np.float32]
Real = NDArray[np.float64]


class UserCF:
    """s_uv over the items of u and of v, by `measure`, I_u the latest `cap` of a user, U_i the users that have i there:

    - `jaccard`: |I_u and I_v| / |I_u or I_v|; `cosine`: |I_u and I_v| / sqrt(|I_u| |I_v|);
    - `iuf`: the sum over common items of 1 / log(1 + |U_i|), over sqrt(|I_u| |I_v|);
    - `pearson`: correlation of the event values over common items, 0 where one side is constant there. `means` are
      those of the common items, or each user's `own` over all of the list.

    Times n / (n + lam) for n common items, and times 1 + beta for users of one region; `hard` keeps to the region where
    it has `keep` users alike. How active the two are is no factor: docs/decisions/activity.md. Only likeness above 0 is
    kept, and of repeated events on one item the latest stands.

    A user without events of training has no row, and is served from the history at hand (`similar_users`), except by
    `pearson`: a request carries no values. An item that nobody took is in nobody's list.

    Rows are counted over an inverted index. A thread holds 24 bytes a user (56 for `pearson`) beside the result.
    """

    source: ClassVar[str] = "similar_users"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`keep` users alike of each. `predict` is how `similar_users` scores an item: the `sum` of likeness of those
        who took it, that sum `rated` by their values, or the `mean` deviation of these from what each gives. `engine`
        counts pairs as tables, of a log that loops in memory do not hold (docs/decisions/spark.md)."""

        measure: Literal["jaccard", "cosine", "iuf", "pearson"] = "iuf"
        means: Literal["common", "own"] = "common"
        predict: Literal["sum", "rated", "mean"] = "sum"
        keep: Count = 80
        cap: Count | None = 2000
        lam: NonNegative = 10.0
        beta: NonNegative = 0.2
        hard: bool = False
        budget_bytes: Count = 4 * 2**30
        engine: Literal["polars", "duckdb", "spark"] | None = None

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        regional = schema.region in schema.users
        if config.hard and not regional:
            hint = "set schema.region to a field of [schema.users]"
            raise ConfigError("regions need a field of the users", where="user_cf.hard", hint=hint)
        self.region = schema.region if regional and (config.hard or config.beta) else None
        self.rated = config.measure == "pearson" or config.predict != "sum"
        self.reads: tuple[str, ...] = ("actions", *(("region", f"user.{self.region}") if self.region else ()))

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Built:
        """Similar users of each, best first; a user without one has no list. Raises CapacityError with the estimate,
        DataError where values are asked for and none is there."""
        sets = self._sets(interactions)
        beside = {"taken": sets.latest()}
        if self.rated:
            beside["rated"] = sets.by_value()
        if self.config.engine is None:
            rows = self._rows(sets, catalogue, np.arange(len(sets.users)))
        else:
            rows = self._as_tables(self.config.engine, sets, interactions, catalogue)
        return Built(rows, beside, {"form": "users", **dict.fromkeys(beside, "items")})

    def rows(self, interactions: Interactions, catalogue: Catalogue, users: Ints) -> Lists:
        """The lists of these users alone [R], to the bit those of `solve`. After new events of some users those of
        `concerned` are the ones that may differ: `renewed` puts them in place."""
        sets = self._sets(interactions)
        return self._rows(sets, catalogue, np.flatnonzero(np.isin(sets.users, users)))

    def estimate(self, users: int, events: int) -> int:
        """Bytes at the peak: the result, sums of two threads, users' lists both ways round with their values."""
        return users * (min(self.config.keep, users) * 12 + 2 * 56) + (80 if self.rated else 50) * events

    def _sets(self, interactions: Interactions) -> "_Sets":
        from shortlist.models.blocks import cooccurrence as loops

        config = self.config
        log = interactions.liked(self.schema.weights)
        if self.rated:
            valued = log.where(np.isfinite(log.values))
            if len(log) and not len(valued):
                hint = 'set schema.value, or measure = "iuf" and predict = "sum"'
                raise DataError("no event has a value", where="user_cf", hint=hint)
            log = valued
        if len(log) >= 2**31:
            what, hint = f"{len(log)} events, one solve takes fewer than 2^31", "train on a shorter period"
            raise CapacityError(what, where="user_cf", hint=hint)
        if config.engine is None:
            users, hint = len(log.user_keys), "raise budget_bytes or lower keep"
            fits(f"{users} users", self.estimate(users, len(log)), config.budget_bytes, "user_cf", hint)
        width, (events, place) = len(log.item_keys), log.places
        cap = max(len(log), 1) if config.cap is None else config.cap
        kept, _, _ = loops.census(log.offsets, events, place, cap, width)
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        event = np.empty(offsets[-1] if self.rated else 0, dtype=np.int32)
        items = loops.latest(log.offsets, events, place, offsets, width, event)
        return _Sets(log.user_keys, log.item_keys, offsets, items, log.values[event].astype(np.float64))

    def _rows(self, sets: "_Sets", catalogue: Catalogue, which: Ints) -> Lists:
        from shortlist.models.blocks import cooccurrence as loops
        from shortlist.models.blocks.alike import alike, correlated

        config, n = self.config, len(sets.users)
        none = np.empty(0, dtype=np.int32)
        valued = config.measure == "pearson"
        entry = np.empty(len(sets.items) if valued else 0, dtype=np.int32)
        back = np.empty_like(entry)
        starts, user = loops.by_item(sets.offsets, sets.items, len(sets.names), entry)
        offsets, items = loops.by_item(starts, user, n, back)  # and back: the same lists, items ascending
        region = self._regions(catalogue, sets.users)
        last = (config.lam, region, config.beta, config.hard)
        if valued:
            theirs = sets.deviations()[entry]
            mine = theirs[back]

            def rows(low: int, high: int, sizes: Short, best: Ints, scores: Single) -> None:
                correlated(
                    low, high, sizes, best, scores, which, offsets, items, starts, user, mine, theirs,
                    config.means == "common", *last,
                )  # fmt: skip

        else:
            audience = np.diff(starts)
            weight = 1 / np.log1p(np.maximum(audience, 1)) if config.measure == "iuf" else none.astype(np.float64)
            union = config.measure == "jaccard"

            def rows(low: int, high: int, sizes: Short, best: Ints, scores: Single) -> None:
                alike(
                    low, high, sizes, best, scores, which, offsets, items, starts, user, weight, union, *last
                )  # fmt: skip

        return loops.ranked(rows, sets.users[which], sets.users, min(config.keep, n - 1), ROWS)

    def _as_tables(self, engine: str, sets: "_Sets", interactions: Interactions, catalogue: Catalogue) -> Lists:
        from shortlist.models.blocks.tabled import events, lists, opened
        from shortlist.tables.similar_users import similar_users

        config, region = self.config, self._regions(catalogue, sets.users)
        known = region >= 0
        with opened(engine, "user_cf.engine") as tables:
            ranked = similar_users(
                events(tables, interactions, self.schema.weights), config.measure,
                keep=max(1, min(config.keep, len(sets.users) - 1)), cap=config.cap, valued=self.rated,
                common_means=config.means == "common", lam=config.lam, beta=config.beta, hard=config.hard,
                regions=tables.table({"user": sets.users[known], "region": region[known]}) if known.any() else None,
                settle=tables.settled,
            )  # fmt: skip
            return lists(tables, ranked, "user", "other", config.budget_bytes)

    def _regions(self, catalogue: Catalogue, users: Ints) -> Short:
        """A code per user [U], -1 where the region is unknown or does not matter."""
        codes = np.full(len(users), -1, dtype=np.int32)
        if self.region is not None:
            names = text(catalogue.users.take(self.region, users)).to_numpy()
            known = np.array([name is not None for name in names], dtype=bool)
            codes[known] = np.unique(names[known].astype(str), return_inverse=True)[1]
        return codes


@dataclass(frozen=True)
class _Sets:
    """`users` [U] and `names` [I] are keys; user u owns `offsets[u]:offsets[u+1]` of `items` [E] (places), in order of
    time, with `values` [E], empty where they do not count."""

    users: Ints
    names: Ints
    offsets: Ints
    items: Short
    values: Real

    @property
    def owners(self) -> Ints:
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    def latest(self) -> Lists:
        """Items of each user, latest first: its score is the place from the oldest on, from 1."""
        owners = self.owners
        at = self.offsets[owners] + self.offsets[owners + 1] - 1 - np.arange(len(owners))
        place = (self.offsets[owners + 1] - np.arange(len(owners))).astype(np.float32)
        return Lists(self.users, self.offsets, self.names[self.items[at]], place)

    def by_value(self) -> Lists:
        return Lists.ranked(self.users[self.owners], self.names[self.items], self.values.astype(np.float32))

    def deviations(self) -> Real:
        """Values minus the mean of their user [E]."""
        owners = self.owners
        total = np.bincount(owners, weights=self.values, minlength=len(self.users))
        deviation: Real = self.values - (total / np.maximum(np.diff(self.offsets), 1))[owners]
        return deviation


def concerned(log: Interactions, users: Ints) -> Ints:
    """These users and all who share an item with one of them: whose rows may differ when these have new events, or
    lose some. To be asked of the log before and of the log after."""
    items = np.unique(log.items[np.isin(log.users, users)])
    others: Ints = np.unique(np.concatenate([users, log.users[np.isin(log.items, items)]]))
    return others


def renewed(lists: Lists, rows: Lists, users: Ints) -> Lists:
    """The lists with those of `users` replaced by `rows`: who has no row there any more has no list."""
    owners = np.repeat(lists.keys, np.diff(lists.offsets))
    stay = ~np.isin(owners, users)
    fresh = np.repeat(rows.keys, np.diff(rows.offsets))
    return Lists.ranked(
        np.concatenate([owners[stay], fresh]),
        np.concatenate([lists.items[stay], rows.items]),
        np.concatenate([lists.scores[stay], rows.scores]),
    )
