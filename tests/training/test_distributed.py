"""Two processes on the loopback interface learn what one learns from batches of double size, and end together."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.ranked import DROPPING, PLAN, Learner, layout_of, norm, ranking, same

from shortlist.batch import Batch
from shortlist.config import build
from shortlist.dataset.ranking import Ranking
from shortlist.dataset.stream import Stream, concatenated
from shortlist.errors import ConfigError, DataError, ProcessError
from shortlist.models.rank.deepfm import DeepFM
from shortlist.training.distributed import Alone, lead
from shortlist.training.learn import Training
from shortlist.training.loop import train
from shortlist.training.objectives.bce import Bce
from shortlist.training.shards import Shards

TWO = Training(read="stream", processes=2, batch_size=4, epochs=2, lr=0.1, optimizer="sgd", timeout_s=120.0)


def changed(**words: Any) -> Training:
    return build(Training, {**{n: getattr(TWO, n) for n in TWO.__dataclass_fields__}, **words}, "train")


class Union:
    """What two processes read of a folder of shards, a batch of both at a time; anew in each epoch."""

    def __init__(self, units: Ranking, folder: Path, batch_size: int) -> None:
        self.shards = Shards(
            folder, len(units), units.drawn, batch_size, 0, source=units, sides=units.assembler.sides
        )  # fmt: skip
        self.batch_size, self.sizes = batch_size, list[tuple[int, int]]()

    def __iter__(self) -> Iterator[Batch]:
        next(iter(self.shards))  # writes the epoch
        place = next(self.shards.folder.iterdir())
        parts = [Stream(place, self.batch_size, 0, rank=rank, ranks=2) for rank in range(2)]
        for part in parts:
            part.load(part.state() | {"epoch": self.shards.epoch})
        for one, other in zip(*parts, strict=True):
            self.sizes.append((len(one.request), len(other.request)))
            yield concatenated([one, other])
        self.shards.epoch, self.shards.row = self.shards.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("it is never resumed")


def alone(units: Ranking, config: Training, folder: Path, sparse: bool) -> tuple[dict[str, torch.Tensor], Union]:
    torch.manual_seed(config.seed)
    model, batches = DeepFM(PLAN.config(), layout_of(units, sparse)), Union(units, folder, config.batch_size)
    for _ in train(model, Bce(Bce.Config(), ("click",)), batches, config, validate=norm):
        pass
    return {name: weight.clone() for name, weight in model.state_dict().items()}, batches


@pytest.mark.parametrize(
    ("sparse", "optimizer", "users"),
    [(False, "sgd", 50), (True, "sgd", 41), (True, "adam", 41)],
)
def test_two_processes_are_one_with_batches_of_double_size(
    sparse: bool, optimizer: str, users: int, tmp_path: Path
) -> None:
    """41 requests are 21 and 20 of two processes: the last batch is 5 and 4. Rows of a request are 5 to 8, and those
    with a label differ in number: it is the mean of all rows that both descend."""
    config = changed(optimizer=optimizer, clip=0.5)
    together = Learner(ranking(users), config, tmp_path / "two", sparse=sparse).on()
    expected, batches = alone(ranking(users), config, tmp_path / "one", sparse)
    if users == 41:
        assert batches.sizes[:5] == [(4, 4)] * 4 + [(5, 4)]
    assert [r.step for r in together.records if not r.metrics][-1] == len(batches.sizes)
    for name, weight in together.weights().items():
        # adam's first steps have the length of lr whatever the gradient: its last bits show more
        assert torch.allclose(weight, expected[name], atol=1e-5 if optimizer == "sgd" else 1e-3), name
    losses = [r.loss for r in together.records if not r.metrics]
    assert losses[-1] < losses[0]


def test_a_run_of_two_that_was_left_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """With dropout: the dice of a process are those of its rank and the step."""
    config = changed(optimizer="adam", lr=0.01)
    unbroken = Learner(ranking(), config, tmp_path / "a", DROPPING, sparse=True).on()
    left = Learner(ranking(), config, tmp_path / "b", DROPPING, sparse=True).on(3)
    resumed = Learner(ranking(), config, tmp_path / "b", DROPPING, sparse=True).on()
    assert [r.loss for r in (left.records + resumed.records) if not r.metrics] == [
        r.loss for r in unbroken.records if not r.metrics
    ]
    assert same(resumed.weights(), unbroken.weights())


def children() -> list[int]:
    """Processes that this one started and that still run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(number) for number in (task / "children").read_text(encoding="ascii").split()]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
