"""Words of any script, the same whatever texts stand beside them."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.features.words import folded, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Matrix (1999)", ["the", "matrix", "1999"]),
        ("Straße\nÉTÉ\tx_y", ["strasse", "été", "x", "y"]),
        ("e\u0301te\u0301", ["été"]),
        ("ﬁn Ⅳ ½", ["fin", "iv", "1", "2"]),  # ½ is 1, a slash, 2
        ("千と千尋", ["千", "と", "千", "尋"]),
        ("カメラ屋 हिन्दी", ["カメラ", "屋", "हिन्दी"]),
        ("🦊!", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    sizes, found = words(pl.Series([text]))
    assert (sizes.tolist(), found.to_list()) == ([len(expected)], expected)


def test_nulls_and_nothing() -> None:
    sizes, found = words(pl.Series([None, "a b", ""], dtype=pl.String))
    assert (sizes.tolist(), found.to_list()) == ([0, 2, 0], ["a", "b"])
    sizes, found = words(pl.Series([None, None]))
    assert (sizes.tolist(), found.to_list()) == ([0, 0], [])
    sizes, found = words(pl.Series([], dtype=pl.String))
    assert (sizes.tolist(), found.to_list()) == ([], [])


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30), max_size=5))
@settings(deadline=None)
def test_neighbours_do_not_matter(texts: list[str]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    alone = [folded(pl.Series([text]))[0] for text in texts]
    assert folded(series).to_list() == alone
    sizes, found = words(series)
    assert len(sizes) == len(texts)
    assert found.to_list() == [word for text in texts for word in words(pl.Series([text]))[1].to_list()]
    assert folded(folded(series)).to_list() == [folded(pl.Series([text]))[0] for text in alone]
