"""Protocols, and what each must keep apart."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.dataset.interactions import Interactions
from shortlist.dataset.negatives import unseen
from shortlist.dataset.published import published
from shortlist.dataset.split import OUT, RANK, TEST, TEST_INPUT, TRAIN, VALID, VALID_INPUT, Split, relevant
from shortlist.dataset.splits.global_time import GlobalTime
from shortlist.dataset.splits.last_out import LastOut
from shortlist.dataset.splits.published import Published
from shortlist.dataset.splits.user_cut import UserCut
from shortlist.dataset.splits.user_time import UserTime
from shortlist.errors import ConfigError, DataError
from shortlist.metrics.expected import hit_rate, positive_ranks
from shortlist.schema import Schema

SCHEMA = Schema.parse({"action": "action", "actions": {"view": {"weight": 0.0}, "like": {}}})
PROTOCOLS: dict[str, Callable[[], LastOut | UserTime | GlobalTime | UserCut]] = {
    "last_out": lambda: LastOut(LastOut.Config(negatives=20)),
    "user_time": lambda: UserTime(UserTime.Config()),
    "global_time": lambda: GlobalTime(GlobalTime.Config()),
    "user_cut": lambda: UserCut(UserCut.Config()),
}


def log(users: int = 60, items: int = 400, seed: int = 0) -> Interactions:
    """A generated log: each user has 12 to 40 events on distinct items at distinct times."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(12, 41, users)
    owner = np.repeat(np.arange(users), counts)
    item = np.concatenate([rng.permutation(items)[:n] for n in counts])
    times = rng.permutation(len(owner)) * 1000 + 10**12
    values = rng.integers(1, 6, len(owner)).astype(np.float32)
    return Interactions.of(owner, item, times, np.ones(len(owner), dtype=np.int16), values)


def one_user(times: list[int]) -> Interactions:
    n = len(times)
    return Interactions.of(np.zeros(n, dtype=np.int64), np.arange(n), np.array(times))


def fingerprint(events: Interactions) -> str:
    columns = (events.users, events.items, events.times, events.actions, events.values)
    return hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in columns)).hexdigest()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_test_event_in_train_and_times_in_order(name: str) -> None:
    events = log()
    split = PROTOCOLS[name]().split(events, np.random.default_rng(1))
    assert split.audit() == []
    assert len(split.train) > len(split.valid) > 0
    assert len(split.test) > 0
    assert len(split.part(OUT)) == 0
    learned = set(zip(split.before_test.users.tolist(), split.before_test.times.tolist(), strict=True))
    assert not learned & set(zip(split.test.users.tolist(), split.test.times.tolist(), strict=True))


def test_global_time_has_one_cut_for_all() -> None:
    split = PROTOCOLS["global_time"]().split(log(), np.random.default_rng(0))
    rank = split.part(RANK)
    assert split.train.times.max() < rank.times.min()
    assert rank.times.max() < split.valid.times.min()
    assert split.valid.times.max() < split.test.times.min()
    assert split.before_test.times.max() < split.test.times.min()


def test_user_cut_has_disjoint_users() -> None:
    events = log(users=100)
    split = UserCut(UserCut.Config()).split(events, np.random.default_rng(3))
    train, valid, test = (set(part.users.tolist()) for part in (split.train, split.valid, split.test))
    assert not train & valid
    assert not train & test
    assert not valid & test
    # 8:1:1 of 100 users
    assert (len(train), len(valid), len(test)) == (80, 10, 10)


def test_user_cut_gives_the_first_four_fifths_as_input() -> None:
    events = log(users=20)
    split = UserCut(UserCut.Config()).split(events, np.random.default_rng(3))
    for user in split.test.user_keys:
        n = int((events.users == user).sum())
        given_ = split.part(TEST_INPUT).where(split.part(TEST_INPUT).users == user)
        asked = split.test.where(split.test.users == user)
        assert len(given_) == (8 * n) // 10
        assert len(asked) == n - len(given_)
        assert given_.times.max() < asked.times.min()
        assert len(split.known("test").where(split.known("test").users == user)) == len(given_)


