"""A running server whose store goes away: histories come from the release and the log, and counts when it is back."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tests.serving.world import NOW, World
from tests.store.servers import Server

from shortlist.config import load
from shortlist.errors import DataError
from shortlist.feedback.live import AGAIN_S, Following
from shortlist.feedback.past import Door
from shortlist.serving.engine import Engine
from shortlist.serving.wire import Answer, Event

DOWN = ["failed:store"]
FEATURES = {"feature": [{"name": "clicks", "use": "count", "actions": ["click"], "by": "item", "windows": ["1h"]}]}


class Made(NamedTuple):
    server: Server
    world: World
    engine: Engine


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """An engine over the project's own state in a Redis, as `shortlist serve` has it."""
    server = Server(tmp_path)
    (tmp_path / "shortlist.toml").write_text(f'[serve]\nstore = "{server.url}"\n', encoding="utf-8")
    project, world = load(tmp_path), World(tmp_path / "var")
    world.publish(project=FEATURES)
    engine = world.engine(lambda release: Following(release, world.log, project, follow=True))
    try:
        assert engine.reload(), engine.refused
        yield Made(server, world, engine)
    finally:
        engine.close()
        world.log.close()
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def items(answer: Answer) -> list[str]:
    return [shown.item for shown in answer.items]


def until(ask: Callable[[], bool]) -> None:
    """Wait for what must come to be."""
    end = time.monotonic() + 120
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.01)


def counts(engine: Engine, answer: Answer) -> bool:
    """Whether anything answered for features in this request."""
    record = engine.record(answer.request_id)
    assert record is not None
    return record.slates.requests.known is not None


def test_a_killed_store_costs_counts_and_no_history(made: Made) -> None:
    server, world, engine = made
    before = engine.recommend("ann")
    assert (before.degraded, counts(engine, before)) == ([], True)
    assert items(before) == ["war3", "war4", "war5", "war6", "war7"]  # a fan of war who has seen war0 to war2

    server.kill()
    until(lambda: engine.recommend("ann").degraded == DOWN)
    for _ in range(5):
        down = engine.recommend("ann")
        assert (items(down), down.degraded, counts(engine, down)) == (items(before), DOWN, False)
    # what happens meanwhile counts at once, from the log: war3 is seen, and not shown again
    assert engine.events([Event("ann", "war3", "click", time_ms=NOW - 1)]).accepted == 1
    assert items(engine.recommend("ann")) == ["war4", "war5", "war6", "war7", "war8"]
    stranger = engine.recommend("nobody")
    assert stranger.degraded == ["unknown_user", *DOWN]
    world.log.erase("bob", NOW)
    erased = engine.recommend("bob")
    assert (items(erased), erased.degraded) == (items(stranger), ["unknown_user", *DOWN])
    # people who look may still look
    assert engine.explain("ann", "war1").words != engine.explain("ann", "war9").words
    assert engine.past("ann").history.items.tolist()[-1] == 3

    server.start()
    until(lambda: engine.recommend("ann").degraded == [])
    after = engine.recommend("ann")
    assert (items(after), counts(engine, after)) == (["war4", "war5", "war6", "war7", "war8"], True)


def test_a_store_that_hangs_holds_up_few(made: Made) -> None:
    server, _, engine = made
    before = items(engine.recommend("ann"))
    server.process.send_signal(signal.SIGSTOP)
    until(lambda: engine.recommend("ann", deadline_ms=200.0).degraded == DOWN)
    # from now on one request in a second tries it, and no other waits
    begun = time.monotonic()
    notes = [engine.recommend("ann", deadline_ms=2000.0).degraded for _ in range(50)]
    tried = sum(DOWN[0] not in told for told in notes)
    assert tried <= 1 + (time.monotonic() - begun) / AGAIN_S
    assert tried < 50
    server.process.send_signal(signal.SIGCONT)
    until(lambda: engine.recommend("ann").degraded == [])
    assert items(engine.recommend("ann")) == before


def test_a_release_that_comes_while_the_store_is_down_is_opened_when_it_is_back(made: Made) -> None:
    server, world, engine = made
    server.kill()
    world.now += 1000
    name = world.publish("second", FEATURES)
    assert not engine.reload()
    assert not engine.reload()
    refused = engine.refused
    assert refused is not None
    assert refused.release == name
    assert refused.what.startswith(f"store: cannot reach {server.url}: ")
    server.start()
    until(engine.reload)
    assert engine.live.id == name
    assert engine.recommend("ann").degraded == []


def test_after_a_failure_one_caller_tries_and_the_others_are_told() -> None:
    door = Door(again_s=3600.0)
    with pytest.raises(DataError, match="down"), door.tried():
        raise DataError("down", where="here", hint="start it")
    for _ in range(3):
        with pytest.raises(DataError) as caught, door.tried():
            raise AssertionError("nobody comes in")
        assert (caught.value.what, caught.value.where, caught.value.hint) == ("down", "here", "start it")

    door = Door(again_s=0.0)
    with pytest.raises(DataError), door.tried():
        raise DataError("down", where="here", hint="start it")
    with door.tried(), pytest.raises(DataError), door.tried():  # one is trying: another is told at once
        raise AssertionError("nobody comes in")
    with door.tried(), door.tried():  # it went well: everybody may
        pass
    with pytest.raises(ValueError, match="odd"), door.tried():  # not that it was down
        raise ValueError("odd")
    with door.tried():
        pass


def test_histories_without_a_store_are_those_with_one(tmp_path: Path) -> None:
    (tmp_path / "shortlist.toml").write_text('[serve]\nstore = "memory:"\n', encoding="utf-8")
    world = World(tmp_path / "var")
    name = world.publish()
    following = Following(world.releases.load(name), world.log, load(tmp_path), follow=False)
    engine = world.engine(lambda release: following)
    assert engine.reload(), engine.refused
    rows = [("ann", "love9", "click"), ("dot", "war9", "impression"), ("ann", "war8", "like")]
    engine.events([Event(user, item, action, time_ms=NOW - 10 + n) for n, (user, item, action) in enumerate(rows)])
    users, moments = np.array([3, -1, 0, 6, 0]), np.array([NOW, NOW, NOW, NOW, NOW - 9])
    stored, past = following(users, moments), following.past(users, moments)
    for one, other in ((stored.history, past.history), (stored.shown, past.shown)):
        for column in ("offsets", "items", "times", "actions"):
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    # ann: war0, war1, war2 of the release, then love9 and war8; at the earlier moment war8 had not happened
    assert past.history.items.tolist() == [10, 11, 12, 0, 1, 2, 19, 8, 0, 1, 2, 19]
    assert past.shown.items.tolist() == [9]
    assert (stored.offset, past.offset) == (24, 24)
    engine.close()
    world.log.close()
