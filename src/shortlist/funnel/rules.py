"""Hard constraints on a page: at most so many items of one kind in any `per` places, or in the `first` ones.

At each place the rules say which candidates are feasible; a selector chooses among those. Where none is, rules are
given up in the order they are declared, and what was broken is reported. A page that runs into that is made again
looking ahead: if it can be finished at all, each pick must leave enough to finish. R requests, P candidates of a
request, V kinds of a rule.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Ragged
from shortlist.config import Count, frozen
from shortlist.errors import ConfigError
from shortlist.funnel.kinds import Kinds
from shortlist.schema import Profiles, Schema, text

__all__ = ["Rule", "Rules", "Page", "Ahead", "fewest_given_up", "latest"]

_STEPS = 1000  # that looking ahead may take for one page: some 15 ms
_PATIENCE = 150  # steps after which a search that got no further is given up
_NEVER = 1 << 30


@frozen
class Rule:
    """`at_most` items of each value of field `of` (or just of the value `equals`) per any `per` places, or the `first`.

    "At most 5 in a row" is at_most 5 per 6; "one promoted item in nine" is at_most 1 per 9 with equals "promoted"; "no
    card at the top" is at_most 0 first 1. Places count on from page to page.
    """

    at_most: int
    of: str
    per: Count | None = None
    first: Count | None = None
    equals: str | int | float | bool | None = None

    def check(self, where: str) -> None:
        """Raises ConfigError for a rule that says nothing."""
        if self.at_most < 0:
            raise ConfigError("at_most is negative", where=where, hint="0 forbids, 1 allows one")
        if (self.per is None) == (self.first is None):
            hint = "per = 10 is any ten in a row, first = 4 the top four"
            raise ConfigError("needs either per or first", where=where, hint=hint)
        name, places = ("per", self.per) if self.per is not None else ("first", self.first)
        if places is not None and places <= self.at_most:
            what = f"at_most {self.at_most} {name} {places} forbids nothing"
            raise ConfigError(what, where=where, hint=f"make {name} larger")

    @property
    def name(self) -> str:
        kind = self.of if self.equals is None else f"{self.of}={text([self.equals])[0]}"
        return f"at_most {self.at_most} {kind} " + (f"per {self.per}" if self.per else f"first {self.first}")


@dataclass(frozen=True)
class Rules:
    """Rules bound to a catalogue."""

    rules: tuple[Rule, ...]
    kinds: tuple[Kinds, ...]

    @classmethod
    def of(cls, rules: tuple[Rule, ...], schema: Schema, items: Profiles, where: str = "rules") -> "Rules":
        """Raises ConfigError for a rule that says nothing or names an unknown field."""
        kinds = []
        for n, rule in enumerate(rules):
            rule.check(f"{where}[{n}]")
            equals = None if rule.equals is None else text([rule.equals])[0]
            kinds.append(Kinds.of(items, schema, rule.of, f"{where}[{n}].of", equals))
        return cls(rules, tuple(kinds))

    @property
    def reach(self) -> int:
        """How many earlier places a rule may look at."""
        return max((rule.per - 1 if rule.per else rule.first or 0 for rule in self.rules), default=0)

    def start(self, keys: NDArray[np.int64], before: NDArray[np.int64], start: NDArray[np.int64]) -> "Page":
        """Begin pages of candidates `keys` [R, P] behind the `start` [R] items of earlier pages, of which `before`
        [R, T] are the latest, as `latest` has them. -1 stands for none."""
        both = np.concatenate([before, keys], axis=1)
        hot = [kinds.dense(both) for kinds in self.kinds]
        return Page(self.rules, hot, before.shape[1], start)


def latest(prefix: Ragged | None, requests: int, n: int | None) -> NDArray[np.int64]:
    """The n last items of each request's earlier pages [R, T], T <= n, the last one at the end, -1 for none."""
    if prefix is None:
        return np.full((requests, 0), -1, dtype=np.int64)
    if n is not None:
        prefix = prefix.last(n)
    counts = np.diff(prefix.offsets)
    out = np.full((requests, int(counts.max(initial=0))), -1, dtype=np.int64)
    out[np.arange(out.shape[1]) >= out.shape[1] - counts[:, None]] = prefix.items
    return out


class Page:
    """Pages being filled, one place at a time for all requests together.

    `hot` holds 0/1 rows [R, T + P, V] for each rule: what earlier pages hold, then candidates.
    """

    def __init__(
        self, rules: tuple[Rule, ...], hot: list[NDArray[np.float32]], before: int, start: NDArray[np.int64]
    ) -> None:
        self.rules = rules
        self.hot = [h[:, before:] for h in hot]
        self.start = start
        self.place = 0
        self.taken: list[list[NDArray[np.float32]]] = [[] for _ in rules]
        self.count = [np.zeros((h.shape[0], h.shape[2]), dtype=np.float32) for h in hot]
        for place in range(before):
            self._add([h[:, place] for h in hot])

    def blocked(self) -> list[Mask]:
        """By rule, the candidates [R, P] that would break it at this place."""
        out = []
        for rule, hot, count in zip(self.rules, self.hot, self.count, strict=True):
            full = (count >= rule.at_most).astype(np.float32)
            hit: Mask = np.matmul(hot, full[:, :, None])[:, :, 0] > 0
            if rule.first is not None:
                hit &= (self.start + self.place < rule.first)[:, None]
            out.append(hit)
        return out

    def take(self, picks: NDArray[np.int64], valid: Mask) -> None:
        """Place `picks` [R] (index into P) where `valid`, and go on to the next place."""
        at = np.arange(len(picks))
        self._add([hot[at, picks] * valid[:, None] for hot in self.hot])
        self.place += 1

    def _add(self, rows: list[NDArray[np.float32]]) -> None:
        """Count rows [R, V] of each rule as the latest place, and forget what has left the window."""
        for rule, row, taken, count in zip(self.rules, rows, self.taken, self.count, strict=True):
            taken.append(row)
            count += row
            if rule.per is not None and len(taken) >= rule.per:
                count -= taken[-rule.per]


