"""Score fusion on the way a request takes: formulas written as `fuse`, tasks scored, slates in the order of the sum.

Two requests of four candidates each, items 0..3 and 4..7; what tasks say of an item is written down below.
"""

from collections.abc import Mapping
from functools import partial
from math import log
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.funnel.world import ask, objects, ragged

from shortlist.artifact import Artifact
from shortlist.candidates import Candidates, Requests, Slates
from shortlist.config import parse
from shortlist.errors import ConfigError
from shortlist.forms import Lists
from shortlist.funnel import recipes
from shortlist.funnel.explain import explain
from shortlist.funnel.pipeline import Funnel
from shortlist.funnel.trace import trace
from shortlist.schema import Catalogue, Profiles, Schema

TASKS = ("click", "cart", "pay")
ADDITIVE = "click + 2 * cart + 3 * pay"
PER_CLICK = "click * (1 + 2 * cart + 3 * pay)"
PRODUCT = "(1 + 2 * click) ** 0.5 * (1 + 3 * cart) ** 2 * (1 + pay)"
RANKS = "1 / (rank(click) ** 0.5 + 10) + 2 / (rank(cart) + 0) + 3 / (rank(pay) ** 2 + 60)"
VALUE = "click ** 1 * cart ** 1 * pay ** 1 * item.price ** 1"
FORMULAS = (ADDITIVE, PER_CLICK, PRODUCT, RANKS)
PRICE = [5.0, 10.0, 20.0, 40.0, 5.0, 10.0, 20.0, 40.0]
POPULAR = Lists(np.array([0]), np.array([0, 8]), np.arange(8), np.ones(8, dtype=np.float32), ("global",))
ARTIFACT = cast(Artifact, SimpleNamespace(form=lambda: POPULAR, beside=dict))
Columns = Mapping[str, NDArray[np.float32]]


class Hot:
    source = "popular"
    Config = parse({}).__class__


