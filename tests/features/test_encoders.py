"""Encoders by hand values (card I2, oracle 6), unknown values (oracle 3), and state that survives a round trip."""

import json
from math import log, log1p
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from shortlist.features.coverage import coverage
from shortlist.features.encoders import HOURS, Buckets, Encoders, Known, Rate, Scale, lists
from shortlist.schema import UNKNOWN, Catalogue, Profiles, Schema


def test_log_scale() -> None:
    # log(1+0) = 0 and log(1+3) = log 4: mean log 2, deviation log 2, so 0 -> -1, 3 -> 1, 1 -> log 2 -> 0
    scale = Scale.fit(np.array([0.0, 3.0, np.nan]), log1p=True)
    assert [scale.mean, scale.deviation] == approx([log(2), log(2)])
    assert scale(np.array([0.0, 1.0, 3.0, np.nan, -5.0])) == approx([-1, 0, 1, 0, -1], abs=1e-6)
    assert scale(np.array([15.0]))[0] == approx((log1p(15) - log(2)) / log(2))  # log 16 = 4 log 2 -> 3


def test_plain_scale() -> None:
    # 10 and 30: mean 20, deviation 10
    scale = Scale.fit(np.array([10, 30, None], dtype=object), log1p=False)
    assert scale(np.array([10.0, 40.0, np.inf])).tolist() == [-1.0, 2.0, 0.0]
    assert Scale.fit(np.array([7.0, 7.0]), log1p=False) == Scale(False, 7.0, 1.0)
    assert Scale.fit(np.array([np.nan]), log1p=True) == Scale(True, 0.0, 1.0)


def test_buckets() -> None:
    # 1..8 in four buckets: quantiles 2.75, 4.5, 6.25
    buckets = Buckets.fit(np.arange(1, 9), 4)
    assert buckets.edges == (2.75, 4.5, 6.25)
    assert len(buckets) == 6  # padding, unknown, four buckets
    assert buckets(np.array([-100, 2.75, 4, 5, 100, np.nan])).tolist() == [2, 3, 3, 4, 5, UNKNOWN]
    # one value over and over makes one bucket of it
    assert Buckets.fit(np.array([3.0] * 9 + [4.0]), 4).edges == ()
    assert Buckets.fit(np.array([np.nan]), 4)(np.array([1.0])).tolist() == [2]
    hours = Buckets(HOURS)
    assert hours(np.array([0.5, 1.0, 23.9, 24.0, 1e9])).tolist() == [2, 3, 4, 5, 10]


def test_smoothed_rates() -> None:
    # 3 of 10 in training, a prior worth 20 trials: a = 6, b = 14
    rate = Rate.fit(np.array([1, 2]), np.array([4, 6]))
    assert (rate.a, rate.b) == (6.0, 14.0)
    # (6+0)/(20+0) = 0.3, (6+4)/(20+5) = 0.4
    assert rate(np.array([0, 4]), np.array([0, 5])).tolist() == approx([0.3, 0.4])
    assert Rate.fit(np.zeros(1), np.zeros(1), strength=2) == Rate(1.0, 1.0)


def test_known_keys() -> None:
    known = Known.fit(np.array([9, 4, 9, -1]))
    assert known(np.array([4, 9, 5, -1, 100])).tolist() == [2, 3, UNKNOWN, UNKNOWN, UNKNOWN]
    assert len(known) == 4
    assert Known.fit(np.zeros(0, dtype=np.int64))(np.array([1])).tolist() == [UNKNOWN]


def test_lists_are_flattened() -> None:
    column = np.fromiter([["a", "b"], None, [], "c"], dtype=object, count=4)
    lengths, flat = lists(column)
    assert (lengths.tolist(), flat.tolist()) == ([2, 0, 0, 1], ["a", "b", "c"])
    lengths, flat = lists(np.array([1.5, np.nan]))
    assert (lengths.tolist(), flat.tolist()) == ([1, 0], [1.5])


