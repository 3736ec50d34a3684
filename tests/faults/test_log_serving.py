"""The log under a running server: a full disk refuses events while slates go on, an erased user is a stranger."""

import sqlite3
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from tests.serving.world import serving

from shortlist.events.log import EventLog
from shortlist.serving.http import application


def fill(log: EventLog, pages: int) -> None:
    """From now on the file may grow by so many pages only, as on a full disk."""
    used = log.database.writer.execute("PRAGMA page_count").fetchone()[0]
    log.database.writer.execute(f"PRAGMA max_page_count = {used + pages}")


def batch(n: int) -> dict[str, Any]:
    context = {"pad": "x" * 500}
    events = [
        {"user": f"new {n} {k}", "item": "war9", "action": "click", "event_id": f"{n}-{k}", "context": context}
        for k in range(20)
    ]
    return {"events": events}


def test_a_full_disk_answers_503_and_slates_go_on(tmp_path: Path) -> None:
    with serving(tmp_path) as (world, engine), TestClient(application(engine), "http://127.0.0.1") as client:
        fill(world.log, 32)
        taken = []
        for n in range(100):
            answer = client.post("/v1/events", json=batch(n))
            if answer.status_code != 202:
                break
            taken.append(n)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == ("data", "the disk is full; nothing of this batch was kept")
        assert (error["where"], error["hint"]) == (str(world.log.path), "free some space, then send it again")
        assert taken
        # all or nothing, and what was acknowledged is there
        ids = world.log.read(0, 10_000)["event_id"].to_list()
        assert ids == [f"{n}-{k}" for n in taken for k in range(20)]

        for _ in range(3):  # served, though it may be that they are not logged
            slate = client.post("/v1/recommend", json={"user": "ann"})
            assert slate.status_code == 200
            assert len(slate.json()["items"]) == 5
        assert client.get("/health/ready").status_code == 200

        fill(world.log, 40_000)
        again = client.post("/v1/events", json=batch(len(taken)))
        assert (again.status_code, again.json()["accepted"]) == (202, 20)
        assert client.post("/v1/events", json=batch(0)).json()["duplicates"] == 20
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == 20 * (len(taken) + 1)


def test_an_erased_user_is_a_stranger_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as (world, engine):
        before = [shown.item for shown in engine.recommend("ann").items]
        stranger = [shown.item for shown in engine.recommend("nobody ever").items]
        assert before != stranger
        engine.flush()
        request = engine.recommend("ann").request_id
        engine.flush()
        assert world.log.served(request) is not None
        world.now += 10
        world.log.erase("ann", world.now)
        assert [shown.item for shown in engine.recommend("ann").items] == stranger
        engine.flush()
        assert world.log.served(request) is None
        # the release still knows the id: another server can open it all the same
        other = world.engine()
        assert other.reload(), other.refused
        assert [shown.item for shown in other.recommend("ann").items] == stranger
        other.close()
