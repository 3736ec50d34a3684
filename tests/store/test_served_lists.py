"""Releases whose lists are served from the store: the same pages, one version a release, and no page lost with it."""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from tests.serving import world as serving
from tests.store.servers import Server

from shortlist.artifact import Release
from shortlist.cli import main
from shortlist.config import Project, ServeConfig, load, parse
from shortlist.errors import ConfigError
from shortlist.events.log import EventLog
from shortlist.feedback.live import open_engine
from shortlist.forms import Lists
from shortlist.serving.engine import Engine
from shortlist.serving.wire import Answer, SessionEvent
from shortlist.store.lists import Kept, fingerprint, kept, versions
from shortlist.store.opening import open_lists, publish_lists

NOW = serving.NOW
HOUR_MS = 3_600_000


class Place:
    """A project that serves its lists from a store, with releases made by hand."""

    def __init__(self, folder: Path, store: str) -> None:
        self.world = serving.World(folder / "var")
        self.folder = folder
        self.store = store
        self.say("store")

    def say(self, lists: str) -> None:
        words = f'[serve]\nstore = "{self.store}"\nlists = "{lists}"\ndeadline_ms = 20000.0\n'
        (self.folder / "shortlist.toml").write_text(words, encoding="utf-8")

    @property
    def project(self) -> Project:
        return load(self.folder)

    def publish(self, **forms: Lists) -> str:
        """A release as `shortlist publish` brings it in: lists first, then `current`."""
        self.world.now += 1
        before = self.world.releases.current()
        made = self.world.publish(None, None, **forms)
        bring(self.project, self.world.log, self.world.releases.load(made), before)
        return made

    def kept(self) -> dict[str, tuple[str, ...]]:
        blobs = open_lists(self.project.config.serve, self.project.home, self.world.log.identity, write=False)
        assert blobs is not None
        with closing(blobs):
            return {channel: versions(blobs, channel) for channel in ("popular", "similar")}


def bring(project: Project, log: EventLog, release: Release, stay: str | None) -> tuple[str, ...]:
    return publish_lists(project.config.serve, project.home, log.identity, release, now=NOW, stay=stay)


