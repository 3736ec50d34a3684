"""Sources: what is asked of a form for a request."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.funnel.world import NOW, ask

from shortlist.candidates import Mask, Ragged, Requests
from shortlist.forms import Lists
from shortlist.funnel.pipeline import Source
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.funnel.sources.popular import Popular
from shortlist.schema import Schema

HOUR_MS = 3_600_000
# 0 is near 5 and 6, 1 near 6, 2 near 7
NEAR = Lists(
    np.array([0, 1, 2]), np.array([0, 2, 3, 4]), np.array([5, 6, 6, 7]), np.array([0.5, 0.25, 0.5, 1.0], np.float32)
)
PLAIN = Schema()
REGIONAL = Schema.parse({"users": {"region": "sparse"}, "region": "region"})


def every(owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
    return np.ones(len(items), dtype=bool)


def brought(source: Source, requests: Requests, n: int = 10) -> list[list[tuple[int, float]]]:
    owners, items, scores = source.recall(requests, n, every)
    rows = list(zip(owners.tolist(), items.tolist(), scores.tolist(), strict=True))
    return [[(item, score) for owner, item, score in rows if owner == r] for r in range(len(requests))]


def history(times: list[int], items: list[int]) -> Requests:
    events = Ragged(np.array([0, len(items)]), np.array(items), np.array(times), np.zeros(len(items), dtype=np.int16))
    return Requests(np.array([0]), np.array([NOW]), 3, events, Ragged.empty(1), Ragged.empty(1))


def test_neighbours_add_up_over_the_history() -> None:
    near = Neighbours(Neighbours.Config(), NEAR, PLAIN)
    # 6 is near 0 (1/4) and 1 (1/2); user 1 has 2; user 2 nothing
    assert brought(near, ask([0, 1], [2], [])) == [[(6, 0.75), (5, 0.5)], [(7, 1.0)], []]


def test_neighbours_of_the_last_items_only() -> None:
    near = Neighbours(Neighbours.Config(last=1), NEAR, PLAIN)
    assert brought(near, ask([2, 0, 1])) == [[(6, 0.5)]]


def test_an_item_met_twice_counts_once_and_at_its_latest_time() -> None:
    near = Neighbours(Neighbours.Config(last=2), NEAR, PLAIN)
    # distinct by latest: 2, 1, 0; the last two of these are 1 and 0
    assert brought(near, ask([0, 2, 1, 0, 0])) == [[(6, 0.75), (5, 0.5)]]


def test_a_half_life_halves() -> None:
    near = Neighbours(Neighbours.Config(half_life_hours=2.0), NEAR, PLAIN)
    # 1 was met now: 1/2; 0 one half-life ago: half of 1/4 and of 1/2
    assert brought(near, history([NOW - 2 * HOUR_MS, NOW], [0, 1])) == [[(6, 0.625), (5, 0.25)]]
    # an event of the future counts as of now
    assert brought(near, history([NOW + HOUR_MS], [2])) == [[(7, 1.0)]]


def test_a_user_away_for_a_thousand_half_lives_keeps_the_order() -> None:
    near = Neighbours(Neighbours.Config(half_life_hours=1.0), NEAR, PLAIN)
    rows = brought(near, history([NOW - 1001 * HOUR_MS, NOW - 1000 * HOUR_MS], [0, 1]))[0]
    # as if 1 had been met 64 half-lives ago and 0 65: 6 gets 1/2 + 1/8, 5 gets 1/4, all times 2^-64
    assert [item for item, _ in rows] == [6, 5]
    assert [score for _, score in rows] == pytest.approx([0.625 * 2.0**-64, 0.25 * 2.0**-64])


def test_popular_backs_off_to_the_global_list() -> None:
    form = Lists(
        np.array([0, 1]), np.array([0, 3, 4]), np.array([1, 2, 3, 9]), np.array([3, 2, 1, 7], np.float32),
        ("global", "region:5"),
    )  # fmt: skip
    popular = Popular(Popular.Config(), form, REGIONAL)
    world = [(1, 3.0), (2, 2.0), (3, 1.0)]
    # 5, 5.0 and "5" are the same region; no region and one without a list get the global list
    requests = ask([], [], [], [], [], context={"region": ["5", 5, "north", None, "global"]})
    assert brought(popular, requests) == [[(9, 7.0)], [(9, 7.0)], world, world, world]
    assert brought(popular, ask([])) == [world]
    assert brought(popular, ask([]), n=2) == [world[:2]]
    assert brought(Popular(Popular.Config(), form, PLAIN), requests)[0] == world


def test_popular_without_any_list_brings_nothing() -> None:
    none = np.zeros(0, dtype=np.int64)
    form = Lists(none, np.zeros(1, dtype=np.int64), none, none.astype(np.float32))
    assert brought(Popular(Popular.Config(), form, REGIONAL), ask([], [], context={"region": ["a", "b"]})) == [[], []]
    only = Lists(np.array([0]), np.array([0, 1]), np.array([4]), np.ones(1, np.float32), ("region:a",))
    assert brought(Popular(Popular.Config(), only, REGIONAL), ask([], [], context={"region": ["a", "b"]})) == [[], []]
