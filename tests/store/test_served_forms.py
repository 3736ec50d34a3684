"""All forms of a release from the store: vectors, lists of users, and what lies beside them, with the same pages."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.store.servers import Server

from shortlist.artifact import Releases
from shortlist.cli import main
from shortlist.config import IndexConfig, load
from shortlist.errors import ArtifactError
from shortlist.events.opening import open_log
from shortlist.feedback.live import open_engine
from shortlist.forms import Form, Lists, Vectors
from shortlist.funnel.recipes import assemble
from shortlist.index.building import indexed, opened
from shortlist.index.lists import Elsewhere
from shortlist.index.vectors import VectorIndex
from shortlist.store import Blobs
from shortlist.store.lists import Table, erase, publish, tables, versions, whole
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.opening import open_lists
from shortlist.store.redis import Redis

NOW = 1_767_225_600_000
CHANNELS = {"lists": "item_cf", "users": "user_cf", "factors": "mf", "linear": "pure_svd", "hot": "hot"}
TABLES = ["factors", "factors/users", "hot", "linear", "lists", "users", "users/taken"]


@pytest.fixture(params=["memory", "lmdb", "redis"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    if request.param == "memory":
        yield Memory()
        return
    made: Any
    if request.param == "lmdb":
        made = Lmdb(tmp_path / "store", "f" * 64)
    else:
        made = Redis(request.getfixturevalue("server").url, secrets.token_hex(32))
    with closing(made):
        yield made


def vectors(seed: int, size: int = 50, width: int = 3) -> Vectors:
    """Keys that do not ascend."""
    rng = np.random.default_rng(seed)
    return Vectors(rng.permutation(size) * 2, rng.normal(size=(size, width)).astype(np.float32), "cos")


def ordered(form: Form) -> tuple[Any, ...]:
    """What a form says, whatever the order of its rows."""
    if isinstance(form, Vectors):
        order = np.argsort(form.keys)
        return form.metric, form.keys[order].tolist(), form.matrix[order].tobytes(), form.matrix.shape
    return form.keys.tolist(), form.offsets.tolist(), form.items.tolist(), form.scores.tolist(), form.labels


def test_vectors_are_read_whole_bit_for_bit(blobs: Blobs) -> None:
    publish(blobs, "points", vectors(1), "one", now=NOW)
    publish(blobs, "points", vectors(2, 7, 5), "two", now=NOW)
    assert ordered(whole(blobs, "points", "one", NOW)) == ordered(vectors(1))
    assert ordered(whole(blobs, "points", "two", NOW)) == ordered(vectors(2, 7, 5))
    assert {n: size for n, size in blobs.sizes().items() if "/" in n} == {
        "lists.points/0": (50, 50 * 3 * 4), "lists.points/1": (7, 7 * 5 * 4)
    }  # fmt: skip
    with pytest.raises(ArtifactError) as caught:
        whole(blobs, "points", "three", NOW)
    assert str(caught.value) == "lists of points: version 'three' is not there (run `shortlist backfill`)"


def test_lists_are_read_whole_with_their_labels(blobs: Blobs) -> None:
    owners, items = np.array([0, 0, 2]), np.array([5, 6, 5])
    made = Lists.ranked(owners, items, np.ones(3, dtype=np.float32), labels=("global", "no", "region:x"))
    publish(blobs, "hot/more", made, "one", now=NOW)
    assert ordered(whole(blobs, "hot/more", "one", NOW)) == ordered(made)
    none = Vectors(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float32))
    publish(blobs, "none", none, "one", now=NOW)
    assert ordered(whole(blobs, "none", "one", NOW)) == ordered(none)


def test_an_expired_form_tells_nothing(blobs: Blobs) -> None:
    publish(blobs, "points", vectors(1), "one", now=NOW, ttl_ms=1000)
    assert ordered(whole(blobs, "points", "one", NOW + 999)) == ordered(vectors(1))
    left = whole(blobs, "points", "one", NOW + 1000)
    assert isinstance(left, Vectors)
    assert (left.metric, left.matrix.shape) == ("cos", (0, 3))


def test_missing_and_damaged_rows_are_said(blobs: Blobs) -> None:
    publish(blobs, "points", vectors(1), "one", now=NOW)
    blobs.put({"lists.points/0": (np.array([4]), [b"short"])}, blobs.offset)
    with pytest.raises(ArtifactError) as cut:
        whole(blobs, "points", "one", NOW)
    assert str(cut.value) == "lists of points: damaged: a row is cut off (publish them again)"
    blobs.put({"lists.points/0": (np.array([4]), [None])}, blobs.offset)
    with pytest.raises(ArtifactError) as caught:
        whole(blobs, "points", "one", NOW)
    assert str(caught.value) == "lists of points: damaged: 49 of 50 rows are there (publish them again)"


def test_an_erased_user_leaves_vectors_of_users_and_what_broke_off(blobs: Blobs) -> None:
    publish(blobs, "mf/users", vectors(1), "one", now=NOW, users="vectors")
    publish(blobs, "mf", vectors(1), "one", now=NOW)
    blobs.put({"lists.mf/users/2": (np.array([4]), [b"left by one that broke off"])}, blobs.offset)
    assert erase(blobs, np.array([4, 5, -1]), 1) == 1  # 5 has no vector
    left = vectors(1)
    assert ordered(whole(blobs, "mf/users", "one", NOW)) == ordered(
        Vectors(left.keys[left.keys != 4], left.matrix[left.keys != 4], "cos")
    )
    assert ordered(whole(blobs, "mf", "one", NOW)) == ordered(vectors(1))
    assert sorted(blobs.sizes()) == ["about", "lists.mf", "lists.mf/0", "lists.mf/users", "lists.mf/users/0"]


class Changing(Memory):
    """Whenever rows are read, something else is done first."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def keys(self, namespace: str) -> Any:
        found = super().keys(namespace)
        self.meanwhile()
        return found


