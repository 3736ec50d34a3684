"""Forms beside the one that is searched: saved, opened, and without a user who asked to be forgotten."""

from pathlib import Path

import numpy as np
import polars as pl

from shortlist import artifact
from shortlist.artifact import Releases
from shortlist.events.erase import _without
from shortlist.forms import Built, Lists, Vectors
from shortlist.schema import Catalogue, Keys, Profiles

U2U = Lists.ranked(np.array([0, 0, 1, 2]), np.array([1, 2, 0, 0]), np.array([0.5, 0.25, 0.5, 0.25], dtype=np.float32))
TAKEN = Lists.ranked(np.array([0, 1, 2]), np.array([7, 8, 9]), np.ones(3, dtype=np.float32))
CENTRES = Vectors(np.arange(2), np.eye(2, dtype=np.float32), "cos")
WISHES = Vectors(np.arange(3), np.arange(6, dtype=np.float32).reshape(3, 2), "ip")
BUILT = Built(
    U2U,
    {"taken": TAKEN, "centres": CENTRES, "wishes": WISHES},
    {"form": "users", "taken": "items", "wishes": "vectors"},
)


def equal(one: Lists, other: Lists) -> None:
    for name in ("keys", "offsets", "items", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_forms_beside_come_back(tmp_path: Path) -> None:
    artifact.save(tmp_path / "user_cf", kind="recall", name="user_cf", form=BUILT, created_ms=1)
    read = artifact.load(tmp_path / "user_cf")
    form, beside = read.form(), read.beside()
    assert isinstance(form, Lists)
    assert isinstance(beside["taken"], Lists)
    assert isinstance(beside["centres"], Vectors)
    equal(form, U2U)
    equal(beside["taken"], TAKEN)
    np.testing.assert_array_equal(beside["centres"].matrix, CENTRES.matrix)
    assert (beside["centres"].metric, list(beside)) == ("cos", ["taken", "centres", "wishes"])
    wishes = beside["wishes"]
    assert isinstance(wishes, Vectors)
    np.testing.assert_array_equal(wishes.matrix, WISHES.matrix)


def test_a_forgotten_user_leaves_lists_of_users_on_both_sides(tmp_path: Path) -> None:
    artifact.save(tmp_path / "user_cf", kind="recall", name="user_cf", form=BUILT, created_ms=1)
    users, items = Keys(pl.Series(["a", "b", "c"])), Keys(pl.Series([f"i{n}" for n in range(10)]))
    catalogue = Catalogue(Profiles(np.arange(3), {}), Profiles(np.arange(10), {}))
    releases = Releases(tmp_path / "releases")
    id = releases.publish(None, {"user_cf": tmp_path / "user_cf"}, {}, users, items, catalogue, created_ms=1)
    assert (
        releases.rewrite(id, lambda name, table: _without(name, table, [1])) == 6
    )  # 0-1, 1-0, taken, wish, id, profile
    read = releases.load(id).artifact("user_cf")
    form, taken = read.form(), read.beside()["taken"]
    assert isinstance(form, Lists)
    assert isinstance(taken, Lists)
    equal(form, Lists.ranked(np.array([0, 2]), np.array([2, 0]), np.full(2, 0.25, dtype=np.float32)))
    assert taken.keys.tolist() == [0, 2]
    wishes = read.beside()["wishes"]
    assert isinstance(wishes, Vectors)
    assert wishes.keys.tolist() == [0, 2]
    np.testing.assert_array_equal(wishes.matrix, WISHES.matrix[[0, 2]])
