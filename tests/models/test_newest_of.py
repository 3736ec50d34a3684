"""The newest items of tags, against a filter and a sort of the whole table."""

from typing import Any

import numpy as np
import pytest
from tests.models.test_tags import NOBODY, NOW, SCHEMA, ask, catalogue, every

from shortlist.candidates import Requests
from shortlist.errors import ConfigError
from shortlist.forms import Built, Lists
from shortlist.funnel.sources.newest_of import NewestOf as Source
from shortlist.models.blocks.tagged import headed, newest, without
from shortlist.models.recall.newest_of import DAY_MS, NewestOf, published, withdrawn
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Schema

HOUR_MS = 3_600_000


def solve(world: Catalogue, **options: Any) -> Built:
    return NewestOf(NewestOf.Config(**options), SCHEMA).solve(NOBODY, world, NOW)


def form_of(built: Built) -> Lists:
    assert isinstance(built.form, Lists)
    return built.form


def asks(built: Built, world: Catalogue, requests: Requests, n: int = 50, **options: Any) -> list[list[int]]:
    part = Source(Source.Config(**options), form_of(built), SCHEMA, built.beside, world.items)
    owners, items, _ = part.recall(requests, n, every)
    return [items[owners == r].tolist() for r in range(len(requests))]


def drawn(n: int = 80, seed: int = 0) -> Catalogue:
    """Items of up to 3 of 5 tags, from 40 days ago to a day from now, some at the same moment."""
    rng = np.random.default_rng(seed)
    tags = [[f"t{t}" for t in rng.choice(5, rng.integers(0, 4), replace=False)] for _ in range(n)]
    return catalogue(*tags, published=(NOW + np.floor(rng.uniform(-40, 1, n)) * DAY_MS).tolist())


def test_it_is_a_solver() -> None:
    assert isinstance(NewestOf(NewestOf.Config(), SCHEMA), Solver)
    assert NewestOf(NewestOf.Config(), SCHEMA).reads == ("item.tags", "item.published")


def test_lists_equal_filter_and_sort_of_the_table() -> None:
    world = drawn()
    lists = form_of(solve(world, keep=7))
    times, tags = world.items.columns["published"], world.items.columns["tags"]
    for n, label in enumerate(lists.labels):
        mine = [i for i in range(80) if label.removeprefix("tags:") in tags[i] and times[i] >= NOW - 30 * DAY_MS]
        assert lists.of(n)[0].tolist() == sorted(mine, key=lambda i: (-times[i], i))[:7]
        assert lists.of(n)[1].tolist() == list(range(len(lists.of(n)[0]), 0, -1))


def test_what_is_brought_equals_filter_and_sort_at_the_moment_of_the_request() -> None:
    world = drawn()
    built = solve(world)
    times, tags = world.items.columns["published"], world.items.columns["tags"]
    one = next(i for i in range(80) if len(tags[i]) == 1)
    (got,) = asks(built, world, ask([(one, 0)]), per_tag=6, max_age_hours=24.0 * 20)
    mine = [i for i in range(80) if tags[one][0] in tags[i] and NOW - 20 * DAY_MS <= times[i] <= NOW]
    assert got == sorted(mine, key=lambda i: (-times[i], i))[:6]


def test_tags_take_turns_by_preference() -> None:
    world = catalogue("a", "a", "a", "b", "b", published=[NOW - n * HOUR_MS for n in range(5)])
    # b was bought, so it weighs 3/4 (a and b have idf alike but for 3 and 2 items): 3/4, 3/8 against 1/4, 1/8, 1/12
    assert asks(solve(world), world, ask([(0, 0), (3, 0, 1)])) == [[3, 4, 0, 1, 2]]


def test_an_item_that_comes_out_is_first_in_its_lists() -> None:
    built = solve(drawn())
    before = form_of(built)
    made = published(built, 500, ["tags:t1", "tags:t3"])
    lists = form_of(made)
    for n, label in enumerate(lists.labels):
        old = before.of(n)[0].tolist()
        assert lists.of(n)[0].tolist() == ([500, *old] if label in ("tags:t1", "tags:t3") else old)
    # a tag nobody had yet has a list from then on; coming out again brings an item to the front, once
    again = form_of(published(published(made, 501, ["tags:new"]), 500, ["tags:new"], keep=9))
    assert again.labels == (*lists.labels, "tags:new")
    assert again.of(5)[0].tolist() == [500, 501]
    assert 500 not in again.of(1)[0]


