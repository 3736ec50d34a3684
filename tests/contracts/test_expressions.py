"""The grammar over columns: what it says, what it refuses, and that nothing else than ConfigError ever comes out."""

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.errors import ConfigError
from shortlist.expressions import MAX_LENGTH, Expression


def objects(*values: Any) -> NDArray[Any]:
    return np.fromiter(values, dtype=object, count=len(values))


# four rows; row 2 has a missing price and no category, row 3 has no tags
COLUMNS: dict[str, NDArray[Any]] = {
    "value": np.array([1, 4, 5, 3]),
    "price": np.array([9.5, 20.0, np.nan, 30.0]),
    "category": objects("drama", "war", None, "drama"),
    "item.year": objects(1990, 2001, None, 2001),
    "tags": objects(["a", "b"], ["b"], [], None),
    "numbers": objects([1, 9], [2], [], None),
    "flag": np.array([True, False, True, False]),
    "name": np.array(["x", "y", "z", "x"]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("value >= 4", [0, 1, 1, 0]),
        ("3 <= value < 5", [0, 1, 0, 1]),
        ("value == 1 or value == 5", [1, 0, 1, 0]),
        ("not value >= 4", [1, 0, 0, 1]),
        ("price > 10", [0, 1, 0, 1]),  # NaN fits nothing
        ("price != 20", [1, 0, 1, 1]),  # but differs from everything
        ("not price > 10", [1, 0, 1, 0]),
        ("price and value > 3", [0, 1, 0, 0]),  # NaN is not true
        ("category == 'drama'", [1, 0, 0, 1]),
        ("category != 'drama'", [0, 1, 1, 0]),
        ("category in ['war', 'noir']", [0, 1, 0, 0]),
        ("category not in ['war', 'noir']", [1, 0, 1, 1]),
        ("category < 'e'", [1, 0, 0, 1]),
        ("'drama' == category", [1, 0, 0, 1]),
        ("category == category", [1, 1, 0, 1]),
        ("item.year > 2000", [0, 1, 0, 1]),
        ("2000 < item.year", [0, 1, 0, 1]),
        ("item.year + 1 > 2001", [0, 1, 0, 1]),
        ("value < item.year", [1, 1, 0, 1]),
        ("tags == 'b'", [1, 1, 0, 0]),
        ("'b' == tags", [1, 1, 0, 0]),
        ("tags != 'b'", [0, 0, 1, 1]),
        ("tags in ['a', 'c']", [1, 0, 0, 0]),
        ("tags not in ['a', 'c']", [0, 1, 1, 1]),
        ("numbers > 5", [1, 0, 0, 0]),
        ("5 < numbers", [1, 0, 0, 0]),
        ("numbers > value", [1, 0, 0, 0]),  # 9 > 1; 2 > 4 fails
        ("flag", [1, 0, 1, 0]),
        ("flag == true", [1, 0, 1, 0]),
        ("flag and not false", [1, 0, 1, 0]),
        ("name == 'x'", [1, 0, 0, 1]),
        ("name in ('y', 'z')", [0, 1, 1, 0]),
        ("value in [-1, 1, 5]", [1, 0, 1, 0]),
        ("1 < 2", [1, 1, 1, 1]),
        ("value - flag == 0", [1, 0, 0, 0]),
    ],
)
def test_conditions(text: str, expected: list[int]) -> None:
    assert Expression.parse(text)(COLUMNS).astype(int).tolist() == expected


def test_numbers() -> None:
    # 1*(1+5*0.5) = 3.5, 4*(1+5*0) = 4, 5*(1+5*1) = 30, 3*(1+0) = 3
    like = np.array([0.5, 0.0, 1.0, 0.0])
    result = Expression.parse("value * (1 + 5 * like)")({**COLUMNS, "like": like})
    assert result.tolist() == [3.5, 4.0, 30.0, 3.0]
    assert Expression.parse("-value / 2")(COLUMNS).tolist() == [-0.5, -2.0, -2.5, -1.5]
    assert np.isnan(Expression.parse("item.year * 2")(COLUMNS)).tolist() == [False, False, True, False]
    assert Expression.parse("value / 0")(COLUMNS).tolist() == [np.inf] * 4


