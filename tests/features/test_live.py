"""Feature columns in batches: fitted on training's rows, encoded by hand values, the same online as offline."""

from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from pytest import approx
from tests.features.counting import Dict
from tests.features.world import (
    CATALOGUE,
    DAY,
    HOUR,
    MINUTE,
    NOW,
    SCHEMA,
    candidates,
    column,
    events,
    features,
    requests,
)

from shortlist.batch import Batch
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler
from shortlist.features.base import Column, Rows
from shortlist.features.encoders import Encoders, Rate, Scale
from shortlist.features.featureset import FeatureSet
from shortlist.features.state import Service
from shortlist.features.stored import Stored
from shortlist.schema import Field, Vocabulary

AT = [NOW, NOW - HOUR, NOW - 7 * MINUTE]
USERS, AMONG = [0, 1, 2], [[0, 1, 2], [3, 0], [4, 77]]
CHOSEN = features(
    {"name": "clicks", "use": "count", "actions": "click", "by": "item", "windows": ["1h", "1d"]},
    {"name": "ctr", "use": "rate", "hits": "click", "by": "item", "windows": ["1d"], "strength": 4.0},
    {"name": "warm", "use": "decayed", "actions": ["click", "like"], "by": ["user", "item.category"]},
    {"name": "visit", "use": "session"},
    {"name": "acc", "use": "account", "created": "joined", "windows": ["1d"]},
    {"name": "about", "use": "interests", "of": ["category", "tags"]},
    {"name": "when", "use": "moment"},
    {"name": "shape", "use": "shape", "buckets": 2},
    {"name": "meets", "use": "crossed", "of": "category"},
)


def fitted(chosen: FeatureSet = CHOSEN) -> Encoders:
    asked, among = requests(USERS, chosen, AT), candidates(AMONG)
    raw = dict(asked.known.columns(Rows(asked, np.arange(3), None)))
    raw |= asked.known.columns(Rows(asked, among.owners, among.items))
    given = {name: (column, raw[name]) for name, column in chosen.columns.items()}
    context: dict[str, Any] = {"lat": np.array([1.0]), "lon": np.array([1.0])}
    return Encoders.fit(SCHEMA, CATALOGUE, np.arange(3), np.arange(4), context, features=given)


ENCODERS = fitted()
ASSEMBLE = Assembler(SCHEMA, ENCODERS, CATALOGUE, 5, CHOSEN)


def of_one(raw: Any, field: Field, **more: Any) -> Encoders:
    bare = Encoders.fit(SCHEMA, CATALOGUE, np.arange(3), np.arange(4), {})
    return bare.featured({"it": (Column("row", field, **more), raw)})


# ---------------------------------------------------------------------------------------------- fitting


def test_each_column_is_fitted_as_its_field_says() -> None:
    scale = of_one(np.array([0.0, 3.0]), Field("dense", scale="log1p")).scales["live.it"]
    assert scale.log1p
    assert [scale.mean, scale.deviation] == approx([log(2), log(2)])  # of log 1 = 0 and log 4 = 2 log 2
    assert of_one(np.array([1.0, 3.0]), Field("dense", buckets=2)).buckets["live.it"].edges == (2.0,)
    words = of_one(column("b", None, "a", "b"), Field("sparse")).vocabularies["live.it"]
    assert isinstance(words, Vocabulary)
    assert words.values.to_list() == ["b", "a"]
    assert of_one(column(["x", "y"], None), Field("varlen")).widths["live.it"] == 2
    assert of_one(column([0.5, 1.0], None), Field("vec")).widths["live.it"] == 2


def test_a_shared_vocabulary_stays_as_fields_have_it() -> None:
    made = of_one(column(["war", "new"]), Field("varlen", vocab="item.category"))
    before = Encoders.fit(SCHEMA, CATALOGUE, np.arange(3), np.arange(4), {})
    assert made.vocabularies["item.category"] is not None
    assert len(made.vocabularies["item.category"]) == len(before.vocabularies["item.category"])
    assert "live.it" not in made.vocabularies


def test_a_prior_is_fitted_or_declared() -> None:
    # three hits of four trials in all: a declared strength of 8 is 6 and 2
    hits, trials = np.array([1.0, 2.0]), np.array([2.0, 2.0])
    columns = {
        "ctr": (Column("row", Field("dense"), "n", 8.0), hits),
        "n": (Column("row", Field("dense", scale="log1p")), trials),
    }
    bare = Encoders.fit(SCHEMA, CATALOGUE, np.arange(3), np.arange(4), {})
    made = bare.featured(columns)
    assert made.rates["live.ctr"] == Rate(6.0, 2.0)
    # rates (6+1)/(8+2) = 0.7 and (6+2)/(8+2) = 0.8: what a model reads is scaled by their mean and deviation
    assert made.scales["live.ctr"].mean == approx(0.75)
    assert made.scales["live.ctr"].deviation == approx(0.05, rel=1e-5)
    table, arrays = made.state()
    assert Encoders.restore(table, arrays).fingerprint == made.fingerprint
    assert made.fingerprint != bare.fingerprint
    columns["ctr"] = (Column("row", Field("dense"), "n"), hits)
    assert bare.featured(columns).rates["live.ctr"] == Rate.fit(hits, trials, None)


