"""The engine without HTTP, on the world whose answers are visible."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.world import HOUR_MS, ITEMS, NOW, USERS, World, serving
from tests.waiting import until

from shortlist.errors import RequestError
from shortlist.serving.engine import Engine
from shortlist.serving.refusals import NotFoundError, NotReadyError
from shortlist.serving.watch import watch
from shortlist.serving.wire import Answer, Event, SessionEvent


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[World, Engine]]:
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def engine(made: tuple[World, Engine]) -> Engine:
    return made[1]


def items(answer: Answer) -> list[str]:
    return [shown.item for shown in answer.items]


def click(user: str, item: str, event_id: str | None = None, time_ms: int | None = None) -> Event:
    return Event(user=user, item=item, action="click", event_id=event_id, time_ms=time_ms)


def test_a_fan_of_war_gets_more_war_and_the_reasons(engine: Engine) -> None:
    # ann clicked war0, war1, war2. similar scores war3 1/4 + 1/3 + 1/2, and less the farther; popular agrees with it.
    answer = engine.recommend("ann")
    assert items(answer) == ["war3", "war4", "war5", "war6", "war7"]
    first = answer.items[0]
    assert [(b.channel, b.rank) for b in first.channels] == [("similar", 1), ("popular", 1)]
    assert first.channels[0].score == pytest.approx(1 / 4 + 1 / 3 + 1 / 2)
    assert first.reasons == ["because of War part 2", "popular"]
    assert (first.title, first.fields) == ("War part 3", {"genres": ["War"], "year": 1993.0})
    assert (answer.degraded, answer.scene, answer.experiments) == ([], "home", {})


def test_an_unknown_user_gets_the_hot_list_and_is_told(engine: Engine) -> None:
    answer = engine.recommend("nobody")
    assert items(answer) == ["war0", "war1", "war2", "war3", "war4"]
    assert answer.degraded == ["unknown_user"]
    assert answer.items[0].image == "https://example.org/a.png"


def test_a_user_without_history_gets_the_hot_list(engine: Engine) -> None:
    answer = engine.recommend("idle")
    assert (items(answer), answer.degraded) == (["war0", "war1", "war2", "war3", "war4"], [])


def test_a_click_counts_in_the_next_request(engine: Engine) -> None:
    before = items(engine.recommend("ann"))
    receipt = engine.events([click("ann", "love9")])
    assert (receipt.accepted, receipt.duplicates, receipt.refused) == (1, 0, [])
    after = engine.recommend("ann", 8)
    assert "love8" in items(after)
    assert "love8" not in before
    reasons = {shown.item: shown.reasons for shown in after.items}
    assert reasons["love8"] == ["because of Love part 9"]


def test_a_stranger_becomes_known_by_the_first_click(engine: Engine) -> None:
    assert engine.recommend("newcomer").degraded == ["unknown_user"]
    engine.events([click("newcomer", "love5")])
    answer = engine.recommend("newcomer")
    assert answer.degraded == []
    assert {"love4", "love6"} <= set(items(answer))
    assert "love5" not in items(answer)


def test_an_impression_is_no_interest(engine: Engine) -> None:
    before = items(engine.recommend("ann"))
    engine.events([Event(user="ann", item="love9", action="impression")])
    assert items(engine.recommend("ann")) == before
    assert engine.past("ann").shown.items.tolist() == [ITEMS.index("love9")]


def test_a_replayed_event_id_changes_nothing(engine: Engine) -> None:
    assert engine.events([click("ann", "love9", "one")]).accepted == 1
    again = engine.events([click("ann", "war9", "one"), click("ann", "love9", "two"), click("ann", "love9", "two")])
    assert (again.accepted, again.duplicates) == (1, 2)
    history = engine.past("ann").history.items.tolist()
    assert history.count(ITEMS.index("love9")) == 2
    assert ITEMS.index("war9") not in history


def test_bad_events_are_refused_one_by_one(engine: Engine) -> None:
    batch: list[Event | str] = [
        click("ann", "war9"),
        Event(user="ann", item="war9", action="clik"),
        click("", "war9"),
        "unreadable",
        click("ann", "war9", time_ms=NOW + HOUR_MS),
    ]
    receipt = engine.events(batch)
    assert receipt.accepted == 1
    assert [(refused.index, refused.reason) for refused in receipt.refused] == [
        (1, "unknown action 'clik': did you mean click?"),
        (2, "user id is empty"),
        (3, "unreadable"),
        (4, f"time_ms is in the future: {NOW + HOUR_MS}, at most {NOW + 300_000} is taken"),
    ]


def test_session_events_count_once_and_are_not_kept(engine: Engine) -> None:
    session = [SessionEvent(item="love9"), SessionEvent(item="not there")]
    assert "love8" in items(engine.recommend("ann", 8, session=session))
    assert "love8" not in items(engine.recommend("ann", 8))


def test_a_session_is_ordered_with_the_history_by_time(engine: Engine) -> None:
    # the history's clicks are 10, 9 and 8 hours old; the session's second event lies between them
    session = [SessionEvent(item="love1", time_ms=NOW), SessionEvent(item="love0", time_ms=NOW - 9 * HOUR_MS - 1)]
    answer = engine.recommend("ann", session=session)
    record = engine.record(answer.request_id)
    assert record is not None
    names = [ITEMS[key] for key in record.slates.requests.history.items]
    assert names == ["war0", "love0", "war1", "war2", "love1"]


def test_n_beyond_the_catalogue_gives_all_there_is(engine: Engine) -> None:
    # 28 items, 3 of them seen
    answer = engine.recommend("ann", 500)
    assert len(answer.items) == 25
    assert len(set(items(answer))) == 25
    assert answer.degraded == ["backfill"]
    assert answer.items[-1].reasons == ["popular, to fill the page"]


def test_everything_filtered_is_an_empty_page(engine: Engine) -> None:
    answer = engine.recommend("ann", filter="year > 3000")
    assert (answer.items, answer.degraded) == ([], [])


def test_a_filter_keeps_what_fits(engine: Engine) -> None:
    answer = engine.recommend("ann", 50, filter='genres in ["Love"] and year < 2004')
    assert sorted(items(answer)) == ["love0", "love1", "love2", "love3"]  # years 2000 .. 2003


def test_excluded_items_stay_out(engine: Engine) -> None:
    answer = engine.recommend("ann", exclude=["war3", "never heard of"])
    assert items(answer) == ["war4", "war5", "war6", "war7", "war8"]


def test_odd_ids_live_a_normal_life(engine: Engine) -> None:
    user = USERS[-1]
    answer = engine.recommend(user, 28)
    assert {"日本 ü", "q\"uo'te", "5", "%2F..", " "} <= set(items(answer))
    assert "a/b?c#d" not in items(answer)  # clicked
    told = engine.explain(user, "line\nbreak")  # popular brings six others, and it was clicked
    assert (told.fate, told.filters["seen"]) == ("not_recalled", False)
    assert "The filter 'seen' would drop it as well: the user has seen it already." in told.words
    assert engine.recommend(user, 28, exclude=[5]).items != answer.items


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": 0}, "n: n is 0 (ask for 1 to 500 items)"),
        ({"n": 501}, "n: n is 501 (ask for 1 to 500 items)"),
        ({"scene": "hone"}, "scene: no scene is called 'hone' (did you mean home?)"),
        ({"user": ""}, "user: an id has 1 to 256 bytes, this one 0 (send one)"),
        ({"user": "ü" * 129}, "user: an id has 1 to 256 bytes, this one 258 (shorten or hash it)"),
        ({"exclude": ["a", "x" * 257]}, "exclude[1]: an id has 1 to 256 bytes, this one 257 (shorten or hash it)"),
        ({"context": {"regio": "x"}}, "context: unknown context 'regio' (did you mean region?)"),
        ({"filter": "year"}, "filter: 'year' is a value, not a condition (write a condition, e.g. price < 30)"),
        ({"filter": "year - 1"}, "filter: 'year - 1' is a value, not a condition (write a condition, e.g. price < 30)"),
        ({"filter": "yaer > 3"}, "filter: unknown column 'yaer' (did you mean year?)"),
        ({"filter": "title > 3"}, "filter: these types do not compare (compare text with text, numbers with numbers)"),
        (
            {"session": [SessionEvent(item="war1", action="lik")]},
            "session[0].action: unknown action 'lik' (did you mean like?)",
        ),
        (
            {"session": [SessionEvent(item="war1", time_ms=-1)]},
            "session[0].time_ms: time_ms is negative: -1 (send UTC milliseconds, or leave it out)",
        ),
    ],
)
def test_wrong_requests_say_what_where_and_next(engine: Engine, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        engine.recommend(**{"user": "ann", **asked})
    assert str(caught.value) == message


def test_trace_says_what_was_shown(engine: Engine) -> None:
    answer = engine.recommend("ann", debug=True)
    trace = engine.trace(answer.request_id)
    assert trace.served == items(answer)
    assert trace.funnel is not None
    assert answer.trace == trace.funnel
    rows = trace.funnel["candidates"]
    shown = {item: place for item, place in zip(rows["item"], rows["position"], strict=True) if place}
    assert sorted(shown, key=shown.__getitem__) == items(answer)
    fates = dict(zip(rows["item"], rows["fate"], strict=True))
    assert fates["war0"] == "seen"
    assert trace.funnel["counts"]["recalled"] == len(fates)


def test_explain_agrees_with_the_page(engine: Engine) -> None:
    answer = engine.recommend("ann")
    for request_id in (None, answer.request_id):
        for place, shown in enumerate(answer.items, start=1):
            told = engine.explain("ann", shown.item, request_id=request_id)
            assert (told.fate, told.position) == ("selected", place)
            assert told.words[0] == f"It is on the page, at place {place} of 5."


def test_explain_says_why_not(engine: Engine) -> None:
    seen = engine.explain("ann", "war1")
    assert (seen.fate, seen.stage, seen.filters["seen"]) == ("seen", "filter", False)
    assert seen.words[0] == "The filter 'seen' dropped it: the user has seen it already."
    # popular counts eligible items only: war3 .. war8 are its quota of 6, love0 is its 8th
    lost = engine.explain("ann", "love0")
    assert (lost.fate, lost.stage) == ("not_recalled", "recall")
    assert lost.words == [
        "No channel brought it.",
        "similar does not know it for this user.",
        "popular ranks it 8, outside its quota of 6.",
        "What would change this: rank 6 or better in popular (now 8).",
    ]


def test_explain_of_an_old_request_is_of_then(engine: Engine) -> None:
    then = engine.recommend("ann")
    engine.events([click("ann", "war3")])
    assert engine.explain("ann", "war3", request_id=then.request_id).position == 1
    assert engine.explain("ann", "war3").fate == "seen"
    with pytest.raises(RequestError, match="this request was of another user"):
        engine.explain("bob", "war3", request_id=then.request_id)


def test_the_ring_of_traces_is_bounded_and_the_log_remembers(tmp_path: Path) -> None:
    with serving(tmp_path, traces=2) as (world, engine):
        first, *_ = [engine.recommend("ann") for _ in range(3)]
        assert engine.record(first.request_id) is None
        engine.flush()
        old = engine.trace(first.request_id)
        assert (old.funnel, old.served, old.release) == (None, items(first), first.release)
        with pytest.raises(NotFoundError, match="no request is called 'x'"):
            engine.trace("x")
        served = world.log.served(first.request_id)
        assert served is not None
        assert (served.user, served.time_ms) == ("ann", NOW)


def test_a_served_slate_carries_the_offset_it_was_decided_at(made: tuple[World, Engine]) -> None:
    world, engine = made
    engine.events([click("ann", "love9")])
    answer = engine.recommend("ann")
    engine.flush()
    served = world.log.served(answer.request_id)
    assert served is not None
    assert '"as_of_offset":22' in served.body  # 21 imported events, then this one


def test_a_preview_leaves_no_mark(made: tuple[World, Engine]) -> None:
    world, engine = made
    answer = engine.recommend("ann", preview=True)
    engine.flush()
    assert world.log.served(answer.request_id) is None
    assert engine.meters.slates == 0
    assert engine.trace(answer.request_id).served == items(answer)


def test_similar_items(engine: Engine) -> None:
    # of war3: war2 and war4 at 1/2, ties by key, then war1 and war5 at 1/3
    found = engine.similar(["war3"], 3)
    assert [(row.item, row.score) for row in found.items] == [
        ("war2", 0.5),
        ("war4", 0.5),
        ("war1", pytest.approx(1 / 3)),
    ]
    both = engine.similar(["war3", "what?"], 1)
    assert (both.items[0].item, both.unknown) == ("war2", ["what?"])
    with pytest.raises(NotFoundError, match="no item-to-item channel is called 'popular'"):
        engine.similar(["war3"], channel="popular")


def test_a_channel_alone(engine: Engine) -> None:
    found = engine.channel("popular", "ann", 2)
    assert [(row.item, row.rank, row.filtered) for row in found.items] == [
        ("war0", 1, "seen"), ("war1", 1, "seen"), ("war2", 1, "seen"), ("war3", 1, None), ("war4", 2, None),
    ]  # fmt: skip
    with pytest.raises(NotFoundError) as caught:
        engine.channel("popula", "ann")
    assert str(caught.value) == "channel: no channel is called 'popula' (did you mean popular?)"
    with pytest.raises(NotFoundError, match="scene 'plain' has no channel 'similar'"):
        engine.channel("similar", "ann", scene="plain")


def test_channels_are_listed(engine: Engine) -> None:
    rows = {row.name: row for row in engine.channels().channels}
    assert rows["similar"].item_to_item
    assert not rows["popular"].item_to_item
    assert (rows["popular"].scenes, rows["similar"].scenes) == (["home", "plain"], ["home"])


def test_experiments_choose_the_scene(tmp_path: Path) -> None:
    arms = {"a": {"scene": "home", "share": 0.5}, "b": {"scene": "plain", "share": 0.5}}
    with serving(tmp_path, {"experiment": [{"name": "shorter", "arms": arms}]}) as (_, engine):
        answers = {user: engine.recommend(user) for user in USERS}
        for answer in answers.values():
            assert answer.scene == arms[answer.experiments["shorter"]]["scene"]
            assert len(answer.items) == {"home": 5, "plain": 3}[answer.scene]
        assert {answer.scene for answer in answers.values()} == {"home", "plain"}
        assert {u: engine.recommend(u).scene for u in USERS} == {u: a.scene for u, a in answers.items()}
        asked = engine.recommend("ann", scene="home")
        assert (asked.scene, asked.experiments) == ("home", {})


def test_the_held_out_get_the_first_scene(tmp_path: Path) -> None:
    arms = {"b": {"scene": "plain", "share": 0.0}}
    with serving(tmp_path, {"experiment": [{"name": "off", "arms": arms}]}) as (_, engine):
        answer = engine.recommend("ann")
        assert (answer.scene, answer.experiments) == ("home", {"off": "held_out"})


def test_a_new_release_is_switched_to_and_old_traces_stay_readable(made: tuple[World, Engine]) -> None:
    world, engine = made
    before = engine.recommend("ann")
    old = engine.live
    world.now += 1000
    name = world.publish("second")
    assert engine.reload()
    assert (engine.live.id, engine.refused) == (name, None)
    assert old.users.closed  # type: ignore[attr-defined]
    assert engine.recommend("ann").release == name
    assert engine.trace(before.request_id).release == old.id
    assert not engine.reload()


def test_a_published_release_is_noticed(made: tuple[World, Engine]) -> None:
    world, engine = made
    with watch(engine, every_s=0.01):
        world.now += 1000
        name = world.publish("noticed")
        until(lambda: engine.live.id == name)
    assert engine.live.id == name


def test_before_the_first_release_the_engine_is_not_ready(tmp_path: Path) -> None:
    world = World(tmp_path)
    engine = world.engine()
    try:
        assert not engine.reload()
        with pytest.raises(NotReadyError) as caught:
            engine.recommend("ann")
        assert caught.value.what == "no release is loaded yet"
    finally:
        engine.close()
        world.log.close()


def test_region_is_named_only_where_a_list_of_its_own_was_used(tmp_path: Path) -> None:
    from shortlist.forms import Lists

    keys = np.arange(28)
    by_region = Lists.ranked(
        np.repeat([0, 1], 28), np.tile(keys, 2), np.concatenate([100.0 - keys, 50.0 + keys]).astype(np.float32),
        labels=("global", "region:north"),
    )  # fmt: skip
    world = World(tmp_path)
    world.publish(popular=by_region)
    engine = world.engine()
    try:
        assert engine.reload(), engine.refused
        assert engine.recommend("ann", scene="plain").items[0].reasons == ["popular in north"]
        assert engine.recommend("dot", scene="plain").items[0].reasons == ["popular"]
        moved = engine.recommend("dot", scene="plain", context={"region": "north"})
        assert moved.items[0].reasons == ["popular in north"]
        assert items(moved)[0] == ITEMS[27]
    finally:
        engine.close()
        world.log.close()