def test_a_process_that_dies_ends_the_run_and_it_goes_on_later(tmp_path: Path) -> None:
    before = set(children())
    made = Learner(ranking(), TWO, tmp_path / "b")
    for _ in range(9):  # into the second epoch
        made.records.append(next(made.run))
    (other,) = set(children()) - before
    os.kill(other, signal.SIGKILL)
    with pytest.raises(ProcessError) as caught:
        made.on()
    hint = "lower processes, or look at what the process said before it ended"
    assert str(caught.value) == f"training.processes: process 1 of 2 ended by signal SIGKILL ({hint})"
    assert set(children()) == before
    resumed = Learner(ranking(), TWO, tmp_path / "b").on()
    # 7 batches of 2 times 4 are an epoch, after which it was saved
    assert next(r.step for r in resumed.records if not r.metrics) == 8
    assert same(resumed.weights(), Learner(ranking(), TWO, tmp_path / "a").on().weights())


def test_leaving_a_run_ends_the_other_process(tmp_path: Path) -> None:
    before = set(children())
    Learner(ranking(), TWO, tmp_path).on(2)
    assert set(children()) == before


def test_what_is_wrong_in_the_other_process_is_said_by_the_first(tmp_path: Path) -> None:
    """The label 5 lies in the share of the second process."""
    units = ranking(label=5.0)
    disk = Shards(tmp_path / "s", 50, True, 4, 0, source=units, sides=units.assembler.sides)
    next(iter(disk))
    shares = [list(Stream(tmp_path / "s" / "epoch-00000", 4, 0, rank=rank, ranks=2)) for rank in range(2)]
    wrong = [
        [n for n, b in enumerate(share, 1) if b.labels is not None and bool((b.labels > 1).any())] for share in shares
    ]
    assert not wrong[0]
    (number,) = wrong[1]
    with pytest.raises(DataError) as caught:
        Learner(units, TWO, tmp_path / "run").on()
    hint = "correct the task's definition, or mask the row"
    assert str(caught.value) == f"batch {number}, task click: the label 5 is outside 0..1 ({hint})"


def test_a_process_that_cannot_begin_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.training.distributed.WORKER", "shortlist.no_such_module")
    with pytest.raises(ProcessError) as caught:
        Learner(ranking(), TWO, tmp_path).on()
    assert caught.value.what == "process 1 of 2 ended with status 1"


def test_one_process_is_no_team() -> None:
    with lead(1, "cpu", 1.0, {}) as team:
        assert isinstance(team, Alone)


def test_torchrun_and_the_configuration_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "0"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught, lead(2, "cpu", 1.0, {}):
        raise AssertionError("no team is made")
    assert str(caught.value) == (
        "training.processes: 3 processes were started, processes says 2 (write processes = 3)"
    )  # fmt: skip


def test_processes_read_from_disk() -> None:
    from shortlist.schema import Schema
    from shortlist.training.learn import settings
    from shortlist.training.plan import Plan

    schema = Schema.parse({"tasks": {"click": {"on": {"sample": "mixed", "per": 1}, "positive": "value >= 4"}}})
    with pytest.raises(ConfigError) as caught:
        settings(Plan("rank", "deepfm", DeepFM, {}, {"processes": 2}), schema)
    what = "rank (deepfm).train.processes: 2 processes read what they learn on from disk"
    assert str(caught.value) == f'{what} (write read = "stream")'
