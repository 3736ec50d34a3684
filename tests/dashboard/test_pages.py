"""Pages by their HTML: what they say, that everything is escaped, and that nothing comes from outside."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.serving.world import ODD, SCHEMA, USERS, World, catalogue, serving

from shortlist.dashboard.pages import note, of, pages
from shortlist.schema import Catalogue, Profiles
from shortlist.serving.engine import Engine
from shortlist.serving.http import application
from shortlist.serving.wire import Event

Made = tuple[World, Engine, TestClient]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with (
        serving(tmp_path) as (world, engine),
        TestClient(application(engine, routes=pages(engine, tmp_path / "var")), "http://127.0.0.1") as client,
    ):
        yield world, engine, client


def words(html: str) -> str:
    """The page's text, blanks folded."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def ask(client: TestClient, **query: str) -> str:
    answer = client.get("/request", params=query)
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_overview_counts_what_happened(made: Made) -> None:
    _, engine, client = made
    engine.recommend("ann")
    engine.events([Event(user="ann", item="war9", action="click"), Event(user="ann", item="war9", action="?")])
    text = words(client.get("/").text)
    assert f"Release {engine.live.id} , made 2026-01-01 00:00 from data snapshot 5a5a5a5a5a5a" in text
    assert "Users 8 8 in the release" in text
    assert "Events 22 1 since the release" in text
    assert "1 in the last hour; since the start 1 accepted, 0 duplicates, 1 refused" in text
    # ann's page of 5: ten candidates recalled, three seen, two not selected
    assert re.search(r"selected \s*5 .*seen \s*3 .*not selected \s*2", text)
    assert "test · recall@10 0.2500" in text
    assert "ann home 5 items" in text


def test_metrics_with_intervals_are_a_table(made: Made) -> None:
    world, engine, client = made
    world.now += 1000
    figures = {
        "hot": {"recall@10": [0.1, 0.05, 0.15]},
        "page": {"recall@10": [0.2, 0.1, 0.3], "ndcg@10": [0.25, 0.2, 0.3]},
    }
    metrics = {"figures": figures, "recipe": {"split": "user_time, test part"}}
    publish = world.releases.publish
    world.releases.publish = lambda *a, **k: publish(*a, **{**k, "metrics": metrics})  # type: ignore[method-assign]
    world.publish("measured")
    assert engine.reload(), engine.refused
    text = words(client.get("/").text)
    assert "user_time, test part. Small numbers are 95% intervals." in text
    assert "page 0.2000 0.1000–0.3000 0.2500 0.2000–0.3000" in text
    assert "20260101T000001000-000-measured 2026-01-01 00:00 serving 0.2000 0.2500" in words(
        client.get("/releases").text
    )


def test_a_damaged_release_is_a_row_with_its_problem(made: Made) -> None:
    world, engine, client = made
    first = engine.live.id
    world.now += 1000
    world.publish("second")
    (world.releases.folder / first / "manifest.json").write_bytes(b"{")
    text = words(client.get("/releases").text)
    assert f"{first} 2026-01-01 00:00 serving the manifest is damaged: not JSON" in text
    assert "20260101T000001000-000-second 2026-01-01 00:00 current" in text


def test_one_of_a_kind_is_singular(made: Made) -> None:
    made[1].recommend("ann", 1)
    assert "ann home 1 item " in words(made[2].get("/").text)
    assert [of(0, "item"), of(1, "item"), of(1200, "item")] == ["0 items", "1 item", "1,200 items"]


def test_times_of_profiles_are_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 1,700,000,000,000 ms is 2023-11-14 22:13 UTC; item war4 has no time
    items = np.full(28, 1.7e12)
    items[4] = np.nan
    plain = catalogue()
    columns = {**plain.items.columns, "released": items}
    users = {**plain.users.columns, "joined": np.full(8, 1.7e12)}
    made = Catalogue(Profiles(plain.users.keys, users), Profiles(plain.items.keys, columns))
    monkeypatch.setattr("tests.serving.world.catalogue", lambda: made)
    schema = {
        **SCHEMA,
        "users": {**SCHEMA["users"], "joined": "time"},
        "items": {**SCHEMA["items"], "released": "time"},
    }
    with (
        serving(tmp_path, {"schema": schema}) as (_, engine),
        TestClient(application(engine, routes=pages(engine, tmp_path / "var")), "http://127.0.0.1") as client,
    ):
        text = words(ask(client, user="ann"))
    assert "War part 3 War year 1993 released 2023-11-14 because" in text
    assert "War part 4 War year 1994 because" in text
    assert "joined 2023-11-14" in text


def test_the_request_page_shows_slate_reasons_funnel_and_history(made: Made) -> None:
    text = words(ask(made[2], user="ann"))
    assert "What ann sees" in text
    assert "1 War part 3 War year 1993 because of War part 2 popular Channels and score" in text
    # similar brings ten war films, three of them seen; popular three seen and its quota of six: war9 is similar's alone
    assert "10 candidates" in text
    assert "similar 10 1 5 popular 9 0 5" in text
    assert "3 interactions, the latest first" in text
    assert "2025-12-31 16:00 click War part 2 War · year 1992" in text
    assert "region north" in text


def test_why_not_this_item_by_id_by_title_and_by_choice(made: Made) -> None:
    client = made[2]
    by_id = words(ask(client, user="ann", item="love0"))
    assert "Love part 0 not recalled" in by_id
    assert "popular ranks it 8, outside its quota of 6." in by_id
    by_title = words(ask(client, user="ann", item="love PART 0"))
    assert "Love part 0 not recalled" in by_title
    assert "10 items fit. Which one?" in words(ask(client, user="ann", item="war"))
    assert "No item has this id, or these words in its title." in words(ask(client, user="ann", item="zebra"))


def test_the_explanation_is_of_the_page_it_stands_on(made: Made) -> None:
    _, engine, client = made
    answer = engine.recommend("ann")
    engine.events([Event(user="ann", item="war3", action="click")])
    text = words(ask(client, request_id=answer.request_id, item="war3"))
    assert "It is on the page, at place 1 of 5." in text


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.area: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "textarea":
            self.area = self.found[-1][1]
            self.area["value"] = ""
        elif tag == "input":  # what a browser keeps of its value
            self.found[-1][1]["value"] = (self.found[-1][1].get("value") or "").replace("\r", "").replace("\n", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self.area is not None:
            self.area["value"] = (self.area["value"] or "").removeprefix("\n")
            self.area = None

    def handle_data(self, data: str) -> None:
        if self.area is not None:
            self.area["value"] = (self.area["value"] or "") + data


@pytest.mark.parametrize("user", [*USERS, *ODD, "</title><script>x</script>", "'\" onmouseover=alert(1) "])
def test_everything_is_escaped(made: Made, user: str) -> None:
    tags = Tags(ask(made[2], user=user, item=user)).found
    assert not {"script", "i"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert [a["value"] for _, a in tags if a.get("name") == "user"] == [user]
    assert [a["value"] for _, a in tags if a.get("name") == "item"] == [user]


def test_a_line_break_of_a_form_is_the_ids_own(made: Made) -> None:
    # a form sends every line break as CR LF
    user = next(user for user in USERS if "\n" in user)
    html = ask(made[2], user=user.replace("\n", "\r\n"))
    assert "this is the page for strangers" not in words(html)
    assert [a["value"] for _, a in Tags(html).found if a.get("name") == "user"] == [user]
    item = next(item for item in ODD if "\n" in item)
    text = words(ask(made[2], user="ann", item=item.replace("\n", "\r\n")))
    assert "No item has this id" not in text


def test_titles_are_escaped(made: Made) -> None:
    assert "Odd &lt;i&gt;0&lt;/i&gt;" in ask(made[2], user=USERS[-1])


def test_links_carry_odd_ids(made: Made) -> None:
    client = made[2]
    html = ask(client, user="idle", filter='genres == "Odd"', n="6")
    links = re.findall(r'href="(/request\?request_id=[^"]*item=[^"]*)#why"', html)
    assert len(links) == 6
    for link, item in zip(links, ODD, strict=False):
        text = words(client.get(link.replace("&amp;", "&")).text)
        assert "It is not on the page" in text or "It is on the page" in text or "No channel brought it." in text, item


def test_wrong_input_is_told_on_the_page(made: Made) -> None:
    client = made[2]
    answer = client.get("/request", params={"user": "ann", "filter": "yaer > 3"})
    assert answer.status_code == 422
    assert "unknown column &#39;yaer&#39; (did you mean year?)" in answer.text
    assert client.get("/request", params={"user": "ann", "n": "many"}).status_code == 422
    assert client.get("/request", params={"request_id": "gone"}).status_code == 404
    assert client.get("/request", params={"user": "x" * 300}).status_code == 422


def test_a_stranger_and_an_empty_page(made: Made) -> None:
    text = words(ask(made[2], user="nobody", filter="year > 3000"))
    assert "Nobody by this id has been seen: this is the page for strangers." in text
    assert "The page is empty: every candidate was filtered, or nothing was recalled." in text


def test_looking_leaves_no_mark(made: Made) -> None:
    _, engine, client = made
    ask(client, user="ann", item="war9")
    engine.flush()
    assert engine.meters.slates == 0
    assert len(made[0].log.read_served(0, 10)) == 0


def test_nothing_comes_from_outside_and_no_script_runs(made: Made) -> None:
    for path in ("/", "/request", "/request?user=ann", "/releases"):
        answer = made[2].get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self';")
        assert "script" not in policy
        assert re.findall(r"<(?:script|iframe|object)", answer.text) == []
        assert re.findall(r'(?:src|href)="(?!/|#|data:,)[^"]*"', answer.text) == []
        assert 'style="' not in answer.text
    assert "url(" not in made[2].get("/dashboard.css").text


def test_posters_are_shown_where_the_catalogue_has_them(made: Made) -> None:
    html = ask(made[2], user="nobody")
    assert re.findall(r'<img src="([^"]*)" alt="" loading="lazy" referrerpolicy="no-referrer">', html) == [
        "https://example.org/a.png"
    ]


def test_the_report_is_linked_where_there_is_one(made: Made) -> None:
    world, _, client = made
    assert client.get("/report").status_code == 404
    assert "/report" not in client.get("/").text
    folder = world.folder / "var" / "reports"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<h1>Measured</h1>", encoding="utf-8")
    assert '<a href="/report">Report</a>' in client.get("/releases").text
    assert client.get("/report").text == "<h1>Measured</h1>"


def test_the_map_is_linked_where_there_is_one(made: Made) -> None:
    world, _, client = made
    assert client.get("/map").status_code == 404
    assert "/map" not in client.get("/").text
    folder = world.folder / "var" / "reports"
    folder.mkdir(parents=True)
    (folder / "map.html").write_text('<a href="report.html">The report</a>', encoding="utf-8")
    (folder / "report.html").write_text('<a href="map.html">A map</a>', encoding="utf-8")
    assert '<a href="/map">Map</a>' in client.get("/releases").text
    answer = client.get("/map")
    assert answer.text == '<a href="report.html">The report</a>'
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    # as the two files name each other
    assert client.get("/map.html").text == answer.text
    assert client.get("/report.html").text == '<a href="map.html">A map</a>'


def test_before_a_release_the_pages_say_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    engine = world.engine()
    try:
        with TestClient(application(engine, routes=pages(engine, tmp_path)), "http://127.0.0.1") as client:
            assert "No release is loaded yet." in words(client.get("/").text)
            assert client.get(f"/request?user={quote('ann')}").status_code == 404
            assert "None." in words(client.get("/releases").text)
    finally:
        engine.close()
        world.log.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("late:similar", "A channel was too late and was left out: similar."),
        ("late:funnel", "The funnel was too late; this is the hot list."),
        ("relaxed:at_most 2 genres per 5", "A rule could not be kept: at_most 2 genres per 5."),
        ("something_new", "something new"),
    ],
)
def test_notes_are_sentences(name: str, text: str) -> None:
    assert note(name) == text
