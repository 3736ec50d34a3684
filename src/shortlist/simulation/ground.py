"""What users and items of a world have in common: categories, their words, and what groups of people like.

C categories, W words of a category, D width. All vectors are of length 1 unless said."""

__all__ = ["Ground", "AGES", "GENDERS", "REGIONS", "DEVICES", "WORDS", "unit"]

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

AGES = (18, 25, 35, 45, 55, 65)  # youngest of each group
GENDERS = ("f", "m", "x")
REGIONS = ("north", "east", "south", "west", "centre")
DEVICES = ("phone", "desktop", "tablet")
SYLLABLES = tuple(c + v for c in "bdfgklmnprstvz" for v in "aeiou")
WORDS = len(SYLLABLES) ** 2


@dataclass(frozen=True)
class Ground:
    """`centre` [C, D] of the categories, `share` [C] of the catalogue, `peak` [C] hour of day; `words` [C * W] and
    their vectors [C * W, D], those of category c from c * W; `leaning` of ages, genders, regions [G, D] each.
    """

    centre: Floats
    share: NDArray[np.float64]
    peak: NDArray[np.float64]
    words: NDArray[Any]
    word: Floats
    leaning: tuple[Floats, Floats, Floats]

    @property
    def per_category(self) -> int:
        return len(self.words) // len(self.centre)

    @classmethod
    def draw(cls, categories: int, words: int, dim: int, rng: np.random.Generator) -> "Ground":
        """Up to `WORDS` words in all, of two syllables each."""
        centre = unit(rng.standard_normal((categories, dim)))
        share = (1.0 + np.arange(categories)) ** -0.5
        names = np.array([a + b for a in SYLLABLES for b in SYLLABLES], dtype=object)
        near = unit(rng.standard_normal((categories * words, dim)))
        return cls(
            centre,
            share / share.sum(),
            rng.uniform(0, 24, categories),
            rng.permutation(names)[: categories * words],
            unit(np.repeat(centre, words, axis=0) + 0.8 * near),
            (
                unit(rng.standard_normal((len(AGES), dim))),
                unit(rng.standard_normal((len(GENDERS), dim))),
                unit(rng.standard_normal((len(REGIONS), dim))),
            ),
        )


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows at length 1, float32."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled
