"""The one thing the funnel moves: columns over many requests at once.

R requests, N candidates, C channels, S shown. Online is a batch of one request; evaluation and bulk export
are thousands. No object exists per candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.expressions import Expression

__all__ = ["Ragged", "Requests", "Candidates", "Slates", "owners", "spans", "located", "stack", "ALIVE", "BACKFILL"]

ALIVE = 0
BACKFILL = "backfill"  # the channel of what filled a short slate: always behind the others
Mask = NDArray[np.bool_]


def owners(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row that each element of a ragged column belongs to: offsets [R+1] -> [N]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def spans(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions `starts[r]`, `starts[r] + 1`, ... `counts[r]` of them, row by row: [R], [R] -> [N]."""
    ends = np.cumsum(counts)
    within = np.arange(int(ends[-1]) if len(ends) else 0)
    return np.asarray(within + np.repeat(starts - (ends - counts), counts))


def located(keys: NDArray[np.int64], asked: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    """Where the `asked` [N] stand in ascending `keys`, and whether they do; of one that does not the place means
    nothing."""
    if not len(keys):
        return np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=bool)
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return at, np.asarray(keys[at] == asked)


@dataclass(frozen=True)
class Ragged:
    """Events per request, oldest first, with `offsets` [R+1].

    `items`, `times` (ms) and `actions` (codes of the schema), all [H].
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    actions: NDArray[np.int16]

    @classmethod
    def empty(cls, requests: int) -> "Ragged":
        none = np.zeros(0, dtype=np.int64)
        return cls(np.zeros(requests + 1, dtype=np.int64), none, none, none.astype(np.int16))

    @classmethod
    def of(cls, offsets: NDArray[np.int64], items: NDArray[np.int64]) -> "Ragged":
        """Items alone, in order; their times and actions are 0."""
        return cls(offsets, items, np.zeros(len(items), dtype=np.int64), np.zeros(len(items), dtype=np.int16))

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        return owners(self.offsets)

    def where(self, mask: Mask) -> "Ragged":
        """Only the events under the mask [H]."""
        counts = np.bincount(self.owners[mask], minlength=len(self.offsets) - 1)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Ragged(offsets, self.items[mask], self.times[mask], self.actions[mask])

    def last(self, n: int) -> "Ragged":
        """At most the n latest events of each request."""
        if not len(self.items):
            return self
        from_end = self.offsets[1:][self.owners] - np.arange(len(self.items))
        return self if int(np.diff(self.offsets).max()) <= n else self.where(from_end <= n)

    def contains(self, owner: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        """Whether request `owner[k]` has an event on `items[k]`: bool [N]."""
        if not len(self.items) or not len(items):
            return np.zeros(len(items), dtype=bool)
        if len(self.offsets) == 2:
            return np.isin(items, self.items)
        width = int(max(self.items.max(), items.max())) + 2
        mine = np.unique(self.owners * width + self.items)
        asked = owner * width + items
        at = np.minimum(np.searchsorted(mine, asked), len(mine) - 1)
        return np.asarray(mine[at] == asked)

    def latest(self) -> "Ragged":
        """Each item once per request, at its latest event."""
        if not len(self.items):
            return self
        codes = self.owners * (int(self.items.max()) + 1) + self.items
        _, from_end = np.unique(codes[::-1], return_index=True)
        mask = np.zeros(len(codes), dtype=bool)
        mask[len(codes) - 1 - from_end] = True
        return self if bool(mask.all()) else self.where(mask)

    def then(self, other: "Ragged") -> "Ragged":
        """The other's events behind these, request by request."""
        order = np.argsort(np.concatenate([self.owners, other.owners]), kind="stable")
        return Ragged(
            self.offsets + other.offsets,
            np.concatenate([self.items, other.items])[order],
            np.concatenate([self.times, other.times])[order],
            np.concatenate([self.actions, other.actions])[order],
        )

    def take(self, start: int, stop: int) -> "Ragged":
        """Requests start..stop."""
        low, high = int(self.offsets[start]), int(self.offsets[stop])
        return Ragged(
            self.offsets[start : stop + 1] - low,
            self.items[low:high],
            self.times[low:high],
            self.actions[low:high],
        )