def test_a_table_that_changes_while_it_is_read_is_read_again() -> None:
    blobs = Changing()
    publish(blobs, "points", vectors(1), "one", now=NOW, users="vectors")
    publish(blobs, "points", vectors(2), "two", now=NOW, users="vectors")

    def once() -> None:
        blobs.meanwhile = lambda: None
        publish(blobs, "points", vectors(3, 90), "three", now=NOW, users="vectors")  # drops "one"

    blobs.meanwhile = once
    with pytest.raises(ArtifactError, match="version 'one' is not there"):
        whole(blobs, "points", "one", NOW)
    assert versions(blobs, "points") == ("three", "two")
    assert ordered(whole(blobs, "points", "two", NOW)) == ordered(vectors(2))


def test_the_index_of_the_release_is_used_for_its_very_vectors(tmp_path: Path) -> None:
    from shortlist.artifact import load as load_artifact
    from shortlist.artifact import save

    rng = np.random.default_rng(4)
    form = Vectors(rng.permutation(2000), rng.normal(size=(2000, 8)).astype(np.float32))
    made = indexed(form, IndexConfig(use="ivf", recall=0.5), "recall.a.index")
    save(tmp_path / "a", kind="recall", name="a", form=form, config=made.config, files=made.files, created_ms=NOW)
    artifact = load_artifact(tmp_path / "a")
    blobs = Memory()
    publish(blobs, "a", form, "one", now=NOW)
    same, own = opened(artifact, whole(blobs, "a", "one", NOW)), opened(artifact)
    assert isinstance(same, VectorIndex)
    assert isinstance(own, VectorIndex)
    assert (same.engine.exact, own.engine.exact, same.fingerprint) == (False, False, own.fingerprint)
    other = opened(artifact, Vectors(form.keys, 2 * form.matrix))
    assert isinstance(other, VectorIndex)
    assert other.engine.exact


