"""A first project file: what is guessed, that it loads, and that an import works with it."""

from pathlib import Path

import polars as pl
import pytest

from shortlist.config import catalogue as parts
from shortlist.config import load
from shortlist.errors import DataError
from shortlist.events.infer import infer
from shortlist.events.raw import schema_of
from shortlist.events.workspace import catalogue, import_log
from shortlist.schema import Schema

T = 1_700_000_000  # 14 November 2023, in seconds


def ratings() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "userId": [1, 2, 1] * 10,
            "movieId": [7, 8, 9] * 10,
            "rating": [5.0, 3.5, 4.0] * 10,
            "timestamp": [T + n for n in range(30)],
        }
    )


def written(folder: Path, data: str) -> list[str]:
    text, guesses = infer(data, folder)
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return guesses


def test_a_rating_log_with_its_neighbours(tmp_path: Path) -> None:
    ratings().write_csv(tmp_path / "ratings.csv")
    movies = pl.DataFrame(
        {"movieId": [7, 8, 9], "title": ["A", "B", "C"], "genres": ["x|y", "x", None], "year": [1999, 2000, 2001]}
    )
    movies.write_csv(tmp_path / "movies.csv")
    pl.DataFrame({"userId": [1, 2], "country": ["de", "fr"], "height": [1.8, 1.75]}).write_csv(tmp_path / "users.csv")
    guesses = written(tmp_path, str(tmp_path))
    project = load(tmp_path)
    assert project.config.data.events == "ratings.csv"
    schema = schema_of(project)
    assert (schema.user, schema.item, schema.time, schema.time_unit) == ("userId", "movieId", "timestamp", "s")
    assert (schema.value, list(schema.actions), schema.title, schema.region) == ("rating", ["rate"], "title", "country")
    kinds = {name: field.kind for name, field in {**schema.items, **schema.users}.items()}
    assert kinds == {"title": "text", "genres": "varlen", "year": "sparse", "country": "sparse", "height": "dense"}
    assert schema.items["genres"].split == "|"
    assert [channel.use for channel in project.config.recall] == ["hot", "item_cf", "ease"]
    # 0.8 of the highest rating, 5
    assert (project.config.split.use, project.config.split.positive) == ("user_time", "value >= 4")
    assert import_log(project, lambda text: None, 0).added == 30
    assert catalogue(project).items.columns["genres"].tolist() == [["x", "y"], ["x"], None]
    assert guesses == [
        "events: ratings.csv, by its name",
        "items: movies.csv, by its name",
        "users: users.csv, by its name",
        "user: userId, by its name",
        "item: movieId, by its name",
        "time: timestamp in s, 1700000014 is a moment between 1990 and 2100 in seconds",
        "value: rating, by its name",
        "relevant: value >= 4, four fifths of the highest rating seen, 5",
        "no column names an action: every row is a rate",
        "tasks: rate, beside items drawn, as nothing says what was shown",
        'items.title: "text", free text',
        'items.genres: { kind = "varlen", split = "|" }, values between |',
        'items.year: "sparse", few whole numbers',
        "category: genres, by its name",
        'users.country: "sparse", words',
        'users.height: "dense", numbers',
    ]


@pytest.mark.parametrize(
    ("log", "column", "said"),
    [
        ("s", [T, T + 5, T + 9], '"time", moments in seconds'),
        ("s", [T * 1000, T * 1000 + 5, None], "looks like a time in milliseconds, the log is in seconds: left out"),
        (
            "s",
            ["2023-11-14", "2023-11-15 10:30", None],
            "looks like a time in written dates, the log is in seconds: left out",
        ),
        ("s", [T * 10**6, T * 10**6, T * 10**6], "looks like a time in microseconds, the log is in seconds: left out"),
        ("ms", [T, T, T], "looks like a time in seconds, the log is in milliseconds: left out"),
        ("iso", [T, T, T], "looks like a time in seconds, the log is in written dates: left out"),
        ("iso", ["2023-11-14", "2023-11-15T10:30:00Z", None], '"time", moments in written dates'),
        ("none", [T * 1000] * 3, '"time", moments in milliseconds'),
        (
            "none",
            [T] * 3,
            "looks like a time in seconds, beside a log without times they are in milliseconds: left out",
        ),
        ("s", [1999, 2001, 2003], '"sparse", few whole numbers'),
        ("s", ["soon", "late", "soon"], '"sparse", words'),
    ],
)
def test_times_of_items_are_read_in_the_logs_unit(tmp_path: Path, log: str, column: list[object], said: str) -> None:
    times = {
        "s": pl.col("timestamp"),
        "ms": pl.col("timestamp") * 1000,
        "iso": pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "none": None,
    }[log]
    table = ratings().drop("timestamp") if times is None else ratings().with_columns(timestamp=times)
    table.write_parquet(tmp_path / "ratings.parquet")
    pl.DataFrame({"movieId": [7, 8, 9], "created_at": column}).write_parquet(tmp_path / "movies.parquet")
    guesses = written(tmp_path, str(tmp_path))
    assert f"items.created_at: {said}" in guesses
    project = load(tmp_path)
    schema = schema_of(project)
    assert ("created_at" in schema.items) == ("left out" not in said)
    assert schema.published == ("created_at" if "moments" in said else None)
    # without times the 30 rows are 3 different ones, ten times each
    assert import_log(project, lambda text: None, 0).added == (3 if log == "none" else 30)
    if "moments" in said:  # 2023-11-14 at the earliest, in milliseconds
        first = catalogue(project).items.columns["created_at"].tolist()[0]
        assert first in (T * 1000, 1_699_920_000_000)


