"""Split: which events train, validate and test; with an audit. E events, R users of the test part."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import owners
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.expressions import Expression
from shortlist.schema import Schema

__all__ = ["Split", "relevant", "OUT", "TRAIN", "RANK", "VALID", "TEST", "VALID_INPUT", "TEST_INPUT"]

OUT, TRAIN, RANK, VALID, TEST, VALID_INPUT, TEST_INPUT = range(7)


@dataclass(frozen=True)
class Split:
    """Every event has one role, int8 [E]: parts share no event.

    TRAIN: recall learns on it. RANK: the rankers learn on it (T1..T2). VALID, TEST: held out. VALID_INPUT, TEST_INPUT:
    events of held-out users that a recommender may see when asked, and never learns from. OUT: used for nothing.
    `order` is what the audit asserts of times: "global" one cut for all, "user" each user's own. `candidates` [R, 1+n]:
    lists to rank for each test user (ascending keys), the held-out item first. `defects` counts what published files
    get wrong and keep.
    """

    events: Interactions
    roles: NDArray[np.int8]
    protocol: str
    order: Literal["global", "user", "none"] = "none"
    disjoint: bool = False
    candidates: NDArray[np.int64] | None = None
    defects: Mapping[str, int] = field(default_factory=dict)

    def part(self, *roles: int) -> Interactions:
        """Events of these roles."""
        return self.events.where(np.isin(self.roles, roles))

    @cached_property
    def train(self) -> Interactions:
        return self.part(TRAIN)

    @cached_property
    def valid(self) -> Interactions:
        return self.part(VALID)

    @cached_property
    def test(self) -> Interactions:
        return self.part(TEST)

    @cached_property
    def before_test(self) -> Interactions:
        """What the fit that is judged on the test part learns from: all but the test users' and the test events."""
        return self.part(TRAIN, RANK, VALID_INPUT, VALID)

    def known(self, part: Literal["valid", "test"]) -> Interactions:
        """What a recommender may know of a user when it is asked for the held-out part."""
        if part == "valid":
            return self.part(TRAIN, RANK, VALID_INPUT)
        return self.part(TRAIN, RANK, VALID_INPUT, VALID, TEST_INPUT)

    def audit(self) -> list[str]:
        """What is wrong with the split, in words; nothing for a sound one."""
        wrong = []
        if not len(self.train) or not len(self.test):
            wrong.append(f"{len(self.train)} events to train on, {len(self.test)} to test on")
        if self.order == "global":
            wrong += self._global_order()
        if self.order == "user":
            wrong += self._user_order()
        if self.disjoint:
            common = np.intersect1d(self.before_test.users, self.test.users)
            common = np.union1d(common, np.intersect1d(self.train.users, self.valid.users))
            if len(common):
                wrong.append(f"{len(common)} users are on both sides")
        if self.candidates is not None:
            wrong += self._candidates(self.candidates)
        return wrong

    def checked(self) -> "Split":
        """This split. Raises DataError with what the audit finds."""
        if wrong := self.audit():
            hint = "the log is too small or too short for this protocol; see `shortlist check`"
            raise DataError("; ".join(wrong), where=f"split ({self.protocol})", hint=hint)
        return self

    def _global_order(self) -> list[str]:
        wrong = []
        parts = [("train", self.train), ("rank", self.part(RANK)), ("valid", self.valid), ("test", self.test)]
        there = [(name, part.times) for name, part in parts if len(part)]
        for (name, times), (next_name, next_times) in pairwise(there):
            if times.max() >= next_times.min():
                wrong.append(f"{name} reaches {times.max()} ms, {next_name} begins at {next_times.min()} ms")
        return wrong

    def _user_order(self) -> list[str]:
        wrong = []
        for name, earlier, later in (
            ("valid", self.known("valid"), self.valid),
            ("test", self.known("test"), self.test),
        ):
            first = np.searchsorted(later.users, later.user_keys)  # events of a user are in order of time
            last = np.searchsorted(earlier.users, later.user_keys, side="right") - 1
            there = (last >= 0) & (earlier.users[np.maximum(last, 0)] == later.user_keys) if len(earlier) else last >= 0
            late = int((earlier.times[last[there]] > later.times[first[there]]).sum())
            if late:
                wrong.append(f"{late} users have {name} events before events that are known")
        return wrong

    def _candidates(self, lists: NDArray[np.int64]) -> list[str]:
        wrong = []
        users = self.test.user_keys
        if len(lists) != len(users):
            return [f"{len(lists)} candidate lists for {len(users)} users"]
        first = np.searchsorted(self.test.users, users)
        misplaced = int((self.test.items[first] != lists[:, 0]).sum())
        if misplaced:
            wrong.append(f"{misplaced} candidate lists do not begin with the held-out item")
        ordered = np.sort(lists, axis=1)
        repeated = int((np.diff(ordered, axis=1) == 0).sum()) - self.defects.get(
            "negatives that are the held-out item", 0
        )
        if repeated:
            wrong.append(f"{repeated} candidates are in a list twice")
        asked = np.repeat(np.arange(len(users)), lists.shape[1] - 1)
        met = int(self.events.histories(users).contains(asked, lists[:, 1:].ravel()).sum())
        excused = sum(self.defects.values())
        if met - excused:
            wrong.append(f"{met - excused} negatives are items the user met")
        return wrong


def relevant(
    asked: Interactions, users: NDArray[np.int64], positive: str, schema: Schema, known: Interactions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of users [R] as CSR: offsets [R+1], items, ascending inside a user.

    Relevant is an item with a held-out event of an action that has weight, that satisfies `positive` (over `value`,
    `time_ms`, `action`; empty means every one) and that `known` has no event on. Raises ConfigError for `positive`.
    """
    mask = schema.weights[asked.actions] > 0
    if positive:
        expression = Expression.parse(positive, "split.positive")
        columns: dict[str, NDArray[Any]] = {"value": asked.values, "time_ms": asked.times}
        if not expression.names <= set(columns):
            columns["action"] = np.array(schema.action_names)[asked.actions]
        mask = mask & expression.mask(columns, len(asked))
    events = asked.where(mask).histories(users)
    fresh = ~known.histories(users).contains(events.owners, events.items)
    pairs = np.unique(np.stack([events.owners[fresh], events.items[fresh]]), axis=1)
    counts = np.bincount(pairs[0], minlength=len(users))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), pairs[1]


def place(events: Interactions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place of each event among its user's, from 0, and how many the user has: both [E]."""
    starts = np.searchsorted(events.users, events.user_keys)
    counts = np.diff(np.append(starts, len(events)))
    row = owners(np.append(starts, len(events)))
    return np.arange(len(events)) - starts[row], counts[row]
