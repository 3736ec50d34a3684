"""Co-occurrence, hot lists and statistics as tables: numbers by hand, one engine against another, tables against the
compiled loops."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pytest import approx

from shortlist.config import build
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError
from shortlist.forms import Built, Lists
from shortlist.models.recall.hot import Hot
from shortlist.models.recall.item_cf import ItemCF
from shortlist.models.recall.swing import Swing
from shortlist.models.recall.user_cf import UserCF
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.tables.dice import PRIME, dice
from shortlist.tables.engine import Frame, Tables, opened
from shortlist.tables.hot import hot
from shortlist.tables.lists import activity, best, entries, latest, liked, unsettled
from shortlist.tables.similar_items import by_category, by_popularity, by_publishing, similar_items
from shortlist.tables.similar_users import similar_users
from shortlist.tables.swing import picked, swing

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOW = 1_700_000_000_000


@pytest.fixture
def tables(engine: str) -> Iterator[Tables]:
    with opened(engine) as made:
        yield made


def events(made: Tables, rows: list[tuple[int, int, int]], **columns: list[float | None]) -> Frame:
    """A log of (user, item, hours) in the order it came."""
    users, items, hours = (list(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return made.table(
        {
            "user": users,
            "item": items,
            "time_ms": [NOW + h * HOUR_MS for h in hours],
            "offset": list(range(n)),
            "weight": pl.Series(columns.get("weight", [1.0] * n), dtype=pl.Float64, strict=False),
            "value": pl.Series(columns.get("value", [None] * n), dtype=pl.Float64, strict=False),
        }
    )


def rows_of(made: Tables, frame: Frame) -> dict[tuple[int, ...], float]:
    """The last column of a frame by the others."""
    return {tuple(row[:-1]): row[-1] for row in made.result(frame).collect().rows()}


# ------------------------------------------------------------------------------------------------------- by hand


def test_a_list_holds_the_latest_event_on_each_item_and_the_latest_are_kept(tables: Tables) -> None:
    # user 1 took 7 twice; 8 and 9 at one hour, 9 after 8
    log = events(tables, [(1, 7, 0), (1, 8, 2), (1, 9, 2), (1, 7, 1), (2, 7, 0)])
    kept = (
        tables.result(latest(entries(log), 2).select("user", "item", "length", "back")).collect().sort("user", "back")
    )
    assert kept.rows() == [(1, 9, 3, 1), (1, 8, 3, 2), (2, 7, 1, 1)]


def test_statistics_of_items(tables: Tables) -> None:
    log = events(tables, [(1, 7, 0), (2, 7, 3), (2, 8, 1)], weight=[1, 0.5, 1], value=[4, 5, None])
    columns = ("item", "events", "first_ms", "last_ms", "weight", "valued", "mean")
    made = tables.result(activity(log, "item").select(columns)).collect().sort("item")
    hour = NOW + HOUR_MS
    assert made.rows() == [(7, 2, NOW, NOW + 3 * HOUR_MS, 1.5, 2, 4.5), (8, 1, hour, hour, 1.0, 0, None)]


def test_actions_without_weight_do_not_count(tables: Tables) -> None:
    log = events(tables, [(1, 7, 0), (1, 8, 0)], weight=[1, 0])
    assert tables.result(liked(log).select("item")).collect()["item"].to_list() == [7]


def test_cosine_of_two_items(tables: Tables) -> None:
    # users of 7: 1, 2, 3; of 8: 1, 2; of 9: 3. Both 7 and 8: two, of sqrt(3 * 2)
    log = events(tables, [(1, 7, 0), (1, 8, 1), (2, 8, 0), (2, 7, 3), (3, 7, 0), (3, 9, 1)])
    got = rows_of(tables, similar_items(log, "binary", keep=5))
    want = {(7, 8): 2 / 6**0.5, (8, 7): 2 / 6**0.5, (7, 9): 1 / 3**0.5, (9, 7): 1 / 3**0.5}
    assert got == approx(want)


def test_weights_in_sequence(tables: Tables) -> None:
    # one user: 7, an hour later 8, two hours later 9; IUF 1/log(4), every |U_i| is 1, half-life of a gap one hour
    log = events(tables, [(1, 7, 0), (1, 8, 1), (1, 9, 3)])
    options: dict[str, Any] = {"back": 0.7, "position_decay": 0.9, "click_half_life_ms": float(HOUR_MS)}
    got = rows_of(tables, similar_items(log, "sequence", keep=5, **options))
    iuf = 1 / np.log(4)
    want = {(7, 8): 0.5, (8, 9): 0.25, (7, 9): 0.9 * 0.125, (8, 7): 0.35, (9, 8): 0.175, (9, 7): 0.7 * 0.9 * 0.125}
    assert got == approx({pair: iuf * weight for pair, weight in want.items()})
    # and nothing at all counts
    plain = rows_of(tables, similar_items(log, "sequence", keep=5, iuf=False))
    assert plain == approx(dict.fromkeys(want, 1.0))


def test_publish_gap_and_categories(tables: Tables) -> None:
    pairs = tables.table({"item": [1, 1, 2], "other": [2, 3, 3], "score": [1.0, 1.0, 1.0]})
    published = tables.table({"item": [1, 2, 3], "published_ms": [0.0, 3.0, np.nan]})
    # 1 and 2 are three half-lives apart; when 3 came out is not known
    assert rows_of(tables, by_publishing(pairs, published, 1.0)) == {(1, 2): 0.125, (1, 3): 1.0, (2, 3): 1.0}
    labels = tables.table({"item": [1, 1, 2, 3, 3], "label": [5, 6, 5, 5, 6]})
    # 1 and 3 share two labels, which counts once
    assert rows_of(tables, by_category(pairs, labels, 0.5)) == {(1, 2): 1.5, (1, 3): 1.5, (2, 3): 1.5}


def test_a_popular_neighbour_counts_less_with_a_larger_alpha(tables: Tables) -> None:
    # |U_7| = 1, |U_8| = 4
    log = events(tables, [(1, 7, 0), (1, 8, 1), (2, 8, 0), (3, 8, 0), (4, 8, 0)])
    pairs = tables.table({"item": [7, 8], "other": [8, 7], "total": [1.0, 1.0]})
    got = rows_of(tables, by_popularity(pairs, entries(log), 0.75))
    assert got == approx({(7, 8): 4**-0.75, (8, 7): 4**-0.25})


def test_adjusted_cosine(tables: Tables) -> None:
    # from their means: user 1 has 7: 1, 8: 1, 9: -2; user 2 has 7: 1, 8: -1 -> 7 and 8: (1 - 1) = 0, which is none;
    # user 3 has 7: 2, 9: -2; 8 and 9: 1 * -2 below zero. With a fourth user 7: 1, 8: 1, 9: -2, too: 7 and 8 is
    # (1 - 1 + 1) / sqrt(3 * 3)
    three = [(1, 7, 5), (1, 8, 5), (1, 9, 2), (2, 7, 4), (2, 8, 2), (3, 7, 5), (3, 9, 1)]
    four = [*three, (4, 7, 3), (4, 8, 3), (4, 9, 0)]
    for rated, want in ((three, {}), (four, {(7, 8): 1 / 3, (8, 7): 1 / 3})):
        log = events(tables, [(u, i, 0) for u, i, _ in rated], value=[r for _, _, r in rated])
        assert rows_of(tables, similar_items(log, "rating", keep=5)) == approx(want)


def test_two_users_of_two_common_items(tables: Tables) -> None:
    # I_1 = {7, 8, 9}, I_2 = {7, 8}; user 3 has 9 alone. |U_7| = |U_8| = |U_9| = 2, shrinkage 2 / (2 + 2)
    log = events(tables, [(1, 7, 0), (1, 8, 0), (1, 9, 0), (2, 7, 0), (2, 8, 0), (3, 9, 0)])
    for measure, two, one in (
        ("jaccard", 2 / 3, 1 / 3),
        ("cosine", 2 / 6**0.5, 1 / 3**0.5),
        ("iuf", 2 / np.log(3) / 6**0.5, 1 / np.log(3) / 3**0.5),
    ):
        got = rows_of(tables, similar_users(log, measure, keep=5, lam=2.0))  # type: ignore[arg-type]
        assert got == approx({(1, 2): two / 2, (2, 1): two / 2, (1, 3): one / 3, (3, 1): one / 3})


def test_pearson(tables: Tables) -> None:
    # 1, 2, 3 and 2, 4, 6 go together; 3, 2, 1 goes the other way, 4, 4, 4 nowhere
    rated = {1: (1, 2, 3), 2: (2, 4, 6), 3: (3, 2, 1), 4: (4, 4, 4)}
    log = events(tables, [(u, i, 0) for u in rated for i in (7, 8, 9)], value=[r for rs in rated.values() for r in rs])
    assert rows_of(tables, similar_users(log, "pearson", keep=5)) == approx({(1, 2): 1.0, (2, 1): 1.0})


def test_users_of_one_region(tables: Tables) -> None:
    log = events(tables, [(u, 7, 0) for u in (1, 2, 3, 4)])
    regions = tables.table({"user": [1, 2, 3], "region": [0, 0, 1]})
    # all are alike, 1; 1 and 2 live in one place; of 4 nobody knows where
    got = rows_of(tables, similar_users(log, "jaccard", keep=1, regions=regions, beta=0.5))
    assert got == approx({(1, 2): 1.5, (2, 1): 1.5, (3, 1): 1.0, (4, 1): 1.0})
    hard = rows_of(tables, similar_users(log, "jaccard", keep=2, regions=regions, hard=True))
    assert sorted(hard) == [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2)]  # one alike is not two
    strict = rows_of(tables, similar_users(log, "jaccard", keep=1, regions=regions, hard=True))
    assert sorted(strict) == [(1, 2), (2, 1), (3, 1), (4, 1)]


def test_swing_of_two_users(tables: Tables) -> None:
    # |I_1| = 2, |I_2| = 4, two in common: 2^-0.5 * 4^-0.5 / (1 + 2)
    log = events(tables, [(1, 7, 0), (1, 8, 0), (2, 7, 0), (2, 8, 0), (2, 1, 0), (2, 2, 0)])
    assert rows_of(tables, swing(log, keep=5)) == approx({(7, 8): 8**-0.5 / 3, (8, 7): 8**-0.5 / 3})
    assert rows_of(tables, swing(log, keep=5, longest=3)) == {}


def test_swing_asks_some_users_and_makes_up_for_the_others(tables: Tables) -> None:
    # any two of three users of the same two items are worth 1/2 / 3, all three pairs three times that
    log = events(tables, [(u, i, 0) for u in (1, 2, 3) for i in (7, 8)])
    assert rows_of(tables, swing(log, keep=5, cap=2)) == approx({(7, 8): 0.5, (8, 7): 0.5})
    asked = tables.result(picked(entries(log), 2, 0)).collect()
    assert asked["scale"].to_list() == [3.0] * 4
    assert asked["item"].value_counts().sort("item").rows() == [(7, 2), (8, 2)]


def test_hot_items_of_everybody_and_of_a_list(tables: Tables) -> None:
    # a day ago is half; of user 1's three events on 7 the latest two count
    log = events(tables, [(1, 7, -72), (1, 7, -24), (1, 7, 0), (2, 8, 0), (3, 8, -24)])
    own = tables.table({"user": [1, 2, 3], "list": [1, 2, 2]})
    got = rows_of(tables, hot(log, now=NOW, keep=9, per_user=2, half_life_ms=DAY_MS, lists=own, least=2))
    assert got == approx({(0, 7): 1.5, (0, 8): 1.5, (1, 7): 1.5, (2, 8): 1.5})
    fewer = rows_of(tables, hot(log, now=NOW, keep=9, per_user=1, half_life_ms=DAY_MS, lists=own, least=2))
    assert fewer == approx({(0, 7): 1.0, (0, 8): 1.5, (2, 8): 1.5})


def test_amounts(tables: Tables) -> None:
    log = events(tables, [(1, 7, 0), (2, 7, 0), (2, 8, 0)], weight=[1, 0.5, 1], value=[4, 6, None])
    assert rows_of(tables, hot(log, now=NOW, keep=9, amount=True)) == {(0, 7): 7.0, (0, 8): 0.0}


def test_of_equal_scores_the_smaller_key_comes_first(tables: Tables) -> None:
    # 0.1 + 0.2 is not 0.3 to the bit, and yet the two are tied
    pairs = tables.table({"item": [1, 1, 1, 2], "other": [5, 4, 3, 9], "score": [0.3, 0.1 + 0.2, 0.2, 1.0]})
    assert sorted(rows_of(tables, best(pairs, "item", "other", 1))) == [(1, 4), (2, 9)]


def test_nothing_in_nothing_out(tables: Tables) -> None:
    some = events(tables, [(1, 7, 0)])
    none = events(tables, [(1, 7, 0)], weight=[0])
    for log in (some, none):
        assert rows_of(tables, similar_items(log, "sequence", keep=3)) == {}
        assert rows_of(tables, similar_users(log, "iuf", keep=3)) == {}
        assert rows_of(tables, swing(log, keep=3, cap=2)) == {}
    assert rows_of(tables, hot(none, now=NOW, keep=3)) == {}


# ---------------------------------------------------------------------------------------------------------- dice


def test_every_engine_throws_the_dice_of_arrays(tables: Tables) -> None:
    users, items = np.array([0, 1, 2, 10**12, 2**31]), np.array([0, 5, 2**40, 1, 1])
    frame = tables.table({"user": users, "item": items})
    got = rows_of(tables, frame.select("user", "item", n=dice(nw.col("user"), nw.col("item"), 3)))
    assert [got[pair] for pair in zip(users.tolist(), items.tolist(), strict=True)] == dice(users, items, 3).tolist()


def test_the_dice_are_fair() -> None:
    users, items = np.arange(40), np.arange(20_000)
    thrown = dice(users[None, :], items[:, None], 1)
    assert thrown.min() >= 0
    assert thrown.max() < PRIME
    assert len(np.unique(dice(np.arange(100_000), 5, 1))) == 100_000
    # of 40 users 8 are taken: each in 1 of 5, any two together in 8 * 7 of 40 * 39; five standard errors
    taken = np.zeros(thrown.shape, dtype=np.float64)
    np.put_along_axis(taken, np.argpartition(thrown, 8, axis=1)[:, :8], 1.0, axis=1)
    together = taken.T @ taken / len(items)
    for found, chance in ((np.diag(together), 8 / 40), (together[np.triu_indices(40, 1)], 56 / 1560)):
        np.testing.assert_allclose(found, chance, atol=5 * (chance * (1 - chance) / len(items)) ** 0.5)
    # another seed, another item: no dependence
    other = dice(users[None, :], items[:, None], 2)
    assert abs(np.corrcoef(thrown.ravel(), other.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(thrown[1:].ravel(), thrown[:-1].ravel())[0, 1]) < 0.01


# --------------------------------------------------------------------------- one engine, another, and the loops

SCHEMA = Schema.parse(
    {
        "action": "kind",
        "value": "rating",
        "actions": {"view": {"weight": 0.0}, "click": {"weight": 1.0}, "buy": {"weight": 2.0}},
        "items": {"genres": {"kind": "varlen", "split": "|"}, "came": {"kind": "time"}},
        "users": {"city": "sparse", "land": "sparse"},
        "category": "genres",
        "published": "came",
        "region": "city",
    }
)


def world(seed: int = 3) -> tuple[Interactions, Catalogue]:
    """60 users, 30 items, 700 events: repeats, equal times, missing values, users with one event, unknown regions."""
    rng = np.random.default_rng(seed)
    users = np.append((60 * rng.random(700) ** 1.5).astype(np.int64), [90, 91, 92])
    items = np.append((30 * rng.random(700) ** 1.5).astype(np.int64), [0, 50, 50])
    n = len(users)
    values = rng.integers(1, 6, n).astype(np.float32)
    values[rng.random(n) < 0.1] = np.nan
    log = Interactions.of(
        users, items, NOW - rng.integers(0, 200, n) * HOUR_MS, rng.integers(0, 3, n).astype(np.int16), values
    )
    keys = np.unique(items)
    genres = ["|".join(rng.choice(list("abcde"), rng.integers(0, 3), replace=False)) or None for _ in keys]
    came = [np.nan if rng.random() < 0.1 else float(NOW - rng.integers(0, 400) * HOUR_MS) for _ in keys]
    people = np.unique(users)
    cities = [None if rng.random() < 0.1 else str(rng.choice(list("xyz"))) for _ in people]
    lands = [None if city is None else "L" if city == "x" else "M" for city in cities]
    texts = [np.fromiter(column, dtype=object, count=len(column)) for column in (genres, cities, lands)]
    return log, Catalogue(
        items=Profiles(keys, {"genres": texts[0], "came": np.array(came)}),
        users=Profiles(people, {"city": texts[1], "land": texts[2]}),
    )


SOLVERS: Mapping[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
    "item_cf": (ItemCF, {}),
    "item_cf, short lists": (ItemCF, {"keep": 4, "cap": 5, "alpha": 0.7, "normalize": True}),
    "item_cf, binary": (ItemCF, {"weights": "binary", "cap": 10, "keep": 6}),
    "item_cf, rating": (ItemCF, {"weights": "rating"}),
    "item_cf, neighbours alone": (ItemCF, {"position_decay": 0.0, "back": 0.0}),
    "user_cf": (UserCF, {"keep": 10}),
    "user_cf, jaccard, hard": (UserCF, {"measure": "jaccard", "hard": True, "keep": 7, "cap": 6}),
    "user_cf, cosine, rated": (UserCF, {"measure": "cosine", "predict": "rated", "lam": 0.0}),
    "user_cf, pearson": (UserCF, {"measure": "pearson"}),
    "user_cf, pearson, own": (UserCF, {"measure": "pearson", "means": "own", "lam": 1.0, "beta": 0.0}),
    "swing": (Swing, {}),
    "swing, capped": (Swing, {"cap": 6, "longest": 20, "keep": 8, "beta": 0.3, "alpha": 2.0, "seed": 5}),
    "hot": (Hot, {}),
    "hot, amount": (Hot, {"by": "amount", "actions": ("click", "buy"), "per_user": 2, "keep": 25}),
    "hot, region": (Hot, {"by": "region", "country": "land", "least": 60, "half_life_days": None}),
}


def solved(solver: Callable[..., Any], options: Mapping[str, Any]) -> Lists:
    log, catalogue = world()
    made = solver(solver.Config(**options), SCHEMA).solve(log, catalogue, NOW)  # type: ignore[attr-defined]
    form = made.form if isinstance(made, Built) else made
    assert isinstance(form, Lists)
    return form


@pytest.mark.parametrize("name", list(SOLVERS))
def test_tables_find_what_the_loops_find(name: str, engine: str) -> None:
    solver, options = SOLVERS[name]
    want, got = solved(solver, options), solved(solver, {**options, "engine": engine})
    assert len(want.items) > 20
    assert got.labels == want.labels
    for part in ("keys", "offsets", "items"):
        np.testing.assert_array_equal(getattr(got, part), getattr(want, part), err_msg=part)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-6)


def as_log(made: Tables) -> Frame:
    log = world()[0]
    columns: dict[str, NDArray[Any]] = {"user": log.users, "item": log.items, "time_ms": log.times}
    weight = SCHEMA.weights[log.actions].astype(np.float64)
    return made.table(
        {**columns, "offset": np.arange(len(log)), "weight": weight, "value": log.values.astype(np.float64)}
    )


def profiles(made: Tables) -> dict[str, Frame]:
    """When items came out, a label of each, the region of users and their lists."""
    items, users = np.arange(30), np.arange(60)
    return {
        "published": made.table({"item": items[3:], "published_ms": (items[3:] * 7 % 19) * float(HOUR_MS)}),
        "labels": made.table({"item": np.append(items, items), "label": np.append(items % 4, items % 3 + 10)}),
        "regions": made.table({"user": users[:50], "region": users[:50] % 3}),
        "lists": made.table({"user": users, "list": users % 4 + 1}),
    }


def sequenced(made: Tables, log: Frame) -> Frame:
    known = profiles(made)
    return similar_items(
        log, "sequence", keep=12, cap=20, alpha=0.6, back=0.7, position_decay=0.9, click_half_life_ms=6.0 * HOUR_MS,
        published=known["published"], publish_half_life_ms=72.0 * HOUR_MS, labels=known["labels"], same_category=0.5,
        settle=made.settled,
    )  # fmt: skip


ROUTES: Mapping[str, Callable[[Tables, Frame], Frame]] = {
    "statistics of users": lambda made, log: activity(log, "user").select("user", "events", "valued", "mean"),
    "statistics of items": lambda made, log: activity(log, "item").select("item", "first_ms", "last_ms", "weight"),
    "binary": lambda made, log: similar_items(log, "binary", keep=10, cap=15, settle=made.settled),
    "sequence": sequenced,
    "sequence, nothing written between": lambda made, log: similar_items(log, "sequence", keep=10, cap=15, back=0.5),
    "rating": lambda made, log: similar_items(log, "rating", keep=10, cap=15, settle=made.settled),
    "jaccard": lambda made, log: similar_users(log, "jaccard", keep=9, lam=10.0, settle=made.settled),
    "cosine": lambda made, log: similar_users(log, "cosine", keep=9, cap=8, settle=made.settled),
    "iuf": lambda made, log: similar_users(
        log, "iuf", keep=9, lam=3.0, regions=profiles(made)["regions"], beta=0.2, settle=made.settled
    ),
    "pearson": lambda made, log: similar_users(
        log, "pearson", keep=9, regions=profiles(made)["regions"], hard=True, settle=made.settled
    ),
    "swing": lambda made, log: swing(log, keep=10, settle=made.settled),
    "swing, capped": lambda made, log: swing(log, keep=10, cap=5, longest=25, seed=7, settle=made.settled),
    "hot": lambda made, log: hot(
        log, now=NOW, keep=15, per_user=2, half_life_ms=2.0 * DAY_MS, lists=profiles(made)["lists"], least=90
    ),
    "hot, amount": lambda made, log: hot(log, now=NOW, keep=25, amount=True, half_life_ms=1.0 * DAY_MS),
}


def found(engine: str, name: str) -> pl.DataFrame:
    with opened(engine) as made:
        rows = made.result(ROUTES[name](made, as_log(made))).collect()
    return rows.sort(rows.columns[:2] if "score" in rows.columns else rows.columns[0])


@pytest.mark.parametrize("name", list(ROUTES))
def test_engines_give_the_same_pairs_and_scores(name: str, other_engine: str) -> None:
    want, got = found("polars", name), found(other_engine, name)
    assert len(want) > 20
    assert got.columns == want.columns
    for column in want.columns:
        if want[column].dtype.is_integer():
            assert got[column].to_list() == want[column].to_list(), column
        else:
            np.testing.assert_allclose(got[column].to_numpy(), want[column].to_numpy(), rtol=0, atol=1e-9)


def test_lists_that_would_not_fit_are_refused(engine: str) -> None:
    with pytest.raises(CapacityError) as large:
        solved(Swing, {"engine": engine, "budget_bytes": 1000})
    rows = len(solved(Swing, {}).items)
    want = f"swing: {rows} rows of lists need 0.0 GiB, the budget is 0.0 GiB (raise budget_bytes or lower keep)"
    assert str(large.value) == want


def test_an_engine_that_is_none() -> None:
    with pytest.raises(ConfigError) as wrong:
        build(Swing.Config, {"engine": "dask"}, "recall.swing")
    want = "recall.swing.engine: should be 'polars', 'duckdb' or 'spark', got 'dask' (correct the value)"
    assert str(wrong.value) == want


def test_the_folder_between_steps_goes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with opened("polars") as made:
        frame = unsettled(made.settled(events(made, [(1, 7, 0)])))
        assert len(made.result(frame).collect()) == 1
        assert len(list(tmp_path.glob("shortlist-tables-*/*.parquet"))) == 3
    assert list(tmp_path.iterdir()) == []
