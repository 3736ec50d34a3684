"""No feature of any kind sees the future: not what happened later, nor what the log came to know later."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.features.test_kinds import EXAMPLES
from tests.features.world import CATALOGUE, DAY, HOUR, MINUTE, NOW, SCHEMA, features

from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.features.base import Events, Rows
from shortlist.features.replay import Replayed

CHOSEN = features(*({"name": f"f{n}", "use": use, **told} for n, (use, told) in enumerate(EXAMPLES.items())))
USERS, ITEMS = np.array([0, 1, 2]), np.arange(5)
Columns = dict[str, NDArray[Any]]


def log(rng: np.random.Generator, size: int, span: int) -> pl.DataFrame:
    """Events of three users up to `span` ms before NOW and as long after it, a third of them up to two hours late."""
    times = NOW + rng.integers(-span, span, size)
    late = rng.integers(0, 2 * HOUR, size) * (rng.random(size) < 0.3)
    order = np.argsort(times + late, kind="stable")
    return pl.DataFrame(
        {
            "offset": 2 * np.arange(1, size + 1), "user": rng.integers(0, 3, size), "item": rng.integers(0, 5, size),
            "action": rng.choice(SCHEMA.action_names, size), "time_ms": times[order],
            "event_id": [f"e{n}" for n in range(size)],
        }
    )  # fmt: skip


def doubled(rng: np.random.Generator, told: pl.DataFrame) -> pl.DataFrame:
    """Some events come again at later offsets, with another time, and all rows stand in any order."""
    again = told.sample(fraction=0.3, seed=int(rng.integers(2**32)))
    later = again["offset"] + 1 + 2 * pl.Series(rng.integers(0, 9, len(again)))
    again = again.with_columns(offset=later, time_ms=pl.col("time_ms") - MINUTE).unique("offset")
    return pl.concat([told, again]).sample(fraction=1.0, shuffle=True, seed=int(rng.integers(2**32)))


def columns(told: pl.DataFrame, at: int, as_of: int | None) -> Columns:
    """Every column of every kind: of three requests at one moment, and of each with five candidates."""
    events = Events.of(told, SCHEMA)
    held = Interactions.of(events.users, events.items, events.times, events.actions, log_offsets=events.offsets)
    now = np.full(3, at)
    known = None if as_of is None else np.full(3, as_of)
    liked = held.histories(USERS, now, known)
    liked = liked.where(SCHEMA.weights[liked.actions] > 0)
    none = Ragged.empty(3)
    replayed = Replayed(events, CATALOGUE, SCHEMA, CHOSEN)
    asked = Requests(USERS, now, 5, liked, none, none, known=replayed, as_of=known)
    return {
        **replayed.columns(Rows(asked, np.arange(3), None)),
        **replayed.columns(Rows(asked, np.repeat(np.arange(3), 5), np.tile(ITEMS, 3))),
    }


def same(one: Columns, other: Columns) -> None:
    assert set(one) == set(other)
    for name, values in one.items():
        if values.dtype == object:
            assert values.tolist() == other[name].tolist(), name
        else:
            np.testing.assert_allclose(values, other[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("recorded", [False, True])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 80), span=st.sampled_from([HOUR, DAY, 40 * DAY]))
def test_shuffled_late_and_doubled_events_tell_nothing_of_the_future(
    recorded: bool, seed: int, size: int, span: int
) -> None:
    """Asked of the whole log, rows in any order and some of them twice, and of a log that ends with what was known."""
    rng = np.random.default_rng(seed)
    told = log(rng, size, span)
    at = int(told["time_ms"][int(rng.integers(0, size))])  # what happens at the moment itself is not known yet
    as_of = int(rng.integers(0, 2 * size + 2)) if recorded else None
    before = told.filter(pl.col("time_ms") < at)
    if as_of is not None:
        before = before.filter(pl.col("offset") <= as_of)
    same(columns(doubled(rng, told), at, as_of), columns(before, at, as_of))


def test_what_is_known_does_show() -> None:
    """The same questions, of a log that knows one click more: every kind that reads the log says something else."""
    told = pl.DataFrame(
        {
            "offset": [2, 4], "user": [0, 0], "item": [0, 3], "action": ["click", "follow"],
            "time_ms": [NOW - 10 * MINUTE, NOW - 5 * MINUTE], "event_id": ["a", "b"],
        }
    )  # fmt: skip
    empty, full = columns(told.clear(), NOW, None), columns(told, NOW, None)
    moved = {name.partition("_")[0] for name in full if repr(full[name].tolist()) != repr(empty[name].tolist())}
    reading = {"count", "rate", "decayed", "session", "account", "creator", "interests", "crossed"}
    uses = {f"f{n}": use for n, use in enumerate(EXAMPLES)}
    assert {uses[name] for name in moved} == reading
