"""The project file: strict keys with their nearest neighbour, ranges, and exact messages."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.config import (
    Arm,
    Count,
    ProjectConfig,
    StageConfig,
    build,
    catalogue,
    find,
    frozen,
    load,
    nearest,
    parse,
    plain,
)
from shortlist.errors import ConfigError


def refused(table: dict[str, Any]) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(table, "shortlist.toml")
    return caught.value.where, caught.value.what, caught.value.hint


def test_an_empty_project_is_all_defaults() -> None:
    assert parse({}) == ProjectConfig()
    assert list(parse({}).scene) == ["home"]


@pytest.mark.parametrize(
    ("table", "where", "key", "hint"),
    [
        ({"serv": {}}, "shortlist.toml", "serv", "did you mean serve?"),
        ({"data": {"event": "x"}}, "shortlist.toml.data", "event", "did you mean events?"),
        ({"serve": {"prot": 1}}, "shortlist.toml.serve", "prot", "did you mean port?"),
        ({"scene": {"home": {"pge": 5}}}, "shortlist.toml.scene.home", "pge", "did you mean page?"),
        (
            {"scene": {"home.page": {"pge": 5}}},
            "shortlist.toml.scene.home.page",
            "pge",
            "did you mean page?",
        ),
        (
            {"experiment": [{"name": "a", "arms": {"x": {"scene": "home", "shar": 1.0}}}]},
            "shortlist.toml.experiment[0].arms.x",
            "shar",
            "did you mean share?",
        ),
        ({"experiment": [{"zz": 1}]}, "shortlist.toml.experiment[0]", "zz", "known: arms, name, salt, unit"),
    ],
)
def test_an_unknown_key_names_its_nearest(table: dict[str, Any], where: str, key: str, hint: str) -> None:
    assert refused(table) == (where, f"unknown key {key!r}", hint)


@pytest.mark.parametrize(
    ("table", "where", "what"),
    [
        ({"seed": "1"}, "shortlist.toml.seed", "should be a whole number, got '1'"),
        ({"seed": 1.5}, "shortlist.toml.seed", "should be a whole number, got 1.5"),
        ({"serve": 5}, "shortlist.toml.serve", "should be a table, got 5"),
        ({"serve": {"port": 70000}}, "shortlist.toml.serve.port", "should be at most 65535, got 70000"),
        ({"serve": {"port": -1}}, "shortlist.toml.serve.port", "should be at least 0, got -1"),
        ({"serve": {"deadline_ms": 0}}, "shortlist.toml.serve.deadline_ms", "should be more than 0.0, got 0"),
        ({"serve": {"host": 5}}, "shortlist.toml.serve.host", "should be text, got 5"),
        ({"scene": {"home": {"page": 0}}}, "shortlist.toml.scene.home.page", "should be at least 1, got 0"),
        ({"scene": {"home": {"channels": "a"}}}, "shortlist.toml.scene.home.channels", "should be a list, got 'a'"),
        (
            {"recall": [{"name": "a", "use": "hot", "quota": 0}]},
            "shortlist.toml.recall[0].quota",
            "should be at least 1, got 0",
        ),
        (
            {"experiment": [{"name": "a", "arms": {}, "unit": "item"}]},
            "shortlist.toml.experiment[0].unit",
            "should be 'user' or 'request', got 'item'",
        ),
    ],
)
def test_a_wrong_value_says_what_it_should_be(table: dict[str, Any], where: str, what: str) -> None:
    assert refused(table) == (where, what, "correct the value")


def test_other_refusals_have_their_exact_text() -> None:
    at = "shortlist.toml"
    assert refused({"recall": [{"use": "hot"}]}) == (
        f"{at}.recall[0].name",
        "this key is required",
        "add name = ...",
    )
    twice = [{"name": "a", "use": "hot"}, {"name": "a", "use": "hot"}]
    assert refused({"recall": twice}) == (f"{at}.recall", "two channels are called 'a'", "rename one")
    assert refused({"recall": [{"name": "near", "use": "hot"}], "scene": {"home": {"channels": ["nearr"]}}}) == (
        f"{at}.scene.home.channels",
        "no channel is called 'nearr'",
        "did you mean near?",
    )
    assert refused({"filters": "seen"}) == (f"{at}.filters", "should be a list, got 'seen'", 'write [ "seen" ]')
    assert refused({"filters": [5]}) == (
        f"{at}.filters[0]",
        "should be a table or a name, got 5",
        'write { use = "..." }',
    )
    assert refused({"recall": "hot"}) == (f"{at}.recall", "should be a list, got 'hot'", "correct the value")


def test_an_experiment_must_fit_the_scenes_and_add_up() -> None:
    def layer(**arms: tuple[str, float]) -> dict[str, Any]:
        sides = {name: {"scene": scene, "share": share} for name, (scene, share) in arms.items()}
        return {"experiment": [{"name": "one", "arms": sides}]}

    config = parse(layer(a=("home", 0.4), b=("home", 0.6)))
    assert config.experiment[0].arms["a"] == Arm("home", 0.4)
    assert refused(layer(a=("hom", 0.5))) == (
        "shortlist.toml.experiment[0].arms.a.scene",
        "no scene is called 'hom'",
        "did you mean home?",
    )
    hint = "they may add up to 1; what is left is held out"
    at = "shortlist.toml.experiment[0].arms"
    assert refused(layer(a=("home", 0.7), b=("home", 0.7))) == (at, "the shares of the arms add up to 1.4", hint)
    assert refused(layer()) == (at, "the shares of the arms add up to 0", hint)
    both = layer(a=("home", 0.5))["experiment"] * 2
    assert refused({"experiment": both})[1] == "two experiments are called 'one'"


def test_keys_a_part_does_not_own_become_its_options() -> None:
    config = parse(
        {
            "recall": [{"name": "near", "use": "item_cf", "quota": 30, "keep": 50}],
            "filters": ["seen", {"use": "cap", "days": 3}],
            "rerank": {"use": "mmr", "window": 10},
            "scene": {"home": {"boosts": [{"use": "fresh", "times": 2.0}], "merge": "snake"}},
        }
    )
    assert config.recall[0].options == {"keep": 50}
    assert config.filters == (StageConfig("seen"), StageConfig("cap", {"days": 3}))
    assert config.rerank == StageConfig("mmr", {"window": 10})
    assert config.scene["home"].boosts == (StageConfig("fresh", {"times": 2.0}),)
    assert config.scene["home"].merge == StageConfig("snake")


def test_a_file_that_is_absent_or_not_toml(tmp_path: Path) -> None:
    absent = tmp_path / "none.toml"
    with pytest.raises(ConfigError) as caught:
        load(absent)
    assert str(caught.value) == f"{absent}: no such project file (run `shortlist init DATA`)"
    broken = tmp_path / "shortlist.toml"
    broken.write_text("seed = \n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)  # a folder means its shortlist.toml
    assert caught.value.where == str(broken)
    assert caught.value.what.startswith("not TOML: ")
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        load(broken)
    broken.write_text("seed = 7\n[scene.home]\npage = 3\n")
    project = load(broken)
    assert (project.config.seed, project.config.scene["home"].page) == (7, 3)
    assert project.home == tmp_path.resolve() / "var"
    broken.write_text("[scene.home]\npge = 3\n")
    with pytest.raises(ConfigError) as caught:
        load(broken)
    assert str(caught.value) == "shortlist.toml.scene.home: unknown key 'pge' (did you mean page?)"


def test_nan_is_refused_and_inf_is_none() -> None:
    at, hint = "shortlist.toml", "write a number, or inf for no bound"
    hot = {"name": "hot", "use": "hot", "half_life_days": math.nan}
    assert refused({"recall": [hot]}) == (f"{at}.recall[0].half_life_days", "not a number", hint)
    rules = [{"per": 3}, {"per": math.nan}]
    assert refused({"rerank": {"use": "mmr", "rules": rules}}) == (f"{at}.rerank.rules[1].per", "not a number", hint)
    assert parse({"recall": [{**hot, "half_life_days": math.inf}]}).recall[0].options == {"half_life_days": None}


def test_an_unknown_key_may_be_meant_for_what_stands_beside() -> None:
    @frozen
    class Inner:
        wide: bool = False

    with pytest.raises(ConfigError) as caught:
        build(Inner, {"positve": ""}, "split", ("use", "positive"))
    assert str(caught.value) == "split: unknown key 'positve' (did you mean positive?)"


def test_plain_shows_every_default_in_place_and_reads_back() -> None:
    table = plain(ProjectConfig())
    assert table["serve"]["port"] == 8000
    assert table["filters"] == [{"use": "seen", "options": {}}, {"use": "available", "options": {}}]
    assert build(ProjectConfig, table, "again") == ProjectConfig()


def test_a_union_is_one_problem() -> None:
    @frozen
    class Inner:
        on: str | dict[str, Any] = ""
        most: Count | None = None

    with pytest.raises(ConfigError) as caught:
        build(Inner, {"on": 5}, "task")
    assert str(caught.value) == "task.on: should be text or a table, got 5 (correct the value)"
    with pytest.raises(ConfigError) as caught:
        build(Inner, {"most": 0}, "task")
    assert str(caught.value) == "task.most: should be at least 1, got 0 (correct the value)"
    assert build(Inner, {"most": None}, "task") == Inner()


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        StageConfig("seen").use = "other"  # type: ignore[misc]


def test_the_directory_is_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toys"
    (package / "deeper").mkdir(parents=True)
    for name in ("__init__", "ball", "_hidden", "deeper/__init__"):
        (package / f"{name}.py").write_text('__all__ = ["Ball"]\nclass Ball:\n    pass\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert catalogue("toys") == ("ball",)
    ball = find("ball", ["toys"], "here")
    assert ball.__name__ == "Ball"
    assert find("toys.ball:Ball", [], "here") is ball
    with pytest.raises(ConfigError) as caught:
        find("bal", ["toys"], "here")
    assert str(caught.value) == "here: nothing is called 'bal' (did you mean ball?)"
    for wrong in ("toys.ball:Bat", "nowhere:Ball", ":Ball", ".toys:Ball"):
        with pytest.raises(ConfigError, match="cannot import") as caught:
            find(wrong, [], "here")
        assert caught.value.hint == "write module:Class"


def test_nearest() -> None:
    assert nearest("pge", ["page", "budget"]) == "did you mean page?"
    assert nearest("zz", ["page", "budget"]) == "known: budget, page"
    assert nearest("zz", []) == "nothing is accepted here"


WORDS = "data schema split recall merge filters boosts rerank scene experiment serve seed name use quota options home"
NAMES = st.sampled_from([*WORDS.split(), "page", "channels", "arms", "a", "share", "port", "events", "odd key", ""])
LEAVES = st.one_of(
    st.booleans(), st.integers(-5, 10**20), st.floats(), st.text(max_size=5), st.sampled_from(["hot", "home"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_any_table_becomes_a_project_or_is_refused(table: dict[str, Any]) -> None:
    try:
        said = [parse(table).serve.host]
    except ConfigError as error:
        said = [error.what, error.where, error.hint]
    assert all(said)
