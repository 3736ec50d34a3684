"""What every solver refuses before it starts: nothing to learn from, and what would not fit."""

__all__ = ["learnable", "fits"]

from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, DataError


def learnable(log: Interactions, where: str) -> None:
    """Raises DataError for a log without an event of interest."""
    if not len(log):
        hint = "no event has an action of weight above 0"
        raise DataError("there is nothing to learn from", where=where, hint=hint)


def fits(what: str, need: int, budget_bytes: int, where: str, hint: str) -> None:
    """Raises CapacityError where the bytes that `what` (`5 users and 7 items`) need are more than the budget."""
    if need > budget_bytes:
        told = f"{what} need {need / 2**30:.1f} GiB, the budget is {budget_bytes / 2**30:.1f} GiB"
        raise CapacityError(told, where=where, hint=hint)
