"""LambdaMART: boosted trees that learn the order of lists (Burges, MSR-TR-2010-82; LightGBM's lambdarank).
B rows, G requests. Reads numbers, ages, lengths and columns of few ids. One margin [B], the same for every task."""

__all__ = ["LambdaMART"]

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.batch import Batch, Layout
from shortlist.config import Count, NonNegative, Positive, frozen, nearest
from shortlist.errors import ConfigError, DataError
from shortlist.models.blocks.heads import some
from shortlist.models.blocks.trees import Forest, Table, grown, needed

GRADES = 31  # more gains than these are rounded to as many
LIST = 10_000  # rows of a list, LightGBM's bound: a longer one is cut into several


class LambdaMART:
    """The rows of a request are a list, and its NDCG is what is learned. A row's gain is its label of the first task,
    or with `weights` the sum of its labels, each times its task's weight. It ends where NDCG of held lists is best.

    A margin orders and is no log-odds: every task has the same, and calibration makes probabilities of it, a map for
    each task. Lists whose gains are all equal teach nothing and are left out.
    """

    uses: ClassVar[tuple[str, ...]] = ("threads",)
    ready = staticmethod(needed)
    margin: ClassVar[bool] = True

    @frozen
    class Config:
        """`top` places of a list are compared with all, `at` places are what held lists are judged by."""

        trees: Count = 500
        leaves: Annotated[int, Ge(2)] = 31
        shrinkage: Positive = 0.05
        leaf_rows: Count = 20
        leaf_l2: NonNegative = 0.0
        categories: Count = 100
        patience: Count = 50
        top: Count = 30
        at: Count = 10
        weights: dict[str, NonNegative] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        self.ready("lambdamart")
        self.config, self.tasks = config, some(layout.tasks)
        for name in config.weights:
            if name not in self.tasks:
                hint = nearest(name, self.tasks)
                raise ConfigError(f"no task is called {name!r}", where="rank.weights", hint=hint)
        if config.weights and not any(config.weights.values()):
            raise ConfigError("all weights are 0", where="rank.weights", hint="give a task a weight above 0")
        self.table = Table(layout, config.categories)
        self.forest: Forest | None = None

    def fit(
        self, train: Iterable[Batch], held: Iterable[Batch], *, seed: int = 0, threads: int = 1
    ) -> dict[str, float]:
        """Raises DataError where no list has rows of different gains."""
        lists, judged = self._lists(train), self._lists(held)
        if lists is None:
            what = "no list has rows of different gains"
            raise DataError(what, where="lambdamart", hint="look at the tasks' labels and at what rows a request has")
        gains = _grades(np.concatenate([lists["label"], *([judged["label"]] if judged else [])]))
        for rows in (lists, judged):
            if rows is not None:
                rows["label"] = np.searchsorted((gains[:-1] + gains[1:]) / 2, rows["label"])
        c = self.config
        params = {
            "objective": "lambdarank", "num_leaves": c.leaves, "learning_rate": c.shrinkage, "lambda_l2": c.leaf_l2,
            "lambdarank_truncation_level": c.top, "metric": "ndcg",
            "eval_at": [c.at], "label_gain": gains.tolist(),
        }  # fmt: skip
        self.forest = grown(
            params, c.leaf_rows, c.trees, self.table, lists, judged, c.patience, seed=seed, threads=threads
        )
        return {"trees": float(len(self.forest))}

    def _lists(self, batches: Iterable[Batch]) -> dict[str, Any] | None:
        """Rows of lists that have something to order, list after list; `label` are gains. None where there is none."""
        parts: list[tuple[NDArray[np.float32], ...]] = []
        sizes: list[NDArray[np.int64]] = []
        for batch in batches:
            gain, known = self._gains(batch)
            order = np.argsort(batch.request_of.numpy(), kind="stable")
            order = order[known[order]]
            owner, y = batch.request_of.numpy()[order], gain[order]
            low, high = np.full(len(batch.request), np.inf), np.full(len(batch.request), -np.inf)
            np.minimum.at(low, owner, y)
            np.maximum.at(high, owner, y)
            tells = (high > low)[owner]
            order, owner = order[tells], owner[tells]
            place = np.arange(len(owner)) - np.searchsorted(owner, owner)
            _, counts = np.unique(owner * (LIST + len(batch)) + place // LIST, return_counts=True)
            weight = np.ones(len(batch)) if batch.weights is None else batch.weights.numpy()
            parts.append((self.table(batch)[order], gain[order], weight[order]))
            sizes.append(counts)
        if not sum(len(count) for count in sizes):
            return None
        x, label, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        return {"data": x, "label": label, "weight": weights, "group": np.concatenate(sizes)}

    def _gains(self, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Gain of each row [B], and whether it carries the label of a task that counts."""
        assert batch.labels is not None
        labels = batch.labels.numpy().astype(np.float64)
        valid = np.ones(labels.shape, dtype=bool) if batch.valid is None else batch.valid.numpy()
        worth = np.array([self.config.weights.get(task, 0.0) for task in self.tasks])
        if not self.config.weights:
            worth[0] = 1.0
        known: NDArray[np.bool_] = np.any(valid & (worth > 0), axis=1)
        if batch.weights is not None:
            known &= batch.weights.numpy() > 0
        return np.where(valid, labels, 0.0) @ worth, known

    def score(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The margin [B], the same for every task."""
        assert self.forest is not None, "it was not fitted"
        margin = self.forest.margin(self.table(batch)).astype(np.float32)
        return dict.fromkeys(self.tasks, margin)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        return {}, {"forest": self.forest.text} if self.forest else {}

    @classmethod
    def restored(
        cls, config: Config, layout: Layout, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]
    ) -> Self:  # fmt: skip
        """Raises ArtifactError for trees of other columns."""
        model = cls(config, layout)
        model.forest = Forest(texts["forest"], model.table.names)
        return model


def _grades(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gain of each grade, ascending: every gain there is, or GRADES between the least and the most."""
    found = np.unique(gains)
    return found if len(found) <= GRADES else np.linspace(found[0], found[-1], GRADES)
