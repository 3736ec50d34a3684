"""GBDT+LR: the leaves of boosted trees as columns of a logistic regression (He X. et al., ADKDD 2014).
B rows, T trees of a task. Trees read numbers and columns of few ids, the regression all of it. Logits [B] per task."""

__all__ = ["GbdtLR"]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Fraction, NonNegative, Positive, frozen
from shortlist.errors import DataError
from shortlist.models.blocks.ftrl import Ftrl
from shortlist.models.blocks.heads import some
from shortlist.models.blocks.slots import Coded, OneHot, Slots
from shortlist.models.blocks.trees import Forest, Table, grown, needed
from shortlist.models.rank.lr import LR


class GbdtLR:
    """Each task has a forest of its own (LightGBM, log loss), learned on the requests of an earlier time, and weights
    over its leaves and LR's columns, learned on the later ones: of rows that a tree has seen its leaves say too much.
    A row has as many leaves as there are trees. A task that has one class among the earlier rows has no trees.

    With `trees = 0` it is LR, on all rows.
    """

    uses: ClassVar[tuple[str, ...]] = ("threads",)
    ready = staticmethod(needed)
    margin: ClassVar[bool] = False

    @frozen
    class Config(LR.Config):
        """`window` is the share of moments that trees are learned on. `start`: weights of leaves begin at 0, or as what
        the leaves add to the margin, so that the regression begins with the forest's own scores."""

        trees: Annotated[int, Ge(0)] = 100
        leaves: Annotated[int, Ge(2)] = 16
        shrinkage: Positive = 0.1
        leaf_rows: Count = 20
        leaf_l2: NonNegative = 0.0
        categories: Count = 100
        window: Fraction = 0.5
        start: Literal["zero", "leaves"] = "zero"

    def __init__(self, config: Config, layout: Layout) -> None:
        self.ready("gbdt_lr")
        self.config, self.tasks = config, some(layout.tasks)
        self.onehot = OneHot(layout, config.crosses, config.buckets)
        self.table = Table(layout, config.categories) if config.trees else None
        self.forests: dict[str, Forest] = {}
        self.ftrl = Ftrl(config, len(self.tasks), self.onehot.width)

    def fit(
        self, train: Iterable[Batch], held: Iterable[Batch], *, seed: int = 0, threads: int = 1
    ) -> dict[str, float]:
        """Raises DataError where all requests are of one moment."""
        if self.table is None:
            self.ftrl.fit(train, held, self.code)
        else:
            cut = self._grow(self.table, train, seed, threads)
            self._plant()
            self.ftrl.fit(Later(train, cut), held, self.code)
        trees = sum(len(forest) for forest in self.forests.values())
        return {"trees": float(trees), "weights": float(np.count_nonzero(self.ftrl.w))}

    def _grow(self, table: Table, train: Iterable[Batch], seed: int, threads: int) -> int:
        """Forests from what is before a moment, which is returned."""
        parts, asked = [], []
        for batch in train:
            assert batch.labels is not None
            now = moments(batch)
            valid = torch.ones_like(batch.labels, dtype=torch.bool) if batch.valid is None else batch.valid
            weight = torch.ones(len(batch)) if batch.weights is None else batch.weights
            of = batch.request_of.numpy()
            parts.append((table(batch), batch.labels.numpy(), valid.numpy(), weight.numpy(), now[of]))
            asked.append(now)
        x, y, valid_, weight_, at = (np.concatenate(column) for column in zip(*parts, strict=True))
        moment = np.sort(np.concatenate(asked))
        cut = int(moment[int(self.config.window * len(moment))])
        if not (moment < cut).any():
            what = "all requests are of one moment: nothing is later than what trees are learned on"
            raise DataError(what, where="gbdt_lr", hint="raise ranking.moments, or choose lr")
        c = self.config
        params = {
            "objective": "cross_entropy", "num_leaves": c.leaves, "learning_rate": c.shrinkage, "lambda_l2": c.leaf_l2,
        }  # fmt: skip
        for n, task in enumerate(self.tasks):
            mine = (at < cut) & valid_[:, n] & (weight_ > 0)
            label = y[mine, n]
            if len(label) and label.min() != label.max():
                rows = {"data": x[mine], "label": label, "weight": weight_[mine]}
                self.forests[task] = grown(params, c.leaf_rows, c.trees, table, rows, seed=seed, threads=threads)
        return cut

    def _plant(self) -> None:
        """Weights with places for leaves behind all others. Each task has weights of its own, so its leaves may be
        numbered as another's are."""
        most = max((sum(map(len, forest.leaves)) for forest in self.forests.values()), default=0)
        self.ftrl = Ftrl(self.config, len(self.tasks), self.onehot.width + most)
        if self.config.start == "leaves":
            for n, task in enumerate(self.tasks):
                if task in self.forests:
                    self.ftrl.start(n, self.onehot.width, np.concatenate(self.forests[task].leaves))

    def code(self, batch: Batch) -> list[Coded]:
        """Sparse lines with the leaves that each task's forest has for them."""
        coded = self.onehot(batch)
        if self.table is None or not self.forests:
            return [coded] * len(self.tasks)
        x = self.table(batch)
        out = []
        for task in self.tasks:
            if task not in self.forests:
                out.append(coded)
                continue
            leaf = self.forests[task].fallen(x) + self.onehot.width
            out.append(coded.beside(Slots(leaf, np.ones(leaf.shape))))
        return out

    def score(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Logits [B]."""
        found = self.ftrl.score(self.code(batch))
        return {task: z.astype(np.float32) for task, z in zip(self.tasks, found, strict=True)}

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        return self.ftrl.arrays(), {task: forest.text for task, forest in self.forests.items()}

    @classmethod
    def restored(
        cls, config: Config, layout: Layout, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]
    ) -> Self:  # fmt: skip
        """Raises ArtifactError for trees or weights of other columns."""
        model = cls(config, layout)
        if model.table is not None:
            model.forests = {task: Forest(text, model.table.names) for task, text in texts.items()}
            model._plant()
        model.ftrl.take(arrays)
        return model


@dataclass(frozen=True)
class Later:
    """The rows of requests from a moment on."""

    batches: Iterable[Batch]
    cut: int

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            at = np.flatnonzero(moments(batch)[batch.request_of.numpy()] >= self.cut)
            if len(at):
                yield batch.take(torch.from_numpy(at))


def moments(batch: Batch) -> NDArray[np.int64]:
    """When each request was made [R]."""
    if batch.now is None:
        raise DataError("requests without a moment", where="gbdt_lr", hint="give the batch `now` [R]")
    return batch.now.numpy()
