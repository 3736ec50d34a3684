"""What a model implements, by role: protocols, no base class. The file's place says the role, its name is what
a config says."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shortlist.dataset.interactions import Interactions
from shortlist.forms import Built, Form
from shortlist.schema import Catalogue, Schema

if TYPE_CHECKING:  # a solver runs without torch
    from torch import Tensor

    from shortlist.batch import Batch, Columns, Layout

__all__ = ["Solver", "Retriever", "CoarseRanker", "Ranker", "Head", "TableRanker"]


@runtime_checkable
class Solver(Protocol):
    """A recall method without gradients: interactions in, a form out.

    `source` names the file of `funnel/sources/` that queries the form; `reads` the schema parts its result depends on
    (`item.category`, `actions`), which make its fingerprint. Same input, same output; `now` (ms) is the end of
    training time. A solver whose Config has `of`, the name of a channel before it, is given that channel's artifact as
    a fourth argument of `solve`.
    """

    Config: ClassVar[Any]
    source: ClassVar[str]
    reads: tuple[str, ...]

    def __init__(self, config: Any, schema: Schema) -> None: ...

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Form | Built: ...


class Retriever(Protocol):
    """A torch module whose two sides meet in one product: a request's vector and an item's, compared by `metric`.

    `query` and `candidate` give what is searched with and what is indexed: the loss, the index and the evaluation use
    the same two. A sequence model that learns from every step has `states(request) -> [R, L, D]` as well. R requests,
    N items, D width, L steps.
    """

    Config: ClassVar[Any]
    metric: ClassVar[str]

    def __init__(self, config: Any, layout: "Layout") -> None: ...

    def query(self, request: "Columns") -> "Tensor":
        """[R, D]."""
        ...

    def candidate(self, row: "Columns") -> "Tensor":
        """[N, D], from row columns alone."""
        ...


class CoarseRanker(Protocol):
    """A torch module in parts: `user` once per request, `item` cached, `score` per candidate. Logits [B] per task."""

    Config: ClassVar[Any]

    def __init__(self, config: Any, layout: "Layout") -> None: ...

    def user(self, request: "Columns") -> "Tensor": ...

    def item(self, row: "Columns") -> "Tensor": ...

    def score(self, user: "Tensor", item: "Tensor", batch: "Batch") -> "dict[str, Tensor]":
        """`user` [R, U], `item` [B, V] -> task -> logit [B]."""
        ...

    def forward(self, batch: "Batch") -> "dict[str, Tensor]": ...


class Ranker(Protocol):
    """A torch module. Logits [B] per task."""

    Config: ClassVar[Any]

    def __init__(self, config: Any, layout: "Layout") -> None: ...

    def forward(self, batch: "Batch") -> "dict[str, Tensor]": ...


class TableRanker(Protocol):
    """A ranker that learns without gradients, from all rows at once or one by one, on numpy columns.

    `uses` names the keys of the table `train` that it has use for, beside `history`, `seed` and `calibration`. `margin`
    says that its scores order rows and are no log-odds: then every task is calibrated.
    """

    Config: ClassVar[Any]
    uses: ClassVar[tuple[str, ...]]
    margin: ClassVar[bool]

    def __init__(self, config: Any, layout: "Layout") -> None: ...

    @staticmethod
    def ready(where: str) -> None:
        """Raises ConfigError where a package that it needs is not installed."""
        ...

    def fit(
        self, train: "Iterable[Batch]", held: "Iterable[Batch]", *, seed: int = 0, threads: int = 1
    ) -> dict[str, float]:
        """Learn from batches, in order of time and the same each time they are asked for; `held` ones say when to
        stop. Returns what is told of it."""
        ...

    def score(self, batch: "Batch") -> dict[str, NDArray[np.float32]]:
        """task -> logit or margin [B]."""
        ...

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """What was learned, as arrays and texts."""
        ...

    @classmethod
    def restored(
        cls,
        config: Any,
        layout: "Layout",
        arrays: Mapping[str, NDArray[Any]],
        texts: Mapping[str, str],
    ) -> Self:
        """From a `state`. Raises ArtifactError for one of another layout."""
        ...


class Head(Protocol):
    """A torch module of models/multitask/, between a ranker's representation (`width` wide) and the logits of the
    layout's tasks, in their order. What it looks up itself it reads from the batch, in tables of its own."""

    Config: ClassVar[Any]

    def __init__(self, config: Any, width: int, layout: "Layout") -> None: ...

    def forward(self, x_BH: "Tensor", batch: "Batch | None" = None) -> "dict[str, Tensor]": ...
