"""Releases whose tables are put in other words: whole before and after, the same release."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shortlist import artifact
from shortlist.artifact import Releases
from shortlist.errors import ArtifactError
from shortlist.forms import Vectors
from shortlist.schema import Catalogue, Keys

HISTORY = pl.DataFrame({"user": [0, 1, 0], "item": [1, 2, 3]})
VECTORS = Vectors(np.array([0, 1]), np.eye(2, dtype=np.float32))


def publish(folder: Path) -> Releases:
    """One release with a table of its own, and an artifact with another."""
    tables = {"of users": pl.DataFrame({"user": [0, 1], "x": [0.5, 1.0]})}
    artifact.save(folder / "one", kind="recall", name="one", form=VECTORS, tables=tables, created_ms=1)
    releases = Releases(folder / "releases")
    users, items = Keys(["u0", "u1"]), Keys(["a", "b", "c", "d"])
    parts, more = {"one": folder / "one"}, {"histories": HISTORY}
    releases.publish(None, parts, {"scenes": {}}, users, items, Catalogue.empty(), more, created_ms=1_767_225_600_000)
    return releases


def without(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Without user 0."""
    return table.filter(pl.col("user") != 0) if "user" in table.columns else table


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_tables_are_changed_and_all_else_stays(tmp_path: Path) -> None:
    releases = publish(tmp_path)
    old = releases.load()
    before = content(old.folder)
    assert releases.rewrite(old.id, without) == 2 + 1  # rows of histories, and of the artifact's table
    new = releases.load()
    assert (new.id, new.document, new.manifest.created_ms) == (old.id, old.document, old.manifest.created_ms)
    assert new.table("histories").rows() == [(1, 2)]
    assert new.artifact("one").table("of users").rows() == [(1, 1.0)]
    form = new.artifact("one").form()
    assert isinstance(form, Vectors)
    assert form.matrix.tolist() == VECTORS.matrix.tolist()
    after = content(new.folder)
    changed = {name for name in after if after[name] != before[name]}
    assert after.keys() == before.keys()
    assert changed == {
        "manifest.json", "table.histories.arrow", "artifacts/000/manifest.json", "artifacts/000/of%20users.arrow",
    }  # fmt: skip
    assert not list((tmp_path / "releases").glob(".*"))


def test_a_release_without_anything_to_change_is_not_written(tmp_path: Path) -> None:
    releases = publish(tmp_path)
    folder = releases.load().folder
    before = folder.stat().st_ino
    assert releases.rewrite(folder.name, lambda name, table: table) == 0
    assert folder.stat().st_ino == before
    assert not list((tmp_path / "releases").glob(".*"))


def test_a_change_that_fails_leaves_the_release(tmp_path: Path) -> None:
    releases = publish(tmp_path)
    id = releases.load().id

    def broken(name: str, table: pl.DataFrame) -> pl.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        releases.rewrite(id, broken)
    assert len(releases.load().table("histories")) == 3
    assert not list((tmp_path / "releases").glob(".*"))


def test_a_damaged_release_is_refused(tmp_path: Path) -> None:
    releases = publish(tmp_path)
    folder = releases.load().folder
    file = folder / "table.histories.arrow"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="the content has changed since it was written"):
        releases.rewrite(folder.name, without)


@pytest.mark.parametrize("exchange", [True, False])
def test_what_a_kill_leaves_is_tidied(tmp_path: Path, exchange: bool) -> None:
    """Killed while it was writing; and, where folders cannot change names in one step, between the steps."""
    releases = publish(tmp_path)
    id, folder = releases.load().id, tmp_path / "releases"
    shutil.copytree(folder / id, folder / f".rewriting-{id}-abcd1234")
    if not exchange:
        (folder / id).rename(folder / f".rewriting-{id}-abcd1234-aside")
    releases.tidy()
    assert not list(folder.glob(".*"))
    assert len(releases.load().table("histories")) == 3


def test_folders_change_names_without_the_systems_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases = publish(tmp_path)
    id = releases.load().id
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    assert releases.rewrite(id, without) == 3
    assert releases.load().table("histories").rows() == [(1, 2)]
    releases.tidy()
    assert not list((tmp_path / "releases").glob(".*"))
