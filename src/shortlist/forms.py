"""What every recall method becomes: Vectors, searched by a query vector, or Lists, looked up by key.

Immutable arrays without behaviour beyond checking themselves; `index/` makes them searchable, `artifact.py`
stores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError

__all__ = ["Vectors", "Lists", "Form", "Built", "Metric", "GLOBAL", "of_region", "of_country"]

Metric = Literal["ip", "cos", "l2"]
GLOBAL = "global"  # the label of the list for everybody


def of_region(region: object) -> str:
    """The label of a region's own list."""
    return f"region:{region}"


def of_country(country: object) -> str:
    """The label of a country's own list."""
    return f"country:{country}"


@dataclass(frozen=True)
class Vectors:
    """Items as points: `keys` int64 [N], `matrix` float32 [N, D]. More is better, for `l2` less is."""

    keys: NDArray[np.int64]
    matrix: NDArray[np.float32]
    metric: Metric = "ip"

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or len(self.keys) != len(self.matrix):
            raise _refuse(f"keys {self.keys.shape} do not match matrix {self.matrix.shape}", "vectors")
        if len(np.unique(self.keys)) != len(self.keys) or (len(self.keys) and self.keys.min() < 0):
            raise _refuse("keys must be distinct and not negative", "vectors")
        bad = self.keys[~np.isfinite(self.matrix).all(axis=1)]
        if len(bad):
            some = ", ".join(str(key) for key in np.sort(bad)[:3])
            rest = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise _refuse(f"the matrix holds NaN or infinity for key {some}{rest}", "vectors")


@dataclass(frozen=True)
class Lists:
    """Ranked items by key, as CSR: list n belongs to `keys[n]` and is `items[offsets[n]:offsets[n+1]]`.

    `keys` int64 [K] ascending (item keys for i2i, user keys for u2u, label codes for the rest), `offsets`
    int64 [K+1], `items` int64 [M], `scores` float32 [M], descending inside a list, ties by smaller key.
    `labels` names the lists where keys are codes (`global`, `region:...`): text [K], else empty.
    """

    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.keys) + 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise _refuse("offsets do not match keys and items", "lists")
        if len(self.items) != len(self.scores) or bool((np.diff(self.offsets) < 0).any()):
            raise _refuse("items and scores differ in length, or offsets fall", "lists")
        if len(self.keys) > 1 and not bool((np.diff(self.keys) > 0).all()):
            raise _refuse("keys must be ascending and distinct", "lists")
        if not bool(np.isfinite(self.scores).all()):
            raise _refuse("scores hold NaN or infinity", "lists")
        rises = np.diff(self.scores) > 0
        rises[self.offsets[1:-1][(self.offsets[1:-1] > 0) & (self.offsets[1:-1] < len(self.items))] - 1] = False
        if bool(rises.any()):
            raise _refuse("scores must not rise inside a list", "lists")
        if self.labels and len(self.labels) != len(self.keys):
            raise _refuse("labels do not match keys", "lists")

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def ranked(
        cls,
        owners: NDArray[np.int64],
        items: NDArray[np.int64],
        scores: NDArray[np.float32],
        keep: int | None = None,
        labels: tuple[str, ...] = (),
    ) -> "Lists":
        """From (owner, item, score) triples [M] in any order: each list by score, cut at `keep`."""
        scores = scores.astype(np.float32, copy=False)
        order = np.lexsort((items, -scores, owners))
        owners, items, scores = owners[order], items[order], scores[order]
        keys, starts, counts = np.unique(owners, return_index=True, return_counts=True)
        if keep is not None:
            place = np.arange(len(owners)) - np.repeat(starts, counts)
            mask = place < keep
            items, scores, counts = items[mask], scores[mask], np.minimum(counts, keep)
        if labels:
            labels = tuple(labels[int(k)] for k in keys)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(keys.astype(np.int64), offsets, items.astype(np.int64), scores.astype(np.float32), labels)

    def of(self, key: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One list, empty when the key has none."""
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return self.items[:0], self.scores[:0]
        span = slice(int(self.offsets[at]), int(self.offsets[at + 1]))
        return self.items[span], self.scores[span]


Form = Vectors | Lists


@dataclass(frozen=True)
class Built:
    """What a solver gives whose channel needs more than one form: what is searched, and by name what the query is made
    with (the items of similar users, the clusters' centres).

    `users` names the forms whose keys are users, with what their lists hold (`vectors` for vectors); `form` is the name
    of the first. On disk they are tables, so that a user who asks to be forgotten is.
    """

    form: Form
    beside: Mapping[str, Form] = field(default_factory=dict)
    users: Mapping[str, Literal["items", "users", "vectors"]] = field(default_factory=dict)


def _refuse(what: str, where: str) -> ArtifactError:
    hint = "the file is corrupt or was made by another program; train and publish again"
    return ArtifactError(what, where=where, hint=hint)
