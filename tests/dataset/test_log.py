"""A project's log as interactions: offsets and context stay with their events, offline as online."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.config import load
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.log import interactions, joinable
from shortlist.dataset.pairs import Pairs
from shortlist.dataset.ranking import Outcomes, Ranking
from shortlist.evaluation.project import held_out, open_data
from shortlist.evaluation.stages import sample
from shortlist.events.event import Event
from shortlist.events.opening import open_log
from shortlist.events.workspace import import_log
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.funnel.requests import make
from shortlist.schema import Catalogue, Profiles, Schema

T = 1_767_225_600_000
TOML = """
[data]
events = "events.csv"

[schema]
action = "action"
event_id = "id"
actions.click = {}
actions.impression = { weight = 0.0 }
context.device = "sparse"
context.hour = "dense"
context.tags = { kind = "varlen", split = "|" }

[split]
use = "last_out"

[[recall]]
name = "popular"
use = "hot"
"""
LOG = """id,user,item,action,time_ms,device,hour,tags
a,ann,x,click,%d,phone,7,new|red
b,bob,y,impression,%d,5,,
c,ann,z,click,%d,,8.5,new
"""
QUIET: Any = lambda text: None  # noqa: E731


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "events.csv").write_text(LOG % (T, T + 1, T + 2), encoding="utf-8")
    (tmp_path / "shortlist.toml").write_text(TOML, encoding="utf-8")
    project = load(tmp_path)
    import_log(project, QUIET, T)
    told: dict[str, Any] = {"device": 5.0, "hour": "9", "tags": ["red", "big"], "undeclared": 1}
    with contextlib.closing(open_log(project)) as log:
        events = [
            Event("ann", "y", "click", T + 10, event_id="d", request_id="r1", context=told),
            Event("bob", "x", "click", T - 5, event_id="e", context={"hour": "noon", "tags": "new|red"}),
            Event("ann", "x", "click", T + 30, event_id="f"),
        ]
        assert [o.status for o in log.append(events, ["click", "impression"], T + 100)] == ["accepted"] * 3
    return tmp_path


def test_context_and_offsets_of_imported_and_live_events(folder: Path) -> None:
    log = interactions(load(folder))
    # by user, then time: ann's a, c, d, f; bob's e, which came late, and b
    assert log.users.tolist() == [0, 0, 0, 0, 1, 1]
    late = np.argsort(log.log_offsets)
    assert late.tolist() == [0, 5, 1, 2, 4, 3]
    assert log.context["device"].tolist() == ["phone", None, "5", None, None, "5"]
    hours = log.context["hour"]
    assert hours.tolist() == pytest.approx([7, 8.5, 9, np.nan, np.nan, np.nan], nan_ok=True)
    assert log.context["tags"].tolist()[:4] == [["new", "red"], ["new"], ["red", "big"], None]
    assert log.context["tags"][4] == ["new", "red"]  # split as the schema says


def test_everything_that_selects_events_keeps_them_together(folder: Path) -> None:
    log = interactions(load(folder))
    mask = np.array([False, True, False, False, True, True])
    for some in (log.where(mask), log.where(mask).where(np.ones(3, dtype=bool))):
        assert some.log_offsets.tolist() == log.log_offsets[mask].tolist()
        assert some.context["device"].tolist() == log.context["device"][mask].tolist()
    liked = log.liked(np.array([1.0, 0.0], dtype=np.float32))
    assert len(liked) == len(liked.context["hour"]) == len(liked.log_offsets) == 5


def test_what_a_join_needs(folder: Path) -> None:
    frame = joinable(load(folder))
    assert frame.filter(event_id="d").row(0, named=True)["request_id"] == "r1"
    assert sorted(frame["event_id"].to_list()) == list("abcdef")
    assert frame["action"].to_list().count("impression") == 1


def test_columns_alone_have_their_own_order() -> None:
    none = np.zeros(3, dtype=np.int64)
    bare = Interactions(none, none, none, none.astype(np.int16), none.astype(np.float32))
    assert bare.log_offsets.tolist() == [0, 1, 2]
    sorted_ = Interactions.of(np.array([1, 0, 1]), none, np.array([5, 5, 4]), log_offsets=np.array([7, 8, 9]))
    assert sorted_.log_offsets.tolist() == [8, 9, 7]


def test_histories_as_of_an_offset() -> None:
    """The second event came last: at 10 it had not come yet for who had read up to offset 2."""
    log = Interactions.of(
        np.zeros(3, dtype=np.int64), np.array([5, 6, 7]), np.array([1, 4, 9]), log_offsets=np.array([1, 3, 2])
    )
    twice, at = np.array([0, 0]), np.array([10, 4])
    assert log.histories(twice, at).items.tolist() == [5, 6, 7, 5, 6]
    assert log.histories(twice, at, np.array([2, 2])).items.tolist() == [5, 7, 5]
    assert log.histories(twice, as_of=np.array([1, 3])).items.tolist() == [5, 5, 6, 7]


def test_held_out_requests_have_the_context_of_their_event(folder: Path) -> None:
    """Ann's last click is f, without context; her last but one, of validation, is d."""
    data = open_data(load(folder))
    assert held_out(data, "test", 5).requests.context["device"].tolist() == [None]
    asked = held_out(data, "valid", 5).requests
    assert asked.context["device"].tolist() == ["5"]
    assert asked.context["tags"].tolist() == [["red", "big"]]


