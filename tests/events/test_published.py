"""Logs that come with a split of their own: every published pair is on its side, and nothing else is."""

from pathlib import Path

import polars as pl
import pytest

from shortlist.config import load
from shortlist.errors import DataError
from shortlist.evaluation.project import open_data
from shortlist.events import workspace
from shortlist.events.adapters import amazon_electronics_m1, gowalla, ml1m_m1
from shortlist.events.sources import Public

SPLITS = {"amazon_electronics_m1": amazon_electronics_m1, "gowalla": gowalla, "ml1m_m1": ml1m_m1}
WORDS = '[data]\nadapter = "{}"\n[split]\nuse = "published"\n'


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
