"""Reasons rest on the history and on provenance."""

import numpy as np

from shortlist.forms import Lists
from shortlist.serving.reasons import because, words
from shortlist.serving.wire import Brought

# of 1: 7 at .9, 8 at .2; of 2: 7 at .5, 8 at .6, 9 at -.1
FORM = Lists.ranked(
    np.array([1, 1, 2, 2, 2]), np.array([7, 8, 7, 8, 9]), np.array([0.9, 0.2, 0.5, 0.6, -0.1], dtype=np.float32)
)


def of(history: list[int], shown: list[int], last: int = 30) -> list[int]:
    found: list[int] = because(FORM, np.array(history, dtype=np.int64), np.array(shown, dtype=np.int64), last).tolist()
    return found


def test_the_nearest_of_the_history_is_the_reason() -> None:
    assert of([1, 2], [8, 7, 5]) == [2, 1, -1]


def test_only_the_latest_count() -> None:
    assert of([1, 2], [7, 8], last=1) == [2, 2]
    assert of([1, 2, 2], [7], last=1) == [2]
    assert of([2, 1, 2, 1], [8], last=1) == [1]


def test_a_negative_similarity_is_no_reason() -> None:
    assert of([2], [9]) == [-1]


def test_ties_go_to_the_more_recent() -> None:
    form = Lists.ranked(np.array([1, 2]), np.array([7, 7]), np.array([0.5, 0.5], dtype=np.float32))
    assert because(form, np.array([1, 2]), np.array([7]), 30).tolist() == [2]
    assert because(form, np.array([2, 1]), np.array([7]), 30).tolist() == [1]


def test_nothing_known_gives_no_reason() -> None:
    assert of([], [7]) == [-1]
    assert of([3, 4], [7]) == [-1]
    assert of([1], []) == []


def test_words_name_each_reason_once() -> None:
    brought = [
        Brought("similar", 1, 0.9),
        Brought("ease", 2, 0.4),
        Brought("hot", 3, 7.0),
        Brought("two_tower", 9, 0.1),
    ]
    sources = {"similar": "neighbours", "ease": "neighbours", "hot": "popular", "two_tower": "nearest"}
    rests_on = {"similar": "Heat", "ease": "Heat"}
    assert words(brought, sources.__getitem__, rests_on, None) == ["because of Heat", "popular", "two tower"]
    assert words(brought[2:3], sources.__getitem__, {}, "north") == ["popular in north"]
    assert words([Brought("backfill", 1, 1.0)], sources.__getitem__, {}, None) == ["popular, to fill the page"]
