"""A channel of two towers that others are `of`, and who asks it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact, load
from shortlist.candidates import Mask, Ragged, Requests
from shortlist.config import find
from shortlist.models.learned import Learned, restore
from shortlist.schema import Catalogue, Profiles
from shortlist.simulation.toy import Toy
from shortlist.training.fit import fit
from shortlist.training.plan import Plan


def drawn(users: int, items: int, events: int, seed: int) -> Toy:
    """Item n was published n times twelve hours before the end of the log."""
    world = Toy.draw(users, items, events, seed=seed)
    columns = {**world.catalogue.items.columns, "published": world.now - np.arange(items) * 43_200_000}
    return replace(world, catalogue=Catalogue(world.catalogue.users, Profiles(np.arange(items), columns)))


def trained(world: Toy, folder: Path, items: NDArray[np.int64] | None = None) -> Artifact:
    """After one epoch on the events of these items, by default of all."""
    log = world.interactions if items is None else world.interactions.where(np.isin(world.interactions.items, items))
    options, train = {"dim": 4, "hidden": [8], "out": 4}, {"epochs": 1, "history": 10}
    kind: Any = find("dssm", ["shortlist.models.recall"], "here")
    plan = Plan("towers", "dssm", kind, options, train)
    fit([plan], log, world.catalogue, world.schema(), folder, snapshot="", created_ms=world.now)
    return load(folder / "towers")


def model(artifact: Artifact, world: Toy) -> Learned:
    return restore(artifact, world.schema(), world.catalogue)


def asked(world: Toy, users: list[int], hours: float = 0.0) -> Requests:
    """By these users so many hours after the end of the world's log, with their histories there."""
    keys = np.array(users, dtype=np.int64)
    none = Ragged.empty(len(keys))
    now = np.full(len(keys), world.now + int(hours * 3_600_000))
    region = world.catalogue.users.take("region", keys)
    return Requests(keys, now, 5, world.interactions.histories(keys), none, none, {"region": region})


def moved(requests: Requests, hours: list[float]) -> Requests:
    """Each at its own moment."""
    return replace(requests, now=requests.now + (np.array(hours) * 3_600_000).astype(np.int64))


def every(owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
    return np.ones(len(items), dtype=bool)
