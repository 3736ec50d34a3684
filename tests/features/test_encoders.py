"""Encoders by hand values, unknown values, and state that survives a round trip."""

import json
import os
import subprocess
import sys
from math import log, log1p
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from shortlist.errors import DataError
from shortlist.features.coverage import coverage
from shortlist.features.encoders import HOURS, Buckets, Encoders, Hashed, Known, Rate, Scale, lists
from shortlist.features.hashing import fnv1a, mix
from shortlist.schema import UNKNOWN, Catalogue, Profiles, Schema, Vocabulary


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


def words(encoders: Encoders, name: str) -> list[str]:
    vocabulary = encoders.vocabularies[name]
    assert isinstance(vocabulary, Vocabulary)
    found: list[str] = vocabulary.values.to_list()
    return found


def test_training_entities_alone_are_fitted() -> None:
    encoders = fitted()
    # user 2 (1000 visits) and item 2 (price 99, tag z) are not in training
    assert encoders.scales["user.visits"] == Scale.fit(np.array([0.0, 3.0]), log1p=True)
    assert encoders.buckets["item.price"].edges == (2.0,)
    assert words(encoders, "item.tags") == ["b", "a"]
    assert encoders.widths == {"item.tags": 2, "item.look": 2}
    # the city of users and the region of requests share one vocabulary: oslo twice, then paris, rome
    assert words(encoders, "place") == ["oslo", "paris", "rome"]
    assert encoders.users.keys.tolist() == [0, 1, 7]


def test_state_survives_json() -> None:
    encoders = fitted()
    table, arrays = encoders.state()
    again = Encoders.restore(json.loads(json.dumps(table)), arrays)
    assert again.fingerprint == encoders.fingerprint
    assert again.state()[0] == table
    other = Encoders.fit(SCHEMA, Catalogue(USERS, ITEMS), np.array([0, 1]), np.array([0, 1, 2]))
    assert other.fingerprint != encoders.fingerprint


def test_state_of_large_vocabularies_is_arrays() -> None:
    table, arrays = fitted().state()
    assert table["vocabularies"] == ["item.tags", "place"]
    # oslo, paris, rome one after the other, and where each ends
    assert arrays["vocabulary.place.text"].tobytes() == b"osloparisrome"
    assert arrays["vocabulary.place.ends"].tolist() == [4, 9, 13]


@given(st.lists(st.text(max_size=6), unique=True, max_size=30))
def test_any_vocabulary_survives_its_state(values: list[str]) -> None:
    none = Known.fit(np.zeros(0, dtype=np.int64))
    made = Encoders(none, none, {"item.tag": Vocabulary(values)}, {}, {}, {})
    assert words(Encoders.restore(*made.state()), "item.tag") == values


# ------------------------------------------------------------------------------- counts, hashes, caps


def of_items(field: dict[str, Any], column: list[Any], **options: Any) -> Encoders:
    """Encoders of items 0, 1, ... with one field `x`, all but the last item in training."""
    schema = Schema.parse({"items": {"x": field}})
    items = Profiles.from_frame(pl.DataFrame({"key": range(len(column)), "x": pl.Series(column, strict=False)}))
    known = np.arange(len(column) - 1)
    return Encoders.fit(schema, Catalogue(Catalogue.empty().users, items), known[:0], known, **options)


def test_rare_values_are_unknown() -> None:
    # b in two training items, a in one and in one that training does not know
    encoders = of_items({"kind": "sparse", "min_count": 2}, ["b", "a", "b", "a"])
    assert encoders.vocabularies["item.x"].encode(["a", "b"]).tolist() == [UNKNOWN, 2]


def test_the_hash_is_the_published_one() -> None:
    # test vectors of FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv, appendix C)
    known = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "b": 0xAF63DF4C8601F1A5, "foobar": 0x85944171F73967E8}
    assert fnv1a(pl.Series([*known])).tolist() == [*known.values()]
    # the finalizer of MurmurHash3 leaves 0 alone and is one to one
    assert mix(np.array([0], dtype=np.uint64)).tolist() == [0]
    assert len(np.unique(mix(np.arange(10_000, dtype=np.uint64)))) == 10_000


