"""Requests, Candidates, Slates against brute force: columns over many requests say what a loop would."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Ragged, Requests, Slates, located, owners, spans, stack

ITEM = st.integers(0, 12)
# per request, items that are distinct
ROWS = st.lists(st.lists(ITEM, max_size=6, unique=True), min_size=1, max_size=4)
EVENTS = st.lists(st.lists(ITEM, max_size=6), min_size=1, max_size=4)
SCORE = st.sampled_from([0.0, 1.0, 2.0, -1.0, np.nan, np.inf, -np.inf])


def offsets(rows: list[list[int]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)


def flat(rows: list[list[int]]) -> NDArray[np.int64]:
    return np.array([item for row in rows for item in row], dtype=np.int64)


def ragged(rows: list[list[int]]) -> Ragged:
    items = flat(rows)
    return Ragged(offsets(rows), items, np.arange(len(items)), np.zeros(len(items), dtype=np.int16))


def candidates(rows: list[list[int]], channels: tuple[str, ...] = ("a",)) -> Candidates:
    n = sum(map(len, rows))
    rank = np.arange(n * len(channels), dtype=np.int32).reshape(n, len(channels))
    fate = np.zeros(n, dtype=np.int16)
    return Candidates(offsets(rows), flat(rows), channels, rank, rank.astype(np.float32), {}, fate)


def lists(table: Ragged | Candidates) -> list[list[int]]:
    return [table.items[a:b].tolist() for a, b in zip(table.offsets[:-1], table.offsets[1:], strict=True)]


def test_owners() -> None:
    assert owners(np.array([0, 2, 2, 3])).tolist() == [0, 0, 2]
    assert owners(np.array([0])).tolist() == []


@given(EVENTS, st.integers(0, 7))
def test_last_keeps_the_latest(rows: list[list[int]], n: int) -> None:
    assert lists(ragged(rows).last(n)) == [row[max(len(row) - n, 0) :] for row in rows]


@given(EVENTS, st.data())
def test_where_and_take(rows: list[list[int]], data: st.DataObject) -> None:
    history = ragged(rows)
    mask = np.array([item % 2 == 0 for item in history.items], dtype=bool)
    assert lists(history.where(mask)) == [[item for item in row if item % 2 == 0] for row in rows]
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert lists(history.take(start, stop)) == rows[start:stop]


@given(EVENTS, st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 14)), max_size=20))
def test_contains(rows: list[list[int]], asked: list[tuple[int, int]]) -> None:
    asked = [(owner % len(rows), item) for owner, item in asked]
    owner = np.array([o for o, _ in asked], dtype=np.int64)
    items = np.array([i for _, i in asked], dtype=np.int64)
    assert ragged(rows).contains(owner, items).tolist() == [i in rows[o] for o, i in asked]


def test_empty_ragged() -> None:
    empty = Ragged.empty(2)
    assert lists(empty) == [[], []]
    assert empty.contains(np.array([0, 1]), np.array([1, 2])).tolist() == [False, False]


@given(ROWS, st.data())
def test_best_first_is_a_sort(rows: list[list[int]], data: st.DataObject) -> None:
    table = candidates(rows)
    n = len(table)
    values = np.array(data.draw(st.lists(SCORE, min_size=n, max_size=n)), dtype=np.float32)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)

    def place(at: int) -> tuple[int, bool, float, int]:
        lost = bool(np.isnan(values[at]))  # NaN comes after minus infinity
        return int(table.owners[at]), lost, 0.0 if lost else -float(values[at]), int(table.items[at])

    assert table.best_first(values).tolist() == sorted(range(n), key=place)
    assert table.best_first(values, mask).tolist() == sorted(np.flatnonzero(mask).tolist(), key=place)


@given(ROWS, st.lists(st.tuples(st.sampled_from(["seen", "gone", "cap"]), st.sets(ITEM)), max_size=4))
def test_drop_gives_each_one_reason_for_good(rows: list[list[int]], steps: list[tuple[str, set[int]]]) -> None:
    table = candidates(rows)
    expected: list[str | None] = [None] * len(table)
    for reason, among in steps:
        table = table.drop(np.isin(table.items, list(among)), reason)
        expected = [
            reason if was is None and item in among else was
            for was, item in zip(expected, table.items.tolist(), strict=True)
        ]
    assert [table.reasons[f - 1] if f else None for f in table.fate.tolist()] == expected
    assert table.alive.tolist() == [reason is None for reason in expected]


@given(ROWS, st.data())
def test_append_adds_only_what_is_new(rows: list[list[int]], data: st.DataObject) -> None:
    r = len(rows)
    more = data.draw(st.lists(st.lists(ITEM, max_size=6, unique=True), min_size=r, max_size=r))
    mine = candidates(rows).scored("own", np.arange(sum(map(len, rows))))
    mine = mine.drop(mine.items % 3 == 0, "third")
    theirs = candidates(more).scored("fill", np.arange(sum(map(len, more))))
    theirs = theirs.drop(theirs.items % 2 == 0, "even")
    both = mine.append(theirs)
    assert lists(both) == [
        row + [item for item in extra if item not in row] for row, extra in zip(rows, more, strict=True)
    ]
    # every row keeps the provenance, scores and fate it had where it came from
    for at, (owner, item) in enumerate(zip(both.owners, both.items, strict=True)):
        old = item in rows[owner]
        source, name, other = (mine, "own", "fill") if old else (theirs, "fill", "own")
        came = int(np.flatnonzero((source.owners == owner) & (source.items == item))[0])
        assert both.rank[at] == source.rank[came]
        assert both.scores[name][at] == source.scores[name][came]
        assert other not in both.scores or np.isnan(both.scores[other][at])
        fate = both.reasons[both.fate[at] - 1] if both.fate[at] else None
        divisor, reason = (3, "third") if old else (2, "even")
        assert fate == (reason if item % divisor == 0 else None)


def test_append_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"channels differ: \('a',\) and \('b',\)"):
        candidates([[1]]).append(candidates([[1]], ("b",)))
    with pytest.raises(ValueError, match="requests differ: 1 and 2"):
        candidates([[1]]).append(candidates([[1], [2]]))
    with pytest.raises(ValueError, match=r"score 'rank' has shape \(2,\), candidates \(1,\)"):
        candidates([[1]]).scored("rank", np.zeros(2))


def test_a_score_is_added_and_nothing_else_changes() -> None:
    table = candidates([[3, 5]])
    scored = table.scored("rank", np.array([0.5, 1.5]))
    assert table.scores == {}
    assert scored.scores["rank"].dtype == np.float32
    assert scored.scores["rank"].tolist() == [0.5, 1.5]
    assert len(Candidates.empty(3, ("a", "b"))) == 0
    assert Candidates.empty(3, ("a", "b")).rank.shape == (0, 2)


def requests(rows: list[list[int]]) -> Requests:
    r = len(rows)
    history = ragged(rows)
    context: dict[str, NDArray[Any]] = {"region": np.arange(r)}
    ids = tuple(f"r{n}" for n in range(r))
    return Requests(np.arange(r), np.full(r, 10), 5, history, history, Ragged.empty(r), context, None, ids)


@given(EVENTS)
def test_a_batch_of_one_is_its_rows_of_the_batch(rows: list[list[int]]) -> None:
    many = requests(rows)
    asked = np.repeat(np.arange(len(rows)), 3)
    items = np.tile(np.array([0, 1, 2]), len(rows))
    whole = many.history.contains(asked, items)
    for r in range(len(rows)):
        one = many.take(r, r + 1)
        assert len(one) == 1
        assert (one.users.tolist(), one.ids) == ([r], (f"r{r}",))
        assert one.context["region"].tolist() == [r]
        assert lists(one.history) == [rows[r]]
        assert lists(one.history.last(2)) == lists(many.history.last(2).take(r, r + 1))
        alone = one.history.contains(np.zeros(3, dtype=np.int64), items[:3])
        assert alone.tolist() == whole[3 * r : 3 * r + 3].tolist()


def test_slates_are_a_matrix() -> None:
    table = candidates([[3, 5, 7], [], [9]])
    picks = np.array([2, 0, 3])
    marks = {"late": np.array([True, False, False]), "short": np.array([True, True, False])}
    slates = Slates(np.array([0, 2, 2, 3]), picks, np.ones(3, dtype=np.float32), requests([[], [], []]), table, marks)
    assert slates.items.tolist() == [7, 3, 9]
    assert slates.matrix(2).tolist() == [[7, 3], [-1, -1], [9, -1]]
    assert slates.matrix(1).tolist() == [[7], [-1], [9]]
    assert [slates.notes(r) for r in range(3)] == [["late", "short"], ["short"], []]


def test_stack_joins_offsets() -> None:
    assert stack([np.array([0, 2, 3]), np.array([0]), np.array([0, 0, 4])]).tolist() == [0, 2, 3, 3, 7]
    assert stack([]).tolist() == [0]


def test_spans_and_places_of_keys() -> None:
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spans(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)).tolist() == []
    at, known = located(np.array([2, 4, 8]), np.array([8, 3, 2, 99, -1]))
    assert known.tolist() == [True, False, True, False, False]
    assert at[known].tolist() == [2, 0]
    at, known = located(np.zeros(0, dtype=np.int64), np.array([1, 2]))
    assert (known.tolist(), len(at)) == ([False, False], 2)
