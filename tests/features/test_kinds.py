"""Every kind of feature by hand values, what its options refuse, and the contract that all of them keep."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest import approx
from tests.features.world import CATALOGUE, DAY, HOUR, MINUTE, NOW, SCHEMA, candidates, column, features, read, requests

from shortlist.candidates import Ragged
from shortlist.config import FeatureConfig, build, catalogue, plain
from shortlist.errors import ConfigError
from shortlist.features.base import Rows
from shortlist.features.featureset import KINDS, FeatureSet
from shortlist.features.kinds.device import parsed
from shortlist.features.kinds.interests import apportioned
from shortlist.features.kinds.place import geohash, kilometres
from shortlist.schema import Catalogue, Schema

CITIES = {"oslo": [59.91, 10.75], "rome": [41.9, 12.5]}
EXAMPLES: dict[str, dict[str, Any]] = {
    "count": {"actions": "click", "by": "item"},
    "rate": {"hits": "click", "by": ["item", "user.gender"]},
    "decayed": {"actions": ["click", "like"], "by": ["user", "item.category"]},
    "session": {},
    "moment": {"holidays": ["2024-12-25"]},
    "place": {"latitude": "user.lat", "longitude": "user.lon", "cities": CITIES},
    "device": {"agent": "context.agent", "brand": "user.brand"},
    "account": {"created": "joined"},
    "creator": {"follow": "follow"},
    "shape": {"images": "images"},
    "interests": {"of": ["category", "tags"]},
    "crossed": {"of": "category"},
}


def refused(name: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        features({"name": "it", "use": name, **EXAMPLES[name], **options})
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- counts


def test_counts_in_windows() -> None:
    # clicks on item 0: user 0's 300 minutes ago, user 1's 4 minutes ago; on item 1: 20 minutes ago
    found = read({"name": "clicks", "use": "count", "actions": "click", "by": "item"}, [2], [[0, 1, 2, 7]])
    assert found == {
        "clicks_1h": [1, 1, 0, 0], "clicks_1d": [2, 1, 1, 0], "clicks_7d": [2, 1, 1, 0], "clicks_30d": [2, 1, 1, 0],
    }  # fmt: skip


def test_counts_of_the_user_are_columns_of_the_request() -> None:
    option = {"name": "mine", "use": "count", "actions": ["click", "like"], "by": "user", "windows": ["1h"]}
    # user 0 clicked 20 and 5 and liked 10 minutes ago; user 1 clicked once; the others did nothing
    assert read(option, [0, 1, 2, 99]) == {"mine_1h": [3, 1, 0, 0]}
    assert features(option).columns["mine_1h"].side == "request"


def test_counts_by_two_keys() -> None:
    option = {"name": "n", "use": "count", "actions": "click", "by": ["item", "user.gender"], "windows": ["1d"]}
    # item 0 was clicked by one woman (user 0) and one man (user 1)
    assert read(option, [0, 1, 2], [[0, 1], [0, 1], [0]]) == {"n_1d": [1, 1, 1, 0, 0]}
    own = {"name": "n", "use": "count", "actions": ["click", "like"], "by": ["user", "item.category"]}
    # war was clicked 300 and 20 and liked 10 minutes ago by user 0; item 4 has no category
    found = read({**own, "windows": ["1h", "1d"]}, [0], [[0, 2, 4]])
    assert found == {"n_1h": [2, 0, 0], "n_1d": [3, 1, 0]}


def test_a_rate_is_hits_and_trials_side_by_side() -> None:
    option = {"name": "ctr", "use": "rate", "hits": "click", "by": "item", "windows": ["1d"], "strength": 10.0}
    # item 0: two impressions, two clicks; item 1: two impressions, one click
    assert read(option, [2], [[0, 1, 2]]) == {"ctr_1d": [2, 1, 1], "ctr_1d_trials": [2, 2, 0]}
    columns = features(option).columns
    assert (columns["ctr_1d"].trials, columns["ctr_1d"].strength) == ("ctr_1d_trials", 10.0)
    assert columns["ctr_1d_trials"].field.scale == "log1p"


def test_a_decayed_count_halves() -> None:
    option = {"name": "warm", "use": "decayed", "actions": "like", "by": "item", "half_life_days": 10 / 1440}
    # liked ten minutes ago, which is one half-life
    assert read(option, [2], [[0, 1]])["warm"] == approx([0.5, 0.0])


def test_words_that_counts_refuse() -> None:
    assert refused("count", actions="clik") == "feature.it.actions: no action is called 'clik' (did you mean click?)"
    assert refused("count", actions=[]) == (
        "feature.it.actions: no action is named (actions are impression, click, like, follow)"
    )
    assert refused("count", by="itm") == "feature.it.by: no key is called 'itm' (did you mean item?)"
    assert refused("count", by=["user", "item.categry"]) == (
        "feature.it.by: no key is called 'item.categry' (did you mean item.category?)"
    )
    assert refused("count", by="item.price") == (
        "feature.it.by: item.price is a dense field: it has no values to count by (name a sparse or varlen field, "
        'or cut it: edges = { "item.price" = [18, 25] })'
    )
    assert refused("count", by=["item", "item.creator"]) == (
        "feature.it.by: item and item.creator are both of the item (name one of the user and one of the item)"
    )
    assert refused("count", by=["user", "item", "item.creator"]) == (
        'feature.it.by: counts are kept by one key or two, not 3 (write by = "item" or by = ["item", "user.gender"])'
    )
    assert refused("count", windows=["7days"]) == "feature.it.windows: no window is called '7days' (did you mean 7d?)"
    assert refused("count", windows=[]) == "feature.it.windows: no window is named (windows are 1h, 1d, 7d, 30d)"
    assert refused("count", by=5) == "feature.it (count).by: should be text or a list, got 5 (correct the value)"
    assert refused("rate", trials="impresion") == (
        "feature.it.trials: no action is called 'impresion' (did you mean impression?)"
    )
    assert refused("rate", hits="likes") == "feature.it.hits: no action is called 'likes' (did you mean like?)"
    assert refused("decayed", half_life=3) == (
        "feature.it (decayed): unknown key 'half_life' (did you mean half_life_days?)"
    )


# ---------------------------------------------------------------------------------------------- of the request


def test_sessions() -> None:
    found = read({"name": "s", "use": "session"}, [0, 1, 2])
    # user 0: 300, 290 | 20, 10, 5 minutes ago: three in this session, of war, war and none; five in all
    # user 1: followed 80 minutes ago | clicked 4 minutes ago, war. User 2 has no history.
    assert found["s_position"] == [4, 2, 1]
    assert found["s_events"] == [5, 2, 0]
    assert found["s_minutes"] == approx([5, 4, float("nan")], nan_ok=True)
    assert found["s_categories"] == [1, 1, 0]


def test_a_session_ends() -> None:
    later = [NOW + 25 * MINUTE, NOW + 25 * MINUTE + 1]  # the last event is 30 minutes back, and a little more
    assert read({"name": "s", "use": "session"}, [0, 0], at=later)["s_position"] == [4, 1]
    assert read({"name": "s", "use": "session", "gap_minutes": 300.0}, [0])["s_position"] == [6]
    # only the last two events are looked at: item 0 (war) and item 4 (none)
    found = read({"name": "s", "use": "session", "last": 2}, [0])
    assert (found["s_events"], found["s_position"], found["s_categories"]) == ([2], [3], [1])
    tags = read({"name": "s", "use": "session", "category": "tags"}, [0])  # b; a and b; none
    assert tags["s_categories"] == [2]


def test_what_happens_at_the_moment_itself_is_not_known() -> None:
    at = [NOW - 5 * MINUTE]  # user 0 clicks on item 4 just then
    assert read({"name": "s", "use": "session"}, [0], at=at)["s_events"] == [4]
    chosen = features({"name": "s", "use": "session"})
    asked = requests([0], chosen)
    early = replace(asked, now=np.array(at))  # the history knows more than it may
    found = asked.known.columns(Rows(early, np.array([0]), None))
    assert found["s_events"].tolist() == [4]


def test_a_session_needs_a_field_with_values() -> None:
    assert refused("session", category="categry") == (
        "feature.it.category: no item field is called 'categry' (did you mean category?)"
    )
    assert refused("session", category="price") == (
        "feature.it.category: item.price is a dense field (name a field of kind sparse or varlen or seq)"
    )


def test_moments() -> None:
    option = {"name": "t", "use": "moment", "holidays": ["2024-12-25"]}
    # 15:00 on Tuesday the 24th; nine and a half hours later it is 00:30 on Wednesday the 25th
    at = [NOW, NOW + 3 * HOUR, NOW + 9 * HOUR + 30 * MINUTE, NOW + 15 * HOUR]
    assert read(option, [0] * 4, at=at) == {
        "t_part": ["afternoon", "evening", "night", "morning"],
        "t_weekday": ["2", "2", "3", "3"],
        "t_holiday": [0, 0, 1, 1],
    }
    # in Oslo it is an hour later: 00:00 on the 25th
    assert read({**option, "zone": "Europe/Oslo"}, [0], at=[NOW + 8 * HOUR])["t_holiday"] == [1]
    assert set(features({"name": "t", "use": "moment"}).columns) == {"t_part", "t_weekday"}


def test_holidays_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "days.txt").write_text("# of the shop\n2024-12-24, Christmas Eve\n\n2025-01-01\n", encoding="utf-8")
    entry = FeatureConfig("t", "moment", {"holidays": "days.txt"})
    chosen = FeatureSet.of([entry], SCHEMA, tmp_path)
    assert chosen.words() == [
        {"name": "t", "use": "moment", "options": {"zone": "UTC", "holidays": ["2024-12-24", "2025-01-01"]}}
    ]
    asked = requests([0], chosen)
    assert asked.known.columns(Rows(asked, np.array([0]), None))["t_holiday"].tolist() == [1]
    with pytest.raises(ConfigError) as caught:
        FeatureSet.of([FeatureConfig("t", "moment", {"holidays": "none.txt"})], SCHEMA, tmp_path)
    assert str(caught.value) == (
        "feature.t.holidays: none.txt cannot be read: No such file or directory "
        "(name a file beside the project file, or list the dates)"
    )
    unread = FeatureSet.of([entry], SCHEMA)
    with pytest.raises(ConfigError, match="the file of holidays was not read"):
        unread.read("request", Rows(asked, np.array([0]), None), asked.known)


def test_words_that_moments_refuse() -> None:
    assert refused("moment", zone="Europe/Olso") == (
        "feature.it.zone: no time zone is called 'Europe/Olso' (did you mean Europe/Oslo?)"
    )
    assert refused("moment", holidays=["24.12.2024"]) == (
        "feature.it.holidays: '24.12.2024' is no date (write dates as 2026-12-25)"
    )


def test_geohash() -> None:
    # the published example, and the corners of the globe
    lat, lon = np.array([57.64911, 90.0, -90.0, 0.0]), np.array([10.40744, 180.0, -180.0, 0.0])
    assert geohash(lat, lon, 11).tolist() == ["u4pruydqqvj", "zzzzzzzzzzz", "00000000000", "s0000000000"]
    assert geohash(lat[:1], lon[:1], 4).tolist() == ["u4pr"]


def test_distances() -> None:
    # a quarter of the equator: 2 pi 6371.0088 / 4
    assert kilometres(np.array([0.0]), np.array([0.0]), np.array([[0.0, 90.0]]))[0] == approx([10007.557])


def test_places() -> None:
    option = {"name": "at", "use": "place", "latitude": "user.lat", "longitude": "user.lon", "cities": CITIES}
    found = read({**option, "precision": 3}, [0, 1, 2, 99])
    assert found == {"at_geohash": ["u4x", "sr2", None, None], "at_city": ["oslo", "rome", None, None]}
    here = {"lat": column(60.5, "up", None, 95.0), "lon": column(10.75, 10.0, 10.0, 10.0)}
    told = {**option, "latitude": "context.lat", "longitude": "context.lon"}
    found = read({**told, "within_km": 65.0}, [0] * 4, context=here)  # Oslo is 0.59 degrees away: 65.6 km
    assert found["at_city"] == [None] * 4
    assert [cell is None for cell in found["at_geohash"]] == [False, True, True, True]
    assert read({**told, "within_km": 66.0}, [0] * 4, context=here)["at_city"] == ["oslo", None, None, None]
    assert read(told, [0])["at_city"] == [None]  # the request says nothing of where it is


def test_words_that_places_refuse() -> None:
    assert refused("place", latitude="user.latt") == (
        "feature.it.latitude: no field is called 'user.latt' (did you mean user.lat?)"
    )
    assert refused("place", longitude="contxt.lon") == (
        "feature.it.longitude: no field is called 'contxt.lon' (did you mean context.lon?)"
    )
    assert refused("place", cities={"oslo": [10.75, 259.91]}) == (
        "feature.it.cities.oslo: 10.75, 259.91 is off the globe (write [latitude, longitude] in degrees)"
    )
    assert refused("place", precision=13) == (
        "feature.it (place).precision: should be at most 12, got 13 (correct the value)"
    )


@pytest.mark.parametrize(
    ("agent", "brand", "model", "os"),
    [
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148",
            "Apple", "iPhone", "iOS",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14; SM-S918B Build/UP1A.231005.007) AppleWebKit/537.36 Chrome/124.0",
            "Samsung", "SM-S918B", "Android",
        ),
        ("Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/124.0", "Google", "Pixel 8", "Android"),
        ("Mozilla/5.0 (Linux; U; Android 9; zh-cn; Redmi Note 8 Build/PKQ1)", "Xiaomi", "Redmi Note 8", "Android"),
        ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/124.0 Mobile", None, None, "Android"),
        ("Mozilla/5.0 (Linux; Android 11; XYZ-1) AppleWebKit/537.36", None, "XYZ-1", "Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/605.1.15", "Apple", "Mac", "macOS"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/124.0", None, None, "Windows"),
        ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) Chrome/124.0", None, None, "ChromeOS"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Firefox/125.0", None, None, "Linux"),
        ("curl/8.5.0", None, None, None),
        ("", None, None, None),
    ],
)  # fmt: skip
def test_user_agents(agent: str, brand: str | None, model: str | None, os: str | None) -> None:
    assert parsed(agent) == (brand, model, os)


def test_devices_as_given_and_as_read() -> None:
    agents = {"agent": column("Mozilla/5.0 (Linux; Android 14; Pixel 8)", "Mozilla/5.0 (Windows NT 10.0)", None, 7)}
    option = {"name": "d", "use": "device", "agent": "context.agent", "brand": "user.brand"}
    # user 1's profile says Nokia, the others' nothing
    assert read(option, [0, 1, 2, 99], context=agents) == {
        "d_brand": ["Google", "Nokia", None, None],
        "d_model": ["Pixel 8", None, None, None],
        "d_os": ["Android", "Windows", None, None],
    }
    assert read({"name": "d", "use": "device", "brand": "user.brand"}, [0, 1]) == {"d_brand": [None, "Nokia"]}
    assert refused("device", agent="", brand="") == (
        'feature.it: no field says what the device is (write agent = "context.user_agent", or name brand, model, os)'
    )


def test_accounts() -> None:
    found = read({"name": "acc", "use": "account", "created": "joined", "windows": ["1h", "1d"]}, [0, 1, 2])
    # clicks, likes and follows: user 0 three in the last hour and two before; user 1 one, and one 80 minutes ago
    assert found["acc_active_1h"] == [3, 1, 0]
    assert found["acc_active_1d"] == [5, 2, 0]
    assert found["acc_age"] == approx([NOW - 40 * DAY, NOW - 2 * HOUR, float("nan")], nan_ok=True)
    assert refused("account", created="joind") == (
        "feature.it.created: no user field of kind time is called 'joind' (did you mean joined?)"
    )


def test_interests() -> None:
    found = read(
        {"name": "likes", "use": "interests", "of": ["category", "tags"], "half_life_days": 1e9, "slots": 8},
        [0, 1, 2],
    )
    # user 0, oldest first: click war, click love, click war, like war (weight 3), click none: war 5, love 1 of 6
    # eight places: one each, then six by 5/6 and 1/6: 5 and 1. User 1: one each, the more frequent value first
    assert found["likes_category"] == [["war"] * 6 + ["love"] * 2, ["war"] * 4 + ["sport"] * 4, []]
    # tags: item 0 (a, b) weighs 1 + 3, item 1 (b) 1: b 5, a 4; of the six left 3.33 and 2.67: 3 and 2, and the larger
    # remainder (a's) gets the last
    assert found["likes_tags"][0] == ["b"] * 4 + ["a"] * 4


def test_interests_fade_and_are_few() -> None:
    # a half-life of ten minutes: sport, 76 minutes before war, is 2^-7.6 of it
    option = {"name": "likes", "use": "interests", "of": "category", "half_life_days": 10 / 1440}
    assert read({**option, "slots": 10}, [1])["likes_category"] == [["war"] * 9 + ["sport"]]
    assert read({**option, "k": 1, "slots": 3}, [1])["likes_category"] == [["war"] * 3]
    column_ = features(option).columns["likes_category"]
    assert (column_.side, column_.field.kind, column_.field.vocab) == ("request", "varlen", "item.category")
    assert refused("interests", k=11) == (
        "feature.it.slots: 11 values do not fit into 10 places (raise slots, or lower k)"
    )
    assert refused("interests", of=[]) == 'feature.it.of: no item field is named (write of = "category")'


def test_places_are_shared_out_by_largest_remainder() -> None:
    # shares 0.5, 0.3, 0.2 of ten places: one each, then seven by 3.5, 2.1, 1.4: 3, 2, 1 and the largest remainder
    owner, code = np.zeros(3, dtype=np.int64), np.arange(3)
    assert apportioned(owner, code, np.array([0.5, 0.3, 0.2]), 5, 10)[2].tolist() == [5, 3, 2]


# ---------------------------------------------------------------------------------------------- of the candidate


def test_creators() -> None:
    found = read({"name": "by", "use": "creator", "follow": "follow"}, [0], [[0, 1, 2, 3, 4, 77]])
    # ann published items 0, 1 and 3 before now, bob item 2; item 4 has no creator
    assert found["by_posts"] == approx([3, 3, 1, 3, float("nan"), float("nan")], nan_ok=True)
    # user 1 followed through item 3, which is ann's
    assert found["by_followers"] == approx([1, 1, 0, 1, 0, 0], abs=1e-6)
    # a post counts from the moment after it was published
    at = [NOW - HOUR, NOW - HOUR + 1, NOW - 4 * DAY]
    assert read({"name": "by", "use": "creator"}, [0] * 3, [[0]] * 3, at=at)["by_posts"] == [2, 3, 0]
    assert refused("creator", field="tags") == (
        "feature.it.field: item.tags is a varlen field (name a field of kind sparse)"
    )
    with pytest.raises(ConfigError) as caught:
        FeatureSet.of([FeatureConfig("it", "creator")], replace(SCHEMA, published=None))
    assert str(caught.value) == (
        "feature.it: neither posts nor followers can be counted (set schema.published, or name the actions that follow)"
    )


def test_shapes() -> None:
    found = read({"name": "sh", "use": "shape", "images": "images"}, [0], [[0, 1, 2, 3, 4, 77]])
    nan = float("nan")
    assert found["sh_characters"] == approx([13, 5, 0, nan, 8, nan], nan_ok=True)
    assert found["sh_words"] == approx([3, 1, 0, nan, 2, nan], nan_ok=True)
    assert found["sh_images"] == approx([2, 0, 1, 0, 1, nan], nan_ok=True)
    with pytest.raises(ConfigError) as caught:
        FeatureSet.of([FeatureConfig("it", "shape")], replace(SCHEMA, title=None))
    assert str(caught.value) == (
        "feature.it: neither a title nor images to measure (set schema.title, or name title or images)"
    )


def test_users_cross_items() -> None:
    option = {"name": "x", "use": "crossed", "of": "category", "half_life_days": 1e9}
    found = read(option, [0, 2], [[0, 2, 3, 4], [0]])
    # war 5 of 6, love 1 of 6, sport none; item 4 has no category; user 2 no history
    assert found["x_share"] == approx([5 / 6, 1 / 6, 0, 0, 0])
    assert found["x_match"] == [1, 1, 0, 0, 0]
    assert read({**option, "k": 1}, [0], [[0, 2]])["x_match"] == [1, 0]
    tags = read({**option, "of": "tags"}, [0], [[0, 1]])
    assert tags["x_share"] == approx([1, 5 / 9])  # a 4 and b 5 of 9: item 0 has both


# ---------------------------------------------------------------------------------------------- all of them


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(catalogue(KINDS))


@pytest.mark.parametrize("name", catalogue(KINDS))
def test_it_is_a_documented_kind_with_a_frozen_config(name: str) -> None:
    module = importlib.import_module(f"{KINDS}.{name}")
    assert len(module.__all__) == 1, "a file exports one thing"
    kind: Any = getattr(module, module.__all__[0])
    assert module.__doc__
    assert kind.Config.__doc__
    config = build(kind.Config, EXAMPLES[name], name)
    for option in plain(config):
        assert f"`{option}`" in kind.Config.__doc__, f"{name}: {option} is not explained"
    with pytest.raises(AttributeError):
        config.anything = 1
    assert build(kind.Config, plain(config), name) == config


@pytest.mark.parametrize("name", catalogue(KINDS))
def test_columns_are_of_one_side_begin_with_its_name_and_are_what_it_reads(name: str) -> None:
    chosen = features({"name": "it", "use": name, **EXAMPLES[name]})
    asked, among = requests([0, 1, 2, -1], chosen), candidates([[0, 1], [4], [], [77, 3]])
    sides = {column.side for column in chosen.columns.values()}
    assert len(sides) == 1
    assert all(column_name.split("_")[0] == "it" for column_name in chosen.columns)
    for side, rows in (("request", Rows(asked, np.arange(4), None)), ("row", Rows(asked, among.owners, among.items))):
        found = asked.known.columns(rows)
        assert set(found) == (set(chosen.columns) if side in sides else set())
        for values in found.values():
            assert values.shape == (len(rows.owners),)
            assert values.dtype == object or values.dtype.kind in "fi"


@pytest.mark.parametrize("name", catalogue(KINDS))
def test_a_request_alone_reads_as_among_others(name: str) -> None:
    """Whom it is asked with changes nothing: online is a batch of one."""
    chosen = features({"name": "it", "use": name, **EXAMPLES[name]})
    asked, among = requests([0, 1, 2, 0], chosen, at=[NOW, NOW - HOUR, NOW, NOW - 7]), [[0, 1, 3], [4, 2], [0], [77]]
    rows = candidates(among)
    whole = asked.known.columns(Rows(asked, np.arange(4), None))
    whole_rows = asked.known.columns(Rows(asked, rows.owners, rows.items))
    for n in range(4):
        one, mine = asked.take(n, n + 1), candidates(among[n : n + 1])
        alone = asked.known.columns(Rows(one, np.array([0]), None))
        alone_rows = asked.known.columns(Rows(one, mine.owners, mine.items))
        for key in whole:
            np.testing.assert_array_equal(alone[key], whole[key][n : n + 1])
        for key in whole_rows:
            np.testing.assert_array_equal(alone_rows[key], whole_rows[key][rows.offsets[n] : rows.offsets[n + 1]])


@pytest.mark.parametrize("name", catalogue(KINDS))
def test_nobody_and_nothing_known_never_raise(name: str) -> None:
    chosen = features({"name": "it", "use": name, **EXAMPLES[name]})
    asked = requests([], chosen)
    none = np.zeros(0, dtype=np.int64)
    for rows in (Rows(asked, none, None), Rows(asked, none, none)):
        assert all(len(values) == 0 for values in asked.known.columns(rows).values())
    asked = requests([-1, 5], chosen)
    asked = replace(asked, history=Ragged.of(np.array([0, 1, 1]), np.array([99])))
    asked.known.catalogue = Catalogue.empty()
    for rows in (Rows(asked, np.arange(2), None), Rows(asked, np.arange(2), np.array([-1, 3]))):
        found = chosen.read("request" if rows.items is None else "row", rows, asked.known)
        assert all(len(values) == 2 for values in found.values())


def test_the_schema_of_models_knows_the_same_kinds() -> None:
    """A title that has become a vector for models keeps its letters for features."""
    entry = [FeatureConfig("it", "shape")]
    text = Schema.parse({"items": {"title": {"kind": "text", "encode": "ngrams"}}, "title": "title"})
    assert set(FeatureSet.of(entry, text.encoded()).columns) == set(FeatureSet.of(entry, text).columns)
    assert CATALOGUE.items.columns["title"][0] == "War and peace"