@pytest.fixture(params=["lmdb", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    store = "lmdb:" if request.param == "lmdb" else emptied(request.getfixturevalue("server"))
    made = Place(tmp_path, store)
    with closing(made.world.log):
        yield made


def emptied(server: Server) -> str:
    import redis

    with closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()
    return server.url


def hot(seed: int) -> Lists:
    """All items, in an order of the seed's own."""
    items = np.random.default_rng(seed).permutation(len(serving.ITEMS))
    return Lists.ranked(
        np.zeros(len(items), dtype=np.int64), items, np.arange(len(items), dtype=np.float32), labels=("global",)
    )


def pages(engine: Engine) -> list[Answer]:
    """Pages of known users, a stranger, a session, and both scenes; what differs by nature is blanked."""
    asked: list[dict[str, Any]] = [{"user": name} for name in serving.USERS]
    asked += [{"user": "nobody"}, {"user": "nobody", "session": [SessionEvent("love3")]}]
    asked += [{"user": "ann", "scene": "plain"}, {"user": "bob", "n": 12, "exclude": ["war4"]}]
    answers = [engine.recommend(**one, now=NOW, debug=True, preview=True) for one in asked]
    return [blank(answer) for answer in answers]


def blank(answer: Answer) -> Answer:
    trace = {name: part for name, part in (answer.trace or {}).items() if name != "took_ms"}
    return msgspec.structs.replace(answer, request_id="", took_ms=0.0, trace=trace)


def test_pages_from_the_store_are_those_from_the_release(place: Place) -> None:
    place.publish()
    with open_engine(place.project) as engine:
        from_store = pages(engine)
        tables = [type(source.index.form).__name__ for source in sources(engine, "similar")]
        similar = engine.similar(["war3"], 5)
    place.say("release")
    with open_engine(place.project) as engine:
        assert pages(engine) == from_store
        assert [type(source.index.form).__name__ for source in sources(engine, "similar")] == ["Lists"]
        assert engine.similar(["war3"], 5) == similar
    assert tables == ["Table"]
    assert [shown.item for shown in from_store[0].items][:2] == ["war3", "war4"]
    assert from_store[0].items[0].reasons == ["because of War part 2", "popular"]
    assert all(not any(note.startswith("failed") for note in answer.degraded) for answer in from_store)


def sources(engine: Engine, channel: str) -> list[Any]:
    channels = [c for c in engine.live.funnels["home"].channels if c.name == channel]
    return [c.source.source for c in channels]  # type: ignore[attr-defined]  # what the guard holds


def test_a_server_changes_releases_and_each_reads_its_own_lists(place: Place) -> None:
    first = place.publish(popular=hot(1))
    with open_engine(place.project) as engine:
        before = pages(engine)
        release = place.world.releases.load(first)
        second = place.publish(popular=hot(2))
        assert engine.live.release.id == release.id
        assert pages(engine) == before  # the new lists are there, and this release reads its own
        assert engine.reload()
        after = pages(engine)
        assert engine.live.id == second
        assert [a.items for a in after] != [a.items for a in before]
        assert place.kept() == dict.fromkeys(("popular", "similar"), (second, first))
        assert main(["rollback", "--project", str(place.folder)]) == 0
        assert engine.reload()
        assert pages(engine) == before
        assert place.kept() == dict.fromkeys(("popular", "similar"), (first, second))


def test_a_rollback_to_a_release_that_is_kept_no_more_publishes_it_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    first = place.publish(popular=hot(1))
    with open_engine(place.project) as engine:
        before = pages(engine)
    second, third = place.publish(popular=hot(2)), place.publish(popular=hot(3))
    assert place.kept() == dict.fromkeys(("popular", "similar"), (third, second))
    capsys.readouterr()
    assert main(["rollback", "--to", first, "--project", str(place.folder)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{first}\n", "published to the store anew: similar, popular\n")
    # the release that was served until now stays, for servers that have not changed yet
    assert place.kept() == dict.fromkeys(("popular", "similar"), (first, third))
    with open_engine(place.project) as engine:
        assert pages(engine) == before


def test_a_publication_that_did_not_become_current_costs_no_release_its_lists(place: Place) -> None:
    first = place.publish(popular=hot(1))
    with open_engine(place.project) as engine:
        before = pages(engine)
        for n in range(3):  # lists are brought, then the rename fails: `current` is the first one still
            place.world.now += 1
            lost = place.world.publish(popular=hot(10 + n))
            place.world.releases.rollback(first)
            bring(place.project, place.world.log, place.world.releases.load(lost), first)
            assert place.kept()["popular"] == (lost, first)
            assert pages(engine) == before
    with open_engine(place.project) as engine:
        assert pages(engine) == before


def test_lists_that_are_missing_are_said_and_filled_by_backfill(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    made = place.world.publish()  # by somebody who kept lists in the release
    capsys.readouterr()
    assert main(["recommend", "ann", "--project", str(place.folder)]) == 2
    want = f"error: version {made!r} is not there\n  where: lists of similar\n  next: run `shortlist backfill`\n"
    assert capsys.readouterr().err.endswith(want)
    assert main(["backfill", "--project", str(place.folder)]) == 0
    assert "published to the store: similar, popular" in capsys.readouterr().err
    assert main(["recommend", "ann", "--project", str(place.folder)]) == 0
    assert main(["backfill", "--project", str(place.folder)]) == 0
    assert "published" not in capsys.readouterr().err


def test_the_lists_of_a_store_are_shown(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = place.publish(), place.publish()
    capsys.readouterr()
    assert main(["store", "lists", "--project", str(place.folder), "--json"]) == 0
    found = [Kept(**row) for row in json.loads(capsys.readouterr().out)["lists"]]
    # 28 hot items in one list; of each of 20 films the 9 others of its kind; 12 bytes an item
    want = [("popular", 1, 28 * 12), ("similar", 20, 20 * 9 * 12)]
    assert found == [
        Kept(channel, version, version == second, rows, size, None)
        for channel, rows, size in want
        for version in (second, first)
    ]
    assert main(["store", "lists", "--project", str(place.folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["channel", "version", "lists", "bytes"]
    assert lines[2] == ["popular", second, "read", "1", "336"]
    assert lines[5] == ["similar", first, "20", "2,160"]
    place.say("release")
    assert main(["store", "lists", "--project", str(place.folder)]) == 2
    want_err = 'error: lists are served from the release\n  where: serve.lists\n  next: write lists = "store"'
    assert capsys.readouterr().err == want_err + " under [serve], then publish\n"


def test_a_channel_that_no_kept_release_has_is_dropped(place: Place) -> None:
    first = place.publish()
    less = place.world.releases.load(first)
    less.document["channels"] = [entry for entry in less.document["channels"] if entry["name"] == "popular"]
    less.id = "less"
    bring(place.project, place.world.log, less, first)
    assert place.kept() == {"popular": ("less", first), "similar": (first,)}
    less.id = "lesser"
    bring(place.project, place.world.log, less, "less")
    assert place.kept() == {"popular": ("lesser", "less"), "similar": ()}


def test_without_the_store_channels_are_left_out_and_the_page_is_filled(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with ExitStack() as stack:
        server = Server(tmp_path / "redis")
        stack.callback(server.stop)
        place = Place(tmp_path / "project", server.url)
        stack.enter_context(closing(place.world.log))
        place.publish()
        with open_engine(place.project) as engine:
            asked: dict[str, Any] = {"user": "ann", "session": [SessionEvent("love3")], "now": NOW, "preview": True}
            well = engine.recommend(**asked)
            assert not well.degraded
            server.kill()
            ill = engine.recommend(**asked)
            assert {"failed:similar", "failed:popular", "backfill"} <= set(ill.degraded)
            # the fallback reads the release: the hot list without what ann has seen
            assert [shown.item for shown in ill.items] == ["war3", "war4", "war5", "war6", "war7"]
            assert {reason for shown in ill.items for reason in shown.reasons} == {"popular, to fill the page"}
            server.start()
            again = engine.recommend(**asked)
            assert [shown.item for shown in again.items] == [shown.item for shown in well.items]


def test_a_store_in_memory_cannot_have_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_lists(ServeConfig(store="memory:", lists="store"), tmp_path, "ab.0", write=True)
    want = 'serve.lists: lists cannot be published to memory: (write store = "lmdb:", or lists = "release")'
    assert str(caught.value) == want
    with pytest.raises(ConfigError, match=r"serve\.lists"):
        parse({"serve": {"lists": "memory"}})


def test_two_logs_on_one_redis_do_not_share_lists(tmp_path: Path, server: Server) -> None:
    with ExitStack() as stack:
        places = [Place(tmp_path / name, server.url) for name in ("one", "two")]
        for place in places:
            stack.enter_context(closing(place.world.log))
        made = [place.publish() for place in places]
        for place, name in zip(places, made, strict=True):
            assert place.kept() == dict.fromkeys(("popular", "similar"), (name,))


def test_lists_are_not_let_go_for_their_age(tmp_path: Path, server: Server) -> None:
    import redis

    config = ServeConfig(store=f"{server.url}?ttl_days=1", lists="store")
    log = secrets.token_hex(4) + ".0"
    blobs = open_lists(config, tmp_path, log, write=True)
    assert blobs is not None
    with closing(blobs), closing(redis.Redis.from_url(server.url)) as client:
        blobs.put({"lists.a": (np.array([0]), [b"x"])}, 0)
        every: Any = client.keys("*")
        mine: list[bytes] = [key for key in every if fingerprint(log)[:12].encode() in key]
        assert len(mine) == 5  # what it says of itself, its writer and fence, the names of namespaces, and one of them
        assert {client.ttl(key) for key in mine if not key.endswith(b":writer")} == {-1}  # its lease ends by itself
    assert not kept(open_lists(config, tmp_path, secrets.token_hex(4) + ".0", write=False))  # type: ignore[arg-type]


def test_publish_brings_the_lists_first_and_is_refused_without_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({
        "user": [f"u{n}" for n in rng.integers(0, 30, 1200)],
        "item": [f"i{n}" for n in rng.integers(0, 40, 1200)],
        "time_ms": np.sort(rng.integers(1_700_000_000_000, 1_702_000_000_000, 1200)),
    })  # fmt: skip
    frame.write_csv(tmp_path / "events.csv")
    file = tmp_path / "shortlist.toml"
    here = ["--project", str(file)]
    assert main(["init", str(tmp_path / "events.csv"), *here]) == 0
    plain = file.read_text(encoding="utf-8")
    assert "[serve]" not in plain
    assert main(["import", *here]) == 0

    def say(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, *here, "--json"]) == 0, words
        return json.loads(capsys.readouterr().out)

    def page() -> Any:
        return [(shown["item"], shown["score"], shown["reasons"]) for shown in say("recommend", "u3")["items"]]

    file.write_text(plain + '\n[serve]\nstore = "lmdb:"\nlists = "store"\n', encoding="utf-8")
    made = say("publish")["release"]
    found = say("store", "lists")["lists"]
    assert {row["version"] for row in found} == {made}
    channels = [row["channel"] for row in found]
    assert channels == sorted(channels)
    assert len(channels) > 1
    from_store = page()
    file.write_text(plain, encoding="utf-8")
    assert page() == from_store
    # nobody is at this port
    file.write_text(plain + '\n[serve]\nstore = "redis://127.0.0.1:9/0"\nlists = "store"\n', encoding="utf-8")
    assert main(["publish", *here]) == 2
    assert "error: cannot reach redis://127.0.0.1:9/0" in capsys.readouterr().err
    file.write_text(plain, encoding="utf-8")
    assert [(row["id"], row["current"]) for row in say("releases")] == [(made, True)]
