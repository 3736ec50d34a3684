"""Rules and how they restrict MMR, against plain Python and exhaustive search."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.funnel.test_mmr import alive, page_of
from tests.funnel.world import SCHEMA, ask, profiles, ragged

from shortlist.candidates import Candidates, Ragged
from shortlist.config import build
from shortlist.errors import ConfigError
from shortlist.funnel.rules import Rule, Rules, latest
from shortlist.funnel.selectors.mmr import Mmr
from shortlist.schema import Profiles

GENRES = st.none() | st.lists(st.sampled_from("abc"), max_size=2, unique=True)
BRAND = st.sampled_from([None, "x", "y", "y"])
SCORE = st.integers(0, 16).map(lambda n: n / 8)
ROWS = st.lists(st.tuples(GENRES, BRAND, SCORE), min_size=1, max_size=7)
Row = tuple[Any, Any, float]


@st.composite
def rule(draw: st.DrawFn, of: tuple[str, ...] = ("genre", "brand")) -> Rule:
    field = draw(st.sampled_from(of))
    at_most = draw(st.integers(0, 2))
    places = draw(st.integers(at_most + 1, 5))
    equals = draw(st.sampled_from([None, None, "a" if field == "genre" else "y"]))
    across = draw(st.booleans())
    return Rule(at_most, field, places if across else None, None if across else places, equals)


def values(row: Row, of: str) -> set[str]:
    return set(row[0] or ()) if of == "genre" else {row[1]} - {None}


def breaks(rules: Rule, rows: list[Row], shown: list[int]) -> bool:
    """Whether the last item shown breaks the rule, given all before it."""
    if rules.first is not None and len(shown) > rules.first:
        return False
    window = shown if rules.first is not None else shown[-(rules.per or 0) :]
    for value in values(rows[shown[-1]], rules.of):
        count = sum(value in values(rows[i], rules.of) for i in window)
        if rules.equals in (None, value) and count > rules.at_most:
            return True
    return False


def legal(rules: tuple[Rule, ...], rows: list[Row], shown: list[int]) -> bool:
    return not any(breaks(one, rows, shown) for one in rules)


def complete(rules: tuple[Rule, ...], rows: list[Row], shown: list[int], left: frozenset[int], places: int) -> bool:
    """By trying everything: whether `places` more can be filled."""
    return places == 0 or any(
        legal(rules, rows, [*shown, i]) and complete(rules, rows, [*shown, i], left - {i}, places - 1) for i in left
    )


def choose(
    rows: list[Row], rules: tuple[Rule, ...], n: int, prefix: list[int] | None = None, **config: Any
) -> tuple[list[int], set[str]]:
    """The page and the rules it says it gave up."""
    items = profiles(*(g for g, _, _ in rows), brand=[b for _, b, _ in rows])
    earlier = None if prefix is None else Ragged.of(np.array([0, len(prefix)]), np.array(prefix, dtype=np.int64))
    scores = np.array([s for _, _, s in rows], dtype=np.float32)
    mmr = Mmr(Mmr.Config(**{"theta": 1.0, "rules": rules, **config}), SCHEMA, items)
    candidates = alive(len(rows))
    _, picks, relaxed = mmr.select(ask([], n=n, prefix=earlier), candidates, scores)
    return [int(i) for i in candidates.items[picks]], {name for name, hit in relaxed.items() if hit.any()}


def by_score(rows: list[Row], left: set[int]) -> list[int]:
    return sorted(left, key=lambda i: (-rows[i][2], i))


def greedy(rows: list[Row], rules: tuple[Rule, ...], places: int, prefix: list[int], ahead: bool) -> list[int] | None:
    """Each place the best by score that breaks no rule (and, looking ahead, leaves a page that can be finished)."""
    shown, left = list(prefix), set(range(len(rows)))
    for place in range(places):
        able = [
            i
            for i in by_score(rows, left)
            if legal(rules, rows, [*shown, i])
            and (not ahead or complete(rules, rows, [*shown, i], frozenset(left - {i}), places - place - 1))
        ]
        if not able:
            return None
        shown.append(able[0])
        left.remove(able[0])
    return shown[len(prefix) :]


@given(ROWS, st.lists(rule(), max_size=3).map(tuple), st.integers(1, 5), st.lists(st.integers(0, 6), max_size=4))
@settings(max_examples=500)
def test_no_window_breaks_a_rule_where_any_page_keeps_them_all(
    rows: list[Row], rules: tuple[Rule, ...], n: int, prefix: list[int]
) -> None:
    prefix = [i for i in prefix if i < len(rows)]
    page, relaxed = choose(rows, rules, n, prefix)
    places = min(n, len(rows))
    assert len(page) == places == len(set(page))  # complete, whatever the rules
    broken = {one.name for place in range(places) for one in rules if breaks(one, rows, [*prefix, *page[: place + 1]])}
    assert relaxed == broken  # what was given up is said, and nothing else
    if complete(rules, rows, prefix, frozenset(range(len(rows))), places):
        assert not broken
        # the chosen item is the best of those that break nothing; only a page that gets stuck looks ahead
        expected = greedy(rows, rules, places, prefix, ahead=False) or greedy(rows, rules, places, prefix, ahead=True)
        assert page == expected


@given(ROWS, st.integers(0, 5))
def test_without_rules_it_is_mmr(rows: list[Row], n: int) -> None:
    items = profiles(*(g for g, _, _ in rows))
    assert choose(rows, (), n, theta=0.5)[0] == page_of(items, [s for _, _, s in rows], n, theta=0.5)


@given(ROWS, st.lists(rule(("brand",)), min_size=1, max_size=2).map(tuple), st.sampled_from([0.0, 0.5]))
def test_each_pick_is_the_best_of_what_the_rules_leave(rows: list[Row], rules: tuple[Rule, ...], theta: float) -> None:
    page, relaxed = choose(rows, rules, 5, theta=theta, levels={"genre": 1.0})
    if relaxed or greedy_stuck(rows, rules, theta):
        return
    for place, pick in enumerate(page):
        rest = set(range(len(rows))) - set(page[:place])
        able = [i for i in rest if legal(rules, rows, [*page[:place], i])]
        worth = {i: value(rows, i, page[:place], theta) for i in able}
        assert worth[pick] == pytest.approx(max(worth.values()), abs=1e-12)


def greedy_stuck(rows: list[Row], rules: tuple[Rule, ...], theta: float) -> bool:
    """Whether picking the best of what the rules leave runs into a place where they leave nothing."""
    shown: list[int] = []
    while len(shown) < min(5, len(rows)):
        rest = by_score(rows, set(range(len(rows))) - set(shown))
        able = [i for i in rest if legal(rules, rows, [*shown, i])]
        if not able:
            return True
        shown.append(max(able, key=lambda i: value(rows, i, shown, theta)))
    return False


def value(rows: list[Row], i: int, shown: list[int], theta: float) -> float:
    scores = [s for _, _, s in rows]
    low, span = min(scores), (max(scores) - min(scores)) or 1.0

    def alike(j: int) -> float:
        a, b = values(rows[i], "genre"), values(rows[j], "genre")
        return len(a & b) / float(np.sqrt(max(len(a), 1) * max(len(b), 1)))

    penalty = max((alike(j) for j in shown[-10:]), default=0.0)
    return theta * ((rows[i][2] - low) / span) - (1 - theta) * penalty


# ---------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    "scores", [[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [3, 3, 3, 9, 9], [9, 9, 9, 3, 3], [2, 5, 1, 4, 3]]
)
def test_what_is_scarce_is_kept_for_where_it_is_needed(scores: list[float]) -> None:
    kinds = "AAABB"
    rows: list[Row] = [(None, kind, score) for kind, score in zip(kinds, scores, strict=True)]
    page, relaxed = choose(rows, (Rule(at_most=1, of="brand", per=2),), 5)
    assert "".join(kinds[i] for i in page) == "ABABA"
    assert relaxed == set()


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=8),
    st.integers(2, 4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
def test_every_page_that_can_use_all_items_does(counts: list[int], per: int, dice: Any) -> None:
    # one of a kind in `per` places: all n items fit when (most - 1) * per + (kinds that have most) <= n
    most = max(counts)
    counts = [*counts, *[1] * max(0, (most - 1) * per + counts.count(most) - sum(counts))]
    rows: list[Row] = [(None, f"b{kind}", dice.random()) for kind, count in enumerate(counts) for _ in range(count)]
    page, relaxed = choose(rows, (Rule(at_most=1, of="brand", per=per),), len(rows))
    assert len(page) == len(rows)
    assert relaxed == set()


def test_one_in_nine_allows_the_first_and_the_tenth_place() -> None:
    nine = Rule(at_most=1, of="brand", per=9, equals="promoted")
    rows: list[Row] = [(None, "promoted", 9.0), (None, "promoted", 8.0), *((None, "other", 1.0) for _ in range(9))]
    page, relaxed = choose(rows, (nine,), 11)
    places = [place for place, item in enumerate(page, start=1) if item < 2]
    assert places == [1, 10]
    assert relaxed == set()
    # with seven others the second one cannot be nine places away: it comes ninth, and that is said
    page, relaxed = choose(rows[:9], (nine,), 9)
    assert [place for place, item in enumerate(page, start=1) if item < 2] == [1, 9]
    assert relaxed == {"at_most 1 brand=promoted per 9"}


def test_five_in_a_row() -> None:
    rows: list[Row] = [(None, "video", 9.0)] * 7 + [(None, "text", 1.0)] * 2
    page, relaxed = choose(rows, (Rule(at_most=5, of="brand", per=6),), 9)
    assert ["vt"[i >= 7] for i in page] == list("vvvvvtvvt")
    assert relaxed == set()


def test_no_card_at_the_top_and_one_in_the_first_four() -> None:
    rows: list[Row] = [(None, "card", 9.0)] * 3 + [(None, "text", 1.0)] * 4
    rules = (Rule(at_most=0, of="brand", first=1, equals="card"), Rule(at_most=1, of="brand", first=4, equals="card"))
    page, relaxed = choose(rows, rules, 7)
    assert ["ct"[i >= 3] for i in page] == list("tcttcct")
    assert relaxed == set()


def test_rules_go_on_from_the_earlier_page() -> None:
    nine = Rule(at_most=1, of="brand", per=9, equals="promoted")
    rows: list[Row] = [(None, "promoted", 9.0), *((None, "other", 1.0) for _ in range(9)), (None, "promoted", 0.0)]
    # the earlier page ended promoted, other, other: seven... eight others must lie between: six more here
    page, _ = choose(rows, (nine,), 8, prefix=[10, 8, 9])
    assert page.index(0) == 6
    # what counts is how many places were shown, also for rules about the first ones
    top = Rule(at_most=0, of="brand", first=3, equals="promoted")
    assert choose(rows, (top,), 4)[0].index(0) == 3
    assert choose(rows, (top,), 4, prefix=[8])[0].index(0) == 2
    assert choose(rows, (top,), 4, prefix=[7, 8, 9, 6])[0].index(0) == 0


def test_rules_are_given_up_in_the_order_declared() -> None:
    rows: list[Row] = [(["a"], "x", 3.0), (["a"], "y", 2.0), (["b"], "x", 1.0)]
    genre, brand = Rule(at_most=1, of="genre", per=2), Rule(at_most=1, of="brand", per=2)
    # two places with 0 shown first: 1 breaks the rule of genres, 2 that of brands
    assert choose(rows[:1] + rows[1:], (genre, brand), 3, prefix=None)[1] != set()
    assert choose([rows[0], rows[1], rows[2]], (genre, brand), 1, prefix=[0])[0] == [1]
    assert choose([rows[0], rows[1], rows[2]], (genre, brand), 1, prefix=[0])[1] == {"at_most 1 genre per 2"}
    assert choose([rows[0], rows[1], rows[2]], (brand, genre), 1, prefix=[0])[0] == [2]


def test_an_impossible_rule_still_gives_a_full_page() -> None:
    rows: list[Row] = [(None, "x", float(s)) for s in range(6)]
    page, relaxed = choose(rows, (Rule(at_most=1, of="brand", per=3),), 6)
    assert page == [5, 4, 3, 2, 1, 0]
    assert relaxed == {"at_most 1 brand per 3"}


def test_a_page_longer_than_there_is_supply_breaks_as_late_as_it_can() -> None:
    rows: list[Row] = [(None, "x", 5.0), (None, "x", 4.0), (None, "x", 3.0), (None, "y", 2.0), (None, "x", 1.0)]
    page, relaxed = choose(rows, (Rule(at_most=1, of="brand", per=2),), 5)
    assert page == [0, 3, 1, 2, 4]
    assert relaxed == {"at_most 1 brand per 2"}


def test_many_requests_with_different_fates() -> None:
    items = profiles(*[["a"]] * 3, *[["b"]] * 3)
    mmr = Mmr(Mmr.Config(theta=1.0, rules=(Rule(at_most=1, of="genre", per=2),)), SCHEMA, items)
    offsets = np.array([0, 4, 6, 6])
    kinds = np.array([0, 1, 3, 4, 0, 1])
    none = np.zeros((6, 1), dtype=np.int32)
    candidates = Candidates(offsets, kinds, ("c",), none, none.astype(np.float32), {}, np.zeros(6, dtype=np.int16))
    scores = np.array([1, 1, 9, 9, 2, 1], dtype=np.float32)
    pages, picks, relaxed = mmr.select(ask([], [], [], n=4), candidates, scores)
    assert pages.tolist() == [0, 4, 6, 6]
    assert kinds[picks].tolist() == [3, 0, 4, 1, 0, 1]
    assert {name: hit.tolist() for name, hit in relaxed.items()} == {"at_most 1 genre per 2": [False, True, False]}


def test_looking_ahead_is_bounded() -> None:
    # sixty genres, three an item, and a rule that cannot be kept: the search gives up, the page comes
    rng = np.random.default_rng(0)
    genres = [sorted(f"g{k}" for k in rng.choice(60, 3, replace=False)) for _ in range(200)]
    rows: list[Row] = [(g, None, float(s)) for g, s in zip(genres, rng.random(200), strict=True)]
    page, relaxed = choose(rows, (Rule(at_most=1, of="genre", per=40),), 40)
    assert len(page) == 40
    assert relaxed == {"at_most 1 genre per 40"}


def test_latest() -> None:
    assert latest(None, 2, 3).tolist() == [[], []]
    assert latest(ragged([1, 2, 3], [4], []), 3, 2).tolist() == [[2, 3], [-1, 4], [-1, -1]]
    assert latest(ragged([1, 2, 3], [4], []), 3, None).tolist() == [[1, 2, 3], [-1, -1, 4], [-1, -1, -1]]
    assert latest(ragged([1, 2, 3]), 1, 0).tolist() == [[]]


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"at_most": -1, "of": "genre", "per": 2}, "r[0]: at_most is negative (0 forbids, 1 allows one)"),
        (
            {"at_most": 1, "of": "genre"},
            "r[0]: needs either per or first (per = 10 is any ten in a row, first = 4 the top four)",
        ),
        (
            {"at_most": 1, "of": "genre", "per": 2, "first": 3},
            "r[0]: needs either per or first (per = 10 is any ten in a row, first = 4 the top four)",
        ),
        ({"at_most": 2, "of": "genre", "per": 2}, "r[0]: at_most 2 per 2 forbids nothing (make per larger)"),
        ({"at_most": 4, "of": "genre", "first": 4}, "r[0]: at_most 4 first 4 forbids nothing (make first larger)"),
        ({"at_most": 1, "of": "gener", "per": 2}, "r[0].of: no item field is called 'gener' (did you mean genre?)"),
    ],
)
def test_rules_that_cannot_be(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rules.of((build(Rule, table, "rule"),), SCHEMA, profiles(["a"]), "r")
    assert str(caught.value) == message


def rules_named(items: Profiles, **table: Any) -> str:
    return Rules.of((build(Rule, table, "rule"),), SCHEMA, items).rules[0].name


def test_a_rule_names_itself_and_its_value_may_be_a_number_or_a_truth() -> None:
    items = profiles(["a"], year=[1995])
    assert rules_named(items, at_most=2, of="genre", per=10) == "at_most 2 genre per 10"
    assert rules_named(items, at_most=0, of="year", first=1, equals=1995) == "at_most 0 year=1995 first 1"
    assert rules_named(items, at_most=0, of="year", first=1, equals=1995.0) == "at_most 0 year=1995 first 1"
    assert rules_named(items, at_most=0, of="year", first=1, equals=True) == "at_most 0 year=true first 1"


def test_a_value_is_met_in_the_same_form() -> None:
    items = Profiles(np.arange(3), {"year": np.array([1995.0, 1996.0, 1995.0])})
    mmr = Mmr(Mmr.Config(rules=(Rule(at_most=0, of="year", first=2, equals=1995),)), SCHEMA, items)
    _, picks, relaxed = mmr.select(ask([], n=1), alive(3), np.array([3, 1, 2], dtype=np.float32))
    assert picks.tolist() == [1]
    assert [hit.tolist() for hit in relaxed.values()] == [[False]]
