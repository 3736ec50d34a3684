"""Every filter, source, merger, selector and booster, found by itself, keeps its contract."""

import importlib
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.config import catalogue
from shortlist.forms import Lists, Vectors
from shortlist.funnel.pipeline import sound
from shortlist.schema import Profiles, Schema

ITEMS = 30
SCHEMA = Schema.parse({
    "items": {"category": "sparse", "published": "time"}, "category": "category", "published": "published",
    "users": {"region": "sparse"}, "region": "region",
})  # fmt: skip
CATEGORIES = np.array([f"c{n % 4}" for n in range(ITEMS)], dtype=object)
PROFILES = Profiles(np.arange(ITEMS), {"category": CATEGORIES, "published": np.arange(ITEMS) * 10})
CHANNELS = ("one", "two")


def part(package: str, name: str) -> Any:
    module = importlib.import_module(f"{package}.{name}")
    assert len(module.__all__) == 1, "a file exports one thing"
    kind = getattr(module, module.__all__[0])
    assert module.__doc__, "a file says what it is"
    return kind


def requests(n: int = 3) -> Requests:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 6, n)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    history = Ragged(
        offsets, rng.integers(0, ITEMS, total), np.sort(rng.integers(0, 1000, total)), np.zeros(total, np.int16)
    )
    regions = np.array(["north", "south", None][:n], dtype=object)
    return Requests(np.arange(n), np.full(n, 2000), 5, history, Ragged.empty(n), Ragged.empty(n), {"region": regions})


