"""Hard negatives from a channel of the same fit, and frequent items left out by chance."""

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.world import Two, pairs, row_columns

from shortlist.artifact import load
from shortlist.candidates import Ragged, Requests
from shortlist.config import ChannelConfig
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.forms import Vectors
from shortlist.models.learned import restore
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.training.fit import fit, fitted
from shortlist.training.hard import Hard, groups, pool
from shortlist.training.learn import settings
from shortlist.training.negatives import Alike, Asked, Catalogued, Drawn, Pooled, Sampler, ranked
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.plan import Plan, linked, plan_of

SCHEMA = Schema.parse({})
TOWERS: dict[str, Any] = {"dim": 4, "hidden": [8], "out": 4}
TRAIN = {"epochs": 1, "batch_size": 64, "history": 10}
HARD = {"of": "easy", "low": 3, "high": 6}


def test_each_hard_one_stands_for_its_share_of_the_window() -> None:
    """One example of item 2 in a batch alone; its user's window is items 4 and 5, two draws of them: each has
    q = 1/2, two of them are there once on average, and their correction is log(2 * 1/2) = 0."""
    model = Two(3, 6, dim=2)
    with torch.no_grad():
        model.user.weight.copy_(torch.tensor([[9.0, 9.0], [9.0, 9.0], [1.0, 0.0]]))
        ends = [[9.0, 9.0], [9.0, 9.0], [log(3), 0.0], [9.0, 9.0], [0.0, 0.0], [0.0, 0.0]]
        model.item.weight.copy_(torch.tensor(ends))
    config = Softmax.Config(hard=Hard(of="x", per=2))
    objective = Softmax(config, "ip", catalogue=row_columns, counts=np.ones(4))
    objective.hard = ranked(np.array([[0, 0], [0, 0], [4, 5]], dtype=np.int32), Catalogued(Sampler(np.ones(4))))
    loss = objective(model, pairs([2], [2])).loss.item()
    # scores: ln 3 for the own item, 0 for each of both: -log(3 / (3 + 1 + 1))
    assert loss == pytest.approx(-log(3 / 5))


def test_a_softmax_without_hard_ones_is_what_it_was() -> None:
    model, batch = Two(4, 6), pairs([0, 1, 2, 3], [2, 3, 4, 5])
    plain = Softmax(Softmax.Config(), "ip")(model, batch).loss.item()
    objective = Softmax(Softmax.Config(hard=Hard(of="x", per=1)), "ip", catalogue=row_columns, counts=np.ones(4))
    objective.hard = ranked(np.full((4, 1), 5, dtype=np.int32), Catalogued(Sampler(np.ones(4))))
    assert objective(model, batch).loss.item() > plain  # one more column each


def test_pairwise_draws_one_hard_in_so_many() -> None:
    """Easy ones are any of 100 items, hard ones one: of 40,000 draws one in 4 is it, and one in 400 by chance."""
    model, n = Two(2, 102), 20_000
    config = Pairwise.Config(n=2, known="", hard=Hard(of="x", easy_per_hard=3.0))
    objective = Pairwise(config, "ip", catalogue=row_columns, counts=np.ones(100))
    objective.hard = ranked(np.full((2, 1), 50, dtype=np.int32), Catalogued(objective.sampler))
    drawn: list[int] = []
    kept = objective._drawn

    def spy(*told: Any) -> Any:
        ids = kept(*told)
        drawn.extend(ids.ravel().tolist())
        return ids

    objective._drawn = spy  # type: ignore[assignment, method-assign]
    objective(model, pairs([0] * n, [2] * n))
    # barred is item 2: easy ones are 99 others. 1/4 + 3/4 / 99 = 0.2576, four deviations of 40,000: 0.0087
    assert np.mean(np.array(drawn) == 50) == pytest.approx(1 / 4 + 3 / 4 / 99, abs=0.0088)
    assert 2 not in drawn


@pytest.mark.parametrize("kind", [Softmax, Pairwise])
def test_hard_ones_without_ranks_are_refused(kind: Any) -> None:
    objective = kind(kind.Config(hard=Hard(of="x"), known=""), "ip", catalogue=row_columns, counts=np.ones(4))
    with pytest.raises(ConfigError, match="hard negatives need who draws them"):
        objective(Two(2, 6), pairs([0, 1], [2, 3]))


