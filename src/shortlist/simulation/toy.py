"""A small log of clicks, for parts that ask for no more: what a world clicks first under the uniform policy."""

__all__ = ["Toy"]

from dataclasses import dataclass

import numpy as np

from shortlist.dataset.interactions import Interactions
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.events import Events
from shortlist.simulation.policies.uniform import Uniform
from shortlist.simulation.truth import CLICK
from shortlist.simulation.world import World

PER_VISIT = 2.0  # clicks, at least


@dataclass(frozen=True)
class Toy:
    """`interactions`: clicks, action code 0; `now` is the moment after the last one."""

    interactions: Interactions
    catalogue: Catalogue
    now: int

    @staticmethod
    def schema() -> Schema:
        """What its columns mean: one action, a region, a category, a time of publishing, a vector of content."""
        return Schema.parse(
            {
                "users": {"region": "sparse"},
                "items": {"category": "sparse", "published": "time", "content": "vec"},
                "region": "region",
                "category": "category",
                "published": "published",
            }
        )

    @classmethod
    def draw(cls, users: int, items: int, events: int, seed: int = 0, *, days: int = 30, categories: int = 20) -> "Toy":
        """A log of just so many clicks, in about so many days. Keys are 0..users-1 and 0..items-1."""
        rng = np.random.default_rng(seed)
        visits = events / (users * days * PER_VISIT)
        config = World.Config(users=users, items=items, days=days, categories=categories, visits=visits)
        world = World.generate(config, rng)
        policy, state = Uniform(Uniform.Config(), world.truth), world.begin()
        parts: list[Events] = []
        while sum(map(len, parts)) < events:
            some = world.simulate(policy, rng, state=state)
            parts += [block.take(np.flatnonzero(block.actions == CLICK)) for block in some]
        clicks = Events.joined(parts).take(slice(0, events))
        people, shelf = world.catalogue.users, world.catalogue.items
        catalogue = Catalogue(
            Profiles(people.keys, {"region": people.columns["region"]}),
            Profiles(shelf.keys, {name: shelf.columns[name] for name in ("category", "published", "content")}),
        )
        log = Interactions.of(clicks.users, clicks.items, clicks.times)
        return cls(log, catalogue, int(clicks.times[-1]) + 1)
