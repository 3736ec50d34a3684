"""Texts as words: what n-grams and keywords are made of.

N texts, W words. A text in any script is folded first (NFKC, full case folding), so that ways to write a letter do not
matter. A word is a run of letters, digits and their marks; each Han or Hiragana character is one, as scripts without
spaces do not say where words end.
"""

from unicodedata import normalize

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["folded", "words"]

WORD = r"[\p{Han}\p{Hiragana}]\p{M}*|[\p{L}\p{N}\p{M}--[\p{Han}\p{Hiragana}]]+"


def folded(texts: pl.Series) -> pl.Series:
    """Texts [N] in one form; a null is an empty text."""
    if not len(texts):
        return pl.Series("text", [], dtype=pl.String)
    lines = texts.cast(pl.String).fill_null("").str.replace_all("\n", " ", literal=True)
    # all in one go: nothing composes with a line break, so it parts texts before and after
    whole = normalize("NFKC", normalize("NFKC", "\n".join(lines.to_list())).casefold())
    return pl.Series("text", whole.split("\n"), dtype=pl.String)


def words(texts: pl.Series) -> tuple[NDArray[np.int64], pl.Series]:
    """The words [W] of texts [N], folded, in order, and how many each text has [N]."""
    found = folded(texts).str.extract_all(WORD)
    return found.list.len().to_numpy().astype(np.int64), found.explode().drop_nulls().rename("word")
