"""The API over HTTP: shapes, statuses, limits, ids, and who may come in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient
from tests.serving.world import ITEMS, USERS, World, serving

from shortlist.errors import ConfigError, ShortlistError
from shortlist.serving import openapi
from shortlist.serving.engine import Engine
from shortlist.serving.http import application, check_host

HERE = "http://127.0.0.1"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[World, Engine, TestClient]]:
    with (
        serving(tmp_path, max_body_bytes=2000, max_batch=20) as (world, engine),
        TestClient(application(engine), HERE, raise_server_exceptions=False) as client,
    ):
        yield world, engine, client


@pytest.fixture
def client(made: tuple[World, Engine, TestClient]) -> TestClient:
    return made[2]


def shown(answer: Any) -> list[str]:
    return [item["item"] for item in answer.json()["items"]]


def test_recommend(client: TestClient) -> None:
    answer = client.post("/v1/recommend", json={"user": "ann", "n": 2, "debug": True})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {
        "request_id", "user", "scene", "items", "release", "experiments", "degraded", "took_ms", "trace",
    }  # fmt: skip
    assert body["items"][0] == {
        "item": "war3",
        "score": body["items"][0]["score"],
        "tasks": {},
        "channels": [
            {"channel": "similar", "rank": 1, "score": pytest.approx(13 / 12)},
            {"channel": "popular", "rank": 1, "score": 97.0},
        ],
        "reasons": ["because of War part 2", "popular"],
        "title": "War part 3",
        "image": None,
        "fields": {"genres": ["War"], "year": 1993.0},
    }
    assert body["trace"]["counts"]["selected"] == 2


def test_get_takes_the_same_as_parameters(client: TestClient) -> None:
    got = client.get("/v1/recommend/ann?n=3&exclude=war3&exclude=war4&filter=year%20%3E%201990&scene=home")
    posted = client.post(
        "/v1/recommend",
        json={"user": "ann", "n": 3, "exclude": ["war3", "war4"], "filter": "year > 1990", "scene": "home"},
    )
    assert shown(got) == shown(posted) == ["war5", "war6", "war7"]
    assert client.get("/v1/recommend/ann?context.region=south").status_code == 200


@pytest.mark.parametrize("user", [*USERS, "/", "../x", "a%2Fb", "😀", "x" * 256])
def test_ids_travel_percent_encoded(client: TestClient, user: str) -> None:
    answer = client.get(f"/v1/recommend/{quote(user, safe='')}")
    assert answer.status_code == 200
    assert answer.json()["user"] == user
    assert answer.json()["degraded"] == ([] if user in USERS else ["unknown_user"])


def test_a_number_is_the_id_of_its_digits(client: TestClient) -> None:
    answer = client.post("/v1/recommend", json={"user": 5, "n": 28, "exclude": [5]})
    assert answer.json()["user"] == "5"
    assert "5" not in shown(answer)
    assert set(shown(answer)) == set(ITEMS) - {"5"}


def test_a_posted_click_changes_the_next_answer(client: TestClient) -> None:
    before = shown(client.get("/v1/recommend/ann"))
    told = client.post("/v1/events", json={"events": [{"user": "ann", "item": before[0], "action": "click"}]})
    assert (told.status_code, told.json()) == (202, {"accepted": 1, "duplicates": 0, "refused": []})
    assert before[0] not in shown(client.get("/v1/recommend/ann"))


def test_events_are_taken_one_by_one(made: tuple[World, Engine, TestClient]) -> None:
    world, _, client = made
    good = {"user": "ann", "item": "war9", "action": "click", "event_id": "e1"}
    batch = [good, {**good, "user": 1.5}, {**good, "actoin": "click"}, {"user": "ann"}, good, {**good, "event_id": ""}]
    answer = client.post("/v1/events", json={"events": batch})
    assert answer.status_code == 202
    assert answer.json() == {
        "accepted": 1,
        "duplicates": 1,
        "refused": [
            {"index": 1, "reason": "user: expected `int | str`, got `float` (see /docs for what this call takes)"},
            {"index": 2, "reason": "unknown key 'actoin' (did you mean action?)"},
            {"index": 3, "reason": "'item' is missing (add 'item')"},
            {"index": 5, "reason": "event_id is empty"},
        ],
    }
    assert world.log.read(0, 10)["event_id"].to_list() == ["e1"]  # on disk, once


def test_a_batch_without_a_good_event_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/events", json={"events": [{"user": "ann", "item": "war9", "action": "x"}]})
    assert answer.status_code == 422
    assert answer.json() == {
        "error": {
            "code": "request",
            "message": "no event of the batch was accepted",
            "where": "events[0]",
            "hint": "unknown action 'x': known: click, impression, like",
        },
        "refused": [{"index": 0, "reason": "unknown action 'x': known: click, impression, like"}],
    }


def test_explain_trace_similar_channels_releases(client: TestClient) -> None:
    answer = client.get("/v1/recommend/ann").json()
    told = client.post("/v1/explain", json={"user": "ann", "item": "war4", "request_id": answer["request_id"]}).json()
    assert (told["fate"], told["position"], told["title"]) == ("selected", 2, "War part 4")
    trace = client.get(f"/v1/trace/{answer['request_id']}").json()
    assert trace["served"] == [item["item"] for item in answer["items"]]
    similar = client.post("/v1/similar", json={"items": ["love3"], "n": 2}).json()
    assert [row["item"] for row in similar["items"]] == ["love2", "love4"]
    assert [row["name"] for row in client.get("/v1/channels").json()["channels"]] == ["similar", "popular"]
    alone = client.post("/v1/channels/similar", json={"user": "ann", "n": 1}).json()
    assert alone["items"][0]["item"] == "war3"
    releases = client.get("/v1/releases").json()
    assert [(row["id"], row["serving"], row["current"]) for row in releases["releases"]] == [
        (answer["release"], True, True)
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "message", "where", "hint"),
    [
        ("/v1/recommend", b"{", 400, "bad_json", None, "body", "send one JSON object in UTF-8"),
        ("/v1/recommend", b"", 400, "bad_json", None, "body", "send one JSON object in UTF-8"),
        ("/v1/recommend", b'{"user": "\xff"}', 400, "bad_json", None, "body", "send one JSON object in UTF-8"),
        ("/v1/recommend", b'{"user": "\\ud800"}', 400, "bad_json", None, "body", "send one JSON object in UTF-8"),
        ("/v1/recommend", b"[" * 1999, 422, "request", "expected `object`, got `array`", "body", None),
        ("/v1/recommend", b"[]", 422, "request", "expected `object`, got `array`", "body", None),
        ("/v1/recommend", b"{}", 422, "request", "'user' is missing", "body", "add 'user'"),
        ("/v1/recommend", b'{"user":"a","sceen":3}', 422, "request", "unknown key 'sceen'", "body",
         "did you mean scene?"),
        (
            "/v1/recommend", b'{"user":"a","session":[{"item":"b","tims_ms":1}]}', 422, "request",
            "unknown key 'tims_ms'", "body.session[0]", "did you mean time_ms?",
        ),
        ("/v1/recommend", b'{"user":"a","n":"x"}', 422, "request", "expected `int | null`, got `str`", "body.n", None),
        ("/v1/recommend", b'{"user":"a","n":0}', 422, "request", "n is 0", "n", "ask for 1 to 500 items"),
        ("/v1/recommend", b'{"user":null}', 422, "request", "expected `int | str`, got `null`", "body.user", None),
        ("/v1/recommend", b'{"user":"a","filter":"import os"}', 422, "request", "cannot read 'import os'",
         "filter", None),
        ("/v1/recommend", b'{"user":"' + b"x" * 2000 + b'"}', 413, "too_large", "the body has 2011 bytes",
         "body", "send at most 2000 bytes"),
        ("/v1/events", b'{"events":[]}', 422, "request", "0 events", "events", "send 1 to 20 events"),
        ("/v1/events", b'{"events":[' + b"{}," * 20 + b"{}]}", 422, "request", "21 events", "events",
         "send 1 to 20 events"),
        ("/v1/similar", b'{"items":[]}', 422, "request", "0 items", "items", "send 1 to 20 items"),
        ("/v1/channels/similr", b'{"user":"a"}', 404, "not_found", "no channel is called 'similr'",
         "channel", "did you mean similar?"),
        ("/v1/channels/%FF", b'{"user":"a"}', 400, "bad_json", "not UTF-8", "path name", "percent-encode ids as UTF-8"),
        ("/v1/explain", b'{"user":"a","item":"zzz"}', 404, "not_found", None, "item", None),
        ("/v1/recomend", b"{}", 404, "not_found", "no such page", "/v1/recomend",
         "did you mean /v1/recommend? See /docs"),
        ("/v1/releases", b"{}", 405, "method", "POST is not possible here", "/v1/releases", None),
        ("/v1/recommend?x=1", b"{}", 422, "request", "unknown parameter 'x'", "query", "nothing is accepted here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    client: TestClient,
    path: str,
    body: bytes,
    status: int,
    code: str,
    message: str | None,
    where: str,
    hint: str | None,
) -> None:
    answer = client.post(path, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["where"]) == (status, code, where)
    assert message is None or error["message"] == message
    assert hint is None or error["hint"] == hint


def test_every_status_is_described(made: tuple[World, Engine, TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine, client = made

    def codes(kind: type[ShortlistError]) -> set[str]:
        return {kind.code}.union(*(codes(under) for under in kind.__subclasses__()))

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    assert codes(ShortlistError) <= set(openapi.STATUS)
    # cannot be read, host, path, method, size, value, ours
    statuses = [client.post("/v1/recommend", content=b"{").status_code]
    statuses += [client.post("/v1/recommend", json={"user": "ann"}, headers={"host": "example.org"}).status_code]
    statuses += [client.post("/nowhere").status_code, client.put("/v1/recommend").status_code]
    statuses += [client.post("/v1/recommend", content=b"x" * 3000).status_code]
    statuses += [client.post("/v1/recommend", json={"user": 1.5}).status_code]
    monkeypatch.setattr(engine, "recommend", broken)
    statuses += [client.post("/v1/recommend", json={"user": "ann"}).status_code]
    assert statuses == [400, 403, 404, 405, 413, 422, 500]
    described = [
        int(status) for status in client.get("/openapi.json").json()["paths"]["/v1/recommend"]["post"]["responses"]
    ]
    assert described == [200, 400, 401, 403, 404, 405, 408, 413, 422, 500, 503]


def test_a_body_without_a_length_is_bounded_too(client: TestClient) -> None:
    answer = client.post("/v1/recommend", content=(b"x" * 500 for _ in range(10)))
    assert (answer.status_code, answer.json()["error"]["message"]) == (413, "the body has more than 2000 bytes")


def test_wrong_parameters_are_named(client: TestClient) -> None:
    answer = client.get("/v1/recommend/ann?sceen=home")
    assert answer.json()["error"] == {
        "code": "request", "message": "unknown key 'sceen'", "where": "query", "hint": "did you mean scene?",
    }  # fmt: skip
    assert client.get("/v1/recommend/ann?n=many").status_code == 422


def test_health_and_metrics(made: tuple[World, Engine, TestClient]) -> None:
    _, engine, client = made
    told = {"status": "live", "release": None, "refused": None, "trouble": None}
    assert client.get("/health/live").json() == told
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {**told, "status": "ready", "release": engine.live.id})
    client.get("/v1/recommend/ann")
    client.get(f"/v1/recommend/{quote(USERS[-1], safe='')}")
    text = client.get("/metrics").text
    assert 'shortlist_http_requests_total{route="/v1/recommend/{user}",status="200"} 2.0' in text
    assert 'shortlist_candidates_total{fate="selected"} 10.0' in text
    assert "<b>" not in text  # ids are no labels


def test_not_ready_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    engine = world.engine()
    try:
        with TestClient(application(engine), HERE) as client:
            ready = client.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "loading")
            assert client.get("/health/live").status_code == 200
            answer = client.get("/v1/recommend/ann")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
            assert answer.headers["retry-after"] == "1"
            assert client.post("/v1/events", json={"events": []}).status_code == 503
    finally:
        engine.close()
        world.log.close()


def test_without_a_key_only_this_machine_may_ask(client: TestClient) -> None:
    assert client.get("/v1/channels", headers={"host": "localhost:99"}).status_code == 200
    answer = client.get("/v1/channels", headers={"host": "evil.example"})
    assert answer.status_code == 403
    assert answer.json()["error"]["message"] == "without an API key the host is localhost, not 'evil.example'"
    assert client.post("/v1/events", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/channels", headers={"origin": HERE}).status_code == 200
    assert client.get("/health/live", headers={"host": "evil.example"}).status_code == 200


def test_a_key_is_asked_for(made: tuple[World, Engine, TestClient]) -> None:
    with TestClient(application(made[1], api_key="sésame"), "http://shop.example") as client:
        refused = client.get("/v1/channels")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Basic ")
        assert client.get("/v1/channels", auth=("me", "wrong")).status_code == 401
        assert client.get("/v1/channels", headers={"authorization": "Basic !!"}).status_code == 401
        assert client.get("/v1/channels", auth=("me", "sésame")).status_code == 200
        bearer = "Bearer sésame".encode()
        assert client.get("/v1/channels", headers={b"authorization": bearer}).status_code == 200
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_hosts_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_host(host, None)
    assert str(caught.value) == (
        f"serve.host: {host!r} can be reached from other machines, and no API key is set "
        "(set SHORTLIST_API_KEY, or serve on 127.0.0.1)"
    )
    check_host(host, "key")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check_host(host, None)


def test_the_description_is_whole(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    text = client.get("/openapi.json").text
    schemas = document["components"]["schemas"]
    operations = [call for verbs in document["paths"].values() for call in verbs.values()]
    assert len({call["operationId"] for call in operations}) == len(operations) == 12
    for name in {part.split('"')[0] for part in text.split('"$ref":"#/components/schemas/')[1:]}:
        assert name in schemas
    for path, verbs in document["paths"].items():
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for call in verbs.values():
            assert {p["name"] for p in call.get("parameters", ()) if p["in"] == "path"} == named
    assert schemas["Recommend"]["required"] == ["user"]
    assert schemas["Recommend"]["additionalProperties"] is False


def test_the_docs_page_needs_nothing_from_outside(client: TestClient) -> None:
    page = client.get("/docs").text
    for call in ("/v1/recommend/{user}", "/v1/events", "/health/ready"):
        assert call in page
    assert "http" not in page.replace("<meta http", "")
    assert "<script" not in page
