"""Requests, profiles and sources written out by hand, and random funnels for comparing with plain Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Mask, Ragged, Requests
from shortlist.expressions import Expression
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.mergers.rrf import Rrf
from shortlist.funnel.mergers.snake import Snake
from shortlist.funnel.pipeline import Channel, Funnel, Keep, Merger, Recalled, Selector, Source
from shortlist.funnel.selectors.top import Top
from shortlist.index.cut import cut
from shortlist.schema import Profiles, Schema

NOW = 1_000_000
SCHEMA = Schema.parse({"items": {"genre": "varlen", "brand": "sparse"}, "category": "genre"})
Ids = NDArray[np.int64]


def objects(values: Sequence[Any]) -> NDArray[Any]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def profiles(*genres: Any, **columns: Sequence[Any]) -> Profiles:
    """Items 0, 1, ... with these genres and other fields."""
    table = {name: objects(values) for name, values in columns.items()}
    return Profiles(np.arange(len(genres)), {"genre": objects(genres), **table})


def ragged(*rows: Sequence[int]) -> Ragged:
    """Items per request, in order, the last at NOW - 1, the one before at NOW - 2, ..."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    times = np.array([NOW - len(row) + n for row in rows for n in range(len(row))], dtype=np.int64)
    return Ragged(offsets, items, times, np.zeros(len(items), dtype=np.int16))


def ask(
    *histories: Sequence[int],
    n: int = 3,
    users: Sequence[int] | None = None,
    shown: Ragged | None = None,
    exclude: Ragged | None = None,
    prefix: Ragged | None = None,
    where: str | None = None,
    context: Mapping[str, Sequence[Any]] | None = None,
) -> Requests:
    """One request for each history, by user 0, 1, ..."""
    r = len(histories)
    return Requests(
        np.arange(r) if users is None else np.array(users, dtype=np.int64),
        np.full(r, NOW),
        n,
        ragged(*histories),
        Ragged.empty(r) if shown is None else shown,
        Ragged.empty(r) if exclude is None else exclude,
        {name: objects(values) for name, values in (context or {}).items()},
        None if where is None else Expression.parse(where),
        prefix=prefix,
    )


class Brings:
    """A source that knows a scored list for each user; user -1 stands for everybody else."""

    def __init__(self, lists: Mapping[int, Sequence[tuple[int, float]]]) -> None:
        self.lists = lists

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        rows = [
            (r, item, score)
            for r, user in enumerate(requests.users.tolist())
            for item, score in self.lists.get(user, self.lists.get(-1, ()))
        ]
        owners, items = (np.array([row[c] for row in rows], dtype=np.int64) for c in (0, 1))
        return cut(owners, items, np.array([row[2] for row in rows], dtype=np.float32), n, keep)


def ranked(*items: int) -> Brings:
    """The same list for everybody, best first."""
    return Brings({-1: [(item, float(len(items) - n)) for n, item in enumerate(items)]})


class Says:
    """A source that returns just these columns, whatever it is asked."""

    def __init__(self, owners: Sequence[Any], items: Sequence[Any], scores: Sequence[Any]) -> None:
        self.rows: Any = (np.array(owners), np.array(items), np.array(scores, dtype=np.float32))

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        rows: Recalled = self.rows
        return rows


class Fails:
    """Raises, whatever part it is."""

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        raise OSError("the index is gone")

    def select(self, requests: Requests, candidates: Candidates, scores: Any) -> tuple[Ids, Ids, Mapping[str, Mask]]:
        raise OSError("no selection today")

    def boost(self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        raise OSError("no boost today")


class Only:
    """A filter that keeps these items."""

    def __init__(self, *items: int) -> None:
        self.items = items

    def keep(self, requests: Requests, owners: Ids, items: Ids) -> Mask:
        return np.isin(items, self.items)


def funnel(
    *sources: Source, quota: int = 10, merger: Merger | None = None, selector: Selector | None = None, **parts: Any
) -> Funnel:
    """Channels a, b, ... with one quota, snake, no filter, the best by score."""
    channels = tuple(Channel(name, source, quota) for name, source in zip("abcdef", sources, strict=False))
    return Funnel(
        channels=channels,
        merger=merger or Snake(Snake.Config(), tuple(c.name for c in channels)),
        filters=parts.pop("filters", {}),
        selector=selector or Top(Top.Config(), SCHEMA, profiles()),
        **parts,
    )


def pages(slates: Any) -> list[list[int]]:
    return [slates.items[a:b].tolist() for a, b in zip(slates.offsets[:-1], slates.offsets[1:], strict=True)]


# ---------------------------------------------------------------------------------------------- random funnels

ITEM = st.integers(0, 14)
USERS = 4


@dataclass(frozen=True)
class Drawn:
    """A funnel and what it is made of, for plain Python to run."""

    quotas: tuple[int, ...]
    lists: tuple[dict[int, list[tuple[int, float]]], ...]
    seen: tuple[list[int], ...]
    listed: tuple[int, ...]
    fallback: tuple[int, ...] | None
    budget: int
    n: int
    merge: str
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple("abc"[: len(self.quotas)])

    def funnel(self, selector: Selector | None = None, block: int = 512) -> Funnel:
        merger: Merger = Snake(Snake.Config(), self.names)
        if self.merge == "rrf":
            merger = Rrf(Rrf.Config(weights=self.weights), self.names)
        return Funnel(
            channels=tuple(
                Channel(name, Brings(lists), quota)
                for name, lists, quota in zip(self.names, self.lists, self.quotas, strict=True)
            ),
            merger=merger,
            filters={"seen": Seen(Seen.Config(), SCHEMA, profiles()), "listed": Only(*self.listed)},
            selector=selector or Top(Top.Config(), SCHEMA, profiles()),
            budget=self.budget,
            fallback=None if self.fallback is None else ranked(*self.fallback),
            block=block,
        )

    @property
    def requests(self) -> Requests:
        return ask(*self.seen, n=self.n)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Up to three channels over fifteen items for four users; scores that tie now and then."""
    score = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
    own = st.lists(st.tuples(ITEM, score), max_size=8, unique_by=lambda row: row[0])
    channels = draw(st.integers(1, 3))
    return Drawn(
        quotas=tuple(draw(st.integers(1, 6)) for _ in range(channels)),
        lists=tuple({user: draw(own) for user in range(USERS)} for _ in range(channels)),
        seen=tuple(draw(st.lists(ITEM, max_size=5, unique=True)) for _ in range(USERS)),
        listed=tuple(draw(st.lists(ITEM, min_size=6, unique=True))),
        fallback=draw(st.none() | st.lists(ITEM, max_size=12, unique=True).map(tuple)),
        budget=draw(st.integers(1, 12)),
        n=draw(st.integers(0, 7)),
        merge=draw(st.sampled_from(["snake", "rrf"])),
        weights=draw(st.dictionaries(st.sampled_from("abc"[:channels]), st.sampled_from([0.5, 1.0, 2.0]))),
    )
