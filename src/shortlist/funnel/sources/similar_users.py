"""u2u2i: what similar users took of late (UserCF at serving time). R requests, U users, H events, N pairs."""

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shortlist.candidates import Ragged, Requests, located, spans
from shortlist.config import Count, NonNegative, frozen
from shortlist.errors import ConfigError
from shortlist.forms import Form, Lists
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.cut import cut
from shortlist.index.lists import Kept, ListIndex
from shortlist.models.blocks.likeness import cosine, jaccard, shrunk
from shortlist.schema import Profiles, Schema, text

__all__ = ["SimilarUsers"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class SimilarUsers:
    """Over the users v alike and the `last` items i of each, an item scores by `predict`:

    - `sum`: sum of s_uv; `rated`: sum of s_uv r_vi;
    - `mean`: r_u + sum of s_uv (r_vi - r_v) / sum of s_uv, r_u and r_v means of all their values (of everybody's, for a
      user who has none), where at least `support` of them have the item.

    Similar users come from the form. A user who is not in it, or, if `fresh`, everybody, gets those of the history at
    hand instead, by the same formulas over an inverted index of `taken`: then a new click counts at once. For
    `pearson` there is no such way, as requests carry no values. Keys of the model's Config count here as well.
    """

    needs: ClassVar[tuple[str, ...]] = ("beside", "users")

    @frozen
    class Config:
        """`last` items of each of `keep` similar users; None means all of them."""

        measure: Literal["jaccard", "cosine", "iuf", "pearson"] = "iuf"
        predict: Literal["sum", "rated", "mean"] = "sum"
        keep: Count = 80
        cap: Count | None = 2000
        lam: NonNegative = 10.0
        beta: NonNegative = 0.2
        hard: bool = False
        last: Count | None = 50
        support: Count = 1
        fresh: bool = False

    def __init__(
        self, config: Config, form: Lists | Kept, schema: Schema, beside: Mapping[str, Form], users: Profiles
    ) -> None:
        self.config, self.form = config, form
        self.region = schema.region if schema.region in schema.users else None
        self.check(config, schema)
        taken, rated = beside["taken"], beside.get("rated")
        assert isinstance(taken, Lists)
        self.taken = taken
        self.known = _Known(taken, self._names(users.take(self.region, taken.keys)) if self.region else None)
        owners = np.repeat(taken.keys, np.diff(taken.offsets))
        place = np.arange(len(owners)) - np.repeat(taken.offsets[:-1], np.diff(taken.offsets))
        late = np.ones(len(owners), dtype=bool) if config.last is None else place < config.last
        ones = np.ones(len(owners), dtype=np.float32)
        self.means = np.zeros(len(taken), dtype=np.float64)
        if config.predict == "sum":
            self.items = ListIndex(Lists.ranked(owners[late], taken.items[late], ones[late]))
            return
        assert isinstance(rated, Lists)
        values = _along(taken, rated)
        if config.predict == "mean":
            self.count = ListIndex(Lists.ranked(owners[late], taken.items[late], ones[late]))
            total = np.bincount(np.repeat(np.arange(len(taken)), np.diff(taken.offsets)), values, len(taken))
            self.means = total / np.maximum(np.diff(taken.offsets), 1)
            values = values - np.repeat(self.means, np.diff(taken.offsets))
        self.items = ListIndex(Lists.ranked(owners[late], taken.items[late], values[late].astype(np.float32)))

    @staticmethod
    def check(config: "SimilarUsers.Config", schema: Schema) -> None:
        if config.fresh and config.measure == "pearson":
            hint = 'take fresh away, or set measure = "iuf"'
            raise ConfigError("a request has no values to correlate", where="fresh", hint=hint)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items of similar users; what the user has already taken is among them."""
        owners, users, likeness = self.similar(requests)
        if self.config.predict != "mean":
            return self.items.top(owners, users, likeness, n, keep)
        owner, item, weight = self.count.gather(owners, users, likeness)
        number = self.count.gather(owners, users, np.ones(len(users), dtype=np.float32))[2]
        above = np.zeros(len(item), dtype=np.float64)
        which, what, sums = self.items.gather(owners, users, likeness)
        width = int(max(item.max(initial=0), what.max(initial=0))) + 1
        above[np.searchsorted(owner * width + item, which * width + what)] = sums
        at, known = located(self.taken.keys, requests.users)
        own = np.full(len(requests), self.means.mean() if len(self.means) else 0.0)
        own[known] = self.means[at[known]]
        score = (own[owner] + above / weight).astype(np.float32)
        enough = number >= self.config.support
        return cut(owner[enough], item[enough], score[enough], n, keep)

    def similar(self, requests: Requests) -> tuple[Ints, Ints, Floats]:
        """Similar users of each request: owners, keys of users and likeness [N], by owner, best first."""
        config = self.config
        form = self.form if isinstance(self.form, Lists) else self.form.take(requests.users)
        at, stored = located(form.keys, requests.users)
        if config.fresh:
            stored[:] = False
        owners = np.flatnonzero(stored)
        starts = form.offsets[at[owners]]
        counts = np.minimum(form.offsets[at[owners] + 1] - starts, config.keep)
        rows = spans(starts, counts)
        parts = [(np.repeat(owners, counts), form.items[rows], form.scores[rows])]
        others = np.flatnonzero(~stored & (np.diff(requests.history.offsets) > 0))
        if config.measure != "pearson" and len(others):
            history = _latest(requests.history, config.cap)
            told = requests.context.get(self.region) if self.region else None
            regions = None if told is None else self._names(told)
            parts += [
                self._alike(requests, r, history, None if regions is None else regions[r]) for r in others.tolist()
            ]
        owners, users, likeness = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(owners, kind="stable")
        return owners[order], users[order], likeness[order]

    def _alike(self, requests: Requests, r: int, history: Ragged, region: str | None) -> tuple[Ints, Ints, Floats]:
        """What `UserCF` has in a row, for the history of one request."""
        config, known = self.config, self.known
        mine = history.items[history.offsets[r] : history.offsets[r + 1]]
        places, user = known.users_of(np.sort(mine))
        count = np.bincount(user, minlength=len(known.users))
        met = np.flatnonzero(count)
        common, own, other = count[met].astype(np.float64), float(len(mine)), known.sizes[met]
        if config.measure == "jaccard":
            score = jaccard(common, own, other)
        elif config.measure == "iuf":
            shared = np.bincount(user, weights=known.weights[places], minlength=len(known.users)).astype(np.float64)
            score = cosine(shared[met], own, other)
        else:
            score = cosine(common, own, other)
        score = shrunk(score, common, config.lam)
        same = np.zeros(len(met), dtype=bool)
        if region is not None and known.regions is not None:
            same = known.regions[met] == region
        score = np.where(same, score * (1.0 + config.beta), score)
        good = (score > 0) & (known.users[met] != requests.users[r])
        if config.hard and int((good & same).sum()) >= config.keep:
            good &= same
        found = met[good]
        owners = np.full(len(found), r, dtype=np.int64)
        return cut(owners, known.users[found], score[good].astype(np.float32), config.keep)

    @staticmethod
    def _names(values: NDArray[np.object_]) -> NDArray[np.object_]:
        """Regions as text, None where unknown."""
        return np.array(text(values).to_list(), dtype=object)


class _Known:
    """Who took what, by item: users ascending."""

    def __init__(self, taken: Lists, regions: NDArray[np.object_] | None) -> None:
        self.taken, self.users, self.regions = taken, taken.keys, regions
        self.sizes = np.diff(taken.offsets).astype(np.float64)

    @cached_property
    def names(self) -> Ints:
        return np.unique(self.taken.items)

    @cached_property
    def _by_item(self) -> tuple[Ints, NDArray[np.int32]]:
        columns = np.searchsorted(self.names, self.taken.items).astype(np.int32)
        shape = (len(self.users), len(self.names))
        there = np.ones(len(columns), dtype=np.int8)
        turned = sparse.csr_array((there, columns, self.taken.offsets), shape=shape).tocsc()
        return turned.indptr.astype(np.int64), turned.indices.astype(np.int32, copy=False)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        return 1 / np.log1p(np.diff(self._by_item[0]))

    def users_of(self, items: Ints) -> tuple[Ints, NDArray[np.int32]]:
        """Of each (item, user who took it) the places of both, item by item; unknown items have nobody."""
        starts, user = self._by_item
        at, known = located(self.names, items)
        at = at[known]
        counts = starts[at + 1] - starts[at]
        return np.repeat(at, counts), user[spans(starts[at], counts)]


def _latest(history: Ragged, cap: int | None) -> Ragged:
    history = history.latest()
    return history if cap is None else history.last(cap)


def _along(taken: Lists, rated: Lists) -> NDArray[np.float64]:
    """The values of `rated` in the order of `taken`, which holds the same items of the same users."""
    out = np.empty(len(taken.items), dtype=np.float64)
    orders = [np.lexsort((form.items, np.repeat(form.keys, np.diff(form.offsets)))) for form in (taken, rated)]
    out[orders[0]] = rated.scores[orders[1]]
    return out