def test_negatives_are_99_unmet_distinct_and_reproducible() -> None:
    events = log()
    protocol = LastOut(LastOut.Config(negatives=99))
    split = protocol.split(events, np.random.default_rng(7))
    lists = split.candidates
    assert lists is not None
    assert lists.shape == (60, 100)
    assert (lists[:, 0] == split.test.items).all()
    for user, row in zip(split.test.users, lists, strict=True):
        assert len(set(row.tolist())) == 100
        assert not set(row[1:].tolist()) & set(events.items[events.users == user].tolist())
    again = protocol.split(events, np.random.default_rng(7))
    assert again.candidates is not None
    assert again.candidates.tobytes() == lists.tobytes()
    other = protocol.split(events, np.random.default_rng(8))
    assert other.candidates is not None
    assert other.candidates.tobytes() != lists.tobytes()


def test_remembering_train_pairs_is_chance_on_held_out_users() -> None:
    events = log(users=100)
    split = UserCut(UserCut.Config()).split(events, np.random.default_rng(3))
    items = events.item_keys
    pairs = set(zip(split.train.users.tolist(), split.train.items.tolist(), strict=True))
    scores = np.array([[float((u, i) in pairs) for i in items] for u in split.test.user_keys])
    # The memory says the same of every item: no list but chance, whatever the labels.
    assert np.ptp(scores) == 0


@pytest.mark.parametrize("name", PROTOCOLS)
def test_test_labels_never_touch_what_is_learned_from(name: str) -> None:
    events = log()
    split = PROTOCOLS[name]().split(events, np.random.default_rng(1))
    perturbed = replace(events, values=np.where(split.roles == TEST, 9, events.values).astype(np.float32))
    again = PROTOCOLS[name]().split(perturbed, np.random.default_rng(1))
    assert fingerprint(again.test) != fingerprint(split.test)
    assert fingerprint(again.train) == fingerprint(split.train)
    assert fingerprint(again.before_test) == fingerprint(split.before_test)


def test_a_constant_scorer_hits_a_tenth() -> None:
    split = LastOut(LastOut.Config(negatives=99)).split(log(), np.random.default_rng(7))
    assert split.candidates is not None
    ranks = positive_ranks(np.zeros(split.candidates.shape), np.zeros(len(split.candidates), dtype=np.int64))
    # All 100 tie: each order equally likely, the held-out item is among the first ten in 10 of 100.
    assert hit_rate(ranks, 10).mean() == pytest.approx(0.10)


def test_last_out_by_hand() -> None:
    split = LastOut(LastOut.Config()).split(one_user([10, 20, 30, 40]), np.random.default_rng(0))
    assert split.roles.tolist() == [TRAIN, TRAIN, VALID, TEST]
    assert split.known("test").times.tolist() == [10, 20, 30]
    assert split.known("valid").times.tolist() == [10, 20]


def test_last_out_keeps_users_with_two_events_in_train() -> None:
    users = np.array([0, 0, 1, 1, 1])
    events = Interactions.of(users, np.arange(5), np.array([1, 2, 1, 2, 3]))
    split = LastOut(LastOut.Config()).split(events, np.random.default_rng(0))
    assert split.roles.tolist() == [TRAIN, TRAIN, TRAIN, VALID, TEST]


def test_last_out_takes_equal_times_in_log_order() -> None:
    events = Interactions.of(np.zeros(4, dtype=np.int64), np.array([8, 6, 7, 5]), np.array([1, 1, 1, 1]))
    split = LastOut(LastOut.Config()).split(events, np.random.default_rng(0))
    assert split.test.items.tolist() == [5]


def test_last_out_random_validation_never_takes_the_last() -> None:
    events = log(users=30)
    split = LastOut(LastOut.Config(valid="random")).split(events, np.random.default_rng(0))
    assert len(split.valid) == len(split.test) == 30
    plain = LastOut(LastOut.Config()).split(events, np.random.default_rng(0))
    assert split.test.times.tolist() == plain.test.times.tolist()
    assert split.valid.times.tolist() != plain.valid.times.tolist()


def test_user_time_by_hand() -> None:
    # 10 events: the last 2 are test, 1 before them is validation.
    split = UserTime(UserTime.Config()).split(one_user(list(range(10))), np.random.default_rng(0))
    assert split.roles.tolist() == [TRAIN] * 7 + [VALID] + [TEST] * 2


