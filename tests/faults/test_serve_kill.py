"""kill -9 of `shortlist serve` while events stream in: what it acknowledged is there when it is started again, once."""

import http.client
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from tests.serving.process import call, serve
from tests.serving.world import NOW, USERS, World

from shortlist.events.log import EventLog

ROUNDS, CLIENTS, SIZE = 4, 3, 5


class Client(threading.Thread):
    """Sends batches one after the other until the server is gone; `acknowledged` are the ids of those it took."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self.url = url
        self.label = name
        self.sent = 0
        self.acknowledged: list[str] = []

    def batch(self, n: int) -> list[dict[str, str]]:
        return [
            {"user": USERS[(n + k) % 6], "item": f"new {self.label} {n % 7}", "action": "click",
             "event_id": f"{self.label}-{n}-{k}"}
            for k in range(SIZE)
        ]  # fmt: skip

    def run(self) -> None:
        while True:
            events = self.batch(self.sent)
            self.sent += 1
            try:
                receipt = call(f"{self.url}/v1/events", {"events": events})
            except (OSError, http.client.HTTPException, ValueError):
                return
            assert receipt["accepted"] == SIZE
            self.acknowledged += [event["event_id"] for event in events]


def test_what_a_killed_server_acknowledged_is_there_when_it_is_back(tmp_path: Path) -> None:
    world = World(tmp_path / "var")
    world.publish()
    world.log.close()
    (tmp_path / "shortlist.toml").write_text("[serve]\ndeadline_ms = 60000.0\n", encoding="utf-8")
    dice = np.random.default_rng(4)
    acknowledged: set[str] = set()
    clients: list[Client] = []
    for number in range(ROUNDS):
        process, url = serve(tmp_path)
        try:
            clients = [Client(url, f"{number}.{n}") for n in range(CLIENTS)]
            for client in clients:
                client.start()
            until = time.monotonic() + 120
            while not all(len(client.acknowledged) > 10 for client in clients):
                assert time.monotonic() < until
                call(f"{url}/v1/recommend", {"user": "ann"})
            time.sleep(float(dice.uniform(0, 0.1)))
            last = {"user": "idle", "item": f"love{number}", "action": "click", "time_ms": NOW + number}
            call(f"{url}/v1/events", {"events": [{**last, "event_id": f"idle-{number}"}]})
        finally:
            process.kill()
            process.communicate()
        for client in clients:
            client.join()
        acknowledged |= {event for client in clients for event in client.acknowledged}
        with closing(EventLog(tmp_path / "var" / "log.db")) as log:
            ids = log.read(0, 1_000_000)["event_id"].to_list()
            assert len(set(ids)) == len(ids)
            assert acknowledged <= set(ids)
            # at most the one batch of each client whose answer was under way, and that whole
            assert f"idle-{number}" in ids
            under_way = {event for event in ids if not event.startswith("idle")} - acknowledged
            batches = [event.rpartition("-")[0] for event in under_way]
            assert all(batches.count(name) == SIZE for name in batches)
            assert len(under_way) <= SIZE * CLIENTS * (number + 1)
            assert log.database.writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    process, url = serve(tmp_path)
    try:
        # clients send again what they know nothing of: nothing is applied twice
        again = clients[0].batch(clients[0].sent - 1)
        receipt = call(f"{url}/v1/events", {"events": again})
        assert receipt["accepted"] + receipt["duplicates"] == SIZE
        assert call(f"{url}/v1/events", {"events": again})["duplicates"] == SIZE
        # and what was acknowledged a moment before each kill counts: love0 to love3 were seen, love4 is near
        shown = call(f"{url}/v1/recommend", {"user": "idle", "n": 8})
        assert shown["degraded"] == []
        items = [one["item"] for one in shown["items"]]
        assert items[0] == "love4"
        assert not {f"love{number}" for number in range(ROUNDS)} & set(items)
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 0
