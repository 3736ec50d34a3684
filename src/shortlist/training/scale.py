"""The steps of a ranker's training, whatever it reads from and however many processes take part."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from shortlist.batch import Layout
from shortlist.config import build, find, plain
from shortlist.dataset.loader import Loader, Source
from shortlist.errors import ConfigError
from shortlist.features.assemble import Assembler
from shortlist.training.distributed import Team, lead
from shortlist.training.learn import Training, threads
from shortlist.training.loop import Step, Validate, train
from shortlist.training.objectives.bce import Bce
from shortlist.training.plan import PACKAGES, Plan
from shortlist.training.shards import FOLDER, Shards, Written

if TYPE_CHECKING:
    from shortlist.training.sharded import Sharded

__all__ = ["Units", "steps", "work"]


class Units(Source, Written, Protocol):
    """What a ranker learns on: batches from memory, or what is written."""


def steps(
    plan: Plan,
    model: nn.Module,
    objective: Bce,
    units: Units,
    assembler: Assembler,
    layout: Layout,
    config: Training,
    *,
    validate: Validate,
    place: Path,
    identity: str,
) -> Iterator[Step]:
    """Train from memory or from disk, alone or leading other processes (`work`), which are told what a job is."""
    rows = place / FOLDER
    job = {
        "name": plan.name,
        "use": plan.use,
        "options": plain(plan.config()),
        "layout": asdict(layout),
        "loss": plain(objective.config),
        "caps": objective.caps,
        "train": plain(config),
        "device": config.device,
        "timeout_s": config.timeout_s,
        "units": len(units),
        "drawn": units.drawn,
        "place": str(place.resolve()),
        "identity": identity,
    }
    with lead(config.processes, config.device, config.timeout_s, job) as team:
        if config.read == "memory":
            batches: Loader | Shards = Loader(units, config.batch_size, config.seed)
        else:
            batches = Shards(
                rows, len(units), units.drawn, config.batch_size, config.seed,
                source=units, sides=assembler.sides, team=team,
            )  # fmt: skip
        tables = split(model, layout, config, team)
        yield from train(
            model, objective, batches, config,
            validate=validate, folder=place, fingerprint=identity, team=team, tables=tables,
        )  # fmt: skip
        if tables is not None:
            tables.whole()
        if isinstance(batches, Shards):
            batches.remove()


def work(job: Mapping[str, Any], team: Team) -> None:
    """What a process that does not lead does for a job: the same steps on its own rows."""
    config = build(Training, job["train"], "train")
    kind: Any = find(job["use"], [PACKAGES[job["name"]]], "use")
    layout = build(Layout, job["layout"], "layout")
    with threads(config.threads):
        torch.manual_seed(config.seed)
        model = kind(build(kind.Config, job["options"], "options"), layout)
        objective = Bce(build(Bce.Config, job["loss"], "loss"), layout.tasks, job["caps"])
        place = Path(job["place"])
        batches = Shards(
            place / FOLDER, job["units"], job["drawn"], config.batch_size, config.seed, team=team
        )  # fmt: skip
        for _ in train(
            model, objective, batches, config,
            validate=_led, folder=place, fingerprint=job["identity"], team=team,
            tables=split(model, layout, config, team),
        ):  # fmt: skip
            pass


def split(model: nn.Module, layout: Layout, config: Training, team: Team) -> "Sharded | None":
    """The model with its tables split over the team, where `sharded` says so. Raises ConfigError."""
    if not config.sharded:
        return None
    if layout.tables.admit > 1:
        what = "which rows a batch reads is not known before it is counted"
        raise ConfigError(what, where="training.sharded", hint="take tables.admit away, or sharded")
    if config.device != "cpu" and torch.cuda.is_available():
        what = "tables are split on the CPU alone"
        raise ConfigError(what, where="training.device", hint='write device = "cpu", or take sharded away')
    from shortlist.training.sharded import Sharded  # loads torchrec

    return Sharded(model, config.sharded, config, team)


def _led(model: Any) -> Mapping[str, float]:
    raise AssertionError("the first process validates")
