"""Who is in which arm: a pure function of a layer's salt and the unit, with nothing stored (Tang et al., KDD 2010).

A layer enrols the share of units that its arms add up to and holds out the rest. Layers with different salts are
independent of one another. Raising all shares alike moves nobody who is already in an arm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Literal

from shortlist.config import Arm, ExperimentConfig

__all__ = ["Layer"]

_WHOLE = 2**64


@dataclass(frozen=True)
class Layer:
    """One experiment, ready to assign: arms by name with the upper bounds of their parts of the enrolled units."""

    name: str
    unit: Literal["user", "request"]
    key: bytes
    enrolled: float
    names: tuple[str, ...]
    bounds: tuple[float, ...]
    arms: tuple[Arm, ...]

    @classmethod
    def of(cls, config: ExperimentConfig) -> "Layer":
        """Arms count in the order of their names: the order in the file does not matter."""
        names = tuple(sorted(name for name, arm in config.arms.items() if arm.share > 0))
        arms = tuple(config.arms[name] for name in names)
        total = sum(arm.share for arm in arms)
        bounds = tuple(share / total for share in accumulate(arm.share for arm in arms))
        key = blake2b((config.salt or config.name).encode(), digest_size=32).digest()
        return cls(config.name, config.unit, key, total, names, bounds, arms)

    def assign(self, unit: str) -> str | None:
        """The arm of one unit (a raw user id, or a request id); None when it is held out."""
        digest = blake2b(unit.encode(), digest_size=16, key=self.key).digest()
        # 1 - 1e-9: shares such as 0.1 + 0.2 + 0.7 add up to a hair less than 1 and mean all of it
        if self.enrolled < 1 - 1e-9 and int.from_bytes(digest[:8], "little") / _WHOLE >= self.enrolled:
            return None
        place = int.from_bytes(digest[8:], "little") / _WHOLE
        for name, bound in zip(self.names, self.bounds, strict=True):
            if place < bound:
                return name
        return self.names[-1] if self.names else None

    def scene(self, unit: str) -> str | None:
        """The scene that the unit's arm gets; None when it is held out."""
        arm = self.assign(unit)
        return None if arm is None else self.arms[self.names.index(arm)].scene

    def counts(self, units: Iterable[str]) -> dict[str | None, int]:
        """How many of these units each arm has, the held out under None."""
        found: dict[str | None, int] = dict.fromkeys((*self.names, None), 0)
        for unit in units:
            found[self.assign(unit)] += 1
        return found
