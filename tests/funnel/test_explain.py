"""Explain and trace agree with the run they tell of."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.funnel.test_pipeline import MMR, fate_of
from tests.funnel.world import SCHEMA, Brings, Drawn, Fails, Only, ask, drawn, funnel, profiles, ranked

from shortlist.candidates import BACKFILL
from shortlist.funnel.explain import explain
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.pipeline import NOT_SELECTED, OVER_BUDGET
from shortlist.funnel.selectors.mmr import Mmr
from shortlist.funnel.trace import SELECTED, fates, reasons, trace


@given(drawn(), st.integers(0, 3), st.booleans())
@settings(max_examples=150)
def test_explain_agrees_with_the_run_for_every_item(world: Drawn, user: int, diverse: bool) -> None:
    one, request = world.funnel(MMR if diverse else None), world.requests.take(user, user + 1)
    slates = one.run(request)
    candidates = slates.candidates
    rows = {int(item): row for row, item in enumerate(candidates.items)}
    for item in range(16):
        told = explain(one, request, item)
        assert told["filters"] == {"seen": item not in world.seen[user], "listed": item in world.listed}
        for n, channel in enumerate(told["channels"]):
            order = sorted(world.lists[n][user], key=lambda row: (-row[1], row[0]))
            keys = [key for key, _ in order]
            if item in keys:  # its rank in the whole list, and whether that is within the quota
                above = [k for k in keys[: keys.index(item)] if k in world.listed and k not in world.seen[user]]
                assert (channel["rank"], channel["score"]) == (len(above) + 1, dict(order)[item])
            else:
                assert (channel["rank"], channel["score"]) == (None, None)
            recorded = int(candidates.rank[rows[item], n]) if item in rows else 0
            assert channel["brought"] == (recorded > 0)
            if recorded:
                assert channel["rank"] == recorded
        if item not in rows:
            assert (told["fate"], told["stage"], told["brought_by"]) == ("not_recalled", "recall", [])
            assert told["would_move"]
            continue
        row = rows[item]
        assert told["fate"] == fate_of(candidates, row)
        assert {b["channel"]: b["rank"] for b in told["brought_by"]} == {
            name: rank for name, rank in zip(candidates.channels, candidates.rank[row].tolist(), strict=True) if rank
        }
        if told["fate"] == SELECTED:
            assert slates.items[told["position"] - 1] == item
            assert told["stage"] == (BACKFILL if candidates.rank[row, -1] else "select")
            assert told["would_move"] == []
        else:
            assert told["position"] is None
            stages = {OVER_BUDGET: "merge", NOT_SELECTED: "select"}
            assert told["stage"] == stages.get(told["fate"], "filter")
            assert told["would_move"]


def moves(told: dict[str, Any]) -> list[str]:
    return list(told["would_move"])


def test_what_would_move_an_item() -> None:
    one = funnel(ranked(0, 1, 2, 3, 4, 5), quota=4, budget=3, filters={"seen": Seen(Seen.Config(), SCHEMA, profiles())})
    request = ask([1], n=2)
    # eligible 0 2 3 4 within the quota; 3 within the budget; 0 2 on the page; scores are 1 - (rank - 1/2) / 4
    assert moves(explain(one, request, 0)) == []
    assert moves(explain(one, request, 1)) == ["the filter 'seen' letting it through"]
    assert moves(explain(one, request, 3)) == ["a merge score above 0.625 (now 0.375)"]
    assert moves(explain(one, request, 4)) == ["a merge score above 0.375 (now 0.125)"]
    assert moves(explain(one, request, 5)) == ["rank 4 or better in a (now 5)"]
    assert moves(explain(one, request, 6)) == ["a channel that knows it"]


def test_what_would_move_an_item_that_diversity_left_out() -> None:
    mmr = Mmr(Mmr.Config(theta=0.1), SCHEMA, profiles(["a"], ["a"], ["b"]))
    told = explain(funnel(ranked(0, 1, 2), selector=mmr), ask([], n=2), 1)
    assert told["fate"] == NOT_SELECTED
    assert moves(told) == ["a place that rules and diversity leave free: its score alone would do"]


def test_a_refused_item_that_nobody_brings_is_not_recalled_and_both_are_said() -> None:
    one = funnel(ranked(0, 1), quota=1, filters={"listed": Only(0)})
    told = explain(one, ask([]), 1)
    assert (told["fate"], told["filters"]) == ("not_recalled", {"listed": False})
    assert moves(told) == ["the filter 'listed' letting it through", "rank 1 or better in a (now 2)"]


def test_a_failing_channel_cannot_say() -> None:
    told = explain(funnel(Fails(), ranked(0)), ask([], n=1), 0)
    assert told["fate"] == SELECTED
    assert [c["rank"] for c in told["channels"]] == [None, 1]


def test_explain_takes_one_request() -> None:
    with pytest.raises(ValueError, match="one request at a time, got 2"):
        explain(funnel(ranked(0)), ask([], []), 0)


# ---------------------------------------------------------------------------------------------- trace


def test_trace_by_hand() -> None:
    one = funnel(
        Brings({0: [(7, 9.0)], 1: [(5, 3.0), (4, 2.0), (6, 1.0)]}), ranked(4, 3), quota=3, budget=1,
        filters={"seen": Seen(Seen.Config(), SCHEMA, profiles())},
    )  # fmt: skip
    slates = one.run(ask([], [6], n=2))
    told = trace(slates, 1, lambda key: f"i{key}")
    table = told["candidates"]
    # turns (rank - 1/2) / 3, b a thousandth later: 4 and 5 by rank 1, then 3; 6 is seen
    assert table["item"] == ["i5", "i4", "i3", "i6"]
    assert table["fate"] == ["selected", "selected", "over_budget", "seen"]
    assert table["position"] == [1, 2, None, None]
    assert table["channels"]["a"] == {"rank": [1, 2, None, 3], "score": [3.0, 2.0, None, 1.0]}
    assert table["channels"]["b"]["rank"] == [None, 1, 2, None]
    assert "backfill" not in table["channels"]
    assert table["scores"]["merge"] == pytest.approx([1 - 0.5 / 3, 1 - 0.501 / 3, 1 - 1.501 / 3, 1 - 2.5 / 3])
    assert told["counts"] == {"recalled": 4, "selected": 2, "over_budget": 1, "seen": 1}
    assert told["degraded"] == []
    assert {"recall:a", "recall:b", "merge", "filter", "budget", "select"} == set(told["took_ms"])
    assert json.loads(json.dumps(told)) == told


@given(drawn(), st.integers(0, 3))
def test_a_trace_holds_every_candidate_of_its_request_once(world: Drawn, user: int) -> None:
    slates = world.funnel(MMR).run(world.requests)
    told = trace(slates, user, str)
    a, b = (int(x) for x in slates.candidates.offsets[user : user + 2])
    table = told["candidates"]
    assert sorted(table["item"]) == sorted(str(item) for item in slates.candidates.items[a:b])
    shown = [item for item, position in zip(table["item"], table["position"], strict=True) if position]
    page = slates.items[slates.offsets[user] : slates.offsets[user + 1]]
    assert shown == [str(item) for item in page]
    assert sum(n for name, n in told["counts"].items() if name != "recalled") == told["counts"]["recalled"] == b - a


def test_counts_of_all_requests_are_the_sum_of_their_traces() -> None:
    slates = funnel(ranked(0, 1, 2), filters={"listed": Only(0, 1)}).run(ask([], [], n=1))
    assert fates(slates) == {"selected": 2, "listed": 2, "not_selected": 2}
    assert trace(slates, 0, str)["counts"] == {"recalled": 3, "selected": 1, "listed": 1, "not_selected": 1}


def test_reasons_are_the_channels_by_rank() -> None:
    slates = funnel(ranked(0, 1), ranked(1)).run(ask([], n=2))
    row = int(np.flatnonzero(slates.candidates.items == 1)[0])
    assert reasons(slates, row) == [
        {"channel": "b", "rank": 1, "score": 1.0}, {"channel": "a", "rank": 2, "score": 1.0},
    ]  # fmt: skip
