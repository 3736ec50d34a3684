"""Six days to learn from and the seventh to be tested on."""

import numpy as np
import pytest

from shortlist.config import build
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import OUT, TEST, TRAIN, VALID
from shortlist.dataset.splits.days import Days
from shortlist.errors import ConfigError, DataError

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
FIRST = 1_624_492_800_000  # 2021-06-24T00:00Z
DICE = np.random.default_rng(0)


def log(times: list[int]) -> Interactions:
    return Interactions.of(np.arange(len(times)) % 3, np.arange(len(times)), np.array(times))


def roles(times: list[int], config: Days.Config) -> list[int]:
    """Roles in order of time."""
    split = Days(config).split(log(times), DICE)
    return [int(role) for role in split.roles[np.argsort(split.events.times)]]


def test_six_days_and_the_seventh() -> None:
    # noon of each of nine days: five to learn from, the sixth to choose on, the seventh asked about, two left out
    times = [FIRST + day * DAY_MS + 12 * HOUR_MS for day in range(9)]
    assert roles(times, Days.Config()) == [TRAIN] * 5 + [VALID, TEST, OUT, OUT]
    assert roles(times, Days.Config(valid=0, test=2)) == [TRAIN] * 6 + [TEST, TEST, OUT]
    assert roles(times, Days.Config(start="2021-06-26", train=3)) == [OUT, OUT, TRAIN, TRAIN, VALID, TEST, *[OUT] * 3]
    split = Days(Days.Config()).split(log(times), DICE)
    assert split.audit() == []
    assert split.before_test.times.max() < split.test.times.min()
    # what lies behind the test days is known to nobody who is asked before it
    assert split.known("test").times.max() < split.test.times.min()


def test_a_day_begins_at_midnight_and_where_people_live() -> None:
    midnight = FIRST + 2 * DAY_MS
    times = [FIRST + HOUR_MS, midnight - 1, midnight, midnight + DAY_MS]
    assert roles(times, Days.Config(train=2, valid=0)) == [TRAIN, TRAIN, TEST, OUT]
    # eight hours ahead it is the next day from 16 o'clock: the first two lie on days 24 and 26, the others on 26 and 27
    assert roles(times, Days.Config(train=2, valid=0, utc_offset_hours=8.0)) == [TRAIN, TEST, TEST, OUT]


def test_an_empty_part_is_said() -> None:
    with pytest.raises(DataError) as caught:
        Days(Days.Config()).split(log([FIRST, FIRST + DAY_MS]), DICE)
    hint = "the log is too small or too short for this protocol; see `shortlist check`"
    assert str(caught.value) == f"split (days): 2 events to train on, 0 to test on ({hint})"
    with pytest.raises(DataError) as caught:
        Days(Days.Config()).split(log([FIRST, FIRST]), DICE)
    want = "split (days): all events have the same time (use last_out for a log without times)"
    assert str(caught.value) == want


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"start": "24 June"}, "split.start: '24 June' is no date (write \"2021-06-24\")"),
        ({"train": 2, "valid": 2}, "split.valid: 2 of 2 days are validation (leave a day to learn from)"),
    ],
)
def test_words_that_say_no_days(words: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Days(build(Days.Config, words, "split (days)"))
    assert str(caught.value) == said
