"""Sentence embeddings (Reimers & Gurevych, EMNLP 2019): a pretrained model's vector of a text, of length 1.

N texts, D width. Nothing is learned here. A model of images and texts (CLIP) gives texts vectors that its image
vectors can be compared with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.features.pretrained import Pretrained

__all__ = ["Sentence"]


class Sentence:
    """A text that is empty, or null, or all spaces is zero. Vectors of equal texts are made once."""

    @frozen
    class Config:
        """`model` is a folder beside the project file or a model's name; `prompt` is put before each text; `device`
        auto takes a GPU where there is one."""

        model: str
        prompt: str = ""
        batch_size: Count = 64
        device: str = "auto"

    def __init__(self, config: Config, model: Pretrained, dim: int) -> None:
        self.config = config
        self.model = model
        self.dim = dim

    @classmethod
    def fit(cls, config: Config, texts: pl.Series, folder: Path) -> Self:
        """Loads the model. Raises ConfigError when the library or the model cannot be had."""
        model = Pretrained.load(config.model, folder, config.device)
        return cls(config, model, model(["width"], 1, config.prompt).shape[1])

    def __call__(self, texts: pl.Series) -> NDArray[np.float32]:
        """[N, D]."""
        stripped = texts.cast(pl.String).fill_null("").str.strip_chars().rename("text")
        distinct = stripped.filter(stripped != "").unique(maintain_order=True)
        vectors = np.zeros((len(distinct) + 1, self.dim), dtype=np.float32)  # the last one is the empty text's
        if len(distinct):
            vectors[:-1] = self.model(distinct.to_list(), self.config.batch_size, self.config.prompt)
        place = stripped.to_frame().join(
            distinct.to_frame().with_row_index("at"), on="text", how="left", maintain_order="left"
        )
        at: NDArray[np.int64] = place["at"].cast(pl.Int64).fill_null(-1).to_numpy()
        return vectors[at]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What an artifact keeps: which model it was, not its weights."""
        return {"digest": self.model.digest, "dim": self.dim}, {}

    @classmethod
    def restore(
        cls, config: Config, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path
    ) -> Self:
        """The inverse of `state`; loads the model. Raises ArtifactError when it is another one now."""
        return cls(config, Pretrained.again(config.model, table["digest"], folder, config.device), table["dim"])
