"""Swing: items that pairs of users have in common who share little else (Yang, Zhu, Li et al., 2020, arXiv:2010.05525).
U users, I items, E list entries.

Reads who took what. Lists: item -> similar items."""

__all__ = ["Swing"]

from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError
from shortlist.forms import Lists
from shortlist.models.blocks.limits import fits
from shortlist.schema import Catalogue, Schema

ROWS = 16  # rows a thread takes at once: a hot item has a hundred thousand pairs
Short = NDArray[np.int32]
Ints = NDArray[np.int64]
Single = NDArray[np.float32]
Real = NDArray[np.float64]


class Swing:
    """s_ij = sum over pairs u < v of users who have both of w_u w_v / (alpha + |I_u and I_v|), w_u = 1 / |I_u|^beta.

    A group that shares all it has counts for little. Users of more than `longest` items are left out, as if they were
    not there. Of an item with more than `cap` users a random `cap` are asked, and the row is scaled by the pairs there
    are over the pairs asked: its expectation is the full sum, but s_ij and s_ji are of two samples then.

    A new user, or a new click, needs no more than the history at hand; an item with fewer than two users has no
    neighbours. Time grows as I cap^2 times what two users share; a thread holds 28 bytes an item and the lists of one
    item's users.
    """

    source: ClassVar[str] = "neighbours"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`keep` neighbours of an item. None (`inf` in TOML) for `cap` or `longest` means no bound. `engine` counts
        pairs as tables, of a log that loops in memory do not hold (docs/decisions/spark.md)."""

        alpha: Positive = 1.0
        beta: NonNegative = 0.5
        keep: Count = 200
        cap: Annotated[int, Ge(2)] | None = 500
        longest: Count | None = 1000
        seed: Annotated[int, Ge(0)] = 0
        budget_bytes: Count = 4 * 2**30
        engine: Literal["polars", "duckdb", "spark"] | None = None

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.reads: tuple[str, ...] = ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """Lists of at most `keep` items each, best first; an item without a neighbour has none. Raises CapacityError
        with the estimate."""
        from shortlist.models.blocks import cooccurrence as loops
        from shortlist.models.blocks.pairs import swung

        config = self.config
        log = interactions.liked(self.schema.weights)
        if config.engine is not None:
            return self._as_tables(config.engine, log)
        if len(log) >= 2**31:
            what, hint = f"{len(log)} events, one solve takes fewer than 2^31", "train on a shorter period"
            raise CapacityError(what, where="swing", hint=hint)
        keys, (events, place) = log.item_keys, log.places
        need = self.estimate(len(keys), len(log))
        fits(f"{len(keys)} items", need, config.budget_bytes, "swing", "raise budget_bytes or lower keep")
        none = np.empty(0, dtype=np.int32)
        kept, _, _ = loops.census(log.offsets, events, place, max(len(log), 1), len(keys))
        if config.longest is not None and bool((kept > config.longest).any()):
            log = log.where(np.repeat(kept <= config.longest, np.diff(log.offsets)))
            (events, place), keys = log.places, log.item_keys
            kept, _, _ = loops.census(log.offsets, events, place, max(len(log), 1), len(keys))
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        items = loops.latest(log.offsets, events, place, offsets, len(keys), none)
        starts, user, scale = self._picked(*loops.by_item(offsets, items, len(keys), none), log.user_keys, keys)
        weight = np.maximum(kept, 1).astype(np.float64) ** -config.beta

        def rows(low: int, high: int, sizes: Short, best: Ints, scores: Single) -> None:
            swung(low, high, sizes, best, scores, offsets, items, starts, user, weight, config.alpha, scale)

        return loops.ranked(rows, keys, keys, min(config.keep, len(keys) - 1), ROWS)

    def estimate(self, items: int, events: int) -> int:
        """Bytes at the peak: the result, sums of two threads, users' lists both ways round."""
        return items * (min(self.config.keep, items) * 12 + 2 * 28 + 8) + 40 * events

    def _as_tables(self, engine: str, log: Interactions) -> Lists:
        from shortlist.models.blocks.tabled import events, lists, opened
        from shortlist.tables.swing import swing

        config = self.config
        with opened(engine, "swing.engine") as tables:
            ranked = swing(
                events(tables, log, self.schema.weights), keep=config.keep, alpha=config.alpha, beta=config.beta,
                cap=config.cap, longest=config.longest, seed=config.seed, settle=tables.settled,
            )  # fmt: skip
            return lists(tables, ranked, "item", "other", config.budget_bytes)

    def _picked(self, starts: Ints, user: Short, users: Ints, keys: Ints) -> tuple[Ints, Short, Real]:
        """Of each item at most `cap` users, ascending: where they start [I+1], who they are, and all its pairs over
        those asked [I]. The dice of an item are its own: threads and other items change nothing."""
        from shortlist.tables.dice import dice

        counts, cap = np.diff(starts), self.config.cap
        scale = np.ones(len(counts), dtype=np.float64)
        if cap is None or not bool((counts > cap).any()):
            return starts, user, scale
        keep = np.ones(len(user), dtype=bool)
        for i in np.flatnonzero(counts > cap).tolist():
            asked = slice(starts[i], starts[i + 1])
            thrown = dice(users[user[asked]], keys[i], self.config.seed)
            keep[asked] = False
            keep[starts[i] + np.argsort(thrown, kind="stable")[:cap]] = True
            scale[i] = counts[i] * (counts[i] - 1) / (cap * (cap - 1))
        picked = np.concatenate([[0], np.cumsum(np.minimum(counts, cap))]).astype(np.int64)
        return picked, user[keep], scale
