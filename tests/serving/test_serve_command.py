"""`shortlist serve`, `recommend` and `explain` as a person runs them: in processes of their own."""

import json
import signal
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from tests.serving.process import call, ran, serve
from tests.serving.world import World

from shortlist.artifact import Releases
from shortlist.config import load
from shortlist.events.log import EventLog
from shortlist.feedback.live import states


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose release was published by hand."""
    world = World(tmp_path / "var")
    world.publish()
    world.log.close()
    (tmp_path / "shortlist.toml").write_text("[serve]\ndeadline_ms = 60000.0\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_url_answers_and_ends_in_order(project: Path, sign: signal.Signals) -> None:
    process, url = serve(project)
    try:
        assert call(f"{url}/health/ready")["status"] == "ready"
        first = call(f"{url}/v1/recommend", {"user": "ann", "session": [{"item": "war0"}]})
        assert first["items"][0]["item"].startswith("war")
        event = {"user": "newcomer", "item": "love5", "action": "click", "event_id": "once"}
        assert call(f"{url}/v1/events", {"events": [event]})["accepted"] == 1
        assert call(f"{url}/v1/recommend", {"user": "newcomer"})["items"][0]["item"] in ("love4", "love6", "war0")
        with urllib.request.urlopen(f"{url}/request?user=newcomer", timeout=120) as page:
            assert b"because of Love part 5" in page.read()
        process.send_signal(sign)
        out, talk = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    assert "no SHORTLIST_API_KEY: this machine alone may connect, without a key" in talk
    assert talk.rstrip().endswith("stopped")
    assert "Traceback" not in talk
    # what was acknowledged and what was served is on disk
    with closing(EventLog(project / "var" / "log.db")) as log:
        assert log.read(0, 10)["event_id"].to_list() == ["once"]
        assert log.served(first["request_id"]) is not None


def stands(project: Path) -> tuple[int, int]:
    """The offsets of the store and of the log."""
    opened = load(project)
    store = states(opened, Releases(opened.home / "releases").load(), write=False)
    with closing(store.blobs), closing(EventLog(opened.home / "log.db")) as log:
        return store.offset, log.last_offset


def level(project: Path) -> None:
    """Wait until the store has everything."""
    end = time.monotonic() + 120
    while len(set(stands(project))) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_of_two_servers_writes_the_store_and_the_other_takes_over(project: Path) -> None:
    def click(url: str, item: str) -> None:
        event = {"user": "newcomer", "item": item, "action": "click"}
        assert call(f"{url}/v1/events", {"events": [event]})["accepted"] == 1

    def near(url: str) -> list[str]:
        answer = call(f"{url}/v1/recommend", {"user": "newcomer", "n": 4})
        assert answer["degraded"] == []
        return [shown["item"] for shown in answer["items"]]

    first, one = serve(project)
    try:
        second, other = serve(project)
        try:
            click(one, "love5")
            shown = near(one)
            assert {"love4", "love6"} <= set(shown)
            assert near(other) == shown  # whoever was told
            level(project)
            assert stands(project) == (22, 22)
            # nobody else may write it
            status, _, talk = ran("follow", "--once", "--project", str(project))
            assert status == 2
            assert f"error: another process writes this store (process {first.pid})" in talk
            first.kill()
            first.communicate()
            click(other, "war5")
            level(project)
            assert stands(project) == (23, 23)
            shown = near(other)
        finally:
            second.terminate()
            second.communicate(timeout=120)
    finally:
        first.kill()
        first.communicate()
    # who starts later finds the state there, and so does who asks without a server
    status, out, _ = ran("recommend", "newcomer", "--project", str(project), "-n", "4", "--json")
    assert [shown["item"] for shown in json.loads(out)["items"]] == shown
    third, one = serve(project)
    try:
        assert near(one) == shown
        assert stands(project) == (23, 23)
    finally:
        third.terminate()
        third.communicate(timeout=120)


def test_other_hosts_are_refused_without_a_key(project: Path) -> None:
    status, out, talk = ran("serve", "--project", str(project), "--host", "0.0.0.0", "--port", "0")
    assert (status, out) == (2, "")
    assert "error: '0.0.0.0' can be reached from other machines, and no API key is set" in talk
    assert "next: set SHORTLIST_API_KEY, or serve on 127.0.0.1" in talk


def test_a_project_without_a_release_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "shortlist.toml").write_text("", encoding="utf-8")
    status, out, talk = ran("serve", "--project", str(tmp_path), "--port", "0")
    assert (status, out) == (2, "")
    assert "error: no release is published yet" in talk
    assert "next: run `shortlist publish`" in talk


def test_recommend_and_explain_print_data_on_stdout(project: Path) -> None:
    status, out, _ = ran("recommend", "nobody", "--project", str(project), "-n", "2")
    assert (status, out) == (0, "  1  war0  War part 0  (popular)\n  2  war1  War part 1  (popular)\n")
    status, out, _ = ran("recommend", "ann", "--project", str(project), "--json", "--exclude", "war3")
    assert (status, json.loads(out)["items"][0]["item"]) == (0, "war4")
    status, out, _ = ran("explain", "ann", "war1", "--project", str(project))
    assert (status, out.splitlines()[0]) == (0, "The filter 'seen' dropped it: the user has seen it already.")
    status, out, talk = ran("explain", "ann", "war77", "--project", str(project), "--json")
    assert (status, out) == (2, "")
    assert "knows no item 'war77'" in talk