SCHEMA = Schema.parse(
    {
        "users": {"city": {"kind": "sparse", "vocab": "place"}, "visits": {"kind": "dense", "scale": "log1p"}},
        "items": {"tags": "varlen", "price": {"kind": "dense", "buckets": 2}, "look": "vec", "title": "text"},
        "context": {"region": {"kind": "sparse", "vocab": "place"}},
    }
)
USERS = Profiles.from_frame(
    pl.DataFrame({"key": [0, 1, 2], "city": ["rome", "oslo", "rome"], "visits": [0.0, 3.0, 1000.0]})
)
ITEMS = Profiles.from_frame(
    pl.DataFrame(
        {
            "key": [0, 1, 2],
            "tags": [["a", "b"], ["b"], ["z"]],
            "price": [1.0, 3.0, 99.0],
            "look": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
            "title": ["x", "y", "z"],
        }
    )
)


def fitted() -> Encoders:
    context: dict[str, np.ndarray[Any, Any]] = {"region": np.array(["oslo", "paris"])}
    return Encoders.fit(SCHEMA, Catalogue(USERS, ITEMS), np.array([0, 1, 7]), np.array([0, 1]), context)


def test_training_entities_alone_are_fitted() -> None:
    encoders = fitted()
    # user 2 (1000 visits) and item 2 (price 99, tag z) are not in training
    assert encoders.scales["user.visits"] == Scale.fit(np.array([0.0, 3.0]), log1p=True)
    assert encoders.buckets["item.price"].edges == (2.0,)
    assert encoders.vocabularies["item.tags"].values.to_list() == ["b", "a"]
    assert encoders.widths == {"item.tags": 2, "item.look": 2}
    # the city of users and the region of requests share one vocabulary: oslo twice, then paris, rome
    assert encoders.vocabularies["place"].values.to_list() == ["oslo", "paris", "rome"]
    assert encoders.users.keys.tolist() == [0, 1, 7]


def test_state_survives_json() -> None:
    encoders = fitted()
    table, arrays = encoders.state()
    again = Encoders.restore(json.loads(json.dumps(table)), arrays)
    assert again.fingerprint == encoders.fingerprint
    assert again.state()[0] == table
    other = Encoders.fit(SCHEMA, Catalogue(USERS, ITEMS), np.array([0, 1]), np.array([0, 1, 2]))
    assert other.fingerprint != encoders.fingerprint


def test_coverage_of_a_known_mask() -> None:
    keys = np.array([0, 1, 2, 50])  # 50 has no profile
    assert coverage(SCHEMA, "user", USERS, keys) == {"user.city": 0.75, "user.visits": 0.75}
    holes = Profiles.from_frame(pl.DataFrame({"key": [0, 1], "city": ["rome", None], "visits": [None, None]}))
    assert coverage(SCHEMA, "user", holes, np.array([0, 1])) == {"user.city": 0.5, "user.visits": 0.0}
    empty = np.fromiter([[], ["a"]], dtype=object, count=2)
    assert coverage(SCHEMA, "item", Profiles(np.array([0, 1]), {"tags": empty}), np.array([0, 1]))["item.tags"] == 0.5
    assert coverage(SCHEMA, "user", USERS, np.zeros(0, dtype=np.int64))["user.city"] == 0.0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20), st.integers(1, 8))
def test_any_number_gets_a_bucket_and_a_finite_scale(values: list[float], count: int) -> None:
    column = np.array(values, dtype=np.float64)
    buckets = Buckets.fit(column, count)
    ids = buckets(column)
    assert ((ids >= UNKNOWN) & (ids < len(buckets))).all()
    assert list(buckets.edges) == sorted(set(buckets.edges))
    finite = np.clip(column, -1e100, 1e100)
    assert np.isfinite(Scale.fit(finite, log1p=True)(column)).all()
