"""LR: logistic regression on sparse columns, learned online by FTRL-Proximal (McMahan et al., KDD 2013).
B rows. Reads everything: ids one-hot, channels of groups many-hot, numbers and vectors as values. Logits [B]."""

__all__ = ["LR"]

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch, Layout
from shortlist.config import Count, frozen
from shortlist.models.blocks.ftrl import Ftrl
from shortlist.models.blocks.heads import some
from shortlist.models.blocks.slots import Coded, OneHot


class LR:
    """logit = w0 + Σ w_j x_j with weights of its own for each task. Columns do not meet: what a user and an item say
    together, only declared `crosses` say."""

    uses: ClassVar[tuple[str, ...]] = ()
    margin: ClassVar[bool] = False

    @frozen
    class Config(Ftrl.Config):
        """`crosses` are columns of ids by name, `["user.city", "item.category"]`; one of each may be a group's channel,
        `"history.item.category"`. They are hashed into `buckets` places."""

        crosses: tuple[tuple[str, ...], ...] = ()
        buckets: Count = 2**18

    def __init__(self, config: Config, layout: Layout) -> None:
        self.tasks = some(layout.tasks)
        self.onehot = OneHot(layout, config.crosses, config.buckets)
        self.ftrl = Ftrl(config, len(self.tasks), self.onehot.width)

    @staticmethod
    def ready(where: str) -> None:
        """It needs nothing beside the core."""

    def fit(
        self, train: Iterable[Batch], held: Iterable[Batch], *, seed: int = 0, threads: int = 1
    ) -> dict[str, float]:
        self.ftrl.fit(train, held, self.code)
        return {"weights": float(np.count_nonzero(self.ftrl.w))}

    def code(self, batch: Batch) -> list[Coded]:
        """Sparse lines, the same for each task."""
        return [self.onehot(batch)] * len(self.tasks)

    def score(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Logits [B]."""
        found = self.ftrl.score(self.code(batch))
        return {task: z.astype(np.float32) for task, z in zip(self.tasks, found, strict=True)}

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        return self.ftrl.arrays(), {}

    @classmethod
    def restored(
        cls, config: Config, layout: Layout, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]
    ) -> Self:  # fmt: skip
        model = cls(config, layout)
        model.ftrl.take(arrays)
        return model