def test_powers_and_functions() -> None:
    # 1, 4, 5, 3 to the power of 2, and of 1/2; a power of whole numbers is a fraction where it must be
    assert Expression.parse("value ** 2")(COLUMNS).tolist() == [1, 16, 25, 9]
    assert Expression.parse("(value * 4 - 3) ** 0.5")(COLUMNS).tolist() == pytest.approx([1, 13**0.5, 17**0.5, 3])
    assert Expression.parse("2 ** -value")(COLUMNS).tolist() == [1 / 2, 1 / 16, 1 / 32, 1 / 8]
    assert Expression.parse("-value ** 2")(COLUMNS).tolist() == [-1, -16, -25, -9]  # as in Python
    assert Expression.parse("9 ** 9 ** 9")({}, 1).tolist() == [np.inf]
    assert Expression.parse("exp(log1p(value)) - 1")(COLUMNS).tolist() == pytest.approx([1, 4, 5, 3])
    assert Expression.parse("log(value * flag)")(COLUMNS).tolist() == pytest.approx([0, -np.inf, log(5), -np.inf])
    assert Expression.parse("log(2)")({}, 2).tolist() == [log(2), log(2)]
    assert Expression.parse("log(value) + log1p(price)").names == {"value", "price"}


def test_a_value_in_place_of_a_missing_one() -> None:
    assert Expression.parse("coalesce(price, 0)")(COLUMNS).tolist() == [9.5, 20, 0, 30]
    assert Expression.parse("coalesce(item.year, value)")(COLUMNS).tolist() == [1990, 2001, 5, 2001]
    assert Expression.parse("coalesce(flag, 7)")(COLUMNS).tolist() == [1, 0, 1, 0]


RANKED = {"x": np.array([0.2, 0.9, 0.2, 0.5, 0.5, 0.1, 3.0]), "y": objects(1, None, 3, 2, 2, 2, 9)}


def test_ranks_are_of_one_request_and_ties_share_their_mean() -> None:
    rank = Expression.parse("rank(x)", ranks=True)
    # of 0.2 0.9 0.2: the first two places are 0.9's and the mean of 2 and 3; then 0.5 0.5 0.1, and 3.0 alone
    parts = np.array([0, 3, 6, 6, 7])  # the third request has no row
    assert rank(RANKED, None, parts).tolist() == [2.5, 1, 2.5, 1.5, 1.5, 3, 1]
    assert rank(RANKED).tolist() == [5.5, 2, 5.5, 3.5, 3.5, 7, 1]  # all rows side by side
    assert rank({"x": np.zeros(0)}, None, np.array([0, 0])).tolist() == []
    one = Expression.parse("1 / (rank(x) + 2 * rank(-x))", ranks=True)(RANKED, None, parts)
    assert one.tolist() == pytest.approx([1 / 5.5, 1 / 7, 1 / 5.5, 1 / 6.5, 1 / 6.5, 1 / 5, 1 / 3])


def test_what_is_missing_has_no_rank_and_a_constant_ties_with_itself() -> None:
    parts = np.array([0, 3, 6, 6, 7])
    found = Expression.parse("rank(y)", ranks=True)(RANKED, None, parts)
    assert found.tolist() == pytest.approx([2, np.nan, 1, 2, 2, 2, 1], nan_ok=True)
    assert Expression.parse("rank(1)", ranks=True)(RANKED, 7, parts).tolist() == [2, 2, 2, 2, 2, 2, 1]


def test_ranks_need_candidates() -> None:
    with pytest.raises(ConfigError) as caught:
        Expression.parse("1 + rank(value)", "split.positive")
    assert str(caught.value) == ("split.positive: 'rank(value)' is not allowed here (only fuse has candidates to rank)")


