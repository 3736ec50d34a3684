"""The adapters of two news logs: their files as generated rows, what is derived from them, and what is refused."""

import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.simulation.logs import generate, run

from shortlist.cli import main
from shortlist.config import load
from shortlist.errors import ConfigError, DataError
from shortlist.events import workspace
from shortlist.events.adapters.globo_news import GloboNews, homes
from shortlist.events.adapters.yidian import DOCUMENTS, PEOPLE, SHOWN, Yidian
from shortlist.events.infer import infer
from shortlist.events.raw import load as raw_of
from shortlist.events.raw import schema_of
from shortlist.events.sources import Public, fetch
from shortlist.simulation import news
from shortlist.simulation.events import Events
from shortlist.simulation.news import FILES, FORMATS, globo, save
from shortlist.simulation.policy import named
from shortlist.simulation.truth import CLICK, IMPRESSION
from shortlist.simulation.world import World

SMALL = World.Config(users=30, items=60, days=3, visits=2.0, categories=4)
T = 1_507_000_000_000  # October 2017, in ms
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def world() -> tuple[World, Events]:
    made = generate(SMALL)
    return made, run(made, "popularity")


def silent(said: str) -> None:
    """Nobody listens."""


def written(folder: Path, form: str) -> Path:
    save(folder, form, SMALL, lambda world: named("popularity", world.truth), 0, lambda done, total, what: None)
    return folder


def rows(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def contest(folder: Path) -> Path:
    """Three users and four articles in the columns of the contest."""
    place = "click_environment,click_deviceGroup,click_os,click_country,click_region,click_referrer_type"
    rows(
        folder, "train_click_log.csv", f"user_id,click_article_id,click_timestamp,{place}",
        f"7,10,{T},4,1,17,1,25,2", f"7,11,{T + 30_000},4,1,17,1,25,2", f"7,12,{T + 60_000},4,1,17,1,20,1",
        f"8,10,{T},4,3,20,1,25,2", f"8,11,{T + 30_000},4,3,20,3,28,2",
    )  # fmt: skip
    rows(
        folder, "articles.csv", "article_id,category_id,created_at_ts,words_count",
        f"10,281,{T - HOUR_MS},168", f"11,281,{T - 2 * HOUR_MS},0", f"12,375,{T},1044", f"13,375,{T},20",
    )  # fmt: skip
    rows(folder, "articles_emb.csv", "article_id,emb_0,emb_1,emb_10,emb_2", "10,1,2,4,3", "12,-0.5,0,1e-3,0.25")
    return folder


def test_the_contests_files(tmp_path: Path) -> None:
    raw = GloboNews().read(contest(tmp_path), silent)
    events = raw.events.collect()
    assert events["article_id"].to_list() == ["10", "11", "12", "10", "11"]
    assert raw.items is not None
    items = raw.items.collect()
    assert items["article_id"].to_list() == ["10", "11", "12", "13"]
    # numbers of a vector are in order of their columns' numbers, 10 after 2; two articles have none
    assert items["emb"].to_list() == [[1, 2, 3, 4], None, pytest.approx([-0.5, 0, 0.25, 1e-3]), None]
    assert raw.users is not None
    # user 7 clicked first in region 25, user 8 too, before region 28 of country 3
    assert raw.users.sort("user_id").collect().rows() == [("7", "1", "25"), ("8", "1", "25")]
    assert raw.place("events", 3) == f"{tmp_path / 'train_click_log.csv'}, row 3"
    assert raw.place("items", 1) == f"{tmp_path / 'articles.csv'}, row 1"


def test_the_logs_of_other_users_come_behind(tmp_path: Path) -> None:
    folder, said = contest(tmp_path), list[str]()
    train = pl.read_csv(folder / "train_click_log.csv")
    other = train.head(2).with_columns(user_id=pl.lit(9)).select(reversed(train.columns))
    other.write_csv(folder / "testA_click_log.csv")
    raw = GloboNews().read(folder, said.append)
    assert said == ["testA_click_log.csv: its clicks come behind those of train_click_log.csv"]
    assert raw.events.collect()["user_id"].to_list() == ["7", "7", "7", "8", "8", "9", "9"]
    assert raw.place("events", 6) == f"{folder / 'testA_click_log.csv'}, row 1"
    other.drop("click_os").write_csv(folder / "testA_click_log.csv")
    with pytest.raises(DataError) as caught:
        GloboNews().read(folder, silent)
    assert str(caught.value) == (
        f"{folder / 'testA_click_log.csv'}: its columns differ from those of train_click_log.csv, first at 'click_os' "
        "(files of the contest have the same columns)"
    )


def test_articles_without_vectors(tmp_path: Path) -> None:
    folder, said = contest(tmp_path), list[str]()
    (folder / "articles_emb.csv").unlink()
    raw = GloboNews().read(folder, said.append)
    assert said == ["no articles_emb.csv: articles have no vectors"]
    assert raw.items is not None
    assert raw.items.collect()["emb"].to_list() == [None] * 4


@pytest.mark.parametrize(
    ("file", "lines", "said"),
    [
        (
            "articles_emb.csv",
            ("article_id,emb_0", "10,1", "11,2", "10,3"),
            "1 articles have two vectors: '10' (keep one row for each article)",
        ),
        (
            "articles_emb.csv",
            ("article,emb_0", "10,1"),
            "no columns article_id and emb_0, emb_1, ... (columns are article, emb_0)",
        ),
    ],
)
def test_vectors_that_cannot_be_used(file: str, lines: tuple[str, ...], said: str, tmp_path: Path) -> None:
    rows(contest(tmp_path), file, *lines)
    with pytest.raises(DataError) as caught:
        GloboNews().read(tmp_path, silent)
    assert str(caught.value) == f"{tmp_path / file}: {said}"


def test_a_log_without_a_column(tmp_path: Path) -> None:
    rows(contest(tmp_path), "train_click_log.csv", "user_id,article_id", "7,10")
    with pytest.raises(DataError) as caught:
        GloboNews().read(tmp_path, silent)
    want = "the click log: no column is called 'click_article_id' (columns are user_id, article_id)"
    assert str(caught.value) == want
    (tmp_path / "train_click_log.csv").unlink()
    with pytest.raises(DataError, match="no such file or folder"):
        GloboNews().read(tmp_path, silent)


def test_a_bad_number_is_named_with_its_file_and_row(tmp_path: Path) -> None:
    folder = contest(tmp_path)
    (tmp_path / "shortlist.toml").write_text('[data]\nadapter = "globo_news"\nevents = "."\n', encoding="utf-8")
    text = (folder / "train_click_log.csv").read_text(encoding="utf-8").replace(f"8,10,{T}", "8,10,soon")
    (folder / "train_click_log.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        workspace.import_log(load(tmp_path), silent, T)
    place = f"{folder / 'train_click_log.csv'}, row 3"
    assert str(caught.value).startswith(f"{place}: 1 times are not numbers: 'soon'")


def test_an_imported_contest(tmp_path: Path) -> None:
    contest(tmp_path)
    (tmp_path / "shortlist.toml").write_text('[data]\nadapter = "globo_news"\nevents = "."\n', encoding="utf-8")
    project = load(tmp_path)
    report = workspace.import_log(project, silent, T)
    assert (report.added, report.users, report.items) == (5, 2, 4)
    known = workspace.catalogue(project)
    keys = workspace.keys(project, "item").encode(["10", "11", "12", "13"])
    assert known.items.take("category_id", keys).tolist() == ["281", "281", "375", "375"]
    assert known.items.take("created_at_ts", keys).tolist() == [T - HOUR_MS, T - 2 * HOUR_MS, T, T]
    assert known.items.take("words_count", keys).tolist() == [168, 0, 1044, 20]
    told = workspace.events(project).collect()
    assert told["click_region"].to_list() == ["25", "25", "25", "28", "20"]  # in order of time


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            'adapter = "ml_100k"\nevents = "."',
            "project.data.events: ml_100k is one log and reads no other files (take events away, or adapter)",
        ),
        (
            'adapter = "globo_news"\nevents = "."\nitems = "items.csv"',
            "project.data.items: globo_news brings its own items (take it away)",
        ),
    ],
)
def test_an_adapter_and_files_that_it_does_not_read(words: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "shortlist.toml").write_text(f"[data]\n{words}\n", encoding="utf-8")
    project = load(tmp_path)
    with pytest.raises(ConfigError) as caught:
        raw_of(project, schema_of(project), silent)
    assert str(caught.value) == said


# ---------------------------------------------------------------------------------------------- exposures


def exposures(folder: Path) -> Path:
    """Two users, three documents; the second was published an hour after it was first shown, the third at no time."""
    rows(
        folder, SHOWN, f"1\t21\t{T}\t2\t0\t0\t1\t30", f"1\t22\t{T}\t2\t0\t1\t0\t0", f"1\t23\t{T}\t2\t0\t2\t0\t0",
        f"2\t22\t{T + HOUR_MS}\t5\t3\t4\t1\t8", f"2\t22\t{T + HOUR_MS - 1}\t5\t2\t4\t1\t8",
        f"2\t21\t{T}\t5\t2\t5\tnan\t8",
    )  # fmt: skip
    rows(
        folder, PEOPLE,
        "1\tDVC-AN20\tAndroid\tJiangxi\tNanchang\tA_40+:0.66,A_0_24:0.01,A_25_29:0.04,A_30_39:0.29\tfemale:0.36,male:0.64",
        "2\t\t\t\t\t\t",
    )  # fmt: skip
    rows(
        folder, DOCUMENTS, f'21\tA "word\t{T}\t3\tsport\tsport/ball\tball:4.5,a:b:0.5,:1',
        f"22\ttwo\t{T + HOUR_MS}\t0\tsport\tsport/run\t", "23\tthree\tAndroid\tx\t\t\trun:1",
    )  # fmt: skip
    return folder