class Place:
    """A project with every kind of form, trained and published by the commands."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        rng = np.random.default_rng(2)
        users = rng.integers(0, 30, 900)
        frame = pl.DataFrame({
            "user": [f"u{n}" for n in users], "item": [f"i{n}" for n in rng.integers(0, 40, 900)],
            "time_ms": np.sort(rng.integers(NOW - 10**9, NOW - 10**6, 900)),
        })  # fmt: skip
        folder.mkdir(exist_ok=True)
        frame.write_csv(folder / "events.csv")
        assert main(["init", str(folder / "events.csv"), *self.here]) == 0
        text = self.file.read_text(encoding="utf-8")
        self.plain = text[: text.index("[[recall]]")]
        for name, use in CHANNELS.items():
            self.plain += f'[[recall]]\nname = "{name}"\nuse = "{use}"\nquota = 10\n\n'
        self.plain += "[scene.home]\npage = 10\nbudget = 50\n"
        self.say("store")
        assert main(["import", *self.here]) == 0

    @property
    def file(self) -> Path:
        return self.folder / "shortlist.toml"

    @property
    def here(self) -> list[str]:
        return ["--project", str(self.file)]

    def say(self, lists: str, more: str = "") -> None:
        words = f'\n[serve]\nstore = "{self.store}"\nlists = "{lists}"\ndeadline_ms = 20000.0\n{more}'
        self.file.write_text(self.plain + words, encoding="utf-8")

    def pages(self) -> list[Any]:
        with open_engine(load(self.folder)) as engine:
            asked: list[dict[str, Any]] = [{"user": f"u{n}"} for n in range(12)] + [{"user": "nobody"}]
            answers = [engine.recommend(**one, now=NOW, debug=True, preview=True) for one in asked]
            assert {note for answer in answers for note in answer.degraded} == {"unknown_user"}
            return [
                [(shown.item, shown.score, shown.reasons, shown.channels) for shown in answer.items]
                for answer in answers
            ]

    def held(self) -> dict[str, Form]:
        """All that the store holds of the current release, and is read whole."""
        project = load(self.folder)
        release = Releases(project.home / "releases").load()
        with closing(open_log(project)) as log:
            store = open_lists(project.config.serve, project.home, log.identity, write=False)
        assert store is not None
        with closing(store):
            return {name: whole(store, name, release.id, NOW) for name in TABLES}


@pytest.fixture(params=["lmdb", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "lmdb":
        return Place(tmp_path / "p", "lmdb:")
    import redis

    server: Server = request.getfixturevalue("server")
    with closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()
    return Place(tmp_path / "p", server.url)


def test_every_form_is_served_from_the_store_and_forgets_who_asks_for_it(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *place.here]) == 0
    project = load(place.folder)
    release = Releases(project.home / "releases").load()
    capsys.readouterr()
    assert main(["store", "lists", *place.here, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["lists"]
    assert [(row["channel"], row["version"]) for row in shown] == [(name, release.id) for name in TABLES]
    held = place.held()
    for name, form in held.items():
        artifact, beside = release.artifact(name.partition("/")[0]), name.partition("/")[2]
        assert ordered(form) == ordered(artifact.beside()[beside] if beside else artifact.form())
    assert {name: type(form).__name__ for name, form in held.items()} == {
        **dict.fromkeys(TABLES, "Lists"), **dict.fromkeys(("factors", "factors/users", "linear"), "Vectors")
    }  # fmt: skip
    from_store = place.pages()
    place.say("release")
    assert place.pages() == from_store
    brought = {channel.channel for page in from_store for row in page for channel in row[3]}
    assert brought == set(CHANNELS)

    with closing(open_log(project)) as log:
        key = log.key("user", "u3")
    rows = [held[name].keys.tolist().count(key) for name in ("users", "users/taken", "factors/users")]
    assert rows == [1, 1, 1]
    similar = held["users"]
    assert isinstance(similar, Lists)
    assert key in similar.items
    place.say("store")
    assert main(["erase", "u3", *place.here]) == 0
    assert main(["compact", *place.here]) == 0
    left = place.held()
    for name, form in left.items():
        if name in ("users", "users/taken", "factors/users"):
            assert key not in form.keys
        else:
            assert ordered(form) == ordered(held[name])
    similar = left["users"]
    assert isinstance(similar, Lists)
    assert key not in similar.items
    again = place.pages()
    place.say("release")
    assert place.pages() == again


def test_the_forms_of_a_source_come_from_the_store_alone(tmp_path: Path) -> None:
    """An artifact without its arrays still opens where the store has them."""
    place = Place(tmp_path / "p", "lmdb:")
    assert main(["publish", *place.here]) == 0
    project = load(place.folder)
    release = Releases(project.home / "releases").load()
    with closing(open_log(project)) as log:
        store = open_lists(project.config.serve, project.home, log.identity, write=False)
    assert store is not None
    with closing(store):
        of = tables(release, store, lambda: NOW)
        assert [type(of(channel).form) for channel in CHANNELS] == [Table, Table, Vectors, Vectors, Table]
        asked: list[str] = []

        def elsewhere(channel: str) -> Elsewhere:
            asked.append(channel)
            return of(channel)

        funnels = assemble(release.document, release.artifact, release.catalogue, lists=elsewhere)
        assert asked == list(CHANNELS)
        assert [channel.name for channel in funnels["home"].channels] == list(CHANNELS)
