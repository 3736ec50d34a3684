"""A simulated world: users whose tastes drift, items of hidden quality, and what happens when a policy shows slates.

U users, I items, R requests of a step, K slots. Time goes in ticks: in each, users visit (by hour and weekday), ask for
slates, look at positions (less at lower ones), click by taste, appeal, hour and what they clicked before, and then
like, keep, share or follow by taste and quality; bait is clicked and not liked. Between slates a user may go on to
the item that belongs after the last one: clicks that answer no request. All probabilities are `truth`'s.

What is on the shelf at a tick is asked once, in `_tick`; `Shelf.draw` makes items at any time. So creators who publish
when they are seen need one thing more: a shelf that grows between ticks.
"""

__all__ = ["World", "State"]

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, Positive, Share, frozen
from shortlist.errors import ConfigError
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.events import Events
from shortlist.simulation.ground import DEVICES, WORDS, Ground
from shortlist.simulation.people import People
from shortlist.simulation.policy import Policy
from shortlist.simulation.recent import Recent
from shortlist.simulation.shelf import Creators, Shelf, follow_up
from shortlist.simulation.truth import ACTIONS, AFTER, CLICK, DAY_MS, HOUR_MS, IMPRESSION, Click, Truth
from shortlist.simulation.visits import Asked, schedule

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

MONDAY_MS = 1_699_833_600_000  # 2023-11-13T00:00Z
AT_ONCE = 1 << 14  # requests reacted to at once: what a step holds stays small
BACK_MS = 45 * 60_000  # least pause between two visits of a user; inside a visit none is above 25 minutes
LOOK_MS = 700  # a look at one position
WANDER_MS = 2_000  # from the end of a slate to the item gone to without one
WORTH = {"impression": 0.0, "click": 1.0, "like": 2.0, "favourite": 3.0, "share": 3.0, "follow": 3.0}  # as init guesses
USUAL = 0.85  # a request comes from the user's usual device


@dataclass
class State:
    """Where a world stands: the moment, the next request's number, each user's last event and latest clicks, and events
    that lie behind the moment."""

    now: int
    request: int
    until: Ints
    last: Ints
    recent: Recent
    ahead: Events


