"""Releases: published whole or not at all, one of them current, readable without anything that trains."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.waiting import until

from shortlist import artifact
from shortlist.artifact import Release, Releases
from shortlist.errors import ArtifactError
from shortlist.forms import Lists, Vectors
from shortlist.schema import Catalogue, Keys, Profiles

NOON = 1_767_225_600_123  # 2026-01-01 00:00:00.123 UTC
USERS, ITEMS = Keys(["u1", "ü 2", "3"]), Keys(["a", "b\n", "c'\"", "d"])
VECTORS = Vectors(np.array([0, 1, 2]), np.eye(3, dtype=np.float32))
LISTS = Lists(np.array([0]), np.array([0, 1]), np.array([2]), np.array([0.5], dtype=np.float32))
HISTORY = pl.DataFrame({"user": [0, 0], "item": [1, 2], "time_ms": [10, 20]})


def objects(*values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


CATALOGUE = Catalogue(
    Profiles(np.array([0, 2]), {"region": objects("north", None)}),
    Profiles(
        np.array([0, 1, 3]),
        {
            "genres": objects(["Action", "Drama"], None, []),
            "title": objects("Heat", None, "日本"),
            "nothing": objects(None, None, None),
            "empty": objects([], [], None),
            "weights": objects([0.5, 1.0], [], None),
            "year": objects(1995, None, 2001),
            "price": np.array([1.5, np.nan, 0.25]),
            "sold": np.array([3, 0, 9], dtype=np.int32),
            "kept": np.array([True, False, True]),
            "vector": np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32),
        },
    ),
)


def parts(tmp_path: Path, **forms: Any) -> dict[str, Path]:
    for name, form in forms.items():
        metrics = {"recall@10": 0.5}
        artifact.save(tmp_path / name, kind="recall", name=name, form=form, metrics=metrics, created_ms=1)
    return {name: tmp_path / name for name in forms}


def publish(tmp_path: Path, name: str | None = None, at: int = NOON, **changes: Any) -> str:
    made = changes.pop("artifacts", None) or parts(tmp_path, cf=LISTS, als=VECTORS)
    values: dict[str, Any] = {
        "document": {"scene": {"home": {"page": 10}}},
        "users": USERS,
        "items": ITEMS,
        "catalogue": CATALOGUE,
        "tables": {"history": HISTORY},
        **changes,
    }
    return Releases(tmp_path / "releases").publish(name, made, created_ms=at, **values)


def same(left: Profiles, right: Profiles) -> None:
    assert left.keys.tolist() == right.keys.tolist()
    assert list(left.columns) == list(right.columns)
    for name, values in left.columns.items():
        assert right.columns[name].dtype == values.dtype, name
        np.testing.assert_array_equal(right.columns[name], values)
        assert [type(v) for v in right.columns[name].tolist()] == [type(v) for v in values.tolist()], name


def test_what_is_published_comes_back(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases")
    assert (releases.current(), releases.list()) == (None, ())
    made = publish(tmp_path, "First try!")
    assert made == "20260101T000000123-000-first-try"
    release = releases.load()
    assert (release.id, releases.current()) == (made, made)
    assert release.document == {"scene": {"home": {"page": 10}}}
    assert release.artifacts == ("cf", "als")
    form = release.artifact("als").form()
    assert isinstance(form, Vectors)
    assert form.matrix.tolist() == VECTORS.matrix.tolist()
    assert release.users.ids.to_list() == ["u1", "ü 2", "3"]
    assert release.items.encode(["c'\"", "b\n", 7]).tolist() == [2, 1, -1]
    assert release.tables == ("history",)
    assert release.table("history").equals(HISTORY)
    same(CATALOGUE.users, release.catalogue.users)
    same(CATALOGUE.items, release.catalogue.items)


def test_the_document_keeps_its_order(tmp_path: Path) -> None:
    # the code of an action is its place in the schema, so `skip` must not come before `play`
    publish(tmp_path, document={"schema": {"actions": {"play": {}, "skip": {}, "like": {}}}})
    document = Releases(tmp_path / "releases").load().document
    assert list(document["schema"]["actions"]) == ["play", "skip", "like"]


def test_an_empty_world_can_be_published(tmp_path: Path) -> None:
    publish(tmp_path, users=Keys(), items=Keys(), catalogue=Catalogue.empty(), tables=None)
    release = Releases(tmp_path / "releases").load()
    assert (len(release.users), len(release.items), len(release.catalogue.items)) == (0, 0, 0)


def test_a_release_does_not_need_what_it_was_built_from(tmp_path: Path) -> None:
    made = parts(tmp_path, cf=LISTS)
    publish(tmp_path, artifacts=made)
    artifact.save(made["cf"], kind="recall", name="cf", form=VECTORS, created_ms=2)
    assert isinstance(Releases(tmp_path / "releases").load().artifact("cf").form(), Lists)


def test_releases_sort_by_time_and_roll_back_and_forth(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path)  # within one millisecond
    third = publish(tmp_path, "b", NOON + 1)
    releases = Releases(tmp_path / "releases")
    assert [first, second] == ["20260101T000000123-000", "20260101T000000123-001"]
    assert [(s.id, s.current) for s in releases.list()] == [(first, False), (second, False), (third, True)]
    assert releases.list()[2].metrics == {"cf": {"recall@10": 0.5}, "als": {"recall@10": 0.5}}
    assert [s.created_ms for s in releases.list()] == [NOON, NOON, NOON + 1]
    assert releases.rollback() == second
    assert releases.load().id == second
    assert releases.rollback() == first
    with pytest.raises(ArtifactError) as caught:
        releases.rollback()
    assert str(caught.value) == f"{releases.folder}: there is no earlier release (publish another first)"
    assert releases.rollback(third) == third
    assert releases.current() == third


def test_a_damaged_release_is_listed_with_its_problem_and_passed_over(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path, at=NOON + 1)
    third, fourth = publish(tmp_path, at=NOON + 2), publish(tmp_path, at=NOON + 3)
    releases = Releases(tmp_path / "releases")
    (releases.folder / second / "manifest.json").write_bytes(b"{")
    (releases.folder / third / "table.history.arrow").write_bytes(b"")  # seen only when it is opened
    broken = "the manifest is damaged: not JSON"
    assert [(s.id, s.created_ms, s.current, s.problem) for s in releases.list()] == [
        (first, NOON, False, ""),
        (second, NOON + 1, False, broken),  # the time is told by its id
        (third, NOON + 2, False, ""),
        (fourth, NOON + 3, True, ""),
    ]
    assert releases.list()[1].metrics == {}
    with pytest.raises(ArtifactError) as caught:
        releases.rollback(second)
    assert str(caught.value) == f"{releases.folder}/{second}/manifest.json: {broken} (train and publish again)"
    assert releases.rollback() == first
    releases.rollback(fourth)
    (releases.folder / first / "manifest.json").write_bytes(b"{")
    with pytest.raises(ArtifactError) as caught:
        releases.rollback()
    assert str(caught.value) == f"{releases.folder}: all 3 earlier releases are damaged (publish another first)"
    assert releases.current() == fourth


def test_a_damaged_release_with_a_name_of_its_own_has_no_time(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "releases" / "mine").mkdir()
    (tmp_path / "releases" / "mine" / "manifest.json").write_text("[]")
    found = Releases(tmp_path / "releases").list()[1]
    assert (found.id, found.created_ms, found.problem) == ("mine", 0, "the manifest is damaged: not a table")


def test_a_failed_check_leaves_the_current_release(tmp_path: Path) -> None:
    first = publish(tmp_path)
    seen: list[str] = []

    def refuse(release: Release) -> None:
        seen.append(release.id)
        raise ArtifactError("recall fell", where=release.id, hint="look at the report")

    with pytest.raises(ArtifactError, match="recall fell"):
        publish(tmp_path, "worse", NOON + 5, checks=(refuse,))
    releases = Releases(tmp_path / "releases")
    assert seen == ["20260101T000000128-000-worse"]
    assert releases.current() == first
    assert sorted(p.name for p in releases.folder.iterdir()) == [first, "current"]


def test_a_check_that_breaks_leaves_the_current_release(tmp_path: Path) -> None:
    first = publish(tmp_path)

    def broken(release: Release) -> None:
        raise ConnectionError("the judge is away")

    with pytest.raises(ConnectionError):
        publish(tmp_path, "worse", NOON + 5, checks=(broken,))
    assert [s.id for s in Releases(tmp_path / "releases").list()] == [first]


def test_a_damaged_artifact_is_not_published(tmp_path: Path) -> None:
    first = publish(tmp_path)
    made = parts(tmp_path, cf=LISTS)
    file = made["cf"] / "form.items.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match="the content has changed since it was written"):
        publish(tmp_path, "bad", NOON + 5, artifacts=made)
    assert Releases(tmp_path / "releases").current() == first


def test_profiles_of_mixed_types_name_the_field(tmp_path: Path) -> None:
    mixed = Profiles(np.array([0, 1]), {"tag": objects("a", 5)})
    with pytest.raises(ArtifactError) as caught:
        publish(tmp_path, catalogue=Catalogue(mixed, mixed))
    assert caught.value.where == "users.tag"
    assert caught.value.hint == "give each field one type: text, numbers, or lists of one of them"


def test_absent_releases_and_parts_say_so(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases")
    with pytest.raises(ArtifactError) as caught:
        releases.load()
    assert str(caught.value) == f"{releases.folder}: no release is published yet (run `shortlist publish`)"
    made = publish(tmp_path)
    for bad in ("..", "../x", "current", ""):
        with pytest.raises(ArtifactError, match="no release is called"):
            releases.load(bad)
    release = releases.load()
    with pytest.raises(ArtifactError) as caught:
        release.artifact("all")
    assert str(caught.value) == f"release {made}: no artifact is called 'all' (did you mean als?)"
    with pytest.raises(ArtifactError) as caught:
        release.table("histori")
    assert str(caught.value) == f"release {made}: no table is called 'histori' (did you mean history?)"


def test_a_current_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    link = tmp_path / "releases" / "current"
    link.unlink()
    link.symlink_to("../cf")
    with pytest.raises(ArtifactError) as caught:
        Releases(tmp_path / "releases").load()
    hint = "(remove it, then roll back to a release)"
    assert str(caught.value) == f"{link}: `current` leaves its folder: '../cf' {hint}"


def test_readers_see_a_whole_release_while_others_are_published(tmp_path: Path) -> None:
    # Every release says its number twice: in the document and in an artifact. A mixture would differ.
    def step(n: int) -> None:
        made = artifact.save(tmp_path / "cf", kind="recall", name="cf", form=VECTORS, config={"n": n}, created_ms=n)
        assert made.config == {"n": n}
        publish(tmp_path, at=NOON + n, artifacts={"cf": tmp_path / "cf"}, document={"n": n})

    step(0)
    seen: list[Mapping[str, Any]] = []
    wrong: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                release = Releases(tmp_path / "releases").load(verify=False)
                own = release.artifact("cf").manifest.config["n"]
                seen.append({"document": release.document["n"], "artifact": own})
        except Exception as error:  # noqa: BLE001 (the test fails on it below)
            wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: bool(seen or wrong))
    for n in range(1, 15):
        step(n)
    until(lambda: bool(wrong) or seen[-1]["document"] == 14)
    stop.set()
    reader.join()
    assert not wrong
    assert (seen[0], seen[-1]["document"]) == ({"document": 0, "artifact": 0}, 14)
    assert all(one["document"] == one["artifact"] for one in seen)


def test_publishers_at_one_moment_get_ids_of_their_own(tmp_path: Path) -> None:
    made = parts(tmp_path, cf=LISTS)
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(publish(tmp_path, artifacts=made))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == [f"20260101T000000123-{n:03d}" for n in range(6)]
    assert Releases(tmp_path / "releases").current() in ids


def test_a_release_loads_without_training_dataset_tables_or_torch(tmp_path: Path) -> None:
    publish(tmp_path)
    code = f"""
import sys
from shortlist.artifact import Releases
release = Releases({str(tmp_path / "releases")!r}).load()
release.artifact("cf").form(); release.table("history"); release.catalogue
heavy = ("torch", "shortlist.training", "shortlist.dataset", "shortlist.tables", "shortlist.models")
print([name for name in sys.modules if name.startswith(heavy)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