def test_an_action_log_with_odd_names(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "visitor_id": ["a", "b"],
            "Item ID": ["x", "y"],
            "event": ['view "full"', "impression"],
            "created_at": ["2024-05-31", "2024-06-01T10:00:00Z"],
            "event_id": ["e1", "e2"],
        }
    )
    table.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "project").mkdir()
    guesses = written(tmp_path / "project", str(tmp_path / "log.parquet"))
    project = load(tmp_path / "project")
    schema = schema_of(project)
    assert project.config.data.events == "../log.parquet"
    assert (schema.user, schema.item, schema.action, schema.event_id) == ("visitor_id", "Item ID", "event", "event_id")
    assert {name: action.weight for name, action in schema.actions.items()} == {'view "full"': 1.0, "impression": 0.0}
    assert schema.time_unit == "iso"
    assert "action impression: seen but not wanted, 50.00% of events, weight 0" in guesses
    assert not schema.tasks  # the name of the only other one is no word that `fuse` could say
    assert import_log(project, lambda text: None, 0).added == 2


def test_a_folder_of_parts(tmp_path: Path) -> None:
    (tmp_path / "days").mkdir()
    ratings()[:10].write_parquet(tmp_path / "days" / "1.parquet")
    ratings()[10:].write_parquet(tmp_path / "days" / "2.parquet")
    guesses = written(tmp_path, str(tmp_path / "days"))
    assert guesses[0] == "events: every file of days/"
    assert import_log(load(tmp_path), lambda text: None, 0).added == 30


def test_a_log_without_times(tmp_path: Path) -> None:
    ratings().drop("timestamp").write_parquet(tmp_path / "log.parquet")
    guesses = written(tmp_path, str(tmp_path / "log.parquet"))
    assert "no column looks like a time: rows are taken to be in order" in guesses
    project = load(tmp_path)
    assert (schema_of(project).time_unit, project.config.split.use) == ("none", "last_out")


@pytest.mark.parametrize("name", ["ml-100k", "ml_1m", "ncf_ml_1m"])
def test_a_public_log_by_name(tmp_path: Path, name: str) -> None:
    guesses = written(tmp_path, name)
    adapter = name.replace("-", "_")
    assert guesses == [f"data: {adapter}, a public log whose schema comes with it"]
    project = load(tmp_path)
    assert project.config.data.adapter == adapter
    assert schema_of(project).actions.keys() == {"rate"}


