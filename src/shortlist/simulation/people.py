"""The users of a world: attributes, activity, and a taste that turns slowly from one direction to another.

U users, D width of taste."""

__all__ = ["People"]

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.simulation.ground import AGES, DEVICES, GENDERS, REGIONS, Ground, unit

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

DEVICE_SHARE = (0.6, 0.3, 0.1)
MOST = 8.0  # visits a day: they are at least 45 minutes apart
LEANING = 2.5  # how much age, gender and region say about the categories a user likes


@dataclass(frozen=True)
class People:
    """Codes `group` (of age), `gender`, `region`, `device` (the usual one) and `age` in years, all [U]; `rate` visits a
    day; `joined` ms. Taste is `here` [U, D] at the start of the world and turns by `speed` radians a day towards
    `there` [U, D], which is at a right angle to it.
    """

    group: Ints
    age: Ints
    gender: Ints
    region: Ints
    device: Ints
    rate: NDArray[np.float64]
    joined: Ints
    here: Floats
    there: Floats
    speed: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.age)

    @classmethod
    def draw(
        cls,
        n: int,
        ground: Ground,
        *,
        visits: float,
        activity: float,
        drift: float,
        joined: Ints,
        rng: np.random.Generator,
    ) -> "People":
        """`visits` a day on average, log-normal over users with spread `activity`, cut at `MOST`."""
        group = rng.integers(len(AGES), size=n)
        gender = rng.choice(len(GENDERS), n, p=(0.48, 0.48, 0.04))
        region = rng.integers(len(REGIONS), size=n)
        ages, genders, regions = ground.leaning
        lean_UC = LEANING * (ages[group] + genders[gender] + regions[region]) @ ground.centre.T
        homes = [_home(ground, lean_UC, rng) for _ in range(2)]
        here = homes[0]
        there = unit(homes[1] - np.einsum("ud,ud->u", homes[1], here)[:, None] * here)
        rate = np.exp(activity * rng.standard_normal(n))
        return cls(
            group, np.array(AGES)[group] + rng.integers(7, size=n), gender, region,
            rng.choice(len(DEVICES), n, p=DEVICE_SHARE), np.minimum(visits * rate / rate.mean(), MOST), joined,
            here, there, drift * rng.uniform(0.5, 1.5, n),
        )  # fmt: skip

    def fields(self) -> dict[str, NDArray[Any]]:
        """What may be known of users, raw values [U]."""
        return {
            "age": self.age,
            "gender": np.array(GENDERS, dtype=object)[self.gender],
            "region": np.array(REGIONS, dtype=object)[self.region],
            "device": np.array(DEVICES, dtype=object)[self.device],
        }


def _home(ground: Ground, lean_UC: NDArray[Any], rng: np.random.Generator) -> Floats:
    """A taste for each user: mostly one category, some of a second, a little of its own."""
    gumbel = rng.gumbel(size=lean_UC.shape) + np.log(ground.share) + lean_UC
    order = np.argsort(-gumbel, axis=1)
    second = order[:, min(1, order.shape[1] - 1)]
    own = unit(rng.standard_normal((len(lean_UC), ground.centre.shape[1])))
    return unit(ground.centre[order[:, 0]] + 0.6 * ground.centre[second] + 0.4 * own)
