"""What a model implements, by role: protocols, no base class. The file's place says the role, its name is what
a config says."""

from typing import Any, ClassVar, Protocol, runtime_checkable

from shortlist.dataset.interactions import Interactions
from shortlist.forms import Form
from shortlist.schema import Catalogue, Schema

__all__ = ["Solver"]


@runtime_checkable
class Solver(Protocol):
    """A recall method without gradients: interactions in, a form out.

    `source` names the file of `funnel/sources/` that queries the form; `reads` the schema parts its result depends on
    (`item.category`, `actions`), which make its fingerprint. Same input, same output; `now` (ms) is the end of
    training time.
    """

    Config: ClassVar[Any]
    source: ClassVar[str]
    reads: tuple[str, ...]

    def __init__(self, config: Any, schema: Schema) -> None: ...

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Form: ...