def test_user_time_shares_are_exact_where_floats_are_not() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point; 29 events are meant.
    split = UserTime(UserTime.Config(test=0.29)).split(one_user(list(range(100))), np.random.default_rng(0))
    assert len(split.test) == 29


def test_user_time_keeps_small_users_in_train() -> None:
    users = np.repeat([0, 1], [9, 10])
    events = Interactions.of(users, np.arange(19), np.arange(19))
    split = UserTime(UserTime.Config()).split(events, np.random.default_rng(0))
    assert split.test.user_keys.tolist() == [1]


def test_global_time_cuts_at_distinct_times() -> None:
    # Shares 0.5, 0.2, 0.1 of 10 events end at places 5, 7, 8: times 5, 6, 7. The cut at 5 moves both fives behind it.
    times = [0, 1, 2, 3, 5, 5, 6, 6, 7, 8]
    config = GlobalTime.Config(train=0.5, rank=0.2, valid=0.1)
    split = GlobalTime(config).split(one_user(times), np.random.default_rng(0))
    assert split.roles.tolist() == [TRAIN] * 4 + [RANK] * 2 + [VALID] * 2 + [TEST] * 2


def test_global_time_refuses_a_log_without_times() -> None:
    with pytest.raises(DataError) as caught:
        GlobalTime(GlobalTime.Config()).split(one_user([5, 5, 5]), np.random.default_rng(0))
    message = "split (global_time): all events have the same time (use last_out for a log without times)"
    assert str(caught.value) == message


def test_global_time_refuses_shares_that_leave_nothing() -> None:
    with pytest.raises(ConfigError) as caught:
        GlobalTime(GlobalTime.Config(train=0.8, rank=0.1, valid=0.1))
    assert str(caught.value) == "split: train, rank and valid add up to 1 (leave a share for test)"


def test_a_log_too_small_says_so() -> None:
    with pytest.raises(DataError) as caught:
        LastOut(LastOut.Config()).split(one_user([1, 2]), np.random.default_rng(0))
    assert str(caught.value) == (
        "split (last_out): 2 events to train on, 0 to test on "
        "(the log is too small or too short for this protocol; see `shortlist check`)"
    )


def test_parts_share_no_event_and_repeats_stop_nothing() -> None:
    # what a client sends twice at one moment may fall on both sides of a cut: two events, one role each
    events = Interactions.of(np.zeros(3, dtype=np.int64), np.array([4, 4, 4]), np.array([1, 2, 2]))
    split = Split(events, np.array([TRAIN, TRAIN, TEST], dtype=np.int8), "user_time")
    assert split.audit() == []
    assert len(split.before_test) + len(split.test) == len(events)


def test_audit_finds_times_out_of_order() -> None:
    events = one_user([1, 2, 3])
    roles = np.array([TRAIN, TEST, TRAIN], dtype=np.int8)
    assert Split(events, roles, "wrong", "global").audit() == ["train reaches 3 ms, test begins at 2 ms"]
    assert Split(events, roles, "wrong", "user").audit() == ["1 users have test events before events that are known"]


def test_audit_finds_users_on_both_sides() -> None:
    split = Split(one_user([1, 2]), np.array([TRAIN, TEST], dtype=np.int8), "wrong", disjoint=True)
    assert split.audit() == ["1 users are on both sides"]


def test_audit_finds_bad_candidates() -> None:
    events = one_user([1, 2])  # items 0 and 1
    roles = np.array([TRAIN, TEST], dtype=np.int8)
    assert Split(events, roles, "wrong", candidates=np.array([[1, 5, 6]])).audit() == []
    assert Split(events, roles, "wrong", candidates=np.array([[5, 6, 7]])).audit() == [
        "1 candidate lists do not begin with the held-out item"
    ]
    assert Split(events, roles, "wrong", candidates=np.array([[1, 5, 5]])).audit() == [
        "1 candidates are in a list twice"
    ]
    assert Split(events, roles, "wrong", candidates=np.array([[1, 0, 5]])).audit() == [
        "1 negatives are items the user met"
    ]