@given(st.lists(st.one_of(st.none(), st.text(max_size=9)), max_size=40))
def test_hashed_ids_are_those_of_each_value_alone(values: list[str | None]) -> None:
    hashed = Hashed(7)
    ids = hashed.encode(pl.Series(values, dtype=pl.String))
    assert [int(hashed.encode(pl.Series([v], dtype=pl.String))[0]) for v in values] == ids.tolist()
    assert all(
        (i == UNKNOWN) == (v is None) and (v is None or 2 <= i < len(hashed)) for i, v in zip(ids, values, strict=True)
    )


HASH = """
import polars as pl
from shortlist.features.hashing import Hashed
print(Hashed(1000).encode(pl.Series(["a", "ü", "5", None, ""])).tolist())
"""


def test_the_hash_is_the_same_in_every_process() -> None:
    here = Hashed(1000).encode(pl.Series(["a", "ü", "5", None, ""])).tolist()
    assert Hashed(1000).encode(np.array([5.0, np.nan])).tolist() == [here[2], UNKNOWN]  # 5.0 is 5
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        done = subprocess.run([sys.executable, "-c", HASH], capture_output=True, text=True, env=environment, check=True)
        assert json.loads(done.stdout) == here


def test_collisions_are_counted() -> None:
    encoders = of_items({"kind": "sparse", "hash": 1000}, [f"v{n}" for n in range(501)])
    hashed = encoders.vocabularies["item.x"]
    assert isinstance(hashed, Hashed)
    ids = [int(i) for i in hashed.encode([f"v{n}" for n in range(500)])]
    shared = sum(ids.count(i) > 1 for i in ids)
    assert (hashed.values, hashed.shared) == (500, shared)
    # a value meets one of 499 others in 1,000 buckets: 1 - (1 - 1/1000)^499 = 0.393
    assert encoders.collisions == {"item.x": shared / 500}
    assert shared / 500 == approx(0.393, abs=0.08)
    assert len(hashed) == 1002
    again = Encoders.restore(*encoders.state())
    assert again.vocabularies["item.x"] == hashed
    assert Hashed.fit(pl.Series([None], dtype=pl.String), 5).collisions == 0.0


@pytest.mark.parametrize(
    ("field", "column", "message"),
    [
        (
            {"kind": "sparse"},
            ["a", "b", "c", "d", None],
            "vocabulary item.x: 4 values, at most 3 fit (set min_count or hash on its fields)",
        ),
        (
            {"kind": "sparse"},
            [None, None, "a"],
            "item.x: none of 2 items of training has a value (fill the column, or take the field out of the schema)",
        ),
        (
            {"kind": "dense"},
            [float("nan"), None, 3.0],
            "item.x: none of 2 items of training has a number (fill the column, or take the field out of the schema)",
        ),
        (
            {"kind": "varlen"},
            [[], None, ["a"]],
            "item.x: none of 2 items of training has a value (fill the column, or take the field out of the schema)",
        ),
        (
            {"kind": "vec"},
            [None, None, [1.0]],
            "item.x: none of 2 items of training has a value (fill the column, or take the field out of the schema)",
        ),
        (
            {"kind": "time"},
            [None, None, 5],
            "item.x: none of 2 items of training has a number (fill the column, or take the field out of the schema)",
        ),
    ],
)
def test_what_cannot_be_fitted(field: dict[str, Any], column: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        of_items(field, column, max_values=3)
    assert str(caught.value) == message


def test_a_vocabulary_within_its_cap() -> None:
    assert len(of_items({"kind": "sparse"}, ["a", "b", "c", None], max_values=3).vocabularies["item.x"]) == 5
    assert len(of_items({"kind": "sparse", "hash": 2}, list("abcde"), max_values=3).vocabularies["item.x"]) == 4
    assert len(of_items({"kind": "sparse", "min_count": 2}, list("aabcde"), max_values=1).vocabularies["item.x"]) == 3


def test_context_without_a_value() -> None:
    schema = Schema.parse({"context": {"region": "sparse"}})
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(DataError) as caught:
        Encoders.fit(schema, Catalogue.empty(), none, none, {"region": np.array([None, None])})
    assert str(caught.value) == (
        "context.region: none of 2 requests of training has a value "
        "(fill the column, or take the field out of the schema)"
    )
    assert Encoders.fit(schema, Catalogue.empty(), none, none).vocabularies == {}  # nothing given, nothing learned


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
