"""What tests of the world share: a run as one block of events."""

import numpy as np

from shortlist.simulation.events import Events
from shortlist.simulation.policy import Policy, named
from shortlist.simulation.world import State, World


def generate(config: World.Config, seed: int = 0) -> World:
    return World.generate(config, np.random.default_rng(seed))


def run(
    world: World,
    policy: str | Policy = "uniform",
    seed: int = 1,
    *,
    days: int | None = None,
    state: State | None = None,
    block: int | None = None,
) -> Events:
    """The whole log of a world under a policy."""
    rule = named(policy, world.truth) if isinstance(policy, str) else policy
    return Events.joined(list(world.simulate(rule, np.random.default_rng(seed), days=days, state=state, block=block)))


def only(events: Events, action: int) -> Events:
    return events.take(np.flatnonzero(events.actions == action))
