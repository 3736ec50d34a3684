"""Whole sequences, for models that learn from every step (cards B20, B21): the input of a step is what came up to it,
its target what came next.

S sequences, B of them in a batch, L steps. Batches are padded to their own longest sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.candidates import Ragged
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler, pad
from shortlist.features.encoders import Known
from shortlist.schema import FIRST, PAD

__all__ = ["Sequences"]


@dataclass(frozen=True)
class Sequences:
    """Channels [H] of S sequences one after the other, oldest step first, with `offsets` [S+1]; `item` holds ids.

    Training: inputs are the steps but the last, targets the steps but the first, both cut to the last `length`; a step
    of an unknown item is never a target. Channels hold what a step knew (no `age`, which is a later moment's).
    `hold` steps at the end of every sequence are kept for `asked`. A sequence with fewer than two steps left is skipped.
    """

    offsets: NDArray[np.int64]
    channels: Mapping[str, NDArray[np.int64]]
    vocabularies: Mapping[str, int]
    words: Mapping[str, str]
    length: int = 50
    hold: int = 0

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.channels.items()}
        if set(lengths.values()) != {int(self.offsets[-1])}:
            what = f"channels hold {lengths} steps, offsets end at {int(self.offsets[-1])}"
            raise DataError(what, where="sequences", hint="give one value per step")
        left = np.diff(self.offsets) - self.hold
        object.__setattr__(self, "rows", np.flatnonzero(left >= 2))
        object.__setattr__(self, "lengths", np.minimum(left[self.rows] - 1, self.length))

    rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    lengths: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
