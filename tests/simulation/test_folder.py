"""A world as files: what `shortlist init` and `import` make of it, and that the truth stays apart."""

import filecmp
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.simulation.logs import run

from shortlist.cli import main
from shortlist.config import load
from shortlist.errors import DataError
from shortlist.events.infer import infer
from shortlist.events.raw import schema_of
from shortlist.events.workspace import catalogue, import_log
from shortlist.simulation import folder as files
from shortlist.simulation.folder import frame, reopen, save
from shortlist.simulation.policy import named
from shortlist.simulation.sizes import SIZES
from shortlist.simulation.truth import ACTIONS
from shortlist.simulation.world import World

SMALL = replace(SIZES["tiny"], users=60, items=50, days=4)


def write(place: Path, config: World.Config = SMALL, seed: int = 0) -> dict[str, int]:
    return save(place, config, lambda world: named("popularity", world.truth), seed, lambda done, total, what: None)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world") / "log"
    write(place)
    return place


def test_there_is_a_file_a_day_and_the_truth_beside(log: Path) -> None:
    assert sorted(str(p.relative_to(log)) for p in log.rglob("*.*")) == [
        "events/2023-11-13-000.parquet", "events/2023-11-14-000.parquet", "events/2023-11-15-000.parquet",
        "events/2023-11-16-000.parquet", "items.parquet",
        "truth/items.parquet", "truth/users.parquet", "truth/world.json", "users.parquet",
    ]  # fmt: skip


def test_the_files_hold_the_log(log: Path) -> None:
    world = World.generate(SMALL, np.random.default_rng([0, 0]))
    events = run(world, "popularity")  # other dice than those of the folder: only its shape can be the same
    table = pl.scan_parquet(log / "events" / "*.parquet").collect()
    assert table.schema == frame(events).schema
    assert table["time_ms"].is_sorted()
    shown = table.filter(pl.col("action") == "impression")
    assert shown.select("request_id", "position", "propensity").null_count().row(0) == (0, 0, 0)
    assert shown["value"].null_count() == len(shown)
    alone = table.filter(pl.col("request_id").is_null())
    assert alone["position"].null_count() == len(alone) > 0
    assert "impression" not in alone["action"].unique()


def test_init_finds_the_schema_of_the_world(log: Path, tmp_path: Path) -> None:
    text, guesses = infer(str(log), tmp_path)
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    project = load(tmp_path)
    found, wanted = schema_of(project), World.schema()
    # init names actions in order of the alphabet; what they are worth is the same
    assert found.actions == wanted.actions
    assert replace(found, actions=wanted.actions) == wanted
    assert "truth" not in text
    assert any(guess.startswith("request_id: request_id") for guess in guesses)
    report = import_log(project, lambda said: None, 0)
    table = pl.scan_parquet(log / "events" / "*.parquet")
    assert report.added == table.select(pl.len()).collect().item()
    assert report.duplicates == 0
    # ids were given keys in order of appearance; 50 items are known, all described
    assert report.items == len(catalogue(project).items) == 50


def test_the_truth_of_a_folder_is_its_worlds(log: Path) -> None:
    truth = reopen(log).truth
    items = pl.read_parquet(log / "truth" / "items.parquet")
    assert items["quality"].to_list() == truth.quality.tolist()
    assert items["bait"].to_list() == truth.bait.tolist()
    assert items["after"].to_list() == truth.after.tolist()
    here = pl.read_parquet(log / "truth" / "users.parquet")["here"].to_numpy()
    np.testing.assert_array_equal(here, truth.people.here)
    shown = pl.read_parquet(log / "items.parquet")
    assert not set(shown.columns) & {"quality", "bait", "appeal", "after"}


def test_the_same_seed_writes_the_same_bytes(log: Path, tmp_path: Path) -> None:
    write(tmp_path / "again")
    names = [str(p.relative_to(log)) for p in log.rglob("*.*")]
    assert filecmp.cmpfiles(log, tmp_path / "again", names, shallow=False) == (names, [], [])
    write(tmp_path / "other", seed=1)
    assert len(filecmp.cmpfiles(log, tmp_path / "other", names, shallow=False)[1]) == len(names)


def test_a_long_day_has_several_parts(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_PER_PART", 100)
    config = replace(SMALL, tick_hours=1, days=1)
    write(tmp_path / "parts", config)
    parts = sorted((tmp_path / "parts" / "events").iterdir())
    assert len(parts) > 3
    assert [p.name for p in parts[:2]] == ["2023-11-13-000.parquet", "2023-11-13-001.parquet"]
    table = pl.concat([pl.read_parquet(p) for p in parts])
    assert table["time_ms"].is_sorted()


def test_a_log_is_not_written_over(log: Path) -> None:
    with pytest.raises(DataError) as error:
        write(log)
    assert str(error.value) == f"{log / 'events'}: there is a log already (remove it, or name another folder)"


def test_a_log_that_was_broken_off_is_none_and_is_begun_anew(log: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, SMALL, lambda world: named("popularity", world.truth), 0, stop)
    assert not (tmp_path / "events").exists()
    with pytest.raises(DataError):
        reopen(tmp_path)
    write(tmp_path)
    names = [str(p.relative_to(log)) for p in log.rglob("*.*")]
    assert filecmp.cmpfiles(log, tmp_path, names, shallow=False) == (names, [], [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events", "items.parquet", "truth", "users.parquet"]


def test_a_folder_without_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        reopen(tmp_path)
    place = tmp_path / "truth" / "world.json"
    assert str(error.value) == f"{place}: no truth is kept here (write the world with `shortlist simulate`)"


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--users", "60", "--items", "50", "--days", "2", "--policy", "uniform", "--seed", "4", "--size", "TINY"]
    assert main(["simulate", str(tmp_path / "log"), *sizes, "--json"]) == 0
    out = capsys.readouterr()
    assert out.err.splitlines()[-1] == f"next: shortlist init {tmp_path}/log"
    told = json.loads(out.out)
    assert told["events"] == sum(told["actions"].values())
    assert tuple(told["actions"]) == ACTIONS
    assert (told["size"], told["policy"], told["seed"]) == ("tiny", "uniform", 4)
    table = pl.scan_parquet(tmp_path / "log" / "events" / "*.parquet").collect()
    assert len(table) == told["events"]
    # uniform: 1 of the items that were out, from 10 to 50
    odds = table["propensity"].drop_nulls()
    assert 1 / 50 - 1e-6 <= odds.min() <= odds.max() <= 1 / 10  # type: ignore[operator]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--size", "huge"],
            ["error: no size is called 'huge'", "  where: --size", "  next: known: L, M, S, XL, tiny"],
        ),
        (
            ["--policy", "tast"],
            ["error: nothing is called 'tast'", "  where: policy", "  next: did you mean taste?"],
        ),
    ],
)
def test_a_wrong_word_writes_nothing(
    words: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(tmp_path / "log"), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == said
    assert not (tmp_path / "log").exists()