def test_the_strength_of_a_prior_by_moments() -> None:
    # rates drawn from Beta(6, 14): strength 20, mean 0.3
    rng = np.random.default_rng(0)
    p = rng.beta(6, 14, 20_000)
    trials = rng.integers(1, 200, len(p))
    found = Rate.fit(rng.binomial(trials, p), trials, None)
    assert found.a + found.b == approx(20, rel=0.05)
    assert found.a / (found.a + found.b) == approx(0.3, rel=0.02)
    # k = 2 of n = 10 each, hits 2 and 8: mean 1/2, S = 2 * 10 * 0.09 = 1.8, S / 0.25 - 1 = 6.2;
    # N - sum n^2 / N - 1 = 20 - 10 - 1 = 9, so a + b = 9 / 6.2 - 1 = 0.45, which is raised to 1
    assert Rate.fit(np.array([2, 8]), np.array([10, 10]), None) == Rate(0.5, 0.5)
    # hits 4 and 7: mean 0.55, S = 2 * 10 * 0.0225 = 0.45, / 0.2475 - 1 = 0.8182; 9 / 0.8182 - 1 = 10
    made = Rate.fit(np.array([4, 7]), np.array([10, 10]), None)
    assert [made.a, made.b] == approx([5.5, 4.5])
    alike = Rate.fit(np.array([5, 5]), np.array([10, 10]), None)  # rates differ less than chance would have them
    assert alike.a + alike.b == 1e6
    assert Rate.fit(np.array([1, 0]), np.array([1, 1]), None) == Rate(10.0, 10.0)  # one trial each says nothing


def test_a_rate_without_trials_is_refused() -> None:
    columns = {
        "ctr": (Column("row", Field("dense"), "n"), np.array([1.0, 0.0])),
        "n": (Column("row", Field("dense", scale="log1p")), np.zeros(2)),
    }
    with pytest.raises(DataError) as caught:
        Encoders.fit(SCHEMA, CATALOGUE, np.arange(3), np.arange(4), {}, features=columns)
    assert str(caught.value) == (
        "feature column ctr: no row of training has a trial: the log has no such events, or all of them came "
        'later (import impressions, or count (use = "count") instead of a rate)'
    )


def test_a_column_without_values_is_told(caplog: pytest.LogCaptureFixture) -> None:
    made = of_one(np.array([np.nan, np.nan]), Field("dense"))
    assert made.scales["live.it"] == Scale(False, 0.0, 1.0)
    assert caplog.messages == ["feature column it: no row of training has a value, it says nothing"]


# ---------------------------------------------------------------------------------------------- batches


def test_hand_values() -> None:
    asked, among = requests(USERS, CHOSEN, AT), candidates(AMONG)
    made = ASSEMBLE(asked, among)
    # clicks of a day, log(1 + n): items 0, 1, 2 at NOW were clicked 2, 1, 1 times; an hour before item 3 0, item 0 1;
    # then items 4 (5 minutes ago: after 7 minutes ago) and 77 none
    raw = np.log1p([2, 1, 1, 0, 1, 0, 0])
    assert made.row["live.clicks_1d"].tolist() == approx(((raw - raw.mean()) / raw.std()).tolist(), abs=1e-6)
    # impressions of them 2, 2, 0, 0, 2, 0, 0: 5 clicks of 6, in a prior worth four trials
    assert ENCODERS.rates["live.ctr_1d"].a == approx(4 * 5 / 6)
    assert ENCODERS.rates["live.ctr_1d"].b == approx(4 * 1 / 6)
    # accounts of 40 days (buckets end at 1, 6, 24, 72, 168, 720 and 2160 hours), of one hour, and not known
    assert made.request["live.acc_age"].tolist() == [8, 3, 1]
    # of user 0's interests war is 5 of 6 (a like weighs 3) and love 1: a place each, and eight by 6.67 and 1.33
    about = made.request.groups["live.about_category"]
    assert about.length.tolist() == [10, 10, 0]
    words = ENCODERS.vocabularies["item.category"]
    assert isinstance(words, Vocabulary)
    assert words.decode(about.channels["value"][0].numpy()) == ["war"] * 8 + ["love"] * 2
    assert made.now is not None
    assert made.now.tolist() == AT


