"""Promise 3, engine side: a slow, failing or lying part gives a slate that says so, or raises where nobody waits."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.funnel.world import SCHEMA, Fails, Ids, Says, ask, funnel, objects, pages, profiles, ranked

from shortlist.candidates import Candidates, Mask, Requests
from shortlist.errors import ConfigError
from shortlist.funnel.filters.excluded import Excluded
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.schema import Profiles

NAN = float("nan")


class Waits:
    """Answers when it is let go. `asked` counts how often it was asked."""

    def __init__(self) -> None:
        self.go = Event()
        self.asked = 0

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        self.asked += 1
        self.go.wait(600)
        return ranked(9).recall(requests, n, keep)


# what a channel says, what of it can be used, and what the slate tells; channel b brings 4 and 5 for both requests
LIES: dict[str, tuple[Any, list[list[int]], str]] = {
    "raises": (Fails(), [[4, 5], [4, 5]], "failed:a"),
    "columns of different lengths": (Says([0, 0], [1], [1.0]), [[4, 5], [4, 5]], "failed:a"),
    "a matrix": (Says([[0]], [[1]], [[1.0]]), [[4, 5], [4, 5]], "failed:a"),
    "items that are text": (Says([0], ["x"], [1.0]), [[4, 5], [4, 5]], "failed:a"),
    "requests that nobody made": (Says([0, 2], [1, 2], [1.0, 1.0]), [[4, 5], [4, 5]], "failed:a"),
    "requests before the first": (Says([-1, 0], [1, 2], [1.0, 1.0]), [[4, 5], [4, 5]], "failed:a"),
    "requests in no order": (Says([1, 0], [1, 2], [1.0, 1.0]), [[4, 5], [4, 5]], "failed:a"),
    "no item": (Says([0, 0, 1], [1, -1, 2], [2.0, 1.0, 1.0]), [[1, 4, 5], [2, 4, 5]], "unsound:a"),
    "a key beyond any": (Says([0, 0, 1], [1, 1 << 62, 2], [2.0, 1.0, 1.0]), [[1, 4, 5], [2, 4, 5]], "unsound:a"),
    "scores of NaN": (Says([0, 0, 1], [1, 3, 2], [2.0, NAN, 1.0]), [[1, 4, 5], [2, 4, 5]], "unsound:a"),
    "infinite scores": (Says([0, 0, 1], [3, 1, 2], [np.inf, 2.0, 1.0]), [[1, 4, 5], [2, 4, 5]], "unsound:a"),
    "worst first": (Says([0, 0, 1], [1, 3, 2], [1.0, 2.0, 1.0]), [[3, 4, 1, 5], [2, 4, 5]], "unsound:a"),
    "ties by larger key": (Says([0, 0, 1], [3, 1, 2], [1.0, 1.0, 1.0]), [[1, 4, 3, 5], [2, 4, 5]], "unsound:a"),
    "an item twice": (Says([0, 0, 1], [1, 1, 2], [2.0, 1.0, 1.0]), [[1, 4, 5], [2, 4, 5]], "unsound:a"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_channel_is_named_and_the_slate_still_comes(lie: str) -> None:
    source, expected, name = LIES[lie]
    one = funnel(source, ranked(4, 5), quota=4)
    slates = one.run(ask([], [], n=4), strict=False)
    assert pages(slates) == expected
    # a whole answer that cannot be read concerns everybody; single rows only the request they belong to
    assert {n: hit.tolist() for n, hit in slates.degraded.items()} == {name: [True, name == "failed:a"]}
    with pytest.raises((OSError, ValueError)):
        one.run(ask([], [], n=4))


def test_what_a_lying_channel_is_told_offline() -> None:
    with pytest.raises(ValueError, match="channel 'a' returned rows out of order, repeated, of no item or without"):
        funnel(Says([0], [-1], [1.0])).run(ask([]))


def test_the_best_row_of_a_repeated_item_stays() -> None:
    slates = funnel(Says([0, 0, 0], [1, 2, 1], [1.0, 2.0, 3.0]), quota=5).run(ask([], n=5), strict=False)
    assert pages(slates) == [[1, 2]]
    assert slates.candidates.score[:, 0].tolist() == [3.0, 2.0]


def test_all_channels_gone_the_hot_list_answers() -> None:
    slates = funnel(Fails(), Fails(), fallback=ranked(7, 8)).run(ask([], n=2), strict=False)
    assert pages(slates) == [[7, 8]]
    assert slates.notes(0) == ["failed:a", "failed:b", "backfill"]


def test_everything_gone_an_empty_slate_says_why() -> None:
    slates = funnel(Fails(), fallback=Fails()).run(ask([], n=2), strict=False)
    assert pages(slates) == [[]]
    assert slates.notes(0) == ["failed:a", "failed:backfill"]
    with pytest.raises(OSError, match="the index is gone"):
        funnel(fallback=Fails()).run(ask([], n=2))


def test_a_lying_fallback_is_mended_too() -> None:
    slates = funnel(fallback=Says([0, 0, 0], [3, -1, 4], [1.0, 5.0, 2.0])).run(ask([], n=3), strict=False)
    assert pages(slates) == [[4, 3]]
    assert slates.notes(0) == ["unsound:backfill", "backfill"]


def test_a_failing_selector_gives_the_order_of_scores() -> None:
    one = funnel(ranked(0, 1), fallback=ranked(5, 6), selector=Fails())
    slates = one.run(ask([], n=3), strict=False)
    assert pages(slates) == [[0, 1, 5]]
    assert slates.notes(0) == ["failed:selector", "backfill"]
    with pytest.raises(OSError, match="no selection today"):
        one.run(ask([], n=3))


class Picks:
    """A selector that picks these rows."""

    def __init__(self, *rows: int) -> None:
        self.rows = rows

    def select(self, requests: Requests, candidates: Candidates, scores: Any) -> tuple[Ids, Ids, Mapping[str, Mask]]:
        return np.array([0, len(self.rows)]), np.array(self.rows, dtype=np.int64), {}


@pytest.mark.parametrize("rows", [(0, 0), (0, 1, 2), (3,), (9,)], ids=["twice", "too many", "dropped", "nowhere"])
def test_a_lying_selector_is_not_believed(rows: tuple[int, ...]) -> None:
    seen = profiles(["a"], ["a"], ["a"], ["b"])
    one = funnel(ranked(0, 1, 2, 3), selector=Picks(*rows), filters={"excluded": Excluded(None, SCHEMA, seen)})  # type: ignore[arg-type]
    slates = one.run(ask([], n=2, where="genre == 'a'"), strict=False)
    assert pages(slates) == [[0, 1]]
    assert slates.notes(0) == ["failed:selector"]
    with pytest.raises((ValueError, IndexError)):
        one.run(ask([], n=2, where="genre == 'a'"))


class Gives:
    """A booster that returns these scores."""

    def __init__(self, *scores: float) -> None:
        self.scores = np.array(scores, dtype=np.float32)

    def boost(self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.scores


def test_a_failing_booster_leaves_the_scores_as_they_were() -> None:
    for booster, name in ((Fails(), "failed:fails"), (Gives(1.0), "failed:gives")):
        slates = funnel(ranked(0, 1), boosters=(booster,)).run(ask([], n=2), strict=False)
        assert pages(slates) == [[0, 1]]
        assert slates.notes(0) == [name]
    with pytest.raises(ValueError, match="booster 'gives' returned scores of shape"):
        funnel(ranked(0, 1), boosters=(Gives(1.0),)).run(ask([], n=2))


def test_a_score_of_nan_sinks_to_the_bottom_and_is_named() -> None:
    one = funnel(ranked(0, 1, 2), boosters=(Gives(NAN, 1.0, 2.0),))
    slates = one.run(ask([], n=3), strict=False)
    assert pages(slates) == [[2, 1, 0]]
    assert slates.notes(0) == ["nan:gives"]
    with pytest.raises(ValueError, match="1 scores of 'gives' are not finite"):
        one.run(ask([], n=3))


def test_a_condition_on_an_unknown_field_is_the_callers_error_and_no_channels(
    caplog: pytest.LogCaptureFixture,
) -> None:
    excluded = Excluded(Excluded.Config(), SCHEMA, Profiles(np.arange(1), {"genre": objects(["a"])}))
    for one in (funnel(ranked(0), filters={"excluded": excluded}), funnel(filters={"excluded": excluded})):
        with pytest.raises(ConfigError, match="unknown column 'gener'"):
            one.run(ask([], where="gener == 'a'"), strict=False)
    assert caplog.messages == []


def test_what_is_left_out_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    funnel(Fails()).run(ask([]), strict=False)
    assert caplog.messages == ["a is left out: OSError: the index is gone"]


# ---------------------------------------------------------------------------------------------- time


PATIENCE_S = (0.05, 1.0, 30.0)  # a deadline that the other threads keep, on a loaded machine too


def test_a_late_channel_is_left_out_and_the_deadline_kept() -> None:
    for patience in PATIENCE_S:
        late = Waits()
        with ThreadPoolExecutor(2) as pool:
            try:
                one = funnel(late, ranked(4, 5), pool=pool)
                started = time.monotonic()
                slates = one.run(ask([], n=2), strict=False, deadline=started + patience)
                assert time.monotonic() >= started + patience
                with pytest.raises(TimeoutError, match="channel 'a' was not back by the deadline"):
                    one.run(ask([], n=2), deadline=time.monotonic() + 0.05)
            finally:
                late.go.set()  # until here it has not come back
        assert "recall:a" not in slates.took_ms  # also after it came back
        if slates.notes(0) == ["late:a"]:
            break
    assert pages(slates) == [[4, 5]]
    assert slates.notes(0) == ["late:a"]


def test_a_channel_that_is_back_in_time_is_used() -> None:
    with ThreadPoolExecutor(2) as pool:
        one = funnel(ranked(3), ranked(4, 5), pool=pool)
        slates = one.run(ask([], n=3), strict=False, deadline=time.monotonic() + 600)
    assert pages(slates) == [[3, 4, 5]]
    assert slates.degraded == {}


def test_every_thread_taken_the_hot_list_answers() -> None:
    for patience in PATIENCE_S:
        late, queued = Waits(), Waits()
        with ThreadPoolExecutor(1) as pool:
            try:
                one = funnel(late, queued, pool=pool, fallback=ranked(7))
                slates = one.run(ask([], n=1), strict=False, deadline=time.monotonic() + patience)
            finally:
                late.go.set()
                queued.go.set()
        if late.asked:
            break
    assert pages(slates) == [[7]]
    assert (late.asked, queued.asked) == (1, 0)  # what had not begun is not begun any more
    assert slates.notes(0) == ["late:a", "late:b", "backfill"]


def test_without_threads_no_channel_is_asked_after_the_deadline() -> None:
    slates = funnel(ranked(4), fallback=ranked(7)).run(ask([], n=1), strict=False, deadline=time.monotonic() - 1)
    assert pages(slates) == [[7]]
    assert slates.notes(0) == ["late:a", "backfill"]
