"""The engine against plain Python, and the named cases of a funnel."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.funnel.world import SCHEMA, USERS, Brings, Drawn, Only, ask, drawn, funnel, objects, pages, profiles, ranked

from shortlist.candidates import BACKFILL, Candidates, Ragged
from shortlist.forms import Lists
from shortlist.funnel.explain import alone
from shortlist.funnel.filters.available import Available
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.pipeline import NOT_SELECTED, OVER_BUDGET, Channel, Funnel, distinct
from shortlist.funnel.rules import Rule
from shortlist.funnel.selectors.mmr import Mmr
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.funnel.sources.popular import Popular
from shortlist.funnel.trace import SELECTED, fates
from shortlist.schema import Profiles

Ranks = dict[int, dict[str, int]]


def fate_of(candidates: Candidates, row: int) -> str:
    code = int(candidates.fate[row])
    return candidates.reasons[code - 1] if code else SELECTED


def reference(world: Drawn, user: int) -> tuple[list[int], dict[int, str], Ranks]:
    """Page, fates and ranks of one user, item by item, as the module says it."""

    def refused(item: int) -> str | None:
        return "seen" if item in world.seen[user] else None if item in world.listed else "listed"

    def brought(rows: list[tuple[int, float]], quota: int) -> dict[int, int]:
        ranks, eligible = {}, 0
        for item, _ in sorted(rows, key=lambda row: (-row[1], row[0])):
            if eligible == quota:
                break
            ranks[item] = eligible + 1
            eligible += refused(item) is None
        return ranks

    ranks: Ranks = {}
    for name, lists, quota in zip(world.names, world.lists, world.quotas, strict=True):
        for item, rank in brought(lists[user], quota).items():
            ranks.setdefault(item, {})[name] = rank
    filled: list[int] = []
    if world.fallback is not None and sum(refused(i) is None for i in ranks) < world.n:
        rows = [(item, float(-n)) for n, item in enumerate(world.fallback)]
        for item, rank in brought(rows, 4 * world.n).items():
            if item not in ranks:
                ranks[item] = {BACKFILL: rank}
                filled.append(item)

    def prior(item: int) -> float:
        own = {name: rank for name, rank in ranks[item].items() if name != BACKFILL}
        if world.merge == "rrf":
            return sum(world.weights.get(name, 1.0) / (60 + rank) for name, rank in own.items())
        turns = [
            (own[name] - 0.5 + 1e-3 * n) / quota
            for n, (name, quota) in enumerate(zip(world.names, world.quotas, strict=True))
            if name in own
        ]
        return 1 - min(turns)

    living = [i for i in ranks if refused(i) is None]
    order = sorted((i for i in living if i not in filled), key=lambda i: (-round(prior(i), 9), i))
    order += [i for i in filled if refused(i) is None]
    kept = order[: max(world.budget, world.n)]
    page = kept[: world.n]
    ends = {i: refused(i) or SELECTED if i in page else refused(i) or "" for i in ranks}
    for item in living:
        if item not in page:
            ends[item] = NOT_SELECTED if item in kept else OVER_BUDGET
    return page, ends, ranks


@given(drawn())
@settings(max_examples=300)
def test_a_random_funnel_does_what_plain_python_does(world: Drawn) -> None:
    slates = world.funnel().run(world.requests)
    candidates = slates.candidates
    for user in range(USERS):
        page, ends, ranks = reference(world, user)
        assert pages(slates)[user] == page
        rows = range(int(candidates.offsets[user]), int(candidates.offsets[user + 1]))
        assert {int(candidates.items[row]): fate_of(candidates, row) for row in rows} == ends
        for row in rows:
            named = zip(candidates.channels, candidates.rank[row].tolist(), strict=True)
            assert {name: rank for name, rank in named if rank} == ranks[int(candidates.items[row])]


MMR = Mmr(
    Mmr.Config(theta=0.4, window=2, pool=8, rules=(Rule(at_most=1, of="genre", per=2),)),
    SCHEMA,
    profiles(*(["abcd"[n % 4]] if n % 5 else None for n in range(15))),
)


@given(drawn(), st.integers(1, 3), st.booleans())
@settings(max_examples=200)
def test_a_batch_of_one_and_blocks_give_what_the_batch_gives(world: Drawn, block: int, diverse: bool) -> None:
    selector, requests = (MMR if diverse else None), world.requests
    whole, parts = world.funnel(selector).run(requests), world.funnel(selector, block=block).run(requests)
    for other in (parts, *(world.funnel(selector).run(requests.take(u, u + 1)) for u in range(USERS))):
        first = 0 if other is parts else int(other.requests.users[0])
        last = first + len(other.requests)
        assert pages(other) == pages(whole)[first:last]
        span = slice(whole.offsets[first], whole.offsets[last])
        np.testing.assert_allclose(other.scores, whole.scores[span], atol=1e-5)
        rows = slice(whole.candidates.offsets[first], whole.candidates.offsets[last])
        assert other.candidates.items.tolist() == whole.candidates.items[rows].tolist()
        assert other.candidates.rank.tolist() == whole.candidates.rank[rows].tolist()
        ends = [fate_of(other.candidates, n) for n in range(len(other.candidates))]
        assert ends == [fate_of(whole.candidates, n) for n in range(rows.start, rows.stop)]
        for name in {*other.degraded, *whole.degraded}:
            nobody = np.zeros(len(whole.requests), dtype=bool)
            expected = whole.degraded.get(name, nobody)[first:last].tolist()
            assert other.degraded.get(name, nobody[first:last]).tolist() == expected


@given(drawn())
def test_every_candidate_ends_in_exactly_one_fate(world: Drawn) -> None:
    slates = world.funnel(MMR).run(world.requests)
    candidates = slates.candidates
    counts = fates(slates)
    assert sum(counts.values()) == len(candidates)
    assert counts.get(SELECTED, 0) == len(slates.picks)
    assert set(counts) <= {SELECTED, "seen", "listed", OVER_BUDGET, NOT_SELECTED}
    assert np.flatnonzero(candidates.alive).tolist() == sorted(slates.picks.tolist())
    for a, b in pairwise(candidates.offsets.tolist()):
        assert len(set(candidates.items[a:b].tolist())) == b - a


@given(drawn())
def test_a_quota_counts_eligible_items_only_and_is_never_exceeded(world: Drawn) -> None:
    candidates = world.funnel().run(world.requests).candidates
    codes = [n + 1 for n, reason in enumerate(candidates.reasons) if reason in ("seen", "listed")]
    eligible = ~np.isin(candidates.fate, codes)
    for n, quota in enumerate(world.quotas):
        brought = np.bincount(candidates.owners[eligible & (candidates.rank[:, n] > 0)], minlength=USERS)
        for user in range(USERS):
            known = {i for i, _ in world.lists[n][user]} & set(world.listed) - set(world.seen[user])
            assert brought[user] == min(quota, len(known))


@given(drawn(), st.integers(0, 2))
def test_removing_a_channel_changes_only_its_items(world: Drawn, gone: int) -> None:
    whole = replace(world.funnel(), fallback=None)
    gone %= len(world.quotas)
    name = world.names[gone]
    rest = replace(whole, channels=tuple(c for c in whole.channels if c.name != name))
    before, after = whole.run(world.requests).candidates, rest.run(world.requests).candidates
    others = [n for n in range(len(world.quotas)) if n != gone]
    stays = (before.rank[:, others] > 0).any(axis=1)
    assert list(zip(before.owners[stays], before.items[stays], strict=True)) == list(
        zip(after.owners, after.items, strict=True)
    )
    assert before.rank[stays][:, others].tolist() == after.rank[:, :-1].tolist()


def test_seen_items_are_reported_as_seen_and_leave_the_quota_to_others() -> None:
    one = funnel(ranked(0, 1, 2, 3, 4), quota=2, filters={"seen": Seen(Seen.Config(), SCHEMA, profiles())})
    slates = one.run(ask([0, 2], n=3))
    # 0 and 2 are seen; the quota of two goes to 1 and 3; 4 is below the cut
    assert pages(slates) == [[1, 3]]
    assert slates.candidates.items.tolist() == [0, 1, 2, 3]
    assert slates.candidates.rank[:, 0].tolist() == [1, 1, 2, 2]
    assert fates(slates) == {"selected": 2, "seen": 2}


def test_the_first_filter_that_refuses_is_the_reason() -> None:
    one = funnel(ranked(0, 1, 2), filters={"first": Only(1, 2), "second": Only(2)})
    assert fates(one.run(ask([]))) == {"selected": 1, "first": 1, "second": 1}


def test_a_source_that_returns_its_whole_list_is_cut_at_its_quota() -> None:
    class Whole(Brings):
        def recall(self, requests, n, keep):  # type: ignore[no-untyped-def]
            return super().recall(requests, 1 << 30, keep)

    whole = Whole({-1: [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.5)]})
    slates = funnel(whole, quota=2, filters={"listed": Only(1, 2, 3)}).run(ask([]))
    assert slates.candidates.items.tolist() == [0, 1, 2]  # 0 is refused, 1 and 2 fill the quota


# ---------------------------------------------------------------------------------------------- backfill


def test_backfill_comes_only_where_short_and_behind_everything_else() -> None:
    one = funnel(Brings({0: [(5, 1.0), (6, 0.5)], 1: [(7, 3.0), (8, 2.0), (9, 1.0)]}), fallback=ranked(5, 1, 2, 3))
    slates = one.run(ask([], [], n=3))
    # user 0 has two of three: the hot list gives 5 (there already), then 1; user 1 needs nothing
    assert pages(slates) == [[5, 6, 1], [7, 8, 9]]
    assert slates.degraded[BACKFILL].tolist() == [True, False]
    assert slates.notes(0) == ["backfill"]
    assert slates.notes(1) == []
    brought = slates.candidates.rank[slates.picks, -1].tolist()
    assert brought == [0, 0, 2, 0, 0, 0]  # of what was filled in, its rank in the fallback
    assert slates.scores[2] < slates.scores[1]


def test_backfill_stays_behind_where_diversity_would_prefer_it() -> None:
    items = profiles(["war"], ["war"], ["love"])
    mmr = Mmr(Mmr.Config(theta=0.1), SCHEMA, items)
    one = funnel(ranked(0, 1), fallback=ranked(2), selector=mmr)
    assert pages(one.run(ask([], n=3))) == [[0, 1, 2]]


def test_rules_hold_across_the_border_to_backfill() -> None:
    items = profiles(["war"], ["love"], ["love"], ["war"])
    mmr = Mmr(Mmr.Config(theta=1.0, rules=(Rule(at_most=1, of="genre", per=2),)), SCHEMA, items)
    one = funnel(ranked(0, 1), fallback=ranked(2, 3), selector=mmr)
    # war love | then war before love, though love is hotter
    slates = one.run(ask([], n=4))
    assert pages(slates) == [[0, 1, 3, 2]]
    assert set(slates.degraded) == {BACKFILL}


def test_the_fallback_alone_makes_a_page_under_the_rules() -> None:
    items = profiles(["war"], ["war"], ["love"], ["love"])
    mmr = Mmr(Mmr.Config(theta=1.0, rules=(Rule(at_most=1, of="genre", per=2),)), SCHEMA, items)
    slates = funnel(Brings({}), fallback=ranked(0, 1, 2, 3), selector=mmr).run(ask([], n=4))
    assert pages(slates) == [[0, 2, 1, 3]]


def test_only_the_places_left_to_backfill_are_put_under_rules() -> None:
    items = profiles(["war"], ["love"], ["love"], ["love"])
    mmr = Mmr(Mmr.Config(theta=1.0, rules=(Rule(at_most=1, of="genre", per=2),)), SCHEMA, items)
    one = funnel(Brings({0: [(0, 1.0)]}), fallback=ranked(1, 2, 3), selector=mmr)
    # user 0 has one place left, which love may take; user 1 gets love twice, and that breaks the rule
    slates = one.run(ask([], [], n=2))
    assert pages(slates) == [[0, 1], [1, 2]]
    assert slates.notes(0) == ["backfill"]
    assert slates.notes(1) == ["relaxed:at_most 1 genre per 2", "backfill"]
    assert set(slates.took_ms) == {"recall:a", "recall:backfill", "merge", "filter", "budget", "select"}


# ---------------------------------------------------------------------------------------------- named cases

HOT = Lists(np.array([0]), np.array([0, 4]), np.array([3, 2, 1, 0]), np.array([4, 3, 2, 1], np.float32), ("global",))
NEAR = Lists(np.array([0, 1]), np.array([0, 2, 3]), np.array([1, 9, 2]), np.array([0.9, 0.8, 0.5], np.float32))


def small(items: Profiles, n_hot: int = 10) -> Funnel:
    """Item-to-item lists (0 -> 1, 9; 1 -> 2) and a hot list 3, 2, 1, 0; item 9 is in no catalogue."""
    return funnel(
        Neighbours(Neighbours.Config(), NEAR, SCHEMA),
        filters={"seen": Seen(Seen.Config(), SCHEMA, items), "available": Available(Available.Config(), SCHEMA, items)},
        fallback=Popular(Popular.Config(), HOT, SCHEMA),
        selector=Mmr(Mmr.Config(rules=(Rule(at_most=1, of="genre", per=2),)), SCHEMA, items),
    )


FOUR = profiles(["x"], None, ["y"], ["x", "y"])


def test_unknown_user() -> None:
    slates = small(FOUR).run(ask([], users=[-1], n=2))
    assert pages(slates) == [[3, 1]]  # hot: 3 (x, y), then not 2 (y) but 1, which has no genre
    assert slates.notes(0) == ["unknown_user", "backfill"]


def test_new_item() -> None:
    # item 4 is in the catalogue, in no index: it is not recalled, and nothing breaks; in the history it has no list
    slates = small(profiles(["x"], None, ["y"], ["x"], None)).run(ask([4, 0], n=2))
    assert 4 not in slates.candidates.items
    assert pages(slates) == [[1, 3]]


def test_k_larger_than_the_catalogue() -> None:
    slates = small(FOUR).run(ask([0], n=1000))
    assert sorted(pages(slates)[0]) == [1, 2, 3]  # all but the seen one
    assert slates.matrix(5).shape == (1, 5)


def test_fewer_candidates_than_k() -> None:
    slates = funnel(ranked(4, 2)).run(ask([], [], n=10))
    assert pages(slates) == [[4, 2], [4, 2]]
    assert slates.matrix(3).tolist() == [[4, 2, -1], [4, 2, -1]]


def test_ids_in_the_index_and_not_in_the_store() -> None:
    slates = small(FOUR).run(ask([0], n=2))
    assert fates(slates)["available"] == 1  # item 9
    assert 9 in slates.candidates.items
    assert 9 not in slates.items


def test_ids_in_the_store_and_not_in_the_index() -> None:
    assert pages(small(profiles(*[["x"]] * 50)).run(ask([49], n=1))) == [[3]]


def test_missing_features() -> None:
    # the catalogue has no column of the declared field at all
    items = Profiles(np.arange(4), {})
    assert pages(small(items).run(ask([0], n=3))) == [[1, 3, 2]]


def test_null_fields() -> None:
    items = Profiles(np.arange(4), {"genre": objects([None, [], [None], ["x"]])})
    assert pages(small(items).run(ask([0], n=3))) == [[1, 3, 2]]


def test_empty_catalogue() -> None:
    slates = small(Profiles(np.zeros(0, dtype=np.int64), {})).run(ask([0], [], n=3))
    assert pages(slates) == [[], []]
    # of 0's neighbours and the hot list: 1 and 9, then 3, 2, 0 (seen) for user 0; the hot list for user 1
    assert fates(slates) == {"seen": 1, "available": 8}


def test_all_candidates_filtered() -> None:
    slates = funnel(ranked(0, 1), fallback=ranked(2), filters={"none": Only()}).run(ask([], n=3))
    assert pages(slates) == [[]]
    assert fates(slates) == {"none": 3}
    assert slates.degraded == {}


def test_no_request_no_channel_and_nothing_wanted() -> None:
    one = funnel(ranked(0, 1), fallback=ranked(2), selector=MMR)
    assert pages(one.run(ask(n=3))) == []
    assert pages(one.run(ask([], n=0))) == [[]]
    assert pages(funnel(fallback=ranked(2)).run(ask([], n=3))) == [[2]]


def test_an_earlier_page_is_gone_on_from() -> None:
    items = profiles(["a"], ["a"], ["b"], ["b"])
    mmr = Mmr(Mmr.Config(theta=1.0, rules=(Rule(at_most=1, of="genre", per=2),)), SCHEMA, items)
    one = funnel(ranked(0, 1, 2, 3), selector=mmr)
    assert pages(one.run(ask([], n=3))) == [[0, 2, 1]]
    further = ask([], [], n=3, prefix=Ragged.of(np.array([0, 1, 1]), np.array([3])))
    # behind item 3 (b): a first; behind nothing: as ever
    assert pages(one.run(further)) == [[0, 2, 1], [0, 2, 1]]
    further = ask([], n=3, prefix=Ragged.of(np.array([0, 1]), np.array([1])))
    assert pages(one.run(further)) == [[2, 0, 3]]


def test_one_channel_alone() -> None:
    world = funnel(ranked(0, 1), ranked(2, 3), ranked(4, 5))
    for name, page in (("a", [0, 1]), ("b", [2, 3]), ("c", [4, 5])):
        assert pages(alone(world, name).run(ask([], n=2))) == [page]
    with pytest.raises(KeyError):
        alone(funnel(ranked(0)), "z")


def test_distinct_is_unique() -> None:
    codes = np.array([7, 3, 7, 0])
    for size in (8, 1 << 40):
        values, inverse = distinct(codes, size)
        assert values.tolist() == [0, 3, 7]
        assert inverse.tolist() == [2, 1, 2, 0]


def test_large_keys_take_no_large_table() -> None:
    far = (1 << 40) - 1
    tracemalloc.start()
    try:
        assert pages(funnel(ranked(far, 0)).run(ask([], [far], n=2))) == [[far, 0], [far, 0]]
        assert tracemalloc.get_traced_memory()[1] < 1 << 24  # one bit of every key would be 128 GiB
    finally:
        tracemalloc.stop()


def test_runs_gives_one_block_at_a_time() -> None:
    one = replace(funnel(ranked(0, 1)), block=2)
    assert [len(slates.requests) for slates in one.runs(ask([], [], [], n=1))] == [2, 1]


def test_channels_keep_their_order_in_provenance() -> None:
    one = Funnel((Channel("x", ranked(1), 1), Channel("w", ranked(1, 2), 2)), funnel().merger, {}, funnel().selector)
    candidates = one.run(ask([], n=1)).candidates
    assert candidates.channels == ("x", "w", BACKFILL)
    assert candidates.rank.tolist() == [[1, 1, 0], [0, 2, 0]]
    np.testing.assert_array_equal(candidates.score, np.array([[1, 2, np.nan], [np.nan, 1, np.nan]], dtype=np.float32))