def test_published_lists_are_used_and_their_defects_counted() -> None:
    events = log(users=3)
    split = LastOut(LastOut.Config()).split(events, np.random.default_rng(0))
    lists = np.concatenate(
        [split.test.items[:, None], unseen(events, split.test.users, 4, np.random.default_rng(1))], 1
    )
    lists[0, 2] = lists[0, 0]  # the held-out item as its own negative
    lists[1, 3] = split.train.items[split.train.users == 1][0]  # an item met before
    table = pl.DataFrame({"user": split.test.users, "item": split.test.items, "candidates": lists})
    fixed = published(split, table)
    assert fixed.defects == {"negatives that are the held-out item": 1, "negatives met before": 1}
    assert fixed.audit() == []


def test_published_lists_of_another_log_are_refused() -> None:
    split = LastOut(LastOut.Config()).split(log(users=3), np.random.default_rng(0))
    table = pl.DataFrame({"user": split.test.users, "item": split.test.items + 1, "candidates": [[1, 2]] * 3})
    with pytest.raises(DataError) as caught:
        published(split, table)
    assert str(caught.value) == (
        "split (last_out): the published lists are about other held-out events "
        "(use last_out on the log as it was imported)"
    )


def test_unseen_draws_every_unmet_set_equally_often() -> None:
    # Items 0..4, the user met 1 and 3: of {0, 2, 4} two are drawn, three sets, each in a third of the draws.
    users = np.array([7, 7, 8, 8, 8])
    events = Interactions.of(users, np.array([1, 3, 0, 2, 4]))
    drawn = unseen(events, np.full(30_000, 7), 2, np.random.default_rng(0))
    sets, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    assert sets.tolist() == [[0, 2], [0, 4], [2, 4]]
    # standard deviation sqrt(30000 * 1/3 * 2/3) = 82; five of them is 408
    assert np.abs(counts - 10_000).max() < 408


def test_unseen_gives_all_that_is_left() -> None:
    events = Interactions.of(np.array([7, 7, 8, 8, 8]), np.array([10, 30, 0, 20, 40]))
    assert sorted(unseen(events, np.array([7]), 3, np.random.default_rng(0))[0].tolist()) == [0, 20, 40]


def test_unseen_refuses_more_than_is_left() -> None:
    events = Interactions.of(np.array([7, 7, 8]), np.array([1, 3, 0]))
    with pytest.raises(DataError) as caught:
        unseen(events, np.array([7]), 2, np.random.default_rng(0))
    assert str(caught.value) == "negatives: a user has 1 items never met, 2 negatives are wanted (ask for fewer)"


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 12))
def test_unseen_is_unmet_and_distinct(seed: int, items: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 60))
    # One more user meets every item, so that the log holds them all.
    owner = np.concatenate([rng.integers(0, users, n), np.full(items, users)])
    item = np.concatenate([rng.integers(0, items, n), np.arange(items)])
    events = Interactions.of(owner, item)
    met = [set(item[owner == u].tolist()) for u in range(users)]
    wanted = min(items - len(m) for m in met)
    drawn = unseen(events, np.arange(users), wanted, rng)
    for row, seen in zip(drawn.tolist(), met, strict=True):
        assert len(set(row)) == wanted
        assert not set(row) & seen


def test_relevant_by_hand() -> None:
    # Codes: 0 view (weight 0), 1 like. User 0 holds out items 5 (5 stars), 6 (2 stars), 5 again, 7 (only viewed).
    asked = Interactions.of(
        np.array([0, 0, 0, 0, 2]),
        np.array([5, 6, 5, 7, 9]),
        np.array([1, 2, 3, 4, 1]),
        np.array([1, 1, 1, 0, 1], dtype=np.int16),
        np.array([5, 2, 4, 5, 4], dtype=np.float32),
    )
    known = Interactions.of(np.array([2]), np.array([9]))
    users = np.array([0, 1, 2])
    offsets, items = relevant(asked, users, "value >= 4", SCHEMA, known)
    # User 0: item 5 once. User 1 has nothing. User 2 met item 9 before.
    assert (offsets.tolist(), items.tolist()) == ([0, 1, 1, 1], [5])
    offsets, items = relevant(asked, users, "", SCHEMA, known)
    assert (offsets.tolist(), items.tolist()) == ([0, 2, 2, 2], [5, 6])
    offsets, items = relevant(asked, users, "action == 'like' and time_ms > 1", SCHEMA, known)
    assert (offsets.tolist(), items.tolist()) == ([0, 2, 2, 2], [5, 6])