def test_columns_that_say_nothing(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1], "itemid": [2]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError) as caught:
        infer(str(tmp_path / "log.parquet"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/log.parquet: cannot tell which column is the user "
        "(columns are a, itemid; rename one, or write the project file by hand)"
    )


def test_times_of_no_known_unit(tmp_path: Path) -> None:
    ratings().with_columns(timestamp=pl.col("timestamp") * 10**6).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError) as caught:
        infer(str(tmp_path / "log.parquet"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/log.parquet: times in 'timestamp' look like microseconds "
        "(bring them to seconds or milliseconds since 1970)"
    )


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        infer(str(tmp_path / "nothing"), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/nothing: no such file, folder or public log "
        f"(public logs: {', '.join(name.replace('_', '-') for name in parts('shortlist.events.adapters'))})"
    )


def acted(folder: Path, counts: dict[str, int]) -> tuple[Schema, list[str]]:
    """The schema and the guesses for a log with so many events of each action."""
    names = [name for name, n in counts.items() for _ in range(n)]
    table = {"user": ["u"] * len(names), "item": ["i"] * len(names), "event": names}
    pl.DataFrame({**table, "ts": [T + n for n in range(len(names))]}).write_csv(folder / "log.csv")
    guesses = written(folder, str(folder / "log.csv"))
    return schema_of(load(folder)), guesses


def test_what_actions_are_worth_is_told_by_their_names(tmp_path: Path) -> None:
    weights = {
        "AddToCart": 3.0, "Purchased": 5.0, "dislike": 0.0, "expose": 0.0, "favourites": 3.0, "not_interested": 0.0,
        "product_click": 1.0, "remove_from_cart": 0.0, "unlike": 0.0, "video-view": 1.0, "zorp": 1.0,
    }  # fmt: skip
    schema, guesses = acted(tmp_path, dict.fromkeys(weights, 1))
    assert {name: action.weight for name, action in schema.actions.items()} == weights
    share = "9.09% of events"  # one in eleven
    assert [guess for guess in guesses if guess.startswith("action ")] == [
        f"action AddToCart: interest, {share}, weight 3",
        f"action Purchased: interest, {share}, weight 5",
        f"action dislike: the opposite of interest, {share}, weight 0",
        f"action expose: seen but not wanted, {share}, weight 0",
        f"action favourites: interest, {share}, weight 3",
        f"action not_interested: the opposite of interest, {share}, weight 0",
        f"action product_click: interest, {share}, weight 1",
        f"action remove_from_cart: takes something back, {share}, weight 0",
        f"action unlike: takes something back, {share}, weight 0",
        f"action video-view: interest, {share}, weight 1",
        f"action zorp: no word that is known, {share}, weight 1",
    ]
    text = (tmp_path / "shortlist.toml").read_text(encoding="utf-8")
    assert f"actions.zorp = {{ weight = 1 }}  # no word that is known, {share}\n" in text


def test_rankers_learn_of_what_was_shown_each_action_that_is_not_rare(tmp_path: Path) -> None:
    # 2 of 3000 events are shares: below one in a thousand
    schema, guesses = acted(tmp_path, {"show": 2400, "click": 500, "buy": 78, "dislike": 20, "share": 2})
    assert {name: (task.positive, task.on) for name, task in schema.tasks.items()} == {
        "click": ("click", "show"), "buy": ("buy", "show"), "dislike": ("dislike", "show"),
    }  # fmt: skip
    assert "tasks: click, buy, dislike, of what has the action show" in guesses
    text = (tmp_path / "shortlist.toml").read_text(encoding="utf-8")
    said = '# what rankers learn; in [rank], what it is worth together: fuse = "click + 5 * buy - dislike"\n'
    assert said in text
    assert "[ranking]" not in text


def test_without_exposures_negatives_are_drawn(tmp_path: Path) -> None:
    schema, guesses = acted(tmp_path, {"view": 3, "zorp": 9})
    assert {name: (task.positive, task.on) for name, task in schema.tasks.items()} == {
        "view": ("view", {"sample": "mixed", "per": 4})
    }
    assert "tasks: view, beside items drawn, as nothing says what was shown" in guesses


def test_an_unknown_action_is_learned_where_no_other_is(tmp_path: Path) -> None:
    schema, _ = acted(tmp_path, {"zip": 2, "zörp": 9, "dislike": 1})
    assert list(schema.tasks) == ["zörp", "dislike"]


@pytest.mark.parametrize(("views", "weight"), [(9, 1.0), (10, 0.0)])
def test_a_view_is_an_exposure_where_there_are_two_for_a_click(tmp_path: Path, views: int, weight: float) -> None:
    schema, _ = acted(tmp_path, {"view": views, "click": 5})
    assert schema.actions["view"].weight == weight
    assert {task.on == "view" for task in schema.tasks.values()} == {weight == 0}


def test_a_log_of_exposures_alone_says_that_nothing_can_be_learned(tmp_path: Path) -> None:
    schema, guesses = acted(tmp_path, {"impression": 4, "dislike": 1})
    assert not schema.tasks
    assert "no action shows interest: give one a weight above 0, or nothing can be learned" in guesses


def test_rankers_learn_from_slates_that_were_served_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "var" / "rows").mkdir(parents=True)
    (tmp_path / "var" / "rows" / "20240101T00-1-0.arrow").touch()
    _, guesses = acted(tmp_path, {"impression": 4, "click": 1})
    assert load(tmp_path).config.ranking.rows == "logged"
    assert "ranking.rows: logged, var/rows/ holds slates that were served" in guesses


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv", "log.parquet"])
def test_a_table_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    ratings().write_csv(tmp_path / "ratings.csv")
    empty = ratings().head(0)
    empty.write_csv(place) if name.endswith("csv") else empty.write_parquet(place)
    with pytest.raises(DataError) as caught:
        infer(str(tmp_path / "log.parquet" if name == "log.parquet" else tmp_path), tmp_path)
    assert str(caught.value) == f"{place}: there are columns but no rows (put rows in, or take it away)"


def test_a_propensity_is_a_column_of_its_own(tmp_path: Path) -> None:
    table = ratings().with_columns(propensity=pl.lit(0.25))
    table.write_parquet(tmp_path / "log.parquet")
    guesses = written(tmp_path, str(tmp_path / "log.parquet"))
    assert "propensity: propensity, by its name: the probability of having been shown" in guesses
    assert schema_of(load(tmp_path)).propensity == "propensity"
