"""Counts by slices of a number: the same from the log and from a store, whatever the numbers look like."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.features.counting import Dict

from shortlist.candidates import Ragged, Requests
from shortlist.config import FeatureConfig, parse
from shortlist.errors import ConfigError
from shortlist.features.base import Events, Rows
from shortlist.features.counters import Parts, cut, valued
from shortlist.features.featureset import FeatureSet
from shortlist.features.replay import Replayed
from shortlist.features.state import Service
from shortlist.features.stored import Stored
from shortlist.schema import Catalogue, Profiles, Schema

NOW = 1_767_225_600_000
MINUTE = 60_000
SCHEMA = Schema.parse({
    "action": "action", "actions": {"impression": {"weight": 0}, "click": {}},
    "users": {"age": "dense", "gender": "sparse"}, "items": {"price": "dense", "tags": "varlen"},
})  # fmt: skip
AGES = [17.0, 18.0, 24.5, 35.0, 70.0, float("nan")]
EDGES = {"user.age": [18, 25, 35]}


def features(**options: Any) -> FeatureSet:
    table = {"name": "it", "use": "count", "actions": "click", "windows": ["1d"], **options}
    config: tuple[FeatureConfig, ...] = parse({"feature": [table]}).feature
    return FeatureSet.of(config, SCHEMA)


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        features(**{"by": ["item", "user.age"], **options})
    return str(caught.value)


def people(ages: Any) -> Profiles:
    return Profiles(np.arange(len(ages)), {"age": ages})


def test_numbers_become_slices_and_an_edge_belongs_above() -> None:
    want = ["<18", "18-25", "18-25", "35+", "35+", None]
    assert valued(people(np.array(AGES)), "user.age[18,25,35]")[1].drop_nulls().to_list() == want[:5]
    said: Any = np.array(["17", 18, "24.5", "35", 70.0, "old"], dtype=object)
    lengths, words = valued(people(said), "user.age[18,25,35]")
    assert (lengths.tolist(), words.to_list()) == ([1] * 6, want)
    fine = valued(people(np.array([0.05, 1_234_567.5])), "user.age[0.1,1234567.5]")[1]
    assert fine.to_list() == ["<0.1", "1234567.5+"]
    word, edges = cut("user.age[0.1,1234567.5]")
    assert (word, [] if edges is None else edges.tolist()) == ("user.age", [0.1, 1234567.5])
    assert cut("user.age") == ("user.age", None)


def test_people_of_a_slice_have_one_key_and_who_has_no_age_has_none() -> None:
    parts = Parts(Catalogue(people(np.array(AGES)), Profiles(np.arange(1), {})))
    at, first, second = parts.keys(["item", "user.age[18,25,35]"], np.arange(6), np.zeros(6, dtype=np.int64))
    assert at is not None
    assert (at.tolist(), first.tolist()) == ([0, 1, 2, 3, 4], [0] * 5)
    assert (len(set(second.tolist())), second[1] == second[2], second[3] == second[4]) == (3, True, True)
    other = parts.keys(["item", "user.age[18,25]"], np.arange(6), np.zeros(6, dtype=np.int64))[2]
    assert not set(other.tolist()) & set(second.tolist())


@pytest.mark.parametrize("by", [["item", "user.age"], "user.age", ["user.age", "item.tags"]])
def test_a_store_counts_slices_as_a_log_does(by: Any) -> None:
    made = features(by=by, edges=EDGES)
    tags = np.empty(2, dtype=object)
    tags[:] = [["a", "b"], ["b"]]
    known = Catalogue(people(np.array(AGES)), Profiles(np.arange(2), {"tags": tags}))
    # users 1 and 2 (18 to 25) click item 0 three times in all, user 4 (35 and more) and 5 (no age) once each
    users = [1, 1, 2, 4, 5]
    events = Events.of(
        pl.DataFrame({
            "offset": range(1, 6), "user": users, "item": [0] * 5, "action": ["click"] * 5,
            "time_ms": [NOW - n * MINUTE for n in (50, 40, 30, 20, 10)],
        }),
        SCHEMA,
    )  # fmt: skip
    service, blobs = Service(made.counters, SCHEMA), Dict()
    blobs.put(service.update(blobs.get, events, known, 0), 5)
    none = Ragged.empty(6)
    requests = Requests(np.arange(6), np.full(6, NOW), 1, none, none, none)
    side, items = ("request", None) if by == "user.age" else ("row", np.zeros(6, dtype=np.int64))
    rows = Rows(requests, np.arange(6), items)
    online = Stored(blobs, service, known, made).moment().columns(rows)
    offline = Replayed(events, known, SCHEMA, made).columns(rows)
    want = {"user.age": [0, 3, 3, 1, 1, 0], "tags": [0, 6, 6, 2, 2, 0]}  # of item 0 two tags, each counts
    assert made.columns["it_1d"].side == side
    assert online["it_1d"].tolist() == offline["it_1d"].tolist() == want["tags" if "item.tags" in by else "user.age"]


def test_words_are_checked() -> None:
    assert features(by=["item", "user.age"], edges=EDGES).counters[0].by == ("item", "user.age[18,25,35]")
    hint = 'write edges = { "user.age" = [18, 25, 35, 50] }'
    for told, said in (([18, 18], "[18.0, 18.0]"), ([25, 18], "[25.0, 18.0]"), ([], "[]")):
        what = f"edges of user.age are not numbers that ascend: {said}"
        assert refused(edges={"user.age": told}) == f"feature.it.edges: {what} ({hint})"
    assert refused(edges={"user.age": [1], "user.aeg": [1]}) == (
        "feature.it.edges: nothing is counted by the values of 'user.aeg' (did you mean user.age?)"
    )
    assert refused(edges={"user.age": [1], "item": [1]}).startswith(
        "feature.it.edges: nothing is counted by the values of 'item'"
    )
    assert refused() == (
        "feature.it.by: user.age is a dense field: it has no values to count by "
        '(name a sparse or varlen field, or cut it: edges = { "user.age" = [18, 25] })'
    )
    assert refused(edges={"user.age": ["a"]}).startswith("feature.it (count).edges")


def test_other_edges_are_another_state() -> None:
    one, two = (features(by=["item", "user.age"], edges={"user.age": edges}) for edges in ([18, 25], [18, 26]))
    assert Service(one.counters, SCHEMA).fingerprint != Service(two.counters, SCHEMA).fingerprint
    again = FeatureSet.restored(one.words(), SCHEMA)
    assert again.counters == one.counters