def test_a_tag_whose_items_are_old_gets_its_own_list_back() -> None:
    world = catalogue("a", "b", "c", published=[NOW, NOW - 99 * DAY_MS, NOW - 99 * DAY_MS])
    built = solve(world)
    assert form_of(built).labels == ("tags:a",)
    made = published(built, 9, ["tags:c"])
    assert form_of(made).labels == ("tags:a", "tags:c")
    assert asks(made, world, ask([(2, 0)], [(1, 0)], [(0, 0)])) == [[9], [], [0]]
    assert asks(made, world, ask([(9, 0)])) == [[9]]  # the new item tells what is liked
    assert asks(published(made, 10, ["tags:z"]), world, ask([(10, 0)])) == [[10]]


def test_an_item_is_reachable_from_its_publication_until_k_newer_ones_are() -> None:
    world = catalogue("a", published=[NOW - DAY_MS])
    built = solve(world)
    for k in range(4):
        built = published(built, 10 + k, ["tags:a"])
        (got,) = asks(built, world, ask([(0, 0)]), per_tag=3)
        assert got == [10 + j for j in range(k, max(k - 3, -1), -1)] + [0][: max(0, 2 - k)]
    assert 10 not in got  # behind three newer ones


def test_an_announced_item_waits_for_its_time() -> None:
    world = catalogue("a", "a", published=[NOW - HOUR_MS, NOW + HOUR_MS])
    built = solve(world)
    requests = ask([(0, 0)])
    later = Requests(requests.users, requests.now + HOUR_MS, 3, requests.history, requests.shown, requests.exclude)
    assert asks(built, world, requests) == [[0]]
    assert asks(built, world, later) == [[1, 0]]
    assert asks(built, world, later, max_age_hours=1.0) == [[1]]  # the other is two hours old by then


def test_what_is_gone_vanishes() -> None:
    built = withdrawn(solve(catalogue("a", "a", "b", published=[NOW, NOW - 1, NOW])), [0, 2])
    assert form_of(built).labels == ("tags:a",)
    assert form_of(built).of(0)[0].tolist() == [1]
    again = form_of(published(built, 3, ["tags:b"]))
    assert again.labels == ("tags:a", "tags:b")


def test_items_without_a_time_or_a_tag_are_in_no_list_and_old_ones_are_pruned() -> None:
    world = catalogue("a", None, "a", "a", published=[None, NOW, NOW - 29 * DAY_MS, NOW - 31 * DAY_MS])
    assert form_of(solve(world)).items.tolist() == [2]
    assert form_of(solve(world, prune_days=None)).items.tolist() == [2, 3]


def test_items_that_nobody_took_are_brought_and_new_users_are_served() -> None:
    world = catalogue("a", "a", published=[NOW - 1, NOW])
    assert asks(solve(world), world, ask([(0, 0)], [])) == [[1, 0], []]  # learned from no event at all
    assert NewestOf.cold_items
    assert NewestOf.cold_users


def test_it_needs_times_of_publication() -> None:
    with pytest.raises(ConfigError) as caught:
        NewestOf(NewestOf.Config(fields=("b",)), Schema.parse({"items": {"b": "sparse"}}))
    assert caught.value.what == "what is newest needs a time of publication"
    assert (caught.value.where, caught.value.hint) == (
        "newest_of",
        "set schema.published to a time field of [schema.items]",
    )


def test_lists_by_key_are_headed_too() -> None:
    lists = newest(np.array([4, 4, 7]), np.array([0, 1, 2]), np.array([1.0, 2.0, 3.0]), None)
    made = headed(lists, 9, {7: "", 5: ""})
    assert [made.of(key)[0].tolist() for key in (4, 5, 7)] == [[1, 0], [9], [9, 2]]
    assert without(made, np.array([9])).keys.tolist() == [4, 7]
