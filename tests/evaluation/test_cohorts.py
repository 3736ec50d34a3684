"""Cohorts against numbers a person can check."""

import numpy as np
import pytest

from shortlist.candidates import Ragged, Requests
from shortlist.evaluation.cohorts import cohorts, counts_of, thirds
from shortlist.evaluation.funnel import Listed, Measured
from shortlist.metrics.topk import accuracy


def measured(lists: list[list[int]], offsets: list[int], labels: list[int]) -> Measured:
    found = np.array(lists)
    columns = accuracy(found, np.array(offsets), np.array(labels), [1, 2])
    listed = Listed("page", "page", found, columns, {}, {}, {})
    return Measured((listed,), (1, 2), 2, np.zeros((0, 0)), (), {}, {}, {}, len(lists), len(lists))


def asked(lengths: list[int]) -> Requests:
    R, n = len(lengths), sum(lengths)
    history = Ragged.of(np.concatenate([[0], np.cumsum(lengths)]), np.arange(n))
    return Requests(np.arange(R), np.zeros(R, np.int64), 2, history, Ragged.empty(R), Ragged.empty(R))


def test_users_and_labels_are_parted_into_thirds() -> None:
    # three users with 1, 5 and 9 events; items 10, 11, 12 were met by 100, 3 and 40 users
    offsets, labels = [0, 1, 2, 4], [10, 11, 12, 11]
    lists = [[10, 11], [10, 12], [12, 10]]
    found = cohorts(
        measured(lists, offsets, labels), asked([1, 5, 9]), np.array(offsets), np.array(labels),
        np.array([10, 11, 12]), np.array([100, 3, 40]),
    )  # fmt: skip
    assert [(c.name, c.of, c.bound, c.size) for c in found] == [
        ("new users", "users", 1, 1),
        ("old users", "users", 9, 1),
        # labels met 3, 3, 40, 100 times: the second of four bounds the lower third, the third the upper
        ("new items", "items", 3, 2),
        ("old items", "items", 40, 2),
    ]
    recall = [c.columns["page"]["recall@2"] for c in found]
    np.testing.assert_array_equal(recall[0], [1, np.nan, np.nan])
    # user 2 finds 12 and not 11
    np.testing.assert_array_equal(recall[1], [np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(recall[2], [np.nan, 0, 0])
    np.testing.assert_array_equal(recall[3], [1, np.nan, 1])
    assert set(found[0].columns["page"]) == {"recall@1", "recall@2", "ndcg@2"}
    # the one label on an old item stands first
    assert found[3].columns["page"]["ndcg@2"][2] == pytest.approx(1)


def test_counts_that_are_all_alike_make_no_cohorts() -> None:
    assert thirds(np.array([4, 4, 4, 4]), np.ones(4, bool)) == []
    assert thirds(np.array([1, 9]), np.ones(2, bool)) == []


def test_requests_without_a_label_are_of_no_cohort() -> None:
    # 100 has no label: the thirds of 1, 2, 3 are 1 and 3
    (_, low, new), (_, high, old) = thirds(np.array([1, 100, 2, 3]), np.array([True, False, True, True]))
    assert (low, high) == (1, 3)
    assert (new.tolist(), old.tolist()) == ([True, False, False, False], [False, False, False, True])


def test_a_label_outside_the_catalogue_was_never_met() -> None:
    assert counts_of(np.array([7, -1, 5]), np.array([5, 7]), np.array([50, 70])).tolist() == [70, 0, 50]
