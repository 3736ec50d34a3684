"""Which tags a user prefers, by the history at hand. R requests, H events, T tags, P pairs of a request and a
tag."""

__all__ = ["Preferences"]

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests, located, spans
from shortlist.forms import Lists
from shortlist.schema import Schema

DAY_MS = 86_400_000.0
Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


class Preferences:
    """pref(u, t) = the sum over events of weight * 0.5^(age / half-life) * idf_t where the item has t, over the same
    for all tags: 1 in all, nothing for a user whose items have no tag.

    `tags` are lists of tag -> all items that have it, with the tag's idf. Weights are those of the schema's
    actions.
    """

    def __init__(self, tags: Lists, schema: Schema, half_life_days: float | None) -> None:
        self.weights, self.half_life_ms = schema.weights.astype(np.float64), half_life_days and half_life_days * DAY_MS
        order = np.argsort(tags.items, kind="stable")
        self.items, self.starts = np.unique(tags.items[order], return_index=True)
        self.starts = np.append(self.starts, len(order))
        self.codes = np.repeat(tags.keys, np.diff(tags.offsets))[order]
        self.idf = tags.scores.astype(np.float64)[order]

    def of(self, requests: Requests, top: int | None = None) -> tuple[Ints, Ints, Reals]:
        """Requests, tags and preferences [P], by request, strongest first, ties by smaller tag; the `top` of
        each."""
        history = requests.history
        at, known = located(self.items, history.items)
        owner, at = history.owners[known], at[known]
        worth = self.weights[history.actions[known]]
        if self.half_life_ms:
            lives = np.maximum(requests.now[owner] - history.times[known], 0) / self.half_life_ms
            youngest = np.full(len(requests), np.inf)
            np.minimum.at(youngest, owner, lives)
            worth = worth * np.exp2(youngest[owner] - lives)  # the same shares, and none is too faint
        counts = self.starts[at + 1] - self.starts[at]
        place = spans(self.starts[at], counts)
        width = int(self.codes.max(initial=0)) + 1
        pair, back = np.unique(np.repeat(owner, counts) * width + self.codes[place], return_inverse=True)
        sums = np.bincount(back, weights=np.repeat(worth, counts) * self.idf[place], minlength=len(pair))
        who, code = pair // width, pair % width
        total = np.bincount(who, weights=sums, minlength=len(requests))
        there = sums > 0
        who, code, share = who[there], code[there], sums[there] / total[who[there]]
        order = np.lexsort((code, -share, who))
        who, code, share = who[order], code[order], share[order]
        if top is not None:
            first = np.searchsorted(who, who)
            best = np.arange(len(who)) - first < top
            who, code, share = who[best], code[best], share[best]
        return who, code, share