class Says:
    """Tasks by item."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def score(self, requests: Requests, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
        return {task: column[candidates.items] for task, column in self.columns.items()}


def project(fuse: str, /, tasks: tuple[str, ...] = TASKS, **scene: Any) -> dict[str, Any]:
    return {
        "schema": {
            "action": "action", "actions": {"impression": {"weight": 0}, "click": {}, "cart": {}, "pay": {}},
            "items": {"price": "dense", "kind": "sparse"},
            "tasks": {task: {"positive": task} for task in tasks},
        },
        "recall": [{"name": "hot", "use": "hot"}], "filters": [], "rank": {"use": "dnn", "fuse": fuse},
        "scene": {"home": {"page": 4}, "other": {"page": 4, **scene}},
    }  # fmt: skip


def built(
    fuse: str, /, columns: Columns, monkeypatch: pytest.MonkeyPatch, price: list[Any] | None = None, **scene: Any
) -> dict[str, Funnel]:
    """The scenes of a project with this `fuse`, its ranker saying these columns."""
    table = project(fuse, tuple(columns), **scene)
    schema = Schema.parse(table["schema"])
    words = recipes.document(parse(table), schema, {"hot": Hot})
    items = Profiles(np.arange(8), {"price": objects(price or PRICE)})
    monkeypatch.setattr(recipes, "_restored", lambda artifact, schema, catalogue: Says(columns))
    return recipes.assemble(words, lambda name: ARTIFACT, Catalogue(Catalogue.empty().users, items))


def asked() -> Requests:
    """Request 0 rules items 4 to 7 out, request 1 items 0 to 3."""
    return ask([], [], n=4, exclude=ragged([4, 5, 6, 7], [0, 1, 2, 3]))


def run(fuse: str, columns: Columns, monkeypatch: pytest.MonkeyPatch, **options: Any) -> NDArray[np.float64]:
    """The fused score of items 0..7, as the trace has it."""
    slates = slates_of(fuse, columns, monkeypatch, **options)
    living = np.flatnonzero(slates.candidates.alive)
    assert len(living) == 8
    out = np.full(8, np.nan)
    out[slates.candidates.items[living]] = slates.candidates.scores["rank"][living]
    return out


def slates_of(fuse: str, columns: Columns, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Slates:
    return built(fuse, columns, monkeypatch, **options)["home"].run(asked())


def drawn(seed: int, low: float = 0.01) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {task: rng.uniform(low, 1, 8).astype(np.float32) for task in TASKS}


@pytest.mark.parametrize(
    "fuse", ["click", "1 * click", "click * (1 + 0)", "(1 + 2 * click) ** 0.7", "3 / (rank(click) ** 0.5 + 60)"]
)
def test_one_task_alone_gives_its_own_order(fuse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    click = np.array([0.1, 0.9, 0.4, 0.2, 0.3, 0.05, 0.8, 0.6], dtype=np.float32)
    slates = slates_of(fuse, {"click": click}, monkeypatch)
    assert slates.matrix(4).tolist() == [[1, 2, 3, 0], [6, 7, 4, 5]]


def test_formulas_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "click": np.array([0.5, 0.2, 0.2, 0.1] * 2, dtype=np.float32),
        "cart": np.array([0.1, 0.4, 0.2, 0.3] * 2, dtype=np.float32),
        "pay": np.array([0.0, 0.1, 0.2, 0.4] * 2, dtype=np.float32),
    }
    # item 0: 0.5 + 2 * 0.1 + 3 * 0; item 3: 0.1 + 0.6 + 1.2
    assert run(ADDITIVE, columns, monkeypatch)[[0, 3]] == pytest.approx([0.7, 1.9])
    # 0.5 * (1 + 0.2); 0.1 * (1 + 0.6 + 1.2)
    assert run(PER_CLICK, columns, monkeypatch)[[0, 3]] == pytest.approx([0.6, 0.28])
    # sqrt(2) * 1.3^2 * 1; sqrt(1.2) * 1.9^2 * 1.4
    assert run(PRODUCT, columns, monkeypatch)[[0, 3]] == pytest.approx([2**0.5 * 1.69, 1.2**0.5 * 3.61 * 1.4])
    # ranks of item 0: 1, 4, 4; of item 1: 2.5 (ties with item 2), 1, 3; the same in both requests
    expected = [1 / 11 + 2 / 4 + 3 / 76, 1 / (2.5**0.5 + 10) + 2 / 1 + 3 / 69]
    assert run(RANKS, columns, monkeypatch)[[0, 1, 4, 5]] == pytest.approx(expected * 2)


def test_ties_share_the_mean_of_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"click": np.array([0.5, 0.5, 0.5, 0.1, 0.2, 0.2, 0.9, 0.9], dtype=np.float32)}
    # places 1, 2, 3 and 4; places 3, 4 and 1, 2
    assert run("rank(click)", columns, monkeypatch).tolist() == [2, 2, 2, 4, 3.5, 3.5, 1.5, 1.5]


@pytest.mark.parametrize("fuse", [*FORMULAS, "click ** 0.5 * cart * pay ** 2 * item.price ** 0.3"])
def test_no_task_lowers_the_score(fuse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        columns = drawn(seed)
        before = run(fuse, columns, monkeypatch)
        for task in TASKS:
            item = seed % 8
            raised = columns[task].copy()
            raised[item] = min(1.0, raised[item] * 1.5)
            assert run(fuse, {**columns, task: raised}, monkeypatch)[item] >= before[item]


def test_ranks_do_not_see_how_a_score_is_stretched(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = drawn(3)
    squeezed = {**columns, "click": (columns["click"] ** 3 / 2).astype(np.float32)}
    assert run(RANKS, squeezed, monkeypatch) == pytest.approx(run(RANKS, columns, monkeypatch))
    assert np.abs(run(ADDITIVE, squeezed, monkeypatch) - run(ADDITIVE, columns, monkeypatch)).max() > 0.1


def test_a_rank_is_one_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Request 1's items change; request 0's scores stay where they are."""
    columns = drawn(5)
    other = {task: np.concatenate([column[:4], column[4:][::-1]]) for task, column in columns.items()}
    np.testing.assert_array_equal(run(RANKS, columns, monkeypatch)[:4], run(RANKS, other, monkeypatch)[:4])
    both = built(RANKS, columns, monkeypatch)["home"]
    one = both.run(asked().take(0, 1)).candidates
    whole = both.run(asked()).candidates
    living = np.flatnonzero(one.alive)
    np.testing.assert_array_equal(one.scores["rank"][living], whole.scores["rank"][: len(one)][living])


