"""Keywords by hand: frequent here, rare elsewhere; ties by word; nothing that training did not have."""

from math import log

import numpy as np
import polars as pl
from pytest import approx

from shortlist.features.keywords import Keywords
from shortlist.schema import Profiles

EVERY = Keywords.Config(top=2, min_count=1, max_share=1.0, min_length=1)
TEXTS = pl.Series(["Red fox, fox", "red sea", None, "blue sea", "", "RED"])


def test_by_hand() -> None:
    found = Keywords.fit(EVERY, TEXTS)
    # four texts: three have red, two sea, one blue, one fox
    assert found.texts == 4
    assert dict(zip(found.known.to_list(), found.having.tolist(), strict=True)) == {
        "blue": 1, "fox": 1, "red": 3, "sea": 2,
    }  # fmt: skip
    lengths, words, worth = found(TEXTS)
    assert lengths.tolist() == [2, 2, 0, 2, 0, 1]
    assert words.to_list() == ["fox", "red", "sea", "red", "blue", "sea", "red"]
    # fox twice: 2 log(5/2); red log(5/4); sea log(5/3); blue log(5/2)
    red, sea, blue = log(5 / 4), log(5 / 3), log(5 / 2)
    assert worth.tolist() == approx([2 * blue, red, sea, red, blue, sea, red])


def test_ties_by_word_and_top() -> None:
    found = Keywords.fit(EVERY, pl.Series(["d c b a", "z"]))
    lengths, words, _ = found(pl.Series(["d c b a", "owl", "b b a"]))
    assert lengths.tolist() == [2, 0, 2]  # an owl is unknown
    assert words.to_list() == ["a", "b", "b", "a"]


def test_too_rare_too_common_too_short() -> None:
    texts = pl.Series(["the fox x", "the fox x 99", "the sea x 99", "the owl x", "the owl x"])
    config = Keywords.Config(min_count=2, max_share=0.5)
    # the: 5 of 5 is above half; sea: once; x: one letter; fox and owl: 2 of 5
    assert Keywords.fit(config, texts).known.to_list() == ["fox", "owl"]
    counted = Keywords.fit(Keywords.Config(min_count=2, max_share=0.5, numbers=True), texts)
    assert counted.known.to_list() == ["99", "fox", "owl"]


def test_as_a_column_and_again() -> None:
    found = Keywords.fit(EVERY, TEXTS)
    items = Profiles(np.array([3, 5, 9]), {"title": np.array(["blue fox", None, "owl"], dtype=object)})
    again = Keywords.restore(EVERY, *found.state())
    for keywords in (found, again):
        assert keywords.column(items, "title").tolist() == [["blue", "fox"], None, None]
    assert found.column(items, "nothing").tolist() == [None, None, None]
    none = Keywords.fit(EVERY, pl.Series([None, ""], dtype=pl.String))
    restored = Keywords.restore(EVERY, *none.state())
    assert restored.column(items, "title").tolist() == [None, None, None]
