"""Static boost of new items."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.errors import ConfigError
from shortlist.schema import Profiles, Schema
from shortlist.traffic.boost import Boost, boosted

HOUR = 3_600_000
NOW = 1_700_000_000_000
SCHEMA = Schema.parse({"items": {"published": "time"}, "published": "published"})


def profiles(ages_hours: list[float | None]) -> Profiles:
    times = [None if age is None else NOW - int(age * HOUR) for age in ages_hours]
    return Profiles(np.arange(len(times)), {"published": np.fromiter(times, dtype=object, count=len(times))})


def run(config: Boost.Config, ages: list[float | None], scores: list[float], extra: int = 0) -> NDArray[np.float32]:
    """Two requests alike over all items, the second an hour later."""
    n = len(ages) + extra
    none = Ragged.empty(2)
    requests = Requests(np.array([0, 1]), np.array([NOW, NOW + HOUR]), 5, none, none, none)
    wide = np.ones((2 * n, 1), dtype=np.int32)
    table = Candidates(
        np.array([0, n, 2 * n]), np.tile(np.arange(n), 2), ("a",), wide, wide.astype(np.float32), {},
        np.zeros(2 * n, dtype=np.int16),
    )  # fmt: skip
    return Boost(config, SCHEMA, profiles(ages)).boost(requests, table, np.array(scores * 2, dtype=np.float32))


def test_new_items_are_multiplied() -> None:
    # ages 1 h, 23.5 h, 24 h, not known, and an item outside the catalogue; the second request comes an hour later,
    # when 23.5 h has become 24.5 h
    result = run(Boost.Config(times=3.0), [1, 23.5, 24, None], [1, 2, 3, 4, 5], extra=1)
    assert result.tolist() == [3, 6, 3, 4, 5, 3, 2, 3, 4, 5]
    assert run(Boost.Config(plus=0.5), [1, 48], [-1, 0]).tolist() == [-0.5, 0, -0.5, 0]
    assert run(Boost.Config(times=2.0, plus=1.0, younger_than_hours=2), [0, 1.5], [1, 2]).tolist() == [3, 5, 3, 2]


def test_times_one_changes_nothing() -> None:
    scores = [0.25, -1.0, float("nan")]
    np.testing.assert_array_equal(run(Boost.Config(), [0, 1, 99], scores), np.array(scores * 2, dtype=np.float32))


SCORES = st.lists(st.tuples(st.integers(1, 1000), st.booleans()), min_size=1, max_size=20)


@given(SCORES, st.floats(0.5, 8), st.floats(0, 10))
def test_order_among_new_and_among_old_is_kept(rows: list[tuple[int, bool]], times: float, plus: float) -> None:
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    new = np.array([is_new for _, is_new in rows], dtype=bool)
    result = boosted(scores, new, times, plus)
    for group in (new, ~new):
        np.testing.assert_array_equal(
            np.argsort(scores[group], kind="stable"), np.argsort(result[group], kind="stable")
        )


@given(SCORES, st.floats(1, 4), st.floats(1, 4))
def test_more_boost_never_means_fewer_new_items_on_top(rows: list[tuple[int, bool]], one: float, two: float) -> None:
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    new = np.array([is_new for _, is_new in rows], dtype=bool)

    def shown(times: float) -> int:
        return int(new[np.argsort(-boosted(scores, new, times, 0.0), kind="stable")[:5]].sum())

    less, more = sorted((one, two))
    assert shown(less) <= shown(more)


def test_multiplying_needs_positive_scores() -> None:
    with pytest.raises(ConfigError) as caught:
        run(Boost.Config(times=2.0), [1, 48], [-0.5, 1.0])
    assert str(caught.value) == (
        "boost.times: times multiplies scores, and some are negative "
        "(use boost.plus, or a merge policy whose scores are not negative, such as rrf)"
    )
    assert run(Boost.Config(times=2.0), [48, 1], [-1.0, 1.0]).tolist() == [-1, 2, -1, 2]  # only old ones below 0


def test_what_is_dropped_or_only_fills_up_is_left_alone() -> None:
    none = Ragged.empty(1)
    rank = np.array([[1, 0], [2, 0], [0, 1]], dtype=np.int32)
    table = Candidates(
        np.array([0, 3]), np.arange(3), ("near", "backfill"), rank, rank.astype(np.float32), {},
        np.array([0, 1, 0], dtype=np.int16), ("seen",),
    )  # fmt: skip
    requests = Requests(np.array([0]), np.array([NOW]), 5, none, none, none)
    boost = Boost(Boost.Config(times=2.0), SCHEMA, profiles([1, 1, 1]))
    assert boost.boost(requests, table, np.array([1.0, -1.0, -2.0], dtype=np.float32)).tolist() == [2, -1, -2]


def test_a_published_field_is_needed() -> None:
    with pytest.raises(ConfigError) as caught:
        Boost(Boost.Config(), Schema.parse({}), profiles([]))
    assert str(caught.value) == (
        "boost: no field says when items were published (set schema.published to the item field that holds the time)"
    )
