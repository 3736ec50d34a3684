"""Every solver of models/recall/, found by itself, keeps its contract on generated data."""

import importlib
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from shortlist.artifact import Artifact, load
from shortlist.config import build, catalogue, plain
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Built, Lists, Vectors
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles
from shortlist.simulation.toy import Toy
from shortlist.training.fit import fit
from shortlist.training.plan import Plan

PACKAGE = "shortlist.models.recall"


def model(name: str) -> Any:
    module = importlib.import_module(f"{PACKAGE}.{name}")
    assert len(module.__all__) == 1, "a file exports one thing"
    return getattr(module, module.__all__[0])


NAMES = [name for name in catalogue(PACKAGE) if hasattr(model(name), "solve")]
OF = [name for name in NAMES if "of" in [field.name for field in fields(model(name).Config)]]  # another channel's
# the world is small, and none of its items is of today
OPTIONS: dict[str, dict[str, Any]] = {"age_pool": {"max_age_hours": 720.0}, "content_mean": {"mature": 1}}
APART = {"lda": "sklearn"}  # what must be installed for it


def config_of(name: str) -> Any:
    """The defaults, but for what there is none of and what the world is too small for."""
    if name in APART:
        pytest.importorskip(APART[name], reason=f"{APART[name]} is not installed")
    return model(name).Config(**({"of": "towers"} if name in OF else {}), **OPTIONS.get(name, {}))


@pytest.fixture(scope="module")
def world() -> Toy:
    return Toy.draw(60, 40, 1500, seed=3, categories=4)


TOWERS: dict[int, tuple[Toy, TemporaryDirectory[str], Artifact]] = {}


def towers(world: Toy) -> Artifact:
    """The channel that others are `of`: two towers, after one epoch on this world's log."""
    if id(world) not in TOWERS:
        place = TemporaryDirectory(prefix="towers-")
        folder = Path(place.name)
        options, train = {"dim": 4, "hidden": [8], "out": 4}, {"epochs": 1, "history": 10}
        plan = Plan("towers", "dssm", model("dssm"), options, train)
        fit([plan], world.interactions, world.catalogue, world.schema(), folder, snapshot="", created_ms=world.now)
        TOWERS[id(world)] = world, place, load(folder / "towers")
    return TOWERS[id(world)][2]


def solved(name: str, log: Interactions, world: Toy) -> Built:
    given = (towers(world),) if name in OF else ()
    form = model(name)(config_of(name), world.schema()).solve(log, world.catalogue, world.now, *given)
    built = form if isinstance(form, Built) else Built(form)
    assert all(isinstance(part, (Lists, Vectors)) for part in (built.form, *built.beside.values()))
    assert set(built.users) <= {"form", *built.beside}
    return built


def arrays(built: Built) -> list[np.ndarray[Any, Any]]:
    forms = [built.form, *built.beside.values()]
    return [value for form in forms for value in vars(form).values() if isinstance(value, np.ndarray)]


def offered(built: Built) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Keys of items in the form that is searched and in lists beside it."""
    parts = []
    for name, form in {"form": built.form, **built.beside}.items():
        if isinstance(form, Lists) and built.users.get(name) != "users":
            parts.append(form.items)
        elif isinstance(form, Vectors) and name == "form":
            parts.append(form.keys)
    return np.concatenate(parts)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_solver_with_a_documented_frozen_config(name: str, world: Toy) -> None:
    kind, config = model(name), config_of(name)
    solver = kind(config, world.schema())
    assert isinstance(solver, Solver)
    assert kind.source in catalogue("shortlist.funnel.sources")
    assert importlib.import_module(f"{PACKAGE}.{name}").__doc__
    with pytest.raises(AttributeError):
        config.anything = 1
    assert build(kind.Config, plain(config), name) == config
    world.schema().fingerprint(solver.reads)


@pytest.mark.parametrize("name", NAMES)
def test_same_input_same_output_and_input_untouched(name: str, world: Toy) -> None:
    before = [column.copy() for column in vars(world.interactions).values() if isinstance(column, np.ndarray)]
    first, second = solved(name, world.interactions, world), solved(name, world.interactions, world)
    for a, b in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(a, b)
    after = [column for column in vars(world.interactions).values() if isinstance(column, np.ndarray)]
    for x, y in zip(before, after, strict=False):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", NAMES)
def test_it_offers_only_items_of_the_log_or_the_catalogue(name: str, world: Toy) -> None:
    log = world.interactions.where(world.interactions.items % 3 != 0)
    every = world.catalogue.items
    kept = every.keys % 3 != 0
    rest = Profiles(every.keys[kept], {field: column[kept] for field, column in every.columns.items()})
    less = replace(world, interactions=log, catalogue=Catalogue(world.catalogue.users, rest))
    items = offered(solved(name, log, less))
    assert len(items)
    assert not (items % 3 == 0).any()


# what two towers learn depends on the order of ids, which is that of their text
@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF])
def test_keys_with_gaps_are_kept(name: str, world: Toy) -> None:
    log, users, items = world.interactions, world.catalogue.users, world.catalogue.items
    far = Interactions(log.users + 10**6, log.items + 10**9, log.times, log.actions, log.values)
    moved = Catalogue(Profiles(users.keys + 10**6, users.columns), Profiles(items.keys + 10**9, items.columns))
    near, form = solved(name, log, world), solved(name, far, replace(world, catalogue=moved))
    for column, shifted in zip(arrays(near), arrays(form), strict=True):
        if column.dtype == np.float32:
            np.testing.assert_array_equal(column, shifted)
    np.testing.assert_array_equal(offered(form), offered(near) + 10**9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("users", "items"), [([0], [0]), ([0, 0], [0, 1]), ([0, 1], [0, 0])])
def test_the_smallest_logs_give_a_form(name: str, users: list[int], items: list[int], world: Toy) -> None:
    log = Interactions.of(np.array(users), np.array(items), np.arange(len(users), dtype=np.int64) + world.now - 10)
    solved(name, log, world)
