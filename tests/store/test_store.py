"""What a store tells of users, whatever its home: histories in order, late events, caps, offsets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.candidates import Ragged
from shortlist.errors import DataError
from shortlist.features.state import Caps, Service
from shortlist.schema import Catalogue, Schema
from shortlist.store import Blobs, State, States
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory

SCHEMA = Schema.parse(
    {"action": "a", "actions": {"impression": {"weight": 0.0}, "click": {"weight": 1.0}, "like": {"weight": 5.0}}}
)
LATER = 10**15

Home = Callable[[Path, int], States]
HOMES: dict[str, Callable[[Path], Blobs]] = {
    "memory": lambda _: Memory(),
    "lmdb": lambda folder: Lmdb(folder, "f" * 64),
}


def opened(name: str, folder: Path, cap: int) -> States:
    return States(HOMES[name](folder), Service((), SCHEMA, Caps(history=cap, shown=cap)), Catalogue.empty())


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    with ExitStack() as stack:

        def make(folder: Path, cap: int) -> States:
            store = opened(request.param, folder, cap)
            stack.enter_context(closing(store.blobs))
            return store

        yield make


def frame(*rows: tuple[int, int, int, str, int]) -> pl.DataFrame:
    """Rows of (offset, user, item, action, time)."""
    types = {"offset": pl.Int64, "user": pl.Int64, "item": pl.Int64, "action": pl.String, "time_ms": pl.Int64}
    return pl.DataFrame(rows, schema=types, orient="row")


def told(ragged: Ragged) -> list[list[tuple[int, int, int]]]:
    """(item, time, action) per request."""
    rows = list(zip(ragged.items.tolist(), ragged.times.tolist(), ragged.actions.tolist(), strict=True))
    ends = ragged.offsets.tolist()
    return [rows[low:high] for low, high in pairwise(ends)]


def ask(store: States, *users: int, now: int = LATER, last: int | None = None) -> State:
    return store.read(np.array(users, dtype=np.int64), now, last)


def items(ragged: Ragged) -> list[list[int]]:
    return [[item for item, _, _ in rows] for rows in told(ragged)]


class TestStore:
    def test_a_new_store_knows_nobody(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        made = ask(store, 0, 5, -1)
        assert (told(made.history), told(made.shown), made.offset, store.offset) == ([[], [], []], [[], [], []], 0, 0)
        assert told(ask(store).history) == []

    def test_interest_and_exposure_are_kept_apart_oldest_first(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(
            frame(
                (1, 7, 10, "click", 30), (2, 7, 11, "impression", 10), (3, 2, 12, "like", 20), (4, 7, 13, "like", 20)
            ),
            4,
        )
        made = ask(store, 7, 2, 9)
        # codes: impression 0, click 1, like 2
        assert told(made.history) == [[(13, 20, 2), (10, 30, 1)], [(12, 20, 2)], []]
        assert told(made.shown) == [[(11, 10, 0)], [], []]
        assert made.offset == store.offset == 4
        assert made.history.actions.dtype == np.int16

    def test_a_user_may_be_asked_twice(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.load(frame((1, 1, 10, "click", 1), (2, 2, 20, "click", 1)))
        store.apply(frame((3, 2, 21, "click", 2)), 3)
        assert items(ask(store, 2, 1, 2, 1).history) == [[20, 21], [10], [20, 21], [10]]

    def test_equal_times_stand_in_the_order_of_the_log(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame((3, 0, 30, "click", 5), (4, 0, 10, "click", 5)), 4)
        store.apply(frame((5, 0, 20, "click", 5)), 5)
        assert items(ask(store, 0).history) == [[30, 10, 20]]

    def test_a_late_event_finds_its_place(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame((1, 0, 10, "click", 10), (2, 0, 30, "click", 30)), 2)
        store.apply(frame((3, 0, 20, "click", 20)), 3)
        assert items(ask(store, 0).history) == [[10, 20, 30]]

    def test_applying_again_changes_nothing(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        rows = frame((1, 0, 10, "click", 10), (2, 0, 11, "click", 11))
        store.apply(rows, 2)
        store.apply(rows, 2)
        store.apply(rows.head(1), 1)
        assert (items(ask(store, 0).history), store.offset) == ([[10, 11]], 2)
        store.apply(pl.concat([rows, frame((3, 0, 12, "click", 12))]), 3)
        assert (items(ask(store, 0).history), store.offset) == ([[10, 11, 12]], 3)

    def test_an_offset_moves_without_events(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame(), 9)
        store.apply(frame((9, 0, 10, "click", 10)), 9)
        assert (store.offset, items(ask(store, 0).history)) == (9, [[]])

    def test_only_what_had_happened_is_told(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame((1, 0, 10, "click", 10), (2, 0, 20, "click", 20), (3, 0, 30, "impression", 30)), 3)
        assert items(ask(store, 0, now=19).history) == [[10]]
        assert items(ask(store, 0, now=20).history) == [[10, 20]]
        assert items(ask(store, 0, now=29).shown) == [[]]
        both = store.read(np.array([0, 0]), np.array([10, 25]))
        assert items(both.history) == [[10], [10, 20]]

    def test_the_last_are_the_latest_of_each_kind(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame(*((n, 0, n, "click" if n % 2 else "impression", n) for n in range(1, 9))), 8)
        made = ask(store, 0, last=2)
        assert (items(made.history), items(made.shown)) == ([[5, 7]], [[6, 8]])

    def test_each_kind_has_a_cap_of_its_own(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 3)
        store.apply(frame((1, 0, 1, "click", 1), *((n, 0, n, "impression", n) for n in range(2, 8))), 7)
        made = ask(store, 0)
        assert (items(made.history), items(made.shown)) == ([[1]], [[5, 6, 7]])
        store.apply(frame(*((n, 0, n, "like", n) for n in range(8, 11))), 10)
        assert items(ask(store, 0).history) == [[8, 9, 10]]
        # later in the log, but older than all that is kept
        store.apply(frame((11, 0, 99, "click", 7)), 11)
        assert items(ask(store, 0).history) == [[8, 9, 10]]

    def test_loading_replaces_all_and_caps(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 2)
        store.apply(frame((1, 5, 1, "click", 1)), 1)
        store.load(frame(*((n, n % 2, n, "click", n) for n in range(1, 9))))
        assert items(ask(store, 0, 1, 5).history) == [[6, 8], [5, 7], []]
        assert store.offset == 8
        store.load(frame(), 3)
        assert (items(ask(store, 0).history), store.offset) == ([[]], 3)

    def test_an_action_the_schema_no_longer_has_is_left_out(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame((1, 0, 10, "click", 1), (2, 0, 11, "share", 2)), 2)
        assert (items(ask(store, 0).history), items(ask(store, 0).shown), store.offset) == ([[10]], [[]], 2)

    def test_a_frame_without_a_column_says_so(self, home: Home, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            home(tmp_path, 1000).load(frame().rename({"time_ms": "time"}))
        assert str(caught.value) == "history: no column is called 'time_ms' (did you mean time?)"

    def test_what_was_read_does_not_change(self, home: Home, tmp_path: Path) -> None:
        store = home(tmp_path, 1000)
        store.apply(frame((1, 0, 10, "click", 1)), 1)
        held = ask(store, 0)
        store.apply(frame((2, 0, 5, "click", 0)), 2)
        store.load(frame())
        assert told(held.history) == [[(10, 1, 1)]]

    def test_readers_see_state_and_offset_move_together(self, home: Home, tmp_path: Path) -> None:
        # Batch n adds one event to each of users 0..9 and stands at 10 n: a reader counts n of each or finds a mixture.
        store = home(tmp_path, 1000)
        wrong: list[State] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(0.0002):
                made = ask(store, *range(10))
                if np.diff(made.history.offsets).tolist() != [made.offset // 10] * 10:
                    wrong.append(made)

        reader = threading.Thread(target=look)
        reader.start()
        for n in range(1, 101):
            store.apply(frame(*((10 * (n - 1) + u + 1, u, n, "click", n) for u in range(10))), 10 * n)
        stop.set()
        reader.join()
        assert not wrong
        assert np.diff(ask(store, *range(10)).history.offsets).tolist() == [100] * 10


def plain(rows: list[tuple[int, int, int, str, int]], users: NDArray[np.int64], cap: int) -> list[list[list[int]]]:
    """What a store must tell, the slow way: history and shown of each user."""
    out: list[list[list[int]]] = [[], []]
    for user in users:
        mine = sorted((r for r in rows if r[1] == user), key=lambda r: (r[4], r[0]))
        out[0].append([r[2] for r in mine if r[3] != "impression"][-cap:])
        out[1].append([r[2] for r in mine if r[3] == "impression"][-cap:])
    return out


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 9),
        st.sampled_from(["click", "impression", "like"]),
        st.integers(0, 6),
    ),
    max_size=40,
)


@pytest.mark.parametrize("name", HOMES)
@settings(max_examples=120, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 40), max_size=4), loaded=st.integers(0, 40), cap=st.integers(1, 5))
def test_any_order_and_any_batches_end_in_the_same_state(
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, str, int]],
    cuts: list[int],
    loaded: int,
    cap: int,
) -> None:
    """Times are out of order as it comes; some of it is loaded, the rest applied in batches, one of them twice."""
    log = [(n + 1, *row) for n, row in enumerate(rows)]
    users = np.arange(5)
    store = opened(name, tmp_path_factory.mktemp("store"), cap)
    store.load(frame(*log[:loaded]))
    ends = sorted({min(c, len(log)) for c in cuts} | {len(log)})
    start = min(loaded, len(log))
    for end in (e for e in ends if e > start):
        store.apply(frame(*log[start:end]), end)
        store.apply(frame(*log[: end - 1]), end - 1)
        start = end
    made = store.read(users, LATER)
    assert [items(made.history), items(made.shown)] == plain(log, users, cap)
    assert store.offset == len(log)
    store.blobs.close()


@pytest.fixture
def big() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    n = 200_000
    return pl.DataFrame(
        {
            "offset": np.arange(1, n + 1),
            "user": rng.integers(0, 5000, n),
            "item": rng.integers(0, 1000, n),
            "action": np.array(["click", "impression"])[rng.integers(0, 2, n)],
            "time_ms": rng.integers(0, 10_000, n),
        }
    )


def test_a_backfill_equals_the_stream(home: Home, tmp_path: Path, big: pl.DataFrame) -> None:
    loaded, streamed = home(tmp_path / "a", 10), home(tmp_path / "b", 10)
    loaded.load(big)
    for start in range(0, len(big), 50_000):
        streamed.apply(big.slice(start, 50_000), start + 50_000)
    users = np.arange(5000)
    left, right = loaded.read(users, LATER), streamed.read(users, LATER)
    for a, b in ((left.history, right.history), (left.shown, right.shown)):
        assert a.items.tolist() == b.items.tolist()
        assert a.times.tolist() == b.times.tolist()
        assert a.offsets.tolist() == b.offsets.tolist()
    # 40 events a user are drawn, about 20 of each kind: nearly all users reach the cap of 10
    assert 0.99 * 50_000 < len(left.history.items) <= 50_000