def test_exposures_are_impressions_and_clicks(tmp_path: Path) -> None:
    said: list[str] = []
    raw = Yidian().read(exposures(tmp_path), said.append)
    assert said == [
        "2 of 6 exposures lie before their document was published: left out",
        "1 of 6 exposures say neither 0 nor 1 of the click: left out",
    ]
    told = raw.events.select("userId", "itemId", "action", "position", "request").collect().rows()
    # published at the very moment of the exposure is soon enough, and so is a document without a time
    assert told == [
        ("1", "21", "impression", 1, f"1-{T}"), ("1", "23", "impression", 3, f"1-{T}"),
        ("2", "22", "impression", 5, f"2-{T + HOUR_MS}"),
        ("1", "21", "click", 1, f"1-{T}"), ("2", "22", "click", 5, f"2-{T + HOUR_MS}"),
    ]  # fmt: skip
    assert raw.users is not None
    people = raw.users.select("age0", "age1", "age2", "age3", "female", "male").collect().rows()
    assert people == [(0.01, 0.04, 0.29, 0.66, 0.36, 0.64), (None,) * 6]
    assert raw.items is not None
    documents = raw.items.select("title", "published", "images", "keywords").collect().rows()
    assert documents == [
        ('A "word', T, 3, ["ball", "a:b"]), ("two", T + HOUR_MS, 0, None), ("three", None, None, ["run"]),
    ]  # fmt: skip