def test_the_layout_is_that_of_the_batches() -> None:
    layout, made = ASSEMBLE.layout(), ASSEMBLE(requests(USERS, CHOSEN, AT), candidates(AMONG))
    for side, columns in ((layout.request, made.request), (layout.row, made.row)):
        assert tuple(side.sparse) == columns.sparse_names
        assert tuple(side.dense) == columns.dense_names
        assert {n: list(g) for n, g in side.groups.items()} == {n: list(g.channels) for n, g in columns.groups.items()}
        for name, word in side.sparse.items():
            assert 1 <= int(columns[name].min()) <= int(columns[name].max()) < layout.vocabularies[word]
        for name, words in side.groups.items():
            assert int(columns.groups[name].channels["value" if "value" in words else "item"].max()) < 100
    assert layout.request.groups["live.about_tags"] == {"value": "item.tags"}
    assert layout.request.sparse["live.acc_age"] == "live.acc_age.age"
    assert {"live.clicks_1h", "live.ctr_1d", "live.ctr_1d_trials", "live.warm", "live.meets_share"} <= set(
        layout.row.dense
    )
    assert {"live.shape_words", "live.shape_characters"} <= set(layout.row.sparse)


def test_without_anybody_to_answer_columns_have_their_defaults() -> None:
    asked, among = requests(USERS, None, AT), candidates(AMONG)
    made = ASSEMBLE(asked, among)
    for side, columns in (("request", made.request), ("row", made.row)):
        live = [name for name in (*columns.sparse_names, *columns.dense_names) if name.startswith("live.")]
        assert live, side
        for name in live:
            assert set(columns[name].tolist()) == {1 if name in columns.sparse_names else 0.0}, name
    assert made.request.groups["live.about_tags"].length.tolist() == [0, 0, 0]


def test_entries_have_no_columns_of_a_moment() -> None:
    kept = ASSEMBLE.entries(np.arange(5), np.full(5, NOW))
    assert not [name for name in (*kept.sparse_names, *kept.dense_names, *kept.groups) if name.startswith("live.")]


def tensors(made: Batch) -> list[torch.Tensor]:
    seen = made.expand()
    columns = (seen.request, seen.row)
    parts = [t for c in columns for t in (c.sparse, c.dense, *c.vecs.values())]
    return parts + [t for c in columns for g in c.groups.values() for t in (g.length, *g.channels.values())]


def test_a_batch_of_one_is_its_rows_of_many() -> None:
    whole = tensors(ASSEMBLE(requests(USERS, CHOSEN, AT), candidates(AMONG)))
    alone = [
        tensors(ASSEMBLE(requests(USERS[n : n + 1], CHOSEN, AT[n : n + 1]), candidates(AMONG[n : n + 1])))
        for n in range(3)
    ]
    for n, expected in enumerate(whole):
        assert torch.equal(torch.cat([one[n] for one in alone]), expected)


def test_a_request_online_equals_its_rows_offline() -> None:
    """Read from the state that followed the log, one request at a time, and replayed from the log, all at once."""
    told = events()
    service = Service(CHOSEN.counters, SCHEMA)
    blobs = Dict()
    for low in range(0, len(told), 4):  # as a follower takes it in
        some = told.take(slice(low, low + 4))
        changes = service.update(blobs.get, some, CATALOGUE, after=blobs.offset)
        blobs.put(changes, int(some.offsets[-1]))
    late = [NOW, NOW + MINUTE, NOW + 2 * DAY]
    offline = tensors(ASSEMBLE(requests(USERS, CHOSEN, late), candidates(AMONG)))
    online = []
    for n in range(3):
        stored = Stored(blobs, service, CATALOGUE, CHOSEN)
        asked = replace(requests(USERS[n : n + 1], None, late[n : n + 1]), known=stored.moment())
        online.append(tensors(ASSEMBLE(asked, candidates(AMONG[n : n + 1]))))
    for n, expected in enumerate(offline):
        torch.testing.assert_close(torch.cat([one[n] for one in online]), expected, atol=1e-6, rtol=0)


def test_what_the_log_did_not_know_yet_is_not_known() -> None:
    """As of the offset before a click, the click is not counted, though its time is earlier."""
    asked, among = requests([1], CHOSEN), candidates([[0]])
    rows = Rows(replace(asked, as_of=np.array([9])), among.owners, among.items)
    assert asked.known.columns(rows)["clicks_1h"].tolist() == [0]  # offset 10 is user 1's click four minutes ago
    rows = Rows(replace(asked, as_of=np.array([10])), among.owners, among.items)
    assert asked.known.columns(rows)["clicks_1h"].tolist() == [1]
