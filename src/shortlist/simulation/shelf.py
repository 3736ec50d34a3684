"""The items of a world: content that words tell, and quality that only what users do tells.

I items, D width of content, K keywords of an item, M creators."""

__all__ = ["Shelf", "Creators", "follow_up"]

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.simulation.ground import Ground, unit

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

KEYWORDS = 4


@dataclass(frozen=True)
class Creators:
    """Who makes items: one `category` each, a `quality` around which that of their items lies, all [M]; `style` [M, D].
    `rate` [M] is a creator's share of what is published."""

    category: Ints
    quality: Floats
    style: Floats
    rate: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.category)

    @classmethod
    def draw(cls, n: int, ground: Ground, rng: np.random.Generator) -> "Creators":
        rate = np.exp(0.7 * rng.standard_normal(n))
        return cls(
            rng.choice(len(ground.share), n, p=ground.share),
            rng.standard_normal(n).astype(np.float32),
            unit(rng.standard_normal((n, ground.centre.shape[1]))),
            rate / rate.sum(),
        )


@dataclass(frozen=True)
class Shelf:
    """`creator`, `category` codes, `keywords` [I, K] codes of words, `published` ms, `length_s` seconds, `content`
    [I, D]; and what no log holds: `quality` (mean 0, spread 1), `bait`, and `appeal`, what an item adds to the logit
    of a click.
    """

    creator: Ints
    category: Ints
    keywords: Ints
    published: Ints
    length_s: Floats
    content: Floats
    quality: Floats
    bait: NDArray[np.bool_]
    appeal: Floats

    def __len__(self) -> int:
        return len(self.creator)

    @classmethod
    def draw(
        cls,
        creator: Ints,
        published: Ints,
        ground: Ground,
        creators: Creators,
        *,
        appeal: float,
        bait: float,
        rng: np.random.Generator,
    ) -> "Shelf":
        """One item for each `creator` [I], out at `published` [I]: what a world starts with, or what comes later.

        `appeal` is the spread of the logit over items, `bait` the share of items that promise more than they hold.
        """
        n, per, dim = len(creator), ground.per_category, ground.centre.shape[1]
        category = creators.category[creator]
        chosen = np.argsort(rng.random((n, per)), axis=1)[:, : min(KEYWORDS, per)]
        keywords = category[:, None] * per + chosen
        own = unit(rng.standard_normal((n, dim)))
        told = ground.word[keywords].mean(axis=1)
        quality = (0.7 * creators.quality[creator] + 0.7 * rng.standard_normal(n)).astype(np.float32)
        baits = rng.random(n) < bait
        pull = appeal * (0.4 * quality + 0.9 * rng.standard_normal(n))
        return cls(
            creator,
            category,
            keywords,
            published,
            np.clip(40 * np.exp(0.8 * rng.standard_normal(n)), 5, 600).astype(np.float32),
            unit(told + 0.3 * own + 0.25 * creators.style[creator]),
            quality,
            baits,
            (pull + np.where(baits, appeal, 0)).astype(np.float32),
        )

    def available(self, now: int) -> Ints:
        """Items that are out at `now` ms, ascending."""
        return np.flatnonzero(self.published <= now)

    def fields(self, ground: Ground) -> dict[str, NDArray[Any]]:
        """What may be known of items, raw values [I]."""
        words = ground.words[self.keywords]
        keywords = np.empty(len(self), dtype=object)
        keywords[:] = [list(row) for row in words]
        content = np.empty(len(self), dtype=object)
        content[:] = list(self.content)
        return {
            "title": np.array([" ".join(row) for row in words], dtype=object),
            "category": np.char.add("c", self.category.astype(str)).astype(object),
            "keywords": keywords,
            "creator": np.char.add("m", self.creator.astype(str)).astype(object),
            "length_s": self.length_s,
            "published": self.published,
            "content": content,
        }


def follow_up(shelf: Shelf, rng: np.random.Generator) -> Ints:
    """The planted order [I]: the item that belongs after each, of its own category, or -1 in a category of one.

    One round through every category, in random order: every item is the successor of one other.
    """
    order = np.lexsort((rng.random(len(shelf)), shelf.category))
    after = np.full(len(shelf), -1, dtype=np.int64)
    starts = np.flatnonzero(np.diff(shelf.category[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    place = np.arange(len(order)) - start
    after[order] = np.where(size > 1, order[start + (place + 1) % size], -1)
    return after