def test_relevant_names_the_nearest_column() -> None:
    with pytest.raises(ConfigError) as caught:
        relevant(one_user([1]), np.array([0]), "values >= 4", SCHEMA, one_user([]))
    assert str(caught.value) == "split.positive: unknown column 'values' (did you mean value?)"


def test_roles_of_user_cut_cover_every_event() -> None:
    split = UserCut(UserCut.Config()).split(log(users=40), np.random.default_rng(0))
    assert set(split.roles.tolist()) == {TRAIN, VALID, VALID_INPUT, TEST, TEST_INPUT}


def held(pairs: list[tuple[int, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64, "part": pl.String}, orient="row")


def test_a_published_split_is_kept_pair_by_pair() -> None:
    # User 0 has items 0..11, user 1 items 0..3, user 2 item 5 alone; the file holds out (0, 1), (0, 11) and (1, 0).
    events = Interactions.of(np.repeat([0, 1, 2], [12, 4, 1]), np.array([*range(12), *range(4), 5]))
    pairs = held([(1, 0, "test"), (0, 11, "test"), (0, 1, "test")])
    split = Published(Published.Config(valid=0.34)).split(events, np.random.default_rng(3), pairs)
    test, valid = split.test, split.valid
    assert list(zip(test.users.tolist(), test.items.tolist(), strict=True)) == [(0, 1), (0, 11), (1, 0)]
    # Of 10, 3 and 1 training events floor(0.34 * n) = 3, 1 and 0 are drawn, from these alone.
    assert valid.users.tolist() == [0, 0, 0, 1]
    assert split.audit() == []
    # What is judged on the test part learns from the file's whole training part.
    assert len(split.before_test) == 14
    again = Published(Published.Config(valid=0.34)).split(events, np.random.default_rng(3), pairs)
    assert np.array_equal(again.roles, split.roles)
    other = Published(Published.Config(valid=0.34)).split(events, np.random.default_rng(4), pairs)
    assert not np.array_equal(other.roles, split.roles)


def test_a_published_split_with_a_validation_part_throws_no_dice() -> None:
    events = Interactions.of(np.array([0, 0, 0, 1, 1]), np.array([1, 2, 3, 1, 2]))
    pairs = held([(0, 3, "test"), (1, 2, "valid")])
    split = Published(Published.Config()).split(events, np.random.default_rng(0), pairs)
    assert split.roles.tolist() == [TRAIN, TRAIN, TEST, TRAIN, VALID]


def test_a_user_keeps_an_event_to_learn_from() -> None:
    events = Interactions.of(np.array([0, 0, 0]), np.array([1, 2, 3]))
    split = Published(Published.Config(valid=1.0)).split(events, np.random.default_rng(0), held([(0, 3, "test")]))
    assert sorted(split.roles.tolist()) == sorted([TRAIN, VALID, TEST])


def test_a_log_without_a_published_split() -> None:
    words = (
        "split (published): this log comes without a split of its own "
        '(use an adapter that brings one, or split.use = "user_time")'
    )
    lists = pl.DataFrame({"user": [0], "item": [1], "candidates": [[1, 2]]})
    for given_pairs in (None, lists):
        with pytest.raises(DataError) as caught:
            Published(Published.Config()).split(log(users=2), np.random.default_rng(0), given_pairs)
        assert str(caught.value) == words


def test_held_out_pairs_that_the_log_lacks() -> None:
    events = Interactions.of(np.array([0, 0, 1]), np.array([1, 2, 1]))
    with pytest.raises(DataError) as caught:
        Published(Published.Config()).split(
            events, np.random.default_rng(0), held([(0, 2, "test"), (1, 2, "test"), (0, 7, "test")])
        )
    assert str(caught.value) == (
        "split (published): 2 held-out pairs are not in the log "
        "(`shortlist import --fresh` brings the log and its split anew)"
    )
