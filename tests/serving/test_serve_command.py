"""`shortlist serve`, `recommend` and `explain` as a person runs them: in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.serving.world import World

from shortlist.events.log import EventLog

CODE = "import sys; from shortlist.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose release was published by hand."""
    world = World(tmp_path / "var")
    world.publish()
    world.log.close()
    (tmp_path / "shortlist.toml").write_text("[serve]\ndeadline_ms = 5000.0\n", encoding="utf-8")
    return tmp_path


def command(*words: str, **environment: str) -> subprocess.Popen[str]:
    keep = {name: value for name, value in os.environ.items() if name != "SHORTLIST_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        env={**keep, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ran(*words: str, **environment: str) -> tuple[int, str, str]:
    process = command(*words, **environment)
    out, talk = process.communicate(timeout=60)
    return process.returncode, out, talk


def call(url: str, body: Any = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_url_answers_and_ends_in_order(project: Path, sign: signal.Signals) -> None:
    process = command("serve", "--project", str(project), "--port", "0", "--json")
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert call(f"{url}/health/ready")["status"] == "ready"
        first = call(f"{url}/v1/recommend", {"user": "ann", "session": [{"item": "war0"}]})
        assert first["items"][0]["item"].startswith("war")
        event = {"user": "newcomer", "item": "love5", "action": "click", "event_id": "once"}
        assert call(f"{url}/v1/events", {"events": [event]})["accepted"] == 1
        assert call(f"{url}/v1/recommend", {"user": "newcomer"})["items"][0]["item"] in ("love4", "love6", "war0")
        with urllib.request.urlopen(f"{url}/request?user=newcomer", timeout=20) as page:
            assert b"because of Love part 5" in page.read()
        process.send_signal(sign)
        out, talk = process.communicate(timeout=30)
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
