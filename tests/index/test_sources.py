"""What sources over vectors ask an index: one vector a request, several, or one that is solved."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.index.world import clustered

from shortlist.candidates import Ragged, Requests
from shortlist.config import IndexConfig
from shortlist.errors import ConfigError
from shortlist.expressions import Expression
from shortlist.forms import Vectors
from shortlist.funnel.sources.fold_in import FoldIn
from shortlist.funnel.sources.nearest import Nearest
from shortlist.index.building import indexed
from shortlist.index.fields import matching
from shortlist.schema import Profiles, Schema

SCHEMA = Schema.parse({})
FORM = Vectors(np.array([1, 2, 3, 4]), np.array([[5, 0], [0, 4], [3, 2], [1, 1]], dtype=np.float32))


def requests(*histories: list[int]) -> Requests:
    r, counts = len(histories), [len(h) for h in histories]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    items = np.array([item for h in histories for item in h], dtype=np.int64)
    history = Ragged(offsets, items, np.zeros(len(items), dtype=np.int64), np.zeros(len(items), dtype=np.int16))
    return Requests(np.arange(r), np.full(r, 9), 3, history, Ragged.empty(r), Ragged.empty(r))


def everything(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(items), dtype=bool)


class Interests:
    """East and north for the first user, nothing anyone asks for the second, north alone for the third."""

    def query(self, requests: Requests) -> NDArray[np.float32]:
        none = [np.nan, np.nan]
        every = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 1], none]], dtype=np.float32)
        return every[requests.users]


def test_an_item_near_two_interests_stands_once() -> None:
    source = Nearest(Nearest.Config(), FORM, SCHEMA, Interests())
    owners, items, scores = source.recall(requests([1], [], [2]), 3, everything)
    assert owners.tolist() == [0, 0, 0, 2, 2, 2]
    assert items.tolist() == [1, 2, 3, 2, 3, 4]  # item 3 by its 3 to the east, not its 2 to the north
    assert scores.tolist() == [5.0, 4.0, 3.0, 4.0, 2.0, 1.0]


def test_a_source_asks_the_index_that_was_built(rng: np.random.Generator) -> None:
    """A user folded in from a history gets from an approximate index what exact search gives, as exactly scored."""
    form, _ = clustered(rng, 1500, "ip")
    built = indexed(form, IndexConfig(use="ivf", recall=1.0, options={"lists": 12}), "here").index
    assert built is not None
    asked = requests(form.keys[:5].tolist(), [], form.keys[9:11].tolist())
    one, other = (FoldIn(FoldIn.Config(), form, SCHEMA), FoldIn(FoldIn.Config(), built, SCHEMA))
    for a, b in zip(one.recall(asked, 20, everything), other.recall(asked, 20, everything), strict=True):
        np.testing.assert_array_equal(a, b)


ITEMS = Profiles(
    np.array([1, 2, 3, 5]),
    {"kind": np.array(["news", "film", "news", "news"], dtype=object), "price": np.array([1.0, np.nan, 3.0, 4.0])},
)


def test_a_condition_over_fields_is_a_mask_over_keys() -> None:
    """Item 4 has no profile, item 2 no price: neither fits anything, and not the opposite either."""
    keys = np.array([1, 2, 3, 4])
    for text, wanted in {
        'kind == "news"': [1, 3],
        'kind == "news" and price > 2': [3],
        "price < 100": [1, 3],
        'kind in ["film"]': [2],
    }.items():
        assert keys[matching(Expression.parse(text), ITEMS, keys)].tolist() == wanted


def test_a_source_searches_only_what_fits() -> None:
    source = Nearest(Nearest.Config(where='kind == "news"'), FORM, SCHEMA, Interests(), ITEMS)
    owners, items, scores = source.recall(requests([1], [], [2]), 3, everything)
    assert (owners.tolist(), items.tolist()) == ([0, 0, 2, 2], [1, 3, 3, 1])
    assert scores.tolist() == [5.0, 3.0, 2.0, 0.0]
    folded = FoldIn(FoldIn.Config(where="price > 2"), FORM, SCHEMA, ITEMS)
    assert folded.recall(requests([1, 2]), 3, everything)[1].tolist() == [3]


def test_a_condition_that_is_none() -> None:
    def said(where: str) -> str:
        with pytest.raises(ConfigError) as caught:
            FoldIn(FoldIn.Config(where=where), FORM, SCHEMA, ITEMS)
        return str(caught.value)

    assert said("kinds == 3") == "where: unknown column 'kinds' (did you mean kind?)"
    assert said("price") == "where: 'price' is a value, not a condition (write a condition, e.g. price < 30)"