@dataclass(frozen=True)
class Requests:
    """What is asked: users [R] (keys, -1 unknown), `now` [R] ms, `n` wanted, and what is known by then.

    `history` holds interactions (actions of weight > 0), `shown` what was served or seen of late, `exclude`
    what the caller rules out, `where` the items it wants by their fields. `context` are request columns [R]
    by name (region, ...), raw values. `prefix` is what earlier pages of the same list hold, in order: rules and
    diversity go on from there, and none of it is shown again. `known` answers for the project's features
    (`features.base.Known`), `as_of` [R] is the log offset it stood at, where that is recorded.
    """

    users: NDArray[np.int64]
    now: NDArray[np.int64]
    n: int
    history: Ragged
    shown: Ragged
    exclude: Ragged
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    where: Expression | None = None
    ids: tuple[str, ...] = ()
    prefix: Ragged | None = None
    known: Any = None
    as_of: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, start: int, stop: int) -> "Requests":
        """Requests start..stop, for running a large batch in blocks."""
        return replace(
            self,
            users=self.users[start:stop],
            now=self.now[start:stop],
            history=self.history.take(start, stop),
            shown=self.shown.take(start, stop),
            exclude=self.exclude.take(start, stop),
            context={k: v[start:stop] for k, v in self.context.items()},
            ids=self.ids[start:stop],
            prefix=None if self.prefix is None else self.prefix.take(start, stop),
            as_of=None if self.as_of is None else self.as_of[start:stop],
        )


