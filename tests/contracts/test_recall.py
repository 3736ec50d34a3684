"""Whom a solver's channel serves without training, and what it brings that nobody took: as it declares."""

import importlib
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest

from shortlist.artifact import load
from shortlist.candidates import Ragged
from shortlist.config import ChannelConfig, Count, build, catalogue, find, own_keys
from shortlist.errors import ConfigError
from shortlist.forms import Built, Vectors
from shortlist.funnel.pipeline import Source
from shortlist.funnel.requests import make
from shortlist.funnel.sources.nearest import Nearest
from shortlist.models.learned import restore
from shortlist.simulation.toy import Toy
from shortlist.training.fit import fit
from shortlist.training.plan import Plan

PACKAGE, SOURCES = "shortlist.models.recall", "shortlist.funnel.sources"
GIVEN = {"beside", "items", "users"}  # what a source can be given without a trained model
NEW = np.array([0, 1])  # users whose events the solvers below never see


def declared() -> list[str]:
    """Solvers that say whom they serve, and can be tried on interactions alone."""
    found = []
    for name in catalogue(PACKAGE):
        module = importlib.import_module(f"{PACKAGE}.{name}")
        kind = getattr(module, module.__all__[0])
        source: Any = find(getattr(kind, "source", "nearest"), [SOURCES], name)
        needs = set(getattr(source, "needs", ()))
        after = "of" in {field.name for field in fields(kind.Config)}  # needs another channel's artifact
        if hasattr(kind, "solve") and hasattr(kind, "cold_users") and needs <= GIVEN and not after:
            found.append(name)
    return found


@pytest.fixture(scope="module")
def world() -> Toy:
    return Toy.draw(60, 40, 1500, seed=3, categories=4)


def channel(name: str, world: Toy, log: Any) -> tuple[Any, Source]:
    module = importlib.import_module(f"{PACKAGE}.{name}")
    kind = getattr(module, module.__all__[0])
    built = kind(kind.Config(), world.schema()).solve(log, world.catalogue, world.now)
    built = built if isinstance(built, Built) else Built(built)
    source: Any = find(kind.source, [SOURCES], name)
    given = SimpleNamespace(beside=built.beside, items=world.catalogue.items, users=world.catalogue.users)
    needed = {word: getattr(given, word) for word in getattr(source, "needs", ())}
    return kind, source(source.Config(), built.form, world.schema(), **needed)


def everything(owners: Any, items: Any) -> Any:
    return np.ones(len(items), dtype=bool)


@pytest.mark.parametrize("name", declared())
def test_users_without_events_of_training_are_served_where_that_is_declared(name: str, world: Toy) -> None:
    """Those with a history at hand; a stranger without any gets nothing, or what everybody gets."""
    log = world.interactions
    kind, source = channel(name, world, log.where(~np.isin(log.users, NEW)))
    for users in (NEW, np.array([-1, -1])):
        now = np.full(2, world.now)
        asked = make(users, now, 5, log.histories(NEW), world.schema(), world.catalogue)
        owners, _, _ = source.recall(asked, 5, everything)
        assert set(owners.tolist()) == ({0, 1} if kind.cold_users else set())
    nobody = make(np.array([-1]), np.full(1, world.now), 5, Ragged.empty(1), world.schema(), world.catalogue)
    assert len(source.recall(nobody, 5, everything)[0]) in (0, 5)


@pytest.mark.parametrize("name", declared())
def test_items_that_nobody_took_come_where_that_is_declared(name: str, world: Toy) -> None:
    log = world.interactions
    kind, source = channel(name, world, log.where(log.items % 3 != 0))
    users = world.interactions.user_keys
    asked = make(users, np.full(len(users), world.now), 40, log.histories(users), world.schema(), world.catalogue)
    _, items, _ = source.recall(asked, 40, everything)
    assert len(items)
    assert bool((items % 3 == 0).any()) == kind.cold_items