def test_names_and_lengths() -> None:
    assert Expression.parse("a.b > 1 and true or c in [1]").names == {"a.b", "c"}
    assert Expression.parse("true")({}, length=3).tolist() == [True, True, True]
    assert Expression.parse("true")({}).tolist() == []
    assert Expression.parse("value > 1")({"value": np.zeros(0)}).tolist() == []
    assert Expression.parse("c == 'x'")({"c": objects()}).tolist() == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("f(1)", "f(1)"),
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("(1).real", "(1).real"),
        ("'a'.upper", "'a'.upper"),
        ("lambda: 1", "lambda: 1"),
        ("[x for x in value]", "[x for x in value]"),
        ("a[0]", "a[0]"),
        ("a if b else c", "a if b else c"),
        ("(a := 1)", "a := 1"),
        ("f'{a}'", "f'{a}'"),
        ("log(a, b)", "log(a, b)"),
        ("log(x=a)", "log(x=a)"),
        ("log(*a)", "log(*a)"),
        ("a.log(b)", "a.log(b)"),
        ("a // 2", "a // 2"),
        ("a | b", "a | b"),
        ("~a", "~a"),
        ("+a", "+a"),
        ("a is b", "a is b"),
        ("a == None", "None"),
        ("a in b", "b"),
        ("a in [b]", "b"),
        ("a in [[1]]", "[1]"),
        ("a in [1] in [2]", "a in [1] in [2]"),
        ("[1] == a", "[1]"),
        ("{1}", "{1}"),
        ("b'x' == a", "b'x'"),
        ("a > 1j", "1j"),
        ("a == ...", "..."),
        ("a > 99999999999999999999", "99999999999999999999"),
        ("(yield)", "yield"),
        ("await a", "await a"),
    ],
)
def test_everything_else_is_refused_by_its_part(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Expression.parse(text, "filter")
    if caught.value.what.startswith("cannot read"):  # Python's own parser refused it first
        assert caught.value.what == f"cannot read {text!r}"
    else:
        assert caught.value.what == f"{part!r} is not allowed here"
        assert caught.value.hint == (
            "use columns, values, + - * / **, <, in, and, or, not, exp, log, log1p, coalesce, in fuse rank"
        )
    assert caught.value.where == "filter"


def test_exact_messages() -> None:
    with pytest.raises(ConfigError) as caught:
        Expression.parse("value >", "split.positive")
    assert str(caught.value) == (
        "split.positive: cannot read 'value >' (write e.g. value >= 4 and category in ['a', 'b'])"
    )
    with pytest.raises(ConfigError) as caught:
        Expression.parse("a" * (MAX_LENGTH + 1))
    assert str(caught.value) == "expression: longer than 1000 characters (shorten it)"
    deep = "-" * 60 + "value"
    with pytest.raises(ConfigError) as caught:
        Expression.parse(deep)
    assert str(caught.value) == f"expression: nested too deep: {deep!r} (simplify it)"
    with pytest.raises(ConfigError) as caught:
        Expression.parse("valeu > 1")(COLUMNS)
    assert str(caught.value) == "valeu > 1: unknown column 'valeu' (did you mean value?)"
    with pytest.raises(ConfigError) as caught:
        Expression.parse("valeu > 1", "split.positive").check(["time_ms", "value"])
    assert str(caught.value) == "split.positive: unknown column 'valeu' (did you mean value?)"


def test_a_dunder_is_a_column_that_does_not_exist() -> None:
    expression = Expression.parse("value.__class__ == 1")
    assert expression.names == {"value.__class__"}
    with pytest.raises(ConfigError, match=r"unknown column 'value\.__class__'"):
        expression(COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "category > 3",
        "category == 3",
        "name == 3",
        "value == 'a'",
        "value in ['a']",
        "value in [1, 'a']",
        "category + 1",
        "-category",
        "-name",
        "name + 'x'",
        "tags == tags",
        "tags > 3",
        "numbers + 1",
        "not category",
        "name and flag",
        "item.year == 'x'",
    ],
)
def test_types_that_do_not_fit(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Expression.parse(text)(COLUMNS)
    assert str(caught.value) == f"{text}: these types do not compare (compare text with text, numbers with numbers)"


def test_one_row_is_its_row_of_many() -> None:
    for text in ("price > 10 or tags == 'b'", "category in ['war'] and value > 2", "value * 2 + price"):
        expression = Expression.parse(text)
        whole = expression(COLUMNS)
        for row in range(4):
            one = expression({name: column[row : row + 1] for name, column in COLUMNS.items()})
            np.testing.assert_array_equal(one, whole[row : row + 1])


WORDS = "value price category tags item.year flag name numbers true 1 -2 2.5 'drama' [1] None nope __x__ 10**9"
SIGNS = "+ - * / < >= == != in not and or is if else ( ) [ ] , . : lambda @ ' \\ \n \0 é"
PIECES = st.sampled_from([*WORDS.split(" "), *SIGNS.split(" "), "['a', 2]", "not in", "9" * 30])


def evaluates_or_refuses(text: str) -> None:
    try:
        fine = len(Expression.parse(text, ranks=True)(COLUMNS)) == 4
    except ConfigError as error:
        fine = bool(error.what and error.where and error.hint)
    assert fine


@given(st.lists(PIECES, min_size=1, max_size=12))
def test_any_words_evaluate_or_are_refused(words: list[str]) -> None:
    evaluates_or_refuses(" ".join(words))


@given(st.text(max_size=60))
def test_any_text_evaluates_or_is_refused(text: str) -> None:
    evaluates_or_refuses(text)


LEAVES = st.sampled_from([*COLUMNS, "1", "2.5", "'drama'", "true", "0"])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "**", "<", "==", "!=", "and", "or"]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda t: f"(not {t})"),
        inner.map(lambda t: f"log1p({t})"),
        inner.map(lambda t: f"rank({t})"),
        st.tuples(inner, inner).map(lambda t: f"coalesce({t[0]}, {t[1]})"),
        inner.map(lambda t: f"({t} in [1, 2])"),
        inner.map(lambda t: f"({t} in ['a'])"),
    ),
    max_leaves=8,
)


@given(TREES)
def test_any_tree_of_the_grammar_evaluates_or_is_refused(text: str) -> None:
    evaluates_or_refuses(text)
