"""Keywords of texts: the words that are frequent in one and rare among all (TF-IDF, Spärck Jones 1972).

N texts, V words known. Fitted on the texts of training; a word that these do not have is no keyword.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Count, Share, frozen
from shortlist.features.words import words
from shortlist.schema import Profiles, text

__all__ = ["Keywords"]


@dataclass(frozen=True)
class Keywords:
    """`known` are words [V] in order, `having` [V] how many of the `texts` of training have each."""

    @frozen
    class Config:
        """`top` keywords a text, of words that at least `min_count` texts have, and at most the share `max_share`;
        shorter ones than `min_length` are none, and those without a letter only where `numbers` are wanted."""

        top: Count = 5
        min_count: Count = 2
        max_share: Share = 0.2
        min_length: Count = 2
        numbers: bool = False

    config: Config
    known: pl.Series
    having: NDArray[np.int64]
    texts: int

    @classmethod
    def fit(cls, config: Config, texts: pl.Series) -> Self:
        """From the texts of training's entities; empty ones are no texts."""
        sizes, found = words(texts)
        total = int((sizes > 0).sum())
        pairs = pl.DataFrame({"word": found, "text": np.repeat(np.arange(len(texts)), sizes)}).unique()
        counted = pairs.group_by("word").len().sort("word")
        kept = counted.filter(
            (pl.col("len") >= config.min_count)
            & (pl.col("len") <= max(config.max_share * total, config.min_count))
            & (pl.col("word").str.len_chars() >= config.min_length)
            & (pl.col("word").str.contains(r"\p{L}") | config.numbers)
        )
        return cls(config, kept["word"], kept["len"].to_numpy().astype(np.int64), total)

    def __call__(self, texts: pl.Series) -> tuple[NDArray[np.int64], pl.Series, NDArray[np.float64]]:
        """How many keywords each text has [N]; these, best first, ties by word; and what they are worth:
        times in the text * log((1 + texts) / (1 + texts with the word))."""
        sizes, found = words(texts)
        worth = np.log((1 + self.texts) / (1 + self.having))
        known = pl.DataFrame({"word": self.known.cast(pl.String), "worth": worth})
        counted = (
            pl.DataFrame({"word": found, "text": np.repeat(np.arange(len(texts)), sizes)})
            .group_by("text", "word")
            .len("times")
            .join(known, on="word")
            .with_columns(worth=pl.col("times") * pl.col("worth"))
            .sort(["text", "worth", "word"], descending=[False, True, False])
        )
        best = counted.filter(pl.int_range(pl.len()).over("text") < self.config.top)
        lengths = np.bincount(best["text"].to_numpy().astype(np.int64), minlength=len(texts))
        return lengths.astype(np.int64), best["word"], best["worth"].to_numpy()

    def column(self, profiles: Profiles, name: str) -> NDArray[Any]:
        """Keywords [N] of everybody's text in a field, as a `varlen` column: lists, None where there is none."""
        out = np.full(len(profiles), None, dtype=object)
        if name in profiles.columns and len(profiles):
            lengths, found, _ = self(text(profiles.columns[name]))
            ends, flat = np.cumsum(lengths).tolist(), found.to_list()
            for n, (a, b) in enumerate(pairwise([0, *ends])):
                out[n] = flat[a:b] or None
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What an artifact keeps: a JSON table and arrays; words are texts (UTF-8) and where each ends."""
        coded = "".join(self.known.to_list()).encode()
        ends = self.known.str.len_bytes().to_numpy().astype(np.int64).cumsum()
        arrays = {"words": np.frombuffer(coded, dtype=np.uint8), "ends": ends, "having": self.having}
        return {"texts": self.texts}, arrays

    @classmethod
    def restore(cls, config: Config, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        coded = arrays["words"].tobytes()
        known = [coded[a:b].decode() for a, b in pairwise([0, *arrays["ends"].tolist()])]
        return cls(config, pl.Series("word", known, dtype=pl.String), arrays["having"], table["texts"])