def test_imported_exposures(tmp_path: Path) -> None:
    exposures(tmp_path)
    (tmp_path / "shortlist.toml").write_text('[data]\nadapter = "yidian"\nevents = "."\n', encoding="utf-8")
    project = load(tmp_path)
    report = workspace.import_log(project, silent, T)
    assert (report.added, report.duplicates, report.users, report.items) == (5, 0, 2, 3)
    told = workspace.events(project).select("action", "time_ms", "network", "refresh").collect().rows()
    assert told == [
        ("impression", T, "2", 0), ("impression", T, "2", 0), ("click", T, "2", 0),
        ("impression", T + HOUR_MS, "5", 3), ("click", T + HOUR_MS, "5", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (PEOPLE, "1,Android,Jiangxi\n", "it has 1 columns, not 7: userId, deviceName, OS, province, city, age, gender"),
        (PEOPLE, "", "the file is empty"),
        (DOCUMENTS, None, "no such file"),
    ],
)
def test_files_that_are_none_of_the_contest(file: str, text: str | None, said: str, tmp_path: Path) -> None:
    exposures(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Yidian().read(tmp_path, silent)
    assert (caught.value.where, caught.value.what) == (str(tmp_path / file), said)


# ---------------------------------------------------------------------------------------------- generated rows


def test_a_users_own_region_says_nothing_of_later_clicks(world: tuple[World, Events]) -> None:
    log = globo(*world, np.random.default_rng(0))["train_click_log.csv"]
    whole = dict(homes(log.lazy()).select("user_id", "click_region").collect().iter_rows())
    assert len(set(whole.values())) > 1
    for share in (0.2, 0.5, 0.9):
        known = log.filter(pl.col("click_timestamp") <= pl.col("click_timestamp").quantile(share))
        before = dict(homes(known.lazy()).select("user_id", "click_region").collect().iter_rows())
        assert before == {user: whole[user] for user in before}
        assert 0 < len(before) <= len(whole)


def test_generated_clicks_are_the_worlds(world: tuple[World, Events], tmp_path: Path) -> None:
    made, events = world
    clicks = events.take(np.flatnonzero(events.actions == CLICK)).in_time()
    for name, table in globo(made, events, np.random.default_rng(0)).items():
        table.write_csv(tmp_path / name)
    raw = GloboNews().read(tmp_path, silent)
    found = raw.events.collect()
    assert found["user_id"].cast(pl.Int64).to_list() == clicks.users.tolist()
    assert found["article_id"].cast(pl.Int64).to_list() == clicks.items.tolist()
    assert raw.items is not None
    vectors = np.array(raw.items.collect()["emb"].to_list())
    assert vectors.shape == (60, 250)
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths.max() > 3 * lengths.min()
    # 250 numbers, and the angles of the content of which they were made
    content = made.truth.shelf.content
    angles = (vectors @ vectors.T) / np.outer(lengths, lengths)
    np.testing.assert_allclose(angles, content @ content.T, atol=1e-5)
    # most clicks are made at home, so most users first click there a user's region is
    assert raw.users is not None
    people = raw.users.collect()
    own = 1 + made.truth.people.region[people["user_id"].cast(pl.Int64).to_numpy()]
    assert (people["click_region"].cast(pl.Int64).to_numpy() == own).mean() > 0.8


def test_generated_exposures_are_the_worlds(world: tuple[World, Events], tmp_path: Path) -> None:
    made, events = world
    tables = news.yidian(made, events, np.random.default_rng(0), late=0.5)
    for name, table in tables.items():
        table.write_csv(tmp_path / name, separator="\t", include_header=False, quote_style="never")
    shown = events.take(np.flatnonzero(events.actions == IMPRESSION))
    log, docs = tables[SHOWN], tables[DOCUMENTS]
    assert len(log) == len(shown)
    answered = (events.actions == CLICK) & (events.requests >= 0)
    assert log["click"].sum() == int(answered.sum())
    born = docs.select("itemId", born=pl.col("published").cast(pl.Int64, strict=False))
    early = log.join(born, on="itemId").filter(pl.col("born") > pl.col("showTime"))
    said: list[str] = []
    raw = Yidian().read(tmp_path, said.append)
    assert said == [f"{len(early)} of {len(log)} exposures lie before their document was published: left out"]
    assert 0 < len(early) < len(log)
    left = raw.events.filter(pl.col("action") == "impression").select(pl.len()).collect().item()
    assert left == len(log) - len(early)
    assert raw.users is not None
    people = raw.users.collect()
    ages = people.select("age0", "age1", "age2", "age3").sum_horizontal()
    np.testing.assert_allclose(ages.to_numpy(), 1.0, atol=1e-5)


@pytest.mark.parametrize("form", list(FORMATS))
def test_the_same_seed_writes_the_same_files_once(form: str, tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", form), written(tmp_path / "two", form)
    for name in FILES[form]:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    with pytest.raises(DataError) as caught:
        written(one, form)
    assert str(caught.value) == f"{one / FILES[form][0]}: there is a log already (name another folder)"


@pytest.mark.parametrize("form", list(FORMATS))
def test_the_command_says_what_it_wrote(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--users", "30", "--items", "60", "--days", "2", "--format", form, "--json"]
    assert main(["simulate", str(tmp_path / "log"), *sizes]) == 0
    out = capsys.readouterr()
    told = json.loads(out.out)["rows"]
    assert list(told) == list(FILES[form])
    assert sorted(FILES[form]) == sorted(p.name for p in (tmp_path / "log").iterdir())
    lines = {name: len((tmp_path / "log" / name).read_text(encoding="utf-8").splitlines()) for name in told}
    assert {name: n - (form == "globo") for name, n in lines.items()} == told  # without the headers
    assert out.err.splitlines()[-1] == f"next: shortlist init {tmp_path / 'log'}"


def test_a_sample_may_be_text_that_is_packed(tmp_path: Path) -> None:
    file = tmp_path / "few" / "rows.csv.gz"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(b"user,click\n007,1\n"))
    public = Public("few", {"rows": hashlib.sha256(file.read_bytes()).hexdigest()}, suffix="csv.gz")
    where = {"SHORTLIST_DATA": str(tmp_path)}
    assert fetch(public, silent, where)["rows"].rows() == [("007", "1")]
    with pytest.raises(DataError) as caught:
        fetch(replace(public, files={"rows": "0" * 64}), silent, where)
    assert str(caught.value) == f"{file}: its checksum is not the one expected (get the file again)"
    with pytest.raises(DataError, match=re.escape("a folder with few/ holding rows.csv.gz")):
        fetch(public, silent, {"SHORTLIST_CACHE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("form", "adapter", "split"), [("globo", "globo_news", "global_time"), ("yidian", "yidian", "days")]
)
def test_init_knows_the_files(form: str, adapter: str, split: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "log", form)
    text, guesses = infer(str(folder), tmp_path)
    assert guesses == [f"data: {folder} has the files of {adapter}, whose schema comes with it"]
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    project = load(tmp_path)
    assert (project.config.data.adapter, project.config.data.events) == (adapter, "log")
    assert (project.config.split.use, project.config.split.positive) == (split, "")
    report: Any = workspace.import_log(project, silent, 0)
    assert report.items == 60