def candidates(asked: Requests, channels: int = 2) -> Candidates:
    """Ten items a channel: ranks 1 to 10 in its own order, scores falling."""
    rng = np.random.default_rng(1)
    n, depth = len(asked), 10
    rank = np.zeros((n * ITEMS, channels + 1), dtype=np.int32)
    for r in range(n):
        for c in range(channels):
            rank[r * ITEMS + rng.choice(ITEMS, depth, replace=False), c] = np.arange(1, depth + 1)
    kept = np.flatnonzero((rank > 0).any(axis=1))
    rank = rank[kept]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(kept // ITEMS, minlength=n))]).astype(np.int64)
    score = np.where(rank > 0, 1 / np.maximum(rank, 1), np.nan).astype(np.float32)
    names = (*CHANNELS[:channels], "backfill")
    return Candidates(offsets, kept % ITEMS, names, rank, score, {}, np.zeros(len(kept), dtype=np.int16))


class Asked:
    """What a learned source asks for queries: a vector per user."""

    def query(self, requests: Requests) -> NDArray[np.float32]:
        return np.random.default_rng(5).standard_normal((ITEMS, 4)).astype(np.float32)[requests.users]


# What sources ask for: people have vectors, and items that they took.
PEOPLE = Profiles(np.arange(3), {"region": np.array(["north", "south", None], dtype=object)})
TAKEN = Lists.ranked(np.arange(90) % 30, np.arange(90) % 17, (np.arange(90) // 30 + 1).astype(np.float32))
WISHES = Vectors(np.arange(2), np.random.default_rng(6).standard_normal((2, 4)).astype(np.float32))
GROUPS = Lists.ranked(np.arange(ITEMS) % 4, np.arange(ITEMS), np.ones(ITEMS, dtype=np.float32))
TOPICS = Vectors(np.arange(ITEMS), np.random.default_rng(7).dirichlet(np.ones(ITEMS), 5).T.astype(np.float32))
BESIDE = {"taken": TAKEN, "users": WISHES, "tags": GROUPS, "clusters": GROUPS, "topics": TOPICS}
GIVEN = {"queries": Asked(), "beside": BESIDE, "items": PROFILES, "users": PEOPLE}


def everything(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(items), dtype=bool)


@pytest.mark.parametrize("name", catalogue("shortlist.funnel.filters"))
def test_a_filter_is_a_pure_mask_over_pairs(name: str) -> None:
    kind = part("shortlist.funnel.filters", name)
    filter_, asked = kind(kind.Config(), SCHEMA, PROFILES), requests()
    owners, items = np.repeat(np.arange(3), ITEMS), np.tile(np.arange(ITEMS), 3)
    mask = filter_.keep(asked, owners, items)
    assert mask.dtype == bool
    assert mask.shape == items.shape
    order = np.random.default_rng(2).permutation(len(items))
    np.testing.assert_array_equal(filter_.keep(asked, owners[order], items[order]), mask[order])
    np.testing.assert_array_equal(
        filter_.keep(asked.take(1, 2), np.zeros(ITEMS, np.int64), np.arange(ITEMS)), mask[ITEMS : 2 * ITEMS]
    )
    none = np.zeros(0, dtype=np.int64)
    assert filter_.keep(asked, none, none).shape == (0,)


@pytest.mark.parametrize("name", catalogue("shortlist.funnel.sources"))
def test_a_source_returns_ranked_rows_of_known_items(name: str) -> None:
    kind = part("shortlist.funnel.sources", name)
    rng = np.random.default_rng(3)
    owners = np.repeat(np.arange(ITEMS), 8)
    items = np.concatenate([rng.choice(ITEMS, 8, replace=False) for _ in range(ITEMS)])
    form: Lists | Vectors = Lists.ranked(
        owners, items, rng.random(len(items)).astype(np.float32), labels=("global", *map(str, range(1, ITEMS)))
    )
    asked_of = get_type_hints(kind.__init__)["form"]
    if asked_of is Vectors or Vectors in get_args(asked_of):
        form = Vectors(np.arange(ITEMS), rng.standard_normal((ITEMS, 4)).astype(np.float32))
    given = {name: GIVEN[name] for name in getattr(kind, "needs", ())}
    source, asked = kind(kind.Config(), form, SCHEMA, **given), requests()
    owners, items, scores = sound(source.recall(asked, 4, everything), len(asked))
    assert (np.diff(owners) >= 0).all()
    assert np.bincount(owners, minlength=3).max() <= 4
    assert np.isin(items, np.arange(ITEMS)).all()
    for r in range(3):
        mine = scores[owners == r]
        assert (np.diff(mine) <= 0).all()
        assert len(set(items[owners == r].tolist())) == len(mine)
        alone = sound(source.recall(asked.take(r, r + 1), 4, everything), 1)
        np.testing.assert_array_equal(alone[1], items[owners == r])
        np.testing.assert_allclose(alone[2], mine, rtol=1e-5)
    # every second item is not eligible: it comes along, and does not count
    odd = source.recall(asked, 2, lambda owners, items: items % 2 == 1)
    assert np.bincount(odd[0][odd[1] % 2 == 1], minlength=3).max() <= 2


@pytest.mark.parametrize("name", catalogue("shortlist.funnel.mergers"))
def test_a_merger_scores_every_candidate_and_follows_a_single_channel(name: str) -> None:
    kind = part("shortlist.funnel.mergers", name)
    asked = requests()
    found = candidates(asked)
    score = kind(kind.Config(), CHANNELS).score(asked, found, np.array([10.0, 10.0]))
    assert score.shape == found.items.shape
    assert np.isfinite(score).all()
    one = candidates(asked, channels=1)
    alone = kind(kind.Config(), ("one",)).score(asked, one, np.array([10.0]))
    order = one.best_first(alone)
    assert (np.diff(one.rank[order, 0])[np.diff(one.owners[order]) == 0] > 0).all()


@pytest.mark.parametrize("name", catalogue("shortlist.funnel.selectors"))
def test_a_selector_picks_living_candidates_once(name: str) -> None:
    kind = part("shortlist.funnel.selectors", name)
    asked = requests()
    found = candidates(asked).drop(np.arange(len(candidates(asked))) % 5 == 0, "seen")
    scores = np.random.default_rng(4).random(len(found)).astype(np.float32)
    offsets, picks, relaxed = kind(kind.Config(), SCHEMA, PROFILES).select(asked, found, scores)
    assert len(set(picks.tolist())) == len(picks)
    assert found.alive[picks].all()
    np.testing.assert_array_equal(np.repeat(np.arange(3), np.diff(offsets)), found.owners[picks])
    assert (np.diff(offsets) == 5).all()
    assert relaxed == {} or all(mask.shape == (3,) for mask in relaxed.values())


@pytest.mark.parametrize("name", catalogue("shortlist.traffic"))
def test_a_booster_only_changes_scores(name: str) -> None:
    kind = part("shortlist.traffic", name)
    asked = requests()
    found = candidates(asked)
    scores = np.linspace(1, 2, len(found)).astype(np.float32)
    boosted = kind(kind.Config(), SCHEMA, PROFILES).boost(asked, found, scores)
    assert boosted.shape == scores.shape
    assert np.isfinite(boosted).all()