def fewest_given_up(left: Mask, blocked: list[Mask]) -> Mask:
    """Those of `left` [R, P] for which the fewest rules are given up, in the order the rules are declared."""
    given_up = np.zeros(left.shape, dtype=np.int16)
    for n, hit in enumerate(blocked, start=1):
        given_up[hit] = n
    given_up[~left] = len(blocked) + 1
    fewest = given_up.min(axis=1, initial=len(blocked) + 1, keepdims=True)
    return np.asarray(left & (given_up == fewest))


class Ahead:
    """One page finished in thought: whether what is left can fill the places to come without breaking a rule.

    Candidates of the same kinds are alike, so the search goes over sorts of candidates [S]: depth first, the most
    plentiful first, which is what leaves room. It is exact as long as its steps last; beyond them a page may break a
    rule that it could have kept, and reports it.
    """

    def __init__(self, page: Page, request: int, present: Mask, places: int) -> None:
        hot = np.concatenate([h[request] for h in page.hot], axis=1)
        self.sorts, inverse = np.unique(hot, axis=0, return_inverse=True)
        self.sort_of = inverse.reshape(-1)
        self.sizes = self.sorts.sum(axis=1)
        self.supply = np.bincount(self.sort_of[present], minlength=len(self.sorts)).astype(np.float32)
        widths = [h.shape[2] for h in page.hot]
        self.columns = np.arange(sum(widths))
        self.at_most = np.repeat([rule.at_most for rule in page.rules], widths)
        self.per = np.repeat([rule.per or _NEVER for rule in page.rules], widths)
        self.until = np.repeat([rule.first or _NEVER for rule in page.rules], widths) - int(page.start[request])
        self.first = len(page.taken[0])  # places of earlier pages that count
        self.at, self.end = self.first, self.first + places
        self.sums = np.zeros((self.end + 1, len(self.columns)), dtype=np.float32)  # of kinds above each place
        for place in range(self.first):
            row = np.concatenate([taken[place][request] for taken in page.taken])
            self.sums[place + 1] = self.sums[place] + row
        rest = self.end - np.arange(self.end + 1)[:, None]
        room = rest // self.per * self.at_most + np.minimum(rest % self.per, self.at_most)
        # how many of a kind the places from each on can hold; rules about the first places press nobody
        self.room = np.where(self.until < _NEVER // 2, np.inf, np.maximum(room, 0.5)).astype(np.float32)
        self.steps = _STEPS
        self.plan: list[int] | None = None  # sorts for the rest of the page; empty: it cannot be finished

    def choose(self, order: NDArray[np.int64]) -> int:
        """The first of `order` (candidates that break no rule, best first) that leaves a page that can be finished.
        Where no page can be, the first."""
        if self.plan is None:
            self.plan = self._search(-1)
        for sort in dict.fromkeys(self.sort_of[order].tolist()) if self.plan else ():
            rest = self.plan[1:] if sort == self.plan[0] else self._search(sort)
            if len(rest) == len(self.plan) - 1:
                self.plan = [sort, *rest]
                return int(order[self.sort_of[order] == sort][0])
        return int(order[0])

    def take(self, pick: int, kept: bool) -> None:
        """Place a candidate; `kept` says that it is the one chosen, and breaks no rule."""
        sort = int(self.sort_of[pick])
        self.plan = self.plan[1:] if kept and self.plan is not None else None
        self._put(self.at, sort)
        self.supply[sort] -= 1
        self.at += 1

    def _put(self, at: int, sort: int) -> None:
        self.sums[at + 1] = self.sums[at] + self.sorts[sort]

    def _search(self, sort: int) -> list[int]:
        """A way on behind `sort` (-1: from here) that fills the page and breaks no rule; empty where none was found."""
        supply, at = self.supply.copy(), self.at
        if sort >= 0:
            self._put(at, sort)
            supply[sort] -= 1
            at += 1
        goal = min(self.end - at, int(supply.sum()))
        path: list[int] = []
        choices = [self._open(supply, at)]
        furthest = idle = 0
        while choices and len(path) < goal and self.steps > 0 and idle < _PATIENCE:
            step = next(choices[-1], None)
            if step is None:
                choices.pop()
                if path:
                    supply[path.pop()] += 1
                continue
            self.steps -= 1
            self._put(at + len(path), step)
            path.append(step)
            supply[step] -= 1
            furthest, idle = (len(path), 0) if len(path) > furthest else (furthest, idle + 1)
            choices.append(self._open(supply, at + len(path)))
        return path if len(path) == goal else []

    def _open(self, supply: NDArray[np.float32], at: int) -> Iterator[int]:
        """Sorts that may stand at a place, the most plentiful for the room they have first."""
        if at >= self.end:
            return iter(())
        count = self.sums[at] - self.sums[np.maximum(at - self.per + 1, 0), self.columns]
        full = (count >= self.at_most) & (at - self.first < self.until)
        may = np.flatnonzero((supply > 0) & (self.sorts @ full.astype(np.float32) == 0))
        pressing = supply @ self.sorts / self.room[at]
        urgency = (self.sorts[may] * pressing).max(axis=1, initial=0.0)
        return iter(may[np.lexsort((self.sizes[may], -urgency))].tolist())