def test_with_all_powers_1_it_is_the_expected_value(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = drawn(7)
    # P(click) P(cart | click) P(pay | cart) * price
    chances = np.prod([columns[task].astype(np.float64) for task in TASKS], axis=0)
    assert run(VALUE, columns, monkeypatch) == pytest.approx(chances * PRICE, rel=1e-6)


def test_the_product_is_a_sum_of_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = drawn(9)
    sum_ = "0.5 * log1p(2 * click) + 2 * log1p(3 * cart) + log1p(pay)"
    assert run(sum_, columns, monkeypatch) == pytest.approx(np.log(run(PRODUCT, columns, monkeypatch)), rel=1e-5)
    assert run(f"exp({sum_})", columns, monkeypatch) == pytest.approx(run(PRODUCT, columns, monkeypatch), rel=1e-5)
    p = {task: float(columns[task][0]) for task in TASKS}
    expected = 0.5 * log(1 + 2 * p["click"]) + 2 * log(1 + 3 * p["cart"]) + log(1 + p["pay"])
    assert run(sum_, columns, monkeypatch)[0] == pytest.approx(expected, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_ranks_are_those_of_plain_python(values: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = run("rank(click)", {"click": np.array(values, dtype=np.float32)}, patch)
    for start in (0, 4):
        mine = values[start : start + 4]
        for n, value in enumerate(mine):
            above, ties = sum(v > value for v in mine), sum(v == value for v in mine)
            assert found[start + n] == above + (ties + 1) / 2


# ------------------------------------------------------------------------------------------------- every term is told


def test_a_trace_and_an_explanation_tell_every_term(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = drawn(11)
    home = built(PER_CLICK, columns, monkeypatch)["home"]
    told = trace(home.run(asked()), 0, str)["candidates"]
    assert list(told["scores"]) == ["merge", "rank.click", "rank.cart", "rank.pay", "rank"]
    at = told["item"].index("2")
    terms = [told["scores"][f"rank.{task}"][at] for task in TASKS]
    assert terms == [float(columns[task][2]) for task in TASKS]
    click, cart, pay = terms
    assert told["scores"]["rank"][at] == pytest.approx(click * (1 + 2 * cart + 3 * pay))
    scores = explain(home, asked().take(0, 1), 2)["scores"]
    assert [scores[f"rank.{task}"] for task in TASKS] == terms
    assert scores["rank"] == pytest.approx(told["scores"]["rank"][at])


def test_a_scene_may_fuse_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = drawn(13)
    scenes = built(ADDITIVE, columns, monkeypatch, fuse="pay")
    home, other = (scenes[name].run(asked()).candidates for name in ("home", "other"))
    living = np.flatnonzero(other.alive)
    np.testing.assert_array_equal(other.scores["rank"][living], columns["pay"][other.items[living]])
    assert np.abs(other.scores["rank"][living] - home.scores["rank"][living]).min() > 0
    assert scenes["home"].stages[0].scorer is scenes["other"].stages[0].scorer  # one ranker for both


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (partial(project, "click * item.prize"),
         "rank.fuse: no item field is called 'prize' (did you mean item.price?)"),
        (partial(project, "click * item.kind"), "rank.fuse: item.kind is no number (did you mean item.price?)"),
        (partial(project, "rank(click, 2)"),
         "rank.fuse: 'rank(click, 2)' is not allowed here "
         "(use columns, values, + - * / **, <, in, and, or, not, exp, log, log1p, coalesce, in fuse rank)"),
        (partial(project, "click", fuse="clck"), "scene.other.fuse: no task is called 'clck' (did you mean click?)"),
        (partial(project, "click", fuse="click", stages=[]),
         "scene.other.fuse: there is no stage whose score it could be (add [rank] use = ..., or take fuse away)"),
    ],
)  # fmt: skip
def test_what_cannot_be_fused(change: Any, message: str) -> None:
    table = change()
    with pytest.raises(ConfigError) as caught:
        recipes.document(parse(table), Schema.parse(table["schema"]), {"hot": Hot})
    assert str(caught.value) == message


def test_an_item_without_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, price = drawn(15), [None, *PRICE[1:]]
    with pytest.raises(ConfigError) as caught:
        run(VALUE, columns, monkeypatch, price=price)
    assert str(caught.value) == (
        "rank.fuse: item.price is missing for 1 of 8 candidates (write coalesce(item.price, 0), or another value)"
    )
    # online the item comes last, and the answer says so
    slates = built(VALUE, columns, monkeypatch, price=price)["home"].run(asked(), strict=False)
    assert slates.notes(0) == ["nan:rank"]
    assert slates.notes(1) == []
    assert slates.matrix(4)[0, -1] == 0
    found = run(VALUE.replace("item.price", "coalesce(item.price, 7)"), columns, monkeypatch, price=price)
    chance = np.prod([float(columns[task][0]) for task in TASKS])
    assert found[0] == pytest.approx(7 * chance, rel=1e-6)


def test_a_power_of_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"click": np.array([0.0, *[0.5] * 7], dtype=np.float32)}
    with pytest.raises(ConfigError) as caught:
        run("click ** -1", columns, monkeypatch)
    assert str(caught.value) == (
        "rank.fuse: 'click ** -1' is not finite for 1 of 8 candidates (it divides by 0, or its numbers are too large)"
    )
