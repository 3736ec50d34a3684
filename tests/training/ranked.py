"""A small world a ranker learns on: users of two tastes, candidates of one channel, negatives drawn or none."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from shortlist.batch import Layout, Tables
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.ranking import Outcomes, Ranking
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.models.rank.deepfm import DeepFM
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.training.learn import Training
from shortlist.training.loop import Step
from shortlist.training.objectives.bce import Bce
from shortlist.training.plan import Plan
from shortlist.training.scale import steps

NOW, ITEMS, SEEN = 1_700_000_000_000, 60, 15
DRAWN = {"sample": "mixed", "per": 2}


def ranking(users: int = 50, on: Any = DRAWN, label: float | None = None) -> Ranking:
    """A user is asked about once, clicks on one or two of 15 candidates, and is shown two others. `label` is what one
    click of the last user is worth instead of 1."""
    profiles = pl.DataFrame({"key": range(ITEMS), "category": [f"c{n % 5}" for n in range(ITEMS)]})
    people = pl.DataFrame({"key": range(users), "city": [f"p{n % 3}" for n in range(users)]})
    catalogue = Catalogue(Profiles.from_frame(people), Profiles.from_frame(profiles))
    schema = Schema.parse(
        {
            "action": "what", "actions": {"impression": {"weight": 0}, "click": {}},
            "users": {"city": "sparse"}, "items": {"category": "sparse"},
            "tasks": {"click": {"on": on, "positive": "click.value"}},
        }
    )  # fmt: skip
    dice = np.random.default_rng(5)
    rows: list[tuple[int, int, int, float]] = []
    for user in range(users):
        for n, item in enumerate(dice.choice(SEEN, 4, replace=False)):
            rows.append((user, int(item), 0, np.nan))
            good = n < 1 + user % 2
            rows.append((user, int(item), 1, float(good)))
    if label is not None:
        rows[-7] = (*rows[-7][:3], label)
    u, i, a, v = zip(*rows, strict=True)
    at = NOW + np.arange(len(rows))
    events = Interactions.of(np.array(u), np.array(i), at, np.array(a, np.int16), np.array(v, np.float32))
    none, history = Ragged.empty(users), Ragged.of(np.arange(users + 1), 20 + np.arange(users) % 30)
    requests = Requests(np.arange(users), np.full(users, NOW), 5, history, none, none)
    recalled = np.tile(np.arange(SEEN), users)
    rank = np.tile(np.arange(1, SEEN + 1, dtype=np.int32), users)[:, None]
    offsets = np.arange(users + 1) * SEEN
    candidates = Candidates(
        offsets, recalled, ("near",), rank, (1 / rank).astype(np.float32), {}, np.zeros(len(recalled), np.int16)
    )  # fmt: skip
    encoders = Encoders.fit(schema, catalogue, np.arange(users), np.arange(ITEMS))
    assembler = Assembler(schema, encoders, catalogue, history=3)
    return Ranking(requests, candidates, Outcomes.of(events, requests, schema), assembler)


def layout_of(units: Ranking, sparse: bool = False, admit: int = 1) -> Layout:
    made = units.assembler.layout(("near",), ("click",))
    tables = Tables(sparse_above=0 if sparse else 1_000_000, admit=admit)
    return Layout(made.request, made.row, made.vocabularies, made.tasks, tables)


PLAN = Plan("rank", "deepfm", DeepFM, {"dim": 4, "hidden": [8], "dropout": 0.0})
DROPPING = Plan("rank", "deepfm", DeepFM, {"dim": 4, "hidden": [8], "dropout": 0.5})


class Learner:
    """A run that is iterated: its model, and the records so far."""

    def __init__(
        self, units: Ranking, config: Training, place: Path, plan: Plan = PLAN, *, sparse: bool = False, admit: int = 1
    ) -> None:
        torch.manual_seed(config.seed)
        layout = layout_of(units, sparse, admit)
        self.model = DeepFM(plan.config(), layout)
        self.records: list[Step] = []
        self.run = steps(
            plan, self.model, Bce(Bce.Config(), ("click",)), units, units.assembler, layout, config,
            validate=norm, place=place, identity="here",
        )  # fmt: skip

    def on(self, records: int | None = None) -> "Learner":
        """Some more records, or all; with a number the run is then left."""
        for record in self.run:
            self.records.append(record)
            if len(self.records) == records:
                self.run.close()  # type: ignore[attr-defined]
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self.model.state_dict().items()}


def norm(model: Any) -> dict[str, float]:
    """A metric that all may compute: the longer the weights of the head, the better."""
    return {"norm": float(model.heads.linear.weight.norm())}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