class World:
    """`generate` draws one; `simulate` lets it run under a policy."""

    @frozen
    class Config:
        """`visits` a user and day, `requests` a visit, `slate` positions a request; `activity` is the log-normal spread
        of visits over users, `appeal` that of logits over items, `drift` radians a day that tastes turn on average.

        `early` of the items are out when the world starts, up to 60 days old; the rest appear during `days`; the same
        share of users is there from the start. `wander` is the chance of going on to the next item by oneself after a
        request with a click. Ticks are `tick_hours` long: what is new and what a policy learns counts from the
        next. A creator has `per_creator` items on average.
        """

        users: Count = 400
        items: Count = 400
        days: Count = 30
        visits: Positive = 0.5
        requests: Positive = 3.0
        slate: Count = 10
        tick_hours: Count = 24
        categories: Count = 20
        words: Count = 30
        dim: Count = 16
        per_creator: Count = 8
        activity: NonNegative = 1.0
        appeal: NonNegative = 0.8
        bait: Share = 0.08
        drift: NonNegative = 0.02
        early: Share = 0.7
        wander: Share = 0.35
        click: Click = Click()
        start_ms: int = MONDAY_MS

    def __init__(self, config: Config, truth: Truth) -> None:
        self.config, self.truth = config, truth

    @classmethod
    def generate(cls, config: Config, rng: np.random.Generator) -> "World":
        """Keys are 0..U-1 and 0..I-1. Same config and rng state, same world. Raises ConfigError for sizes that
        do not fit."""
        _check(config)
        ground = Ground.draw(config.categories, config.words, config.dim, rng)
        creators = Creators.draw(-(-config.items // config.per_creator), ground, rng)
        published = _arrivals(config.items, config, rng)
        # the first slate is there from the start
        published[: config.slate] = np.minimum(published[: config.slate], config.start_ms)
        creator = rng.choice(len(creators), config.items, p=creators.rate)
        shelf = Shelf.draw(creator, published, ground, creators, appeal=config.appeal, bait=config.bait, rng=rng)
        people = People.draw(
            config.users, ground, visits=config.visits, activity=config.activity, drift=config.drift,
            joined=_arrivals(config.users, config, rng), rng=rng,
        )  # fmt: skip
        after = follow_up(shelf, rng)
        return cls(config, Truth(ground, people, creators, shelf, after, config.click, config.start_ms))

    @staticmethod
    def schema() -> Schema:
        """What the columns of its log and catalogue mean, as `shortlist init` finds them in a written world."""
        return Schema.parse(
            {
                "user": "user", "item": "item", "time": "time_ms", "action": "action", "value": "value",
                "request_id": "request_id", "position": "position", "propensity": "propensity",
                "actions": {name: {"weight": WORTH[name]} for name in ACTIONS},
                "tasks": {name: {"positive": name, "on": "impression"} for name in ACTIONS if WORTH[name]},
                "context": {"device": "sparse"},
                "items": {
                    "title": "text", "category": "sparse", "keywords": "varlen", "creator": "sparse",
                    "length_s": "dense", "published": "time", "content": "vec",
                },
                "users": {"age": "sparse", "gender": "sparse", "region": "sparse", "device": "sparse"},
                "title": "title", "category": "category", "published": "published", "region": "region",
            }
        )  # fmt: skip

    @property
    def catalogue(self) -> Catalogue:
        """What is known of users and items."""
        truth = self.truth
        return Catalogue(
            Profiles(np.arange(len(truth.people)), truth.people.fields()),
            Profiles(np.arange(len(truth.shelf)), truth.shelf.fields(truth.ground)),
        )

    def begin(self) -> State:
        """The state at the start: nobody has been here yet."""
        users = len(self.truth.people)
        return State(
            now=self.config.start_ms, request=0, until=np.zeros(users, dtype=np.int64),
            last=np.full(users, -1, dtype=np.int64), recent=Recent(users, self.config.click.memory),
            ahead=Events.empty(),
        )  # fmt: skip

    def simulate(
        self,
        policy: Policy,
        rng: np.random.Generator,
        *,
        days: int | None = None,
        state: State | None = None,
        block: int | None = None,
    ) -> Iterator[Events]:
        """The log of the next `days` (all of the config's by default), in order of time, in blocks of `block` events (a
        tick at a time by default); the log does not depend on it. Requests whose time is past the end are not made.

        `state` is moved along: give it again to go on, perhaps with another policy. Visits, reactions and the policy
        have dice of their own: policies are compared on the same visits.
        """
        state = state if state is not None else self.begin()
        dice = rng.spawn(3)
        end = state.now + (days if days is not None else self.config.days) * DAY_MS
        ticks = self._ticks(policy, dice, state, end)
        return ticks if block is None else _blocks(ticks, block)

    def _ticks(self, policy: Policy, dice: list[np.random.Generator], state: State, end: int) -> Iterator[Events]:
        while state.now < end:
            high = min(state.now + self.config.tick_hours * HOUR_MS, end)
            events = Events.joined([state.ahead, *self._tick(policy, dice, state, high, end)]).in_time()
            cut = int(np.searchsorted(events.times, high))
            state.now, state.ahead = high, events.take(slice(cut, None))
            done = events.take(slice(0, cut))
            policy.observe(done)
            yield done

    def _tick(
        self, policy: Policy, dice: list[np.random.Generator], state: State, high: int, end: int
    ) -> Iterator[Events]:
        """Events of visits that begin in this tick, in no order. Users go step by step, all at once."""
        visits, reactions, drawn = dice
        available = self.truth.shelf.available(state.now)
        k = min(self.config.slate, len(available))
        asked = schedule(self.truth.people, state.now, high, self.config.requests, visits)
        steps = np.append(np.searchsorted(asked.step, np.arange(asked.step.max(initial=-1) + 1)), len(asked.step))
        for low, up in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True):
            for first in range(low, up, AT_ONCE):
                some = slice(first, min(first + AT_ONCE, up))
                users, now = self._arrive(asked, some, state, reactions, end)
                if len(users):
                    items, odds = policy.show(users, now, available, k, drawn)
                    yield from self._react(users, now, items, odds, state, reactions)

    def _arrive(self, asked: Asked, some: slice, state: State, rng: np.random.Generator, end: int) -> tuple[Ints, Ints]:
        """Users [R] who ask now, and when: a visit opens at its time, or once the user has paused long enough; the next
        request comes a while after what was done with the one before."""
        users, opens = asked.users[some], asked.opens[some]
        until = state.until[users]
        pause = np.minimum(20_000 * np.exp(0.8 * rng.standard_normal(len(users))), 900_000).astype(np.int64)
        now = np.where(opens, np.maximum(asked.start[some], until + BACK_MS), until + pause)
        state.last[users[opens]] = -1
        state.until[users] = now
        on_time = now < end
        return users[on_time], now[on_time]

    def _react(
        self,
        users: Ints,
        now: Ints,
        items: Ints,
        odds: Floats,
        state: State,
        rng: np.random.Generator,
    ) -> Iterator[Events]:
        """What users [R] do with slates [R, K]: impressions, clicks in order of position, and what follows them."""
        truth, (R, K) = self.truth, items.shape
        usual = truth.people.device[users]
        device = np.where(rng.random(R) < USUAL, usual, rng.integers(len(DEVICES), size=R))
        request = state.request + np.arange(R)
        state.request += R
        column = users[:, None]
        near = truth.affinity(column, items, now[:, None])
        click = truth.attracted(near, items, now[:, None], state.last[column], state.recent.of(users)[:, None])
        position = np.arange(1, K + 1)
        click *= truth.examined(position, device[:, None])
        shown = items >= 0
        row, place = np.nonzero((rng.random((R, K), dtype=np.float32) < click) & shown)
        clicked, close = items[row, place], near[row, place]
        watched = truth.watched(close, clicked, rng.standard_normal(len(row), dtype=np.float32))

        spent = np.zeros((R, K), dtype=np.int64)
        spent[row, place] = (watched * 1000).astype(np.int64)
        looked = now[:, None] + LOOK_MS * position
        busy = np.cumsum(spent, axis=1)
        when = looked[row, place] + busy[row, place] - spent[row, place]

        here, slot = np.nonzero(shown)
        flat = len(here)
        yield Events(
            users[here], items[here, slot], now[here], np.full(flat, IMPRESSION, dtype=np.int16),
            np.full(flat, np.nan, dtype=np.float32), request[here], (slot + 1).astype(np.int16), odds[here, slot],
            device[here].astype(np.int8),
        )  # fmt: skip
        yield from self._click(users[row], clicked, when, watched, close, request[row], place + 1, device[row], rng)
        state.until[users] = looked[:, -1] + busy[:, -1]
        state.recent.add(users[row], clicked)
        last = np.flatnonzero(np.diff(row, append=-1))  # the last click of each request that has one
        state.last[users[row[last]]] = clicked[last]
        yield from self._wander(users[row[last]], device[row[last]], state, rng)

    def _wander(self, users: Ints, device: Ints, state: State, rng: np.random.Generator) -> Iterator[Events]:
        """Some who clicked go on to the item that belongs after their last one, if it was out when the tick began."""
        truth = self.truth
        items = truth.after[state.last[users]]
        out = (items >= 0) & (truth.shelf.published[items] <= state.now)
        goes = out & (rng.random(len(users)) < self.config.wander)
        users, items, device = users[goes], items[goes], device[goes]
        when = state.until[users] + WANDER_MS
        near = truth.affinity(users, items, when)
        watched = truth.watched(near, items, rng.standard_normal(len(users), dtype=np.float32))
        nowhere = np.full(len(users), -1, dtype=np.int64)
        yield from self._click(users, items, when, watched, near, nowhere, nowhere + 1, device, rng)
        state.last[users] = items
        state.recent.add(users, items)
        state.until[users] = when + (watched * 1000).astype(np.int64)

    def _click(
        self,
        users: Ints,
        items: Ints,
        when: Ints,
        watched: Floats,
        near: Floats,
        request: Ints,
        position: Ints,
        device: Ints,
        rng: np.random.Generator,
    ) -> Iterator[Events]:
        """Clicks [N] and the actions that follow them, at some moment while the item is watched."""
        place, kind = position.astype(np.int16), device.astype(np.int8)
        none = np.full(len(users), np.nan, dtype=np.float32)
        yield Events(
            users, items, when, np.full(len(users), CLICK, dtype=np.int16), watched, request, place, none, kind
        )
        for action in AFTER:
            chance = self.truth.given(action, near, items)
            at = np.flatnonzero(rng.random(len(users), dtype=np.float32) < chance)
            later = when[at] + (watched[at] * 1000 * rng.random(len(at), dtype=np.float32)).astype(np.int64)
            code = np.full(len(at), ACTIONS.index(action), dtype=np.int16)
            yield Events(users[at], items[at], later, code, none[at], request[at], place[at], none[at], kind[at])


def _check(config: World.Config) -> None:
    if 24 % config.tick_hours:
        what = f"{config.tick_hours} hours do not divide a day"
        raise ConfigError(what, where="tick_hours", hint="take 1, 2, 3, 4, 6, 8, 12 or 24")
    if config.items < config.slate:
        what = f"{config.items} items do not fill a slate of {config.slate}"
        raise ConfigError(what, where="items", hint="more items, or a smaller slate")
    if config.categories * config.words > WORDS:
        what = f"{config.categories} categories of {config.words} words: there are {WORDS} words"
        raise ConfigError(what, where="words", hint="fewer of either")


def _arrivals(n: int, config: World.Config, rng: np.random.Generator) -> Ints:
    """Moments [n]: `early` of them up to 60 days before the start, the others while the world runs."""
    day = np.where(rng.random(n) < config.early, rng.uniform(-60, 0, n), rng.uniform(0, config.days, n))
    moments: Ints = config.start_ms + (day * DAY_MS).astype(np.int64)
    return moments


def _blocks(ticks: Iterator[Events], size: int) -> Iterator[Events]:
    """The same events in blocks of one size; the last is what is left."""
    held: list[Events] = []
    count = 0
    for events in ticks:
        held.append(events)
        count += len(events)
        if count < size:
            continue
        whole = Events.joined(held)
        for low in range(0, count - size + 1, size):
            yield whole.take(slice(low, low + size))
        held = [whole.take(slice(count - count % size, count))]
        count %= size
    if count:
        yield Events.joined(held)
