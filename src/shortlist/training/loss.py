"""What an objective is: a model and a batch in, the number to minimise out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from shortlist.batch import Batch, Columns

__all__ = ["Loss", "Objective", "CatalogueRows", "Dated", "among", "shared"]


@dataclass(frozen=True)
class Loss:
    """`loss`, a scalar with its graph, and what it is made of, by name: detached scalars."""

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


Objective = Callable[[Any, Batch], Loss]
"""One that is an nn.Module has parameters, trained with the model's, and state (counts, dice), kept in checkpoints."""

CatalogueRows = Callable[[Tensor], Columns]
"""Row columns of catalogue items [N], given their ids (from 2)."""


_SHARED: ContextVar[Callable[[Tensor], Tensor]] = ContextVar("shared")  # the mean over processes of a number


def among(count: Tensor, least: float = 1.0) -> Tensor:
    """What a mean over rows is divided by: their `count`, or `least` where that is more. Where processes share a batch
    it is the mean of their counts, so that the mean of their losses is the loss of all rows."""
    mean = _SHARED.get(None)
    return count.clamp(min=least) if mean is None else mean(count).clamp(min=1e-12)  # there is nothing to divide then


@contextmanager
def shared(mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this lasts, `among` asks `mean`, a number's mean over the processes that share each batch."""
    before = _SHARED.set(mean)
    try:
        yield
    finally:
        _SHARED.reset(before)


@runtime_checkable
class Dated(Protocol):
    """Rows of a catalogue whose items look different at different moments: they have ages."""

    def __call__(self, ids: Tensor) -> Columns: ...

    def at(self, ids: Tensor, now: Tensor) -> Columns:
        """Row columns of items [N] at a moment each [N] (ms)."""
        ...

    def ages(self, ids: Tensor, now: Tensor) -> Tensor:
        """Numbers [M, N]: at moments [M] where an item [N] has equal ones, `at` gives equal rows."""
        ...