def trained() -> list[str]:
    """Retrievers that say whom they serve."""
    kinds: dict[str, Any] = {name: find(name, [PACKAGE], name) for name in catalogue(PACKAGE)}
    return [name for name, kind in kinds.items() if hasattr(kind, "query") and hasattr(kind, "cold_users")]


@pytest.mark.parametrize("name", trained())
def test_a_trained_channel_serves_whom_it_says_and_brings_what_it_says(name: str, world: Toy, tmp_path: Path) -> None:
    log, kind = world.interactions, find(name, [PACKAGE], name)
    known = log.where(~np.isin(log.users, NEW) & (log.items % 3 != 0))
    plan = Plan("trained", name, kind, {"dim": 4}, {"epochs": 1, "history": 10})
    fit([plan], known, world.catalogue, world.schema(), tmp_path, snapshot="", created_ms=world.now)
    artifact = load(tmp_path / "trained")
    form = artifact.form()
    assert isinstance(form, Vectors)
    source = Nearest(Nearest.Config(), form, world.schema(), restore(artifact, world.schema(), world.catalogue))
    asked = make(NEW, np.full(2, world.now), 40, log.histories(NEW), world.schema(), world.catalogue)
    owners, items, _ = source.recall(asked, 40, everything)
    assert set(owners.tolist()) == ({0, 1} if kind.cold_users else set())  # type: ignore[attr-defined]
    assert bool((items % 3 == 0).any()) == kind.cold_items  # type: ignore[attr-defined]
    nobody = make(np.array([-1]), np.full(1, world.now), 5, Ragged.empty(1), world.schema(), world.catalogue)
    assert len(source.recall(nobody, 5, everything)[0]) == 0


@pytest.mark.parametrize("name", declared())
def test_none_asked_for_is_none_and_more_than_there_are_is_what_there_is(name: str, world: Toy) -> None:
    log = world.interactions
    _, source = channel(name, world, log)
    users = log.user_keys[:5]
    asked = make(users, np.full(5, world.now), 5, log.histories(users), world.schema(), world.catalogue)
    assert [len(column) for column in source.recall(asked, 0, everything)] == [0, 0, 0]
    owners, items, scores = source.recall(asked, 10**6, everything)
    known = world.catalogue.items.keys
    assert len(items)
    assert np.isin(items, known).all()
    assert np.isfinite(scores).all()
    pairs = np.unique(np.stack([owners, items]), axis=1)
    assert pairs.shape[1] == len(items) <= 5 * len(known)


def counts() -> list[tuple[str, str]]:
    """Options of recall models and of their sources that count something."""
    found = []
    for package in (PACKAGE, SOURCES):
        for name in catalogue(package):
            config = find(name, [package], name).Config  # type: ignore[attr-defined]
            hints = get_type_hints(config, include_extras=True)
            found += [(f"{package}.{name}", key) for key, hint in hints.items() if hint in (Count, Count | None)]
    return found


@pytest.mark.parametrize(("place", "key"), counts())
def test_a_count_of_none_is_refused(place: str, key: str) -> None:
    """`keep = 0`, `k = 0`, `last = 0`: what would bring nothing is left out, not configured."""
    package, _, name = place.rpartition(".")
    config = find(name, [package], name).Config  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as caught:
        build(config, {**({"of": "towers"} if "of" in own_keys(config) else {}), key: 0}, name)
    assert (caught.value.where, caught.value.what) == (f"{name}.{key}", "should be at least 1, got 0")


def test_no_option_is_hidden_by_a_word_of_the_channel() -> None:
    """`quota = 200` of a channel is the channel's: a model or source that has an option of that name never gets it."""
    own = set(own_keys(ChannelConfig))
    for package in ("shortlist.models.recall", "shortlist.funnel.sources"):
        for name in catalogue(package):
            kind: Any = find(name, [package], name)
            assert not own & {field.name for field in fields(kind.Config)}, f"{package}.{name}"