@dataclass(frozen=True)
class Candidates:
    """What is considered. Rows of one request are together: request r owns `offsets[r]:offsets[r+1]`.

    `items` [N] keys, distinct inside a request. `scores` columns [N] by stage (`merge`, `rank.click`, ...).
    Provenance, of every channel that brought an item: `rank` int32 [N, C] (1 is first, 0 not brought) and
    `score` float32 [N, C].
    `fate` int16 [N]: ALIVE, or 1 + position in `reasons`, set once by the part that dropped it.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    channels: tuple[str, ...]
    rank: NDArray[np.int32]
    score: NDArray[np.float32]
    scores: Mapping[str, NDArray[np.float32]]
    fate: NDArray[np.int16]
    reasons: tuple[str, ...] = ()

    @classmethod
    def empty(cls, requests: int, channels: tuple[str, ...] = ()) -> "Candidates":
        none, wide = np.zeros(0, dtype=np.int64), (0, len(channels))
        return cls(
            np.zeros(requests + 1, dtype=np.int64), none, channels,
            np.zeros(wide, dtype=np.int32), np.zeros(wide, dtype=np.float32), {}, none.astype(np.int16),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Request of each candidate [N]."""
        return owners(self.offsets)

    @property
    def alive(self) -> Mask:
        return np.asarray(self.fate == ALIVE)

    def drop(self, mask: Mask, reason: str) -> "Candidates":
        """Living candidates under the mask [N] end here for this reason; the dead keep theirs."""
        hit = mask & self.alive
        if not bool(hit.any()):
            return self
        reasons = self.reasons if reason in self.reasons else (*self.reasons, reason)
        fate = self.fate.copy()
        fate[hit] = reasons.index(reason) + 1
        return replace(self, fate=fate, reasons=reasons)

    def only(self, at: NDArray[np.int64]) -> "Candidates":
        """Just the rows at ascending positions `at`, of the same requests."""
        counts = np.bincount(self.owners[at], minlength=len(self.offsets) - 1)
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            items=self.items[at],
            rank=self.rank[at],
            score=self.score[at],
            scores={name: column[at] for name, column in self.scores.items()},
            fate=self.fate[at],
        )

    def scored(self, name: str, values: NDArray[Any]) -> "Candidates":
        """With one more score column [N]."""
        if values.shape != self.items.shape:
            raise ValueError(f"score {name!r} has shape {values.shape}, candidates {self.items.shape}")
        return replace(self, scores={**self.scores, name: values.astype(np.float32, copy=False)})

    def best_first(self, values: NDArray[Any], mask: Mask | None = None) -> NDArray[np.int64]:
        """Indexes of (masked) candidates by request, then falling value, then smaller key. NaN comes last."""
        at = np.arange(len(self.items)) if mask is None else np.flatnonzero(mask)
        falling = -values[at].astype(np.float64)
        lost = np.isnan(falling)
        falling[lost] = np.inf
        return at[np.lexsort((self.items[at], lost, falling, self.owners[at]))]

    def append(self, other: "Candidates") -> "Candidates":
        """These plus the rows of `other` (same requests and channels) that hold items not yet here."""
        if self.channels != other.channels:
            raise ValueError(f"channels differ: {self.channels} and {other.channels}")
        if len(self.offsets) != len(other.offsets):
            raise ValueError(f"requests differ: {len(self.offsets) - 1} and {len(other.offsets) - 1}")
        width = int(max(self.items.max(initial=0), other.items.max(initial=0))) + 1
        new = np.flatnonzero(~np.isin(other.owners * width + other.items, self.owners * width + self.items))
        owner = np.concatenate([self.owners, other.owners[new]])
        order = np.argsort(owner, kind="stable")
        reasons = (*self.reasons, *(r for r in other.reasons if r not in self.reasons))
        fates = np.array([0, *(reasons.index(r) + 1 for r in other.reasons)], dtype=np.int16)
        nan = np.full(len(self) + len(new), np.nan, dtype=np.float32)
        scores = {}
        for name in {**self.scores, **other.scores}:
            column = nan.copy()
            if name in self.scores:
                column[: len(self)] = self.scores[name]
            if name in other.scores:
                column[len(self) :] = other.scores[name][new]
            scores[name] = column[order]
        counts = np.bincount(owner, minlength=len(self.offsets) - 1)
        return Candidates(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([self.items, other.items[new]])[order],
            self.channels,
            np.concatenate([self.rank, other.rank[new]])[order],
            np.concatenate([self.score, other.score[new]])[order],
            scores,
            np.concatenate([self.fate, fates[other.fate[new]]])[order],
            reasons,
        )


@dataclass(frozen=True)
class Slates:
    """What is shown: `picks` [S] index `candidates`, in order, with `scores` [S] of the last stage.

    Request r owns `offsets[r]:offsets[r+1]`. `degraded` names what was skipped or replaced, with the
    requests it touched: bool [R]. `took_ms` by stage, for the batch.
    """

    offsets: NDArray[np.int64]
    picks: NDArray[np.int64]
    scores: NDArray[np.float32]
    requests: Requests
    candidates: Candidates
    degraded: Mapping[str, Mask] = field(default_factory=dict)
    took_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def items(self) -> NDArray[np.int64]:
        """Keys shown [S]."""
        return self.candidates.items[self.picks]

    def matrix(self, k: int) -> NDArray[np.int64]:
        """Keys [R, k], -1 behind the end of a short slate: what metrics read."""
        out = np.full((len(self.offsets) - 1, k), -1, dtype=np.int64)
        place = np.arange(len(self.picks)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        keep = place < k
        out[owners(self.offsets)[keep], place[keep]] = self.items[keep]
        return out

    def notes(self, request: int) -> list[str]:
        """What was degraded for one request."""
        return [name for name, touched in self.degraded.items() if touched[request]]


def stack(blocks: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Offsets of blocks run one after the other, as one: [sum R + 1]."""
    counts = np.concatenate([np.diff(b) for b in blocks]) if blocks else np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