def test_frequent_items_are_left_out_by_chance_while_training() -> None:
    """Item 2 has 8 of 10 events: with a threshold of 0.05 it is kept with sqrt(1/16) + 1/16 = 5/16."""
    objective = Softmax(Softmax.Config(subsample=0.05), "ip", counts=np.array([8, 2]))
    found = torch.tensor([2] * 4000)
    examples: Any = type("Found", (), {"item": found, "worth": torch.ones(4000)})()
    worth, kept = objective._kept(examples)
    assert kept == int(worth.sum())
    # 4000 * 5/16 = 1250, deviation sqrt(4000 * 5/16 * 11/16) = 29
    assert kept == pytest.approx(1250, abs=4 * 29.4)
    objective.eval()
    assert objective._kept(examples)[1] == 4000
    with pytest.raises(ConfigError, match="how often items were met is not known"):
        Softmax(Softmax.Config(subsample=0.05), "ip")(Two(2, 4), pairs([0, 1], [2, 3]))


# ------------------------------------------------------------------------------------------ in a fit


def log_() -> Interactions:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 8)
    items = np.concatenate([rng.permutation(20)[:8] for _ in range(30)])
    return Interactions.of(users, items, np.tile(np.arange(8), 30) * 1000)


def plans(easy: dict[str, Any] | None = None, hard: dict[str, Any] | None = None) -> list[Plan]:
    loss = {"hard": HARD if hard is None else hard}
    return [
        plan_of(ChannelConfig("easy", "dssm", train=easy or TRAIN), "easy", TOWERS),
        plan_of(ChannelConfig("hard", "dssm", train=TRAIN, loss=loss), "hard", TOWERS),
    ]


def run(folder: Path, some: list[Plan], schema: Schema = SCHEMA, catalogue: Catalogue | None = None) -> Any:
    known = Catalogue.empty() if catalogue is None else catalogue
    return fit(some, log_(), known, schema, folder, snapshot="s1", created_ms=7)


CITIES = Schema.parse({"items": {"city": "sparse", "size": "dense"}})


def cities() -> Catalogue:
    """Items 0 to 8 are of Paris, 9 to 18 of Rome; of item 19 nobody knows."""
    names = np.array(["Paris"] * 9 + ["Rome"] * 10 + [None], dtype=object)
    columns = {"city": names, "size": np.ones(20)}
    return Catalogue(Catalogue.empty().users, Profiles(np.arange(20), columns))


@pytest.mark.parametrize("objective", ["softmax", "pairwise"])
@pytest.mark.parametrize("hard", [{"alike": "city"}, {"of": "easy", "low": 1, "high": 20, "unlike": "city"}])
def test_a_project_learns_from_items_of_the_same_or_of_another_city(
    tmp_path: Path, hard: dict[str, Any], objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was drawn while a configured channel was trained: of the wanted item's city, or never of it."""
    torch.set_num_threads(1)
    seen: list[tuple[Asked, Drawn]] = []
    for kind in (Alike, Pooled):
        kept = kind.sample

        def spy(self: Any, asked: Asked, n: int, rng: Any, kept: Any = kept) -> Drawn:
            drawn: Drawn = kept(self, asked, n, rng)
            seen.append((asked, drawn))
            return drawn

        monkeypatch.setattr(kind, "sample", spy)
    train = {**TRAIN, "objective": objective}
    some = [
        plan_of(ChannelConfig("easy", "dssm", train=TRAIN), "easy", TOWERS),
        plan_of(ChannelConfig("hard", "dssm", train=train, loss={"hard": {**hard, "per": 3} if objective == "softmax"
                                                                 else {**hard, "easy_per_hard": 1.0}}), "hard", TOWERS),
    ]  # fmt: skip
    run(tmp_path, some, CITIES, cities())
    city = np.array([-1, -1, *[0] * 9, *[1] * 10, -1])  # by id
    own = np.concatenate([np.repeat(city[asked.wanted], drawn.ids.shape[1]) for asked, drawn in seen])
    theirs = np.concatenate([city[drawn.ids].ravel() for _, drawn in seen])
    assert len(own) >= 200
    told = own >= 0  # who wants the item of no city has draws from everywhere
    if "alike" in hard:
        assert (theirs[told] == own[told]).all()
    else:
        assert (theirs[told] == 1 - own[told]).all()
    assert len(np.unique(theirs[~told])) > 1
    assert load(tmp_path / "hard").manifest.config["loss"]["hard"].items() >= hard.items()


def test_groups_are_values_by_id() -> None:
    log, catalogue = log_(), cities()
    assembler = Assembler(CITIES, Encoders.fit(CITIES, catalogue, log.user_keys, log.item_keys), catalogue, 10)
    assert groups(assembler, "city").tolist() == [0] * 9 + [1] * 10 + [-1]


def test_a_channel_learns_from_the_ranks_of_one_before_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run(tmp_path, plans())
    assert load(tmp_path / "hard").manifest.config["loss"] == {"hard": HARD}
    assert fitted(plans(), SCHEMA, tmp_path, "s1") is not None
    # what the ranks come from has changed: so has what was learned from them
    run(tmp_path / "other", plans({**TRAIN, "epochs": 2}))
    assert fitted(plans({**TRAIN, "epochs": 2}), SCHEMA, tmp_path / "other", "s1") is not None
    assert fitted([plans()[0]], SCHEMA, tmp_path, "s1") is not None
    assert load(tmp_path / "other" / "hard").manifest.config["after"]["train"]["epochs"] == 2


def test_the_pool_is_the_window_of_a_brute_force_search(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    log, catalogue = log_(), Catalogue.empty()
    run(tmp_path, plans()[:1])
    assembler = Assembler(SCHEMA, Encoders.fit(SCHEMA, catalogue, log.user_keys, log.item_keys), catalogue, 10)
    found = pool(Hard("easy", low=3, high=6), tmp_path, log, assembler, "here")
    assert found.shape == (32, 4)
    assert not found[:2].any()  # padding and the unknown user have none
    artifact = load(tmp_path / "easy")
    form, model = artifact.form(), restore(artifact, SCHEMA, catalogue)
    assert isinstance(form, Vectors)
    none, users = Ragged.empty(30), log.user_keys
    asked = Requests(users, np.full(30, 7001), 1, log.histories(users), none, none)
    q, v = model.query(asked), form.matrix
    q, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, v))
    for user in range(30):
        order = np.lexsort((form.keys, -(v @ q[user])))
        assert found[user + 2].tolist() == (form.keys[order[2:6]] + 2).tolist()


