"""What a model implements, by role: protocols, no base class. The file's place says the role, its name is what
a config says."""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from shortlist.dataset.interactions import Interactions
from shortlist.forms import Built, Form
from shortlist.schema import Catalogue, Schema

if TYPE_CHECKING:  # a solver runs without torch
    from torch import Tensor

    from shortlist.batch import Batch, Columns, Layout

__all__ = ["Solver", "Retriever", "CoarseRanker", "Ranker"]


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