KIND = Schema.parse({"context": {"device": "sparse"}, "tasks": {"click": {"on": "click", "positive": "click"}}})
CATALOGUE = Catalogue(Profiles(np.arange(2), {}), Profiles(np.arange(4), {}))


def three() -> Interactions:
    devices = np.array(["tv", "phone", "tv"], dtype=object)
    times = np.array([1, 2, 3])
    return Interactions.of(np.zeros(3, dtype=np.int64), np.arange(3), times, context={"device": devices})


def assembler(log: Interactions) -> Assembler:
    return Assembler(KIND, Encoders.fit(KIND, CATALOGUE, log.user_keys, log.item_keys, log.context), CATALOGUE, 5)


def test_pairs_ask_with_the_context_of_their_event_and_what_is_known() -> None:
    log, known = three(), object()
    pairs = Pairs(log, assembler(log), known=known)
    asked = pairs.requests(np.array([1, 0]))
    assert asked.context["device"].tolist() == ["tv", "phone"]
    assert asked.known is known
    # two of three events are on a tv: the most frequent value is id 2
    assert pairs.batch(np.array([0, 1])).request["context.device"].tolist() == [3, 2]


def test_copies_of_requests_keep_what_is_known_and_as_of_when() -> None:
    log, known = three(), object()
    users, now = np.zeros(2, dtype=np.int64), np.array([2, 3])
    asked = make(users, now, 3, Ragged.empty(2), KIND, CATALOGUE, known=known, as_of=np.array([11, 12]))
    outcomes = Outcomes.of(log, asked, KIND)
    units = Ranking(asked, Candidates.empty(2), outcomes, assembler(log))
    taken: list[Requests] = [
        units.examples(np.array([1])).requests,
        asked.take(1, 2),
        sample(asked, np.zeros(3, dtype=np.int64), np.zeros(0, dtype=np.int64), np.array([1]))[0],
    ]
    for some in taken:
        assert some.known is known
        assert some.as_of is not None
        assert some.as_of.tolist() == [12]


def test_the_region_is_what_the_request_says_else_the_profiles() -> None:
    kind = Schema.parse({"users": {"region": "sparse"}, "context": {"region": "sparse"}, "region": "region"})
    users = Profiles(np.arange(3), {"region": np.array(["north", "south", None], dtype=object)})
    told = {"region": np.array(["west", None, None], dtype=object)}
    asked = make(
        np.arange(3), np.ones(3, dtype=np.int64), 1, Ragged.empty(3), kind, Catalogue(users, users), context=told
    )
    assert asked.context["region"].tolist() == ["west", "south", None]


def test_propensities_stay_with_their_events_and_are_no_context(tmp_path: Path) -> None:
    rows = [f"ann,y,click,{T + 2},0.5", f"bob,x,click,{T + 1},1", f"ann,x,click,{T},"]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,action,time_ms,chance", *rows]), encoding="utf-8")
    schema = 'action = "action"\npropensity = "chance"\nactions.click = {}\n'
    (tmp_path / "shortlist.toml").write_text(f'[data]\nevents = "events.csv"\n[schema]\n{schema}', encoding="utf-8")
    project = load(tmp_path)
    import_log(project, QUIET, T)
    with contextlib.closing(open_log(project)) as log:
        told: list[Any] = [0.25, 3.0, "x"]
        later = [Event("bob", "z", "click", T + 5 + n, context={"propensity": p}) for n, p in enumerate(told)]
        log.append(later, ["click"], T + 9)
    log_ = interactions(project)
    by_time = np.argsort(log_.times)  # 3 and "x" are no probabilities
    assert log_.propensities is not None
    np.testing.assert_array_equal(log_.propensities[by_time], [np.nan, 1.0, 0.5, 0.25, np.nan, np.nan])
    assert log_.context == {}
    some = log_.where(log_.times == T + 2)
    assert some.propensities is not None
    assert some.propensities.tolist() == [0.5]


def test_without_the_column_there_are_no_propensities(folder: Path) -> None:
    assert interactions(load(folder)).propensities is None
