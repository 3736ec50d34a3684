"""Dice that arrays and every engine throw alike: whole-number arithmetic of two keys and a seed."""

__all__ = ["dice"]

from typing import Any

PRIME = 2_147_483_579  # below 2^31, so that no product leaves int64; 2 modulo 3, so that cubes are all different
SPREAD = 1_583_458_089


def dice(one: Any, two: Any, seed: int) -> Any:
    """A number from 0 to 2^31 for each pair of keys, int64 arrays [N] or expressions. Of keys `one` below 2^31 no two
    throw the same beside one `two`.

    Whoever takes the smallest of each `two` has a random sample that is the same whoever else is there, and the same
    wherever it is drawn."""
    times = _cubed(seed % PRIME + SPREAD)
    thrown = _cubed(two % PRIME * (1 + times % (PRIME - 1)) + _cubed(times + SPREAD))
    thrown = _cubed(thrown * SPREAD + one % PRIME)
    return _cubed(thrown + SPREAD)


def _cubed(number: Any) -> Any:
    low = number % PRIME
    return low * low % PRIME * low % PRIME
