"""Hard constraints on a page (card X4): at most so many items of one kind in any `per` places, or in the `first` ones.

At each place the rules say which candidates are feasible; a selector chooses among those. Where none is, rules are
given up in the order they are declared, and that is reported. R requests, P candidates a request, V kinds.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask
from shortlist.config import Count, frozen, nearest
from shortlist.errors import ConfigError
from shortlist.funnel.kinds import Kinds
from shortlist.schema import Profiles

__all__ = ["Rule", "Rules"]


@frozen
class Rule:
    """`at_most` items of each value of field `of` (or just of the value `equals`) per any `per` places, or the `first`.

    "At most 5 in a row" is at_most 5 per 6; "one promoted item in nine" is at_most 1 per 9 with equals "promoted"; "no
    card at the top" is at_most 0 first 1.
    """

    at_most: int
    of: str
    per: Count | None = None
    first: Count | None = None
    equals: str | None = None

    def check(self, where: str) -> None:
        if self.at_most < 0:
            raise ConfigError("at_most is negative", where=where, hint="0 forbids, 1 allows one")
        if (self.per is None) == (self.first is None):
            raise ConfigError(
                "needs either per or first",
                where=where,
                hint="per = 10 is any ten in a row, first = 4 the top four",
            )
        if self.per is not None and self.per <= self.at_most:
            raise ConfigError(
                f"at_most {self.at_most} per {self.per} forbids nothing", where=where, hint="make per larger"
            )

    @property
    def name(self) -> str:
        kind = f"{self.of}={self.equals}" if self.equals is not None else self.of
        return f"at_most {self.at_most} {kind} " + (f"per {self.per}" if self.per else f"first {self.first}")


@dataclass(frozen=True)
class Rules:
    """Rules bound to a catalogue."""

    rules: tuple[Rule, ...]
    kinds: tuple[Kinds, ...]

    @classmethod
    def of(cls, rules: tuple[Rule, ...], items: Profiles, where: str = "rules") -> "Rules":
        for n, rule in enumerate(rules):
            rule.check(f"{where}[{n}]")
            if rule.of not in items.columns:
                hint = nearest(rule.of, list(items.columns))
                raise ConfigError(f"no item field is called {rule.of!r}", where=f"{where}[{n}].of", hint=hint)
        return cls(rules, tuple(Kinds.of(items, rule.of) for rule in rules))

    def start(self, keys: NDArray[np.int64], present: Mask, places: int) -> "Page":
        """Begin pages of `places` for candidates `keys` [R, P] (valid where `present`)."""
        shape = keys.shape
        hot = []
        for rule, kinds in zip(self.rules, self.kinds, strict=True):
            flat = kinds.dense(keys.ravel()) if rule.equals is None else only(kinds, keys.ravel(), rule.equals)
            hot.append(flat.reshape(*shape, -1) * present[:, :, None])
        return Page(self, hot, places)


def only(kinds: Kinds, keys: NDArray[np.int64], value: str) -> NDArray[np.float32]:
    """0/1 column [N, 1]: has this value."""
    if value not in kinds.values:
        return np.zeros((len(keys), 1), dtype=np.float32)
    code = kinds.values.index(value)
    row = np.zeros(len(kinds.offsets) - 1, dtype=np.float32)
    row[np.repeat(np.arange(len(row)), np.diff(kinds.offsets))[kinds.codes == code]] = 1.0
    rows = kinds.keys.rows(keys)
    return np.where(rows >= 0, row[np.maximum(rows, 0)], 0.0)[:, None].astype(np.float32)


@dataclass
class Page:
    """Pages being filled, one place at a time for all requests together."""

    rules: Rules
    hot: list[NDArray[np.float32]]
    places: int
    taken: list[list[NDArray[np.float32]]] = field(default_factory=list)
    left: list[NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken = [[] for _ in self.rules.rules]
        self.left = [hot.sum(axis=1) for hot in self.hot]

    def feasible(self, place: int, available: Mask) -> tuple[Mask, dict[str, Any]]:
        """Who may stand at `place`: bool [R, P] within `available`; and the rules given up, with the requests [R]."""
        allowed = [self._allowed(n, place) for n in range(len(self.rules.rules))]
        safe: Mask = available.copy()
        for n, ok in enumerate(allowed):
            safe &= ok & self._reserve(n, place, available)
        feasible: Mask = available.copy()
        for ok in allowed:
            feasible &= ok
        feasible = np.where(np.any(safe, axis=1)[:, None], safe, feasible)
        relaxed: dict[str, Any] = {}
        wanting: Mask = np.any(available, axis=1) & ~np.any(feasible, axis=1)
        for given_up in range(1, len(allowed) + 1):
            if not bool(wanting.any()):
                break
            rest: Mask = available.copy()
            for ok in allowed[given_up:]:
                rest &= ok
            feasible = np.where(wanting[:, None], rest, feasible)
            relaxed[self.rules.rules[given_up - 1].name] = wanting.copy()
            wanting = wanting & ~np.any(rest, axis=1)
        return feasible, relaxed

    def _allowed(self, n: int, place: int) -> Mask:
        rule, hot = self.rules.rules[n], self.hot[n]
        if rule.first is not None and place >= rule.first:
            return np.ones(hot.shape[:2], dtype=bool)
        recent = self.taken[n] if rule.per is None else self.taken[n][-(rule.per - 1) :] if rule.per > 1 else []
        count = np.sum(recent, axis=0) if recent else np.zeros((hot.shape[0], hot.shape[2]), dtype=np.float32)
        full = (count >= rule.at_most).astype(np.float32)
        blocked: NDArray[np.float32] = np.matmul(hot, full[:, :, None])[:, :, 0]
        clear: Mask = blocked == 0
        return clear

    def _reserve(self, n: int, place: int, available: Mask) -> Mask:
        """A kind in short supply must not be spent where the rest could not fill the page any more.

        Only for fields with one value per item, where the most that L places can hold is known: the sum over kinds of
        min(left, most of one kind in L).
        """
        rule, hot = self.rules.rules[n], self.hot[n]
        everywhere = np.ones(hot.shape[:2], dtype=bool)
        rest = self.places - place - 1
        if (
            rule.per is None
            or rule.equals is not None
            or rule.at_most == 0
            or not self.rules.kinds[n].single
            or rest <= 0
        ):
            return everywhere
        most = rest // rule.per * rule.at_most + min(rest % rule.per, rule.at_most)
        left = self.left[n]
        free = available.sum(axis=1) - left.sum(axis=1)  # items without this kind may stand anywhere
        room = np.minimum(left, most).sum(axis=1) + free
        spends = np.matmul(hot, (left <= most).astype(np.float32)[:, :, None])[:, :, 0] + (hot.sum(axis=2) == 0)
        reachable = np.minimum(available.sum(axis=1) - 1, rest)
        ok: Mask = (room[:, None] - spends) >= reachable[:, None]
        # where even the full supply cannot fill the page there is nothing to save
        ok |= (room < reachable)[:, None]
        return ok

    def take(self, picks: NDArray[np.int64], valid: Mask) -> None:
        """Place `picks` [R] (index into P), where `valid`."""
        at = np.arange(len(picks))
        for n, hot in enumerate(self.hot):
            chosen = hot[at, picks] * valid[:, None]
            self.taken[n].append(chosen)
            self.left[n] = self.left[n] - chosen
