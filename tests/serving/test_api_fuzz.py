"""Whatever is sent, the server answers, and never with a 5xx."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.serving.world import ITEMS, NOW, USERS, serving

from shortlist.serving.http import application
from shortlist.serving.openapi import CALLS

POSTS = [call.path for call in CALLS if call.method == "POST"]
GETS = [call.path for call in CALLS if call.method == "GET"]
FUZZ = settings(max_examples=150)

TEXT = st.text(max_size=30)
NUMBER = st.one_of(st.integers(), st.floats(), st.integers(-3, 30), st.just(2**63), st.just(10**400))
ID = st.one_of(st.sampled_from([*USERS, *ITEMS]), TEXT, st.integers(), st.just("x" * 257), st.just("\x00"))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
FIELD = st.sampled_from(["year", "title", "genres", "poster", "nothing"])
VALUE = st.one_of(st.integers(-3000, 3000), st.just(2**63 - 1), st.just('"War"'), st.just("[1, 'a']"), st.just("true"))
FILTER = st.one_of(
    TEXT,
    st.builds("{} {} {}".format, FIELD, st.sampled_from(["<", "==", "in", "not in", "+", "/", "and"]), VALUE),
    st.builds("{0} / 0 < {1} or not {0}".format, FIELD, FIELD),
)
SESSION = st.fixed_dictionaries({"item": ID}, optional={"action": st.one_of(st.just("click"), TEXT), "time_ms": NUMBER})
EVENT = st.fixed_dictionaries(
    {"user": ID, "item": ID, "action": st.one_of(st.sampled_from(["click", "like", "impression"]), TEXT)},
    optional={
        "time_ms": NUMBER, "value": NUMBER, "event_id": TEXT, "request_id": TEXT, "position": NUMBER,
        "context": st.one_of(st.dictionaries(TEXT, JSON, max_size=3), JSON),
    },
)  # fmt: skip
ASK: dict[str, st.SearchStrategy[Any]] = {
    "n": NUMBER, "scene": st.one_of(st.sampled_from(["home", "plain"]), TEXT), "debug": st.booleans(), "filter": FILTER,
    "context": st.dictionaries(st.one_of(st.just("region"), TEXT), JSON, max_size=3),
    "session": st.lists(SESSION, max_size=4), "exclude": st.lists(ID, max_size=6),
}  # fmt: skip
BODY = st.one_of(
    st.fixed_dictionaries({"user": ID}, optional=ASK),
    st.fixed_dictionaries({"user": ID, "item": ID}, optional={k: ASK[k] for k in ("n", "scene")}),
    st.fixed_dictionaries({"items": st.lists(ID, max_size=4)}, optional={"n": NUMBER, "channel": TEXT}),
    st.fixed_dictionaries({"events": st.lists(st.one_of(EVENT, JSON), max_size=4)}),
    JSON,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with (
        serving(tmp_path_factory.mktemp("world"), traces=50) as (_, engine),
        TestClient(application(engine), "http://127.0.0.1", raise_server_exceptions=False) as client,
    ):
        yield client


def encoded(value: Any) -> bytes:
    """JSON as a careless client writes it: NaN, huge numbers and lone surrogates included."""
    return json.dumps(value).encode()


def check(answer: Any) -> None:
    assert answer.status_code < 500, answer.text
    body = msgspec.json.decode(answer.content)
    if answer.status_code >= 400:
        assert set(body["error"]) == {"code", "message", "where", "hint"}
        assert all(isinstance(text, str) for text in body["error"].values())
        assert body["error"]["message"]


@FUZZ
@given(st.sampled_from(POSTS), BODY)
@example("/v1/recommend", {"user": "ann", "filter": "year == 99999999999999999999"})
@example("/v1/recommend", {"user": "ann", "context": {"region": float("nan")}})
@example("/v1/recommend", {"user": 10**400})
@example("/v1/recommend", {"user": "ann", "session": [{"item": "war3", "time_ms": 10**30}]})
@example("/v1/events", {"events": [{"user": "a", "item": "b", "action": "click", "value": 1e308, "time_ms": 2**62}]})
def test_any_json(client: TestClient, path: str, body: Any) -> None:
    check(client.post(path.replace("{name}", "similar"), content=encoded(body)))


KNOWN_USER, KNOWN_ITEM = st.sampled_from([*USERS, "stranger", 5]), st.sampled_from([*ITEMS, "unheard of", 5])
GOOD = st.fixed_dictionaries(
    {"user": KNOWN_USER},
    optional={
        "n": st.integers(1, 40),
        "scene": st.sampled_from(["home", "plain"]),
        "debug": st.booleans(),
        "context": st.fixed_dictionaries({}, optional={"region": st.one_of(TEXT, st.none(), st.integers(-9, 9))}),
        "exclude": st.lists(KNOWN_ITEM, max_size=30),
        "filter": st.sampled_from(["", "year > 1995", 'genres == "War"', 'not title == "War part 3"', "year != year"]),
        "session": st.lists(
            st.fixed_dictionaries(
                {"item": KNOWN_ITEM},
                optional={"action": st.sampled_from(["click", "like", "impression"]), "time_ms": st.integers(0, NOW)},
            ),
            max_size=20,
        ),
    },
)  # fmt: skip


@FUZZ
@given(GOOD)
def test_any_right_request_gets_a_right_page(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/v1/recommend", content=encoded(body))
    assert answer.status_code == 200, answer.text
    page = [shown["item"] for shown in answer.json()["items"]]
    assert len(page) == len(set(page)) <= body.get("n", 5)
    assert not set(page) & {str(item) for item in body.get("exclude", [])}
    liked = {str(e["item"]) for e in body.get("session", []) if e.get("action") != "impression"}
    assert not set(page) & liked
    assert answer.json()["degraded"] in ([], ["backfill"], ["unknown_user"], ["unknown_user", "backfill"])
    told = client.post("/v1/explain", content=encoded({
        "user": body["user"], "item": body.get("exclude", ["war3"])[0] if body.get("exclude") else "war3",
        "request_id": answer.json()["request_id"],
    }))  # fmt: skip
    assert told.status_code in (200, 404), told.text
    if told.status_code == 200:
        assert (told.json()["fate"] == "selected") == (told.json()["item"] in page)


@FUZZ
@given(KNOWN_USER, FILTER)
def test_any_filter(client: TestClient, user: str | int, condition: str) -> None:
    answer = client.post("/v1/recommend", content=encoded({"user": user, "filter": condition}))
    assert answer.status_code in (200, 422), answer.text


@FUZZ
@given(st.lists(EVENT, min_size=1, max_size=3))
def test_any_events(client: TestClient, events: list[Any]) -> None:
    answer = client.post("/v1/events", content=encoded({"events": events}))
    assert answer.status_code in (202, 422, 400), answer.text
    if answer.status_code == 202:
        receipt = answer.json()
        assert receipt["accepted"] + receipt["duplicates"] + len(receipt["refused"]) == len(events)


@FUZZ
@given(st.lists(KNOWN_ITEM, min_size=1, max_size=5), st.integers(1, 40), KNOWN_USER)
def test_any_look_at_a_channel(client: TestClient, items: list[Any], n: int, user: str | int) -> None:
    similar = client.post("/v1/similar", content=encoded({"items": items, "n": n}))
    assert similar.status_code == 200, similar.text
    assert not {row["item"] for row in similar.json()["items"]} & {str(item) for item in items}
    alone = client.post("/v1/channels/popular", content=encoded({"user": user, "n": n}))
    assert alone.status_code == 200, alone.text


@FUZZ
@given(st.sampled_from(POSTS), st.binary(max_size=200))
def test_any_bytes(client: TestClient, path: str, body: bytes) -> None:
    check(client.post(path.replace("{name}", "popular"), content=body))


@FUZZ
@given(
    st.sampled_from([path for path in GETS if "{" in path]),
    ID,
    st.dictionaries(
        st.one_of(st.sampled_from(["n", "scene", "filter", "exclude", "debug", "context.region"]), TEXT), TEXT
    ),
)
def test_any_path_and_parameters(client: TestClient, path: str, raw: str | int, query: dict[str, str]) -> None:
    head = path.partition("{")[0]
    check(client.get(head + quote(str(raw), safe="")))
    check(client.get(head + quote(str(raw), safe=""), params=query))


@FUZZ
@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "X"]), st.text(max_size=40))
def test_any_address(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, "/" + quote(path, safe="/%?&=;"), content=b"{}")
    assert answer.status_code < 500, answer.text
