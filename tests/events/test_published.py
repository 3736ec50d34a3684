"""Logs that come with a split of their own: every published pair is on its side, and nothing else is."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from shortlist.config import load
from shortlist.errors import ConfigError, DataError
from shortlist.evaluation.project import evaluate, open_data, train
from shortlist.events import workspace
from shortlist.events.adapters import amazon_electronics_m1, citeulike_a, gowalla, ml1m_m1, ml_1m_cold_items
from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public

SPLITS = {"amazon_electronics_m1": amazon_electronics_m1, "gowalla": gowalla, "ml1m_m1": ml1m_m1}
COLD = {
    # Pairs to learn from, for validation, for test; items to learn from, for test.
    "citeulike_a": (citeulike_a.PUBLIC, (164_210, 13_037, 27_739), (13_584, 2_378)),
    "ml_1m_cold_items": (ml_1m_cold_items.PUBLIC, (529_952, 106_695, 296_870), (1_811, 905)),
}
WORDS = '[data]\nadapter = "{}"\n[split]\nuse = "published"\n'


class Ladder:
    """Forty users on forty items, ids far from keys: user u has u .. u + 9 (around), two of which are test."""

    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"go": {}},
    }

    def load(self, say: Say) -> Raw:
        users = np.repeat(np.arange(40), 10)
        frame = pl.DataFrame({"user_id": 1000 - users, "item_id": 7 * ((users + np.tile(np.arange(10), 40)) % 40) + 3})
        last = np.tile(np.arange(10), 40) >= 8
        return gowalla.pairs({"train": frame.filter(~last), "test": frame.filter(last)}, self.schema)


def quiet(text: str) -> None:
    """Says nothing."""


@pytest.mark.parametrize("adapter", SPLITS)
def test_published_parts(tmp_path: Path, adapter: str, data_folder: Path | None) -> None:
    if data_folder is None:
        pytest.skip("SHORTLIST_DATA is not set: generated pairs in tests/dataset/test_splits.py stand in")
    (tmp_path / "shortlist.toml").write_text(WORDS.format(adapter), encoding="utf-8")
    project = load(tmp_path)
    workspace.import_log(project, quiet, 0)
    data = open_data(project)
    split, keys = data.split, {entity: workspace.keys(project, entity) for entity in ("user", "item")}
    for part, found in (("train", split.before_test), ("test", split.test)):
        file = pl.read_parquet(data_folder / SPLITS[adapter].PUBLIC.name / f"{part}.parquet")
        wanted = file.select(
            user=pl.Series(keys["user"].encode(file["user_id"].cast(pl.String))),
            item=pl.Series(keys["item"].encode(file["item_id"].cast(pl.String))),
        )
        got = pl.DataFrame({"user": found.users, "item": found.items})
        assert got.sort("user", "item").equals(wanted.sort("user", "item"))
    # A tenth of each user's training pairs, rounded down, is validation.
    counts = pl.DataFrame({"user": split.before_test.users}).group_by("user").len()
    assert len(split.valid) == (counts["len"] // 10).sum()
    assert split.audit() == []


@pytest.mark.parametrize("adapter", COLD)
def test_published_cold_items(tmp_path: Path, adapter: str, data_folder: Path | None) -> None:
    if data_folder is None:
        pytest.skip("SHORTLIST_DATA is not set: generated pairs in tests/dataset/test_splits.py stand in")
    (tmp_path / "shortlist.toml").write_text(WORDS.format(adapter), encoding="utf-8")
    project = load(tmp_path)
    workspace.import_log(project, quiet, 0)
    data = open_data(project)
    split, (public, pairs, items) = data.split, COLD[adapter]
    assert (len(split.train), len(split.valid), len(split.test)) == pairs
    assert (len(split.train.item_keys), len(split.test.item_keys)) == items
    name = next(name for name in public.files if name.endswith("cold_test"))
    file = pl.read_parquet(data_folder / public.name / f"{name}.parquet")
    users = workspace.keys(project, "user").encode(file["user_id"].cast(pl.String))
    assert np.array_equal(np.sort(users), split.test.users)
    # The held-out items have no event to learn from, and every item has its profile.
    for cold in (split.valid, split.test):
        assert not len(np.intersect1d(cold.item_keys, split.train.item_keys))
    assert not len(np.setdiff1d(data.interactions.item_keys, data.catalogue.items.keys))


@pytest.mark.parametrize("adapter", SPLITS)
def test_without_the_files(tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_DATA", str(tmp_path))
    monkeypatch.setenv("SHORTLIST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shortlist.toml").write_text(WORDS.format(adapter), encoding="utf-8")
    public: Public = SPLITS[adapter].PUBLIC
    with pytest.raises(DataError) as caught:
        workspace.import_log(load(tmp_path), quiet, 0)
    assert str(caught.value) == (
        f"tried SHORTLIST_DATA, the cache: {public.name} cannot be had "
        f"(set SHORTLIST_DATA to a folder with {public.name}/ holding train.parquet, test.parquet)"
    )


def test_a_file_that_is_not_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_DATA", str(tmp_path))
    folder = tmp_path / "gowalla"
    folder.mkdir()
    for part in ("train", "test"):
        pl.DataFrame({"user_id": [0], "item_id": [0]}).write_parquet(folder / f"{part}.parquet")
    (tmp_path / "shortlist.toml").write_text(WORDS.format("gowalla"), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        workspace.import_log(load(tmp_path), quiet, 0)
    assert str(caught.value) == (
        f"{folder / 'train.parquet'}: its checksum is not the one expected (get the file again)"
    )


def test_held_out_pairs_come_after_the_others() -> None:
    """A log of four pairs whose last two are held out."""
    tables = {
        "train": pl.DataFrame({"user_id": [7, 8], "item_id": [70, 80]}),
        "test": pl.DataFrame({"user_id": [7, 8], "item_id": [80, 70]}),
    }
    found = gowalla.pairs(tables, gowalla.Gowalla.schema)
    assert found.published is not None
    assert found.published.to_dict(as_series=False) == {"user": [7, 8], "item": [80, 70], "part": ["test", "test"]}
    assert found.events.collect().rows() == [(7, 70), (8, 80), (7, 80), (8, 70)]


def test_a_published_split_from_import_to_figures(tmp_path: Path) -> None:
    words = """
    [data]
    adapter = "tests.events.test_published:Ladder"
    [split]
    use = "published"
    valid = 0.25
    [[recall]]
    name = "similar"
    use = "item_cf"
    quota = 5
    weights = "binary"
    [scene.home]
    page = 5
    budget = 5
    """
    (tmp_path / "shortlist.toml").write_text(words, encoding="utf-8")
    project = load(tmp_path)
    workspace.import_log(project, quiet, 0)
    data = open_data(project)
    # Of each user's eight training events a quarter is validation.
    assert (len(data.split.train), len(data.split.valid), len(data.split.test)) == (240, 80, 80)
    assert (len(data.part("valid")), len(data.part("test"))) == (240, 320)
    train(data, "test", created_ms=0)
    channel = evaluate(data, "test", ks=(5,)).measured.of("similar")
    # Neighbours on a ladder are near: the two items above a user's eight are among the five that come first.
    assert np.nanmean(channel.columns["recall@5"]) == 1.0
    # F1 = 2 * 2 / (5 + 2)
    assert np.nanmean(channel.columns["f1@5"]) == pytest.approx(4 / 7)


def test_lists_of_candidates_are_not_put_on_a_published_split(tmp_path: Path) -> None:
    """Last-out on a log whose published split is of pairs: the pairs are no lists."""
    words = '[data]\nadapter = "tests.events.test_published:Ladder"\n[split]\nuse = "last_out"\nvalid = "random"\n'
    (tmp_path / "shortlist.toml").write_text(words, encoding="utf-8")
    project = load(tmp_path)
    workspace.import_log(project, quiet, 0)
    split = open_data(project).split
    assert (split.protocol, split.candidates) == ("last_out", None)
    (tmp_path / "shortlist.toml").write_text(words.replace("last_out", "publised"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        _ = open_data(load(tmp_path)).split
    assert str(caught.value) == "split.use: nothing is called 'publised' (did you mean published?)"