@pytest.mark.parametrize(
    ("hard", "message"),
    [
        ({"of": "eazy"}, "recall.hard (dssm).loss.hard.of: no channel before it is called 'eazy' (did you mean easy?)"),
        ({"of": "hard"}, "recall.hard (dssm).loss.hard.of: no channel before it is called 'hard' (known: easy)"),
        (
            {"of": "easy", "low": 9, "high": 5},
            "recall.hard (dssm).loss.hard: ranks 9 to 5 are no window (make high at least low)",
        ),
        (
            {"of": "easy", "deep": 1},
            "recall.hard (dssm).loss.hard: unknown key 'deep' "
            "(known: alike, easy_per_hard, high, low, of, per, unlike)",
        ),
        (
            {"low": 3},
            "recall.hard (dssm).loss.hard: hard ones are of a channel or of a kind: of or alike, one of both "
            '(write of = "another channel", or alike = "a field")',
        ),
        (
            {"of": "easy", "alike": "city"},
            "recall.hard (dssm).loss.hard: hard ones are of a channel or of a kind: of or alike, one of both "
            '(write of = "another channel", or alike = "a field")',
        ),
        (
            {"alike": "city", "unlike": "city"},
            "recall.hard (dssm).loss.hard.unlike: unlike chooses among the ranks of a channel "
            "(take unlike away, or write of = ... for alike)",
        ),
        (
            {"alike": "citty"},
            "recall.hard (dssm).loss.hard.alike: no sparse field of items is called 'citty' (did you mean city?)",
        ),
        (
            {"of": "easy", "unlike": "size"},
            "recall.hard (dssm).loss.hard.unlike: no sparse field of items is called 'size' (known: city)",
        ),
    ],
)
def test_wrong_words_say_what_and_where(tmp_path: Path, hard: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(tmp_path, plans(hard=hard), CITIES, cities())
    assert str(error.value) == message


def test_a_solver_has_no_vectors_of_users(tmp_path: Path) -> None:
    hot = plan_of(ChannelConfig("hot", "hot"), "hot", {})
    with pytest.raises(ConfigError) as error:
        run(tmp_path, [hot, *plans(hard={"of": "hot"})[1:]])
    hint = "name a channel that is trained: its users and items are vectors"
    assert str(error.value) == f"recall.hard (dssm).loss.hard.of: hot has no vectors of users ({hint})"


def test_steps_of_sequences_have_no_user() -> None:
    plan = plan_of(ChannelConfig("steps", "gru4rec", loss={"hard": HARD}), "steps", {})
    with pytest.raises(ConfigError) as error:
        settings(plan, SCHEMA)
    hint = "take hard away, or take a model that learns from one event at a time"
    assert str(error.value) == f"recall.steps (gru4rec).loss.hard: steps of sequences have no user to rank for ({hint})"


def test_links_are_words_of_a_plan() -> None:
    easy, hard = linked(plans())
    assert "after" not in easy.words()
    assert hard.words()["after"] == easy.words()
