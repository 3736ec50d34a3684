"""Age pool: the items of a two-tower that came out of late, among themselves (practice, no paper). I items, D width.

Reads when items came out, and the vectors of another channel. Vectors: the same, of items young enough."""

__all__ = ["AgePool"]

from typing import ClassVar

import numpy as np

from shortlist.artifact import Artifact
from shortlist.config import Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Vectors
from shortlist.models.blocks.towers import items_of
from shortlist.schema import Catalogue, Schema

HOUR_MS = 3_600_000.0


class AgePool:
    """One model, several pools: a channel for each age (an hour, six, a day, 30 days), each with a quota, `of` the same
    two-tower. An item's score is the same in all of them; at the moment of a request the source (`within_age`) asks
    among those young enough then, so that items leave a pool by themselves.

    Nothing is trained. Items too old at the end of training are left out: they only get older. What the channel `of`
    has no vector of is in no pool: an item that nobody took, unless that channel is `content_mean`. A user served needs
    no more than that channel does.
    """

    source: ClassVar[str] = "within_age"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """One key of a channel sets the age for the model and its source."""

        of: str
        max_age_hours: Positive = 24.0

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config = config
        if schema.published is None:
            hint = "set schema.published to a time field of [schema.items]"
            raise ConfigError("ages need a time of publication", where="age_pool.max_age_hours", hint=hint)
        self.published = schema.published
        self.reads: tuple[str, ...] = (f"item.{self.published}",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int, artifact: Artifact) -> Vectors:
        """Raises ConfigError where the channel `of` has no users' vectors."""
        form = items_of(artifact, "age_pool")
        self.reads = tuple(dict.fromkeys([*self.reads, *artifact.manifest.reads]))
        times = catalogue.items.take(self.published, form.keys, np.nan).astype(np.float64)
        young = times >= now - self.config.max_age_hours * HOUR_MS  # those announced for later too
        return Vectors(form.keys[young], form.matrix[young], form.metric)
