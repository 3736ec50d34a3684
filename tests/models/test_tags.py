"""U2TAG2I: preferences, lists and scores by hand and against loops over all items."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Mask, Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.forms import Built, Lists
from shortlist.funnel.preferences import Preferences
from shortlist.funnel.sources.tags import Tags as Source
from shortlist.models.recall.tags import DAY_MS, Tags
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema

NOW = 1_700_000_000_000
SCHEMA = Schema.parse({
    "action": "action", "actions": {"click": {"weight": 1.0}, "buy": {"weight": 3.0}},
    "items": {"tags": {"kind": "varlen", "split": "|"}, "brand": "sparse", "price": "dense", "published": "time"},
    "category": "tags", "published": "published",
})  # fmt: skip
NOBODY = Interactions.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
Event = tuple[int, float] | tuple[int, float, int]  # item, days ago, action


def catalogue(*tags: Any, **columns: Sequence[Any]) -> Catalogue:
    table: dict[str, NDArray[Any]] = {}
    for name, values in {"tags": tags, **columns}.items():
        table[name] = np.empty(len(values), dtype=object)
        table[name][:] = list(values)
    return Catalogue(Catalogue.empty().users, Profiles(np.arange(len(tags)), table))


def log(*events: tuple[int, int, float]) -> Interactions:
    """User, item, days before NOW."""
    users, items, days = (np.array(column) for column in zip(*events, strict=True))
    return Interactions.of(users, items, (NOW - days * DAY_MS).astype(np.int64))


def solve(world: Catalogue, events: Interactions = NOBODY, **options: Any) -> Built:
    return Tags(Tags.Config(**options), SCHEMA).solve(events, world, NOW)


def ask(*histories: Sequence[Event]) -> Requests:
    flat = [event for history in histories for event in history]
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    items = np.array([event[0] for event in flat], dtype=np.int64)
    times = np.array([NOW - event[1] * DAY_MS for event in flat], dtype=np.int64)
    actions = np.array([event[2] if len(event) == 3 else 0 for event in flat], dtype=np.int16)
    r = len(histories)
    none = Ragged.empty(r)
    return Requests(np.arange(r), np.full(r, NOW), 3, Ragged(offsets, items, times, actions), none, none)


def every(owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
    return np.ones(len(items), dtype=bool)


def source(built: Built, **options: Any) -> Source:
    assert isinstance(built.form, Lists)
    return Source(Source.Config(**options), built.form, SCHEMA, built.beside)


def brought(part: Source, requests: Requests, n: int = 100) -> list[dict[int, float]]:
    owners, items, scores = part.recall(requests, n, every)
    return [
        {int(i): float(s) for o, i, s in zip(owners, items, scores, strict=True) if o == r}
        for r in range(len(requests))
    ]


def preferences(built: Built, requests: Requests, half_life_days: float | None = 7.0) -> list[dict[str, float]]:
    tags = built.beside["tags"]
    assert isinstance(tags, Lists)
    owners, codes, share = Preferences(tags, SCHEMA, half_life_days).of(requests)
    return [
        {tags.labels[int(c)]: float(p) for o, c, p in zip(owners, codes, share, strict=True) if o == r}
        for r in range(len(requests))
    ]


def test_it_is_a_solver() -> None:
    assert isinstance(Tags(Tags.Config(), SCHEMA), Solver)


def test_shares_of_a_tag_by_hand() -> None:
    world = catalogue("red|round", ["red"], "round", None, "")
    built = solve(world, log((0, 0, 0), (1, 0, 7), (0, 1, 7), (1, 3, 0)), prior=1.0)
    assert isinstance(built.form, Lists)
    assert built.form.labels == ("tags:red", "tags:round")
    # c_0 = 1 + 1/2, c_1 = 1/2, c_2 = 0; red: 2.5 and 1.5 of 4; round: 2.5 and 1 of 3.5
    assert built.form.of(0)[0].tolist() == [0, 1]
    assert built.form.of(0)[1] == pytest.approx([2.5 / 4, 1.5 / 4])
    assert built.form.of(1)[1] == pytest.approx([2.5 / 3.5, 1 / 3.5])
    # without a half-life events are counted
    counted = solve(world, log((0, 0, 0), (1, 0, 7)), item_half_life_days=None).form
    assert isinstance(counted, Lists)
    assert counted.of(0)[1] == pytest.approx([3 / 4, 1 / 4])


def test_recency_within_a_tag() -> None:
    times = [NOW - 7 * DAY_MS, NOW, None, NOW + DAY_MS]
    built = solve(catalogue("a", "a", "a", "a", published=times), by="recency")
    assert isinstance(built.form, Lists)
    assert built.form.of(0)[0].tolist() == [1, 0, 2, 3]
    assert built.form.of(0)[1] == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_a_tag_on_every_item_has_the_least_idf() -> None:
    built = solve(catalogue(["all", "rare"], ["all"], ["all", "two"], ["all", "two"], None))
    tags = built.beside["tags"]
    assert isinstance(tags, Lists)
    # of 4 items with tags: log(5/5) + 1, log(5/2) + 1, log(5/3) + 1
    worth = {label: float(tags.of(n)[1][0]) for n, label in enumerate(tags.labels)}
    assert worth["tags:all"] == pytest.approx(1.0)
    assert worth["tags:rare"] == pytest.approx(math.log(2.5) + 1)
    assert worth["tags:two"] == pytest.approx(math.log(5 / 3) + 1)
    assert min(worth, key=lambda label: worth[label]) == "tags:all"


def test_preferences_by_hand() -> None:
    built = solve(catalogue(["a"], ["b"], ["a", "b"], None))  # idf of both: log(4/3) + 1
    mine, bought, stranger, untagged = preferences(
        built, ask([(0, 7), (1, 0)], [(0, 0), (1, 0, 1)], [], [(3, 0), (99, 0)])
    )
    assert mine == pytest.approx({"tags:b": 1 / 1.5, "tags:a": 0.5 / 1.5})  # a half-life ago counts half
    assert bought == pytest.approx({"tags:b": 0.75, "tags:a": 0.25})  # a purchase weighs three clicks
    assert stranger == {}
    assert untagged == {}
    both = preferences(built, ask([(2, 0), (0, 0)]))[0]
    assert both == pytest.approx({"tags:a": 2 / 3, "tags:b": 1 / 3})  # an item of two tags counts under both


def test_preferences_sum_to_one_however_long_ago() -> None:
    rng = np.random.default_rng(0)
    built = solve(catalogue(*[[f"t{t}" for t in rng.choice(9, rng.integers(1, 5), replace=False)] for _ in range(40)]))
    histories: list[list[Event]] = [
        [(int(i), float(d)) for i, d in zip(rng.integers(0, 40, 12), rng.random(12) * 60, strict=True)]
        for _ in range(20)
    ]
    asked = ask(*histories, [(3, 50_000.0), (4, 50_007.0)])
    made = preferences(built, asked)
    assert [sum(share.values()) for share in made] == pytest.approx([1.0] * 21)
    assert len(preferences(built, asked, half_life_days=None)[0]) == len(made[0])


def test_a_user_of_one_tag_gets_exactly_its_list() -> None:
    world = catalogue("a", "a", "b", "a", "b")
    built = solve(world, log((0, 3, 0), (1, 3, 1), (2, 1, 0)))
    assert isinstance(built.form, Lists)
    owners, items, scores = source(built).recall(ask([(0, 3)]), 100, every)
    assert owners.tolist() == [0, 0, 0]
    assert items.tolist() == built.form.of(0)[0].tolist() == [3, 1, 0]
    np.testing.assert_allclose(scores, built.form.of(0)[1])


def test_scores_equal_a_loop_over_all_items() -> None:
    rng = np.random.default_rng(1)
    tags = [[f"t{t}" for t in rng.choice(12, rng.integers(0, 5), replace=False)] for _ in range(50)]
    events = log(*[(int(u), int(i), float(d)) for u, i, d in zip(
        rng.integers(0, 20, 300), rng.integers(0, 50, 300), rng.random(300) * 20, strict=True)])  # fmt: skip
    built = solve(catalogue(*tags), events)
    assert isinstance(built.form, Lists)
    histories: list[list[Event]] = [
        [(int(i), float(rng.random() * 30)) for i in rng.integers(0, 50, 6)] for _ in range(8)
    ]
    asked = ask(*histories)
    part = source(built, top=4, per_tag=None, by_share=False)
    for r, got in enumerate(brought(part, asked)):
        mine = preferences(built, asked)[r]
        best = sorted(mine, key=lambda tag: (-mine[tag], tag))[:4]
        expected: dict[int, float] = {}
        for tag in best:
            for item, q in zip(*built.form.of(built.form.labels.index(tag)), strict=True):
                expected[int(item)] = expected.get(int(item), 0.0) + mine[tag] * float(q)
        assert got == pytest.approx(expected, rel=1e-5)
        alone = part.recall(asked.take(r, r + 1), 100, every)
        together = part.recall(asked, 100, every)
        np.testing.assert_array_equal(alone[1], together[1][together[0] == r])
        np.testing.assert_array_equal(alone[2], together[2][together[0] == r])


def test_tags_times_items_bound_what_is_brought() -> None:
    built = solve(catalogue(*[[f"t{n % 5}", f"u{n % 7}"] for n in range(200)]))
    part = source(built, top=3, per_tag=4, by_share=False)
    assert all(0 < len(got) <= 12 for got in brought(part, ask([(0, 0), (1, 1), (2, 3)], [(9, 0)])))


def test_a_quota_goes_by_preference() -> None:
    built = solve(catalogue(*["a"] * 30, *["b"] * 30))
    # b was bought (3), a clicked (1): of 8 items 6 and 2
    (got,) = brought(source(built), ask([(0, 0), (30, 0, 1)]), 8)
    assert sorted(item // 30 for item in got) == [0, 0] + [1] * 6


def test_what_may_not_be_shown_does_not_use_up_a_tag() -> None:
    built = solve(catalogue(*["a"] * 10), log((0, 0, 0)), keep=10)
    _, items, _ = source(built, per_tag=2, by_share=False).recall(ask([(5, 0)]), 5, lambda o, i: i > 3)
    assert items.tolist() == [0, 1, 2, 3, 4, 5]  # 0 to 3 come along, 4 and 5 count


def test_items_that_nobody_took_are_brought_and_new_users_are_served() -> None:
    built = solve(catalogue("a", "a"), log((0, 0, 0)))
    assert brought(source(built), ask([(0, 0)])) == [pytest.approx({0: 2 / 3, 1: 1 / 3})]
    assert brought(source(built), ask([])) == [{}]
    assert Tags.cold_items
    assert Tags.cold_users


class Far:
    """Lists that lie elsewhere: those asked for are read."""

    def __init__(self, lists: Lists) -> None:
        self.lists = lists

    def take(self, keys: NDArray[np.int64]) -> Lists:
        owners = np.repeat(self.lists.keys, np.diff(self.lists.offsets))
        mine = np.isin(owners, keys)
        return Lists.ranked(owners[mine], self.lists.items[mine], self.lists.scores[mine])

    def named(self, labels: Iterable[str]) -> Lists:
        raise AssertionError("asked by key")


def test_lists_elsewhere_are_the_same() -> None:
    built = solve(catalogue(*[[f"t{n % 3}", f"u{n % 4}"] for n in range(30)]), log((0, 4, 0), (1, 9, 3)))
    assert isinstance(built.form, Lists)
    asked = ask([(0, 0), (1, 2)], [], [(5, 1)])
    elsewhere = Source(Source.Config(), Far(built.form), SCHEMA, built.beside)
    for mine, other in zip(source(built).recall(asked, 9, every), elsewhere.recall(asked, 9, every), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_several_fields_are_several_kinds_of_tags() -> None:
    built = solve(catalogue("7", None, brand=["7", "x"]), fields=("tags", "brand"))
    assert isinstance(built.form, Lists)
    assert built.form.labels == ("brand:7", "brand:x", "tags:7")
    assert Tags(Tags.Config(fields=("brand",)), SCHEMA).reads == ("actions", "item.brand")
    assert Tags(Tags.Config(by="recency"), SCHEMA).reads == ("actions", "item.tags", "item.published")


def test_no_tag_at_all_is_said() -> None:
    for world in (catalogue(None, ""), Catalogue.empty()):
        with pytest.raises(DataError) as caught:
            solve(world)
        assert caught.value.what == "no item has a value in tags"
        assert caught.value.where == "tags"
        assert caught.value.hint == "give items tags, or leave this channel out"


TIMES = "set schema.published to a time field of [schema.items]"


@pytest.mark.parametrize(
    ("options", "what", "where", "hint"),
    [
        ({}, "no field of items is named", "tags.fields", "set fields, or schema.category"),
        ({"fields": ("brnd",)}, "no item field is called 'brnd'", "tags.fields", "did you mean brand?"),
        ({"fields": ("price",)}, "'price' is a dense field", "tags.fields", "name fields of kind sparse or varlen"),
        ({"fields": ("brand",), "by": "recency"}, "recency needs a time of publication", "tags.by", TIMES),
    ],
)
def test_bad_options(options: dict[str, Any], what: str, where: str, hint: str) -> None:
    bare = Schema.parse({"items": {"brand": "sparse", "price": "dense"}})
    with pytest.raises(ConfigError) as caught:
        Tags(Tags.Config(**options), bare)
    assert (caught.value.what, caught.value.where, caught.value.hint) == (what, where, hint)


def test_recency_needs_a_half_life() -> None:
    with pytest.raises(ConfigError) as caught:
        Tags(Tags.Config(by="recency", item_half_life_days=None), SCHEMA)
    assert caught.value.what == "recency without a half-life is the same for all"
    assert (caught.value.where, caught.value.hint) == ("tags.by", "set item_half_life_days")
