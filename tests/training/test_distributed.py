"""Two processes on the loopback interface learn what one learns from batches of double size, and end together."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation.test_outcome import project
from tests.training.ranked import DROPPING, PLAN, Learner, layout_of, norm, ranking, same
from tests.waiting import until

from shortlist.artifact import load
from shortlist.batch import Batch
from shortlist.cli import main
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


def alone(
    units: Ranking, config: Training, folder: Path, sparse: bool, admit: int = 1
) -> tuple[dict[str, torch.Tensor], Union]:
    torch.manual_seed(config.seed)
    model, batches = DeepFM(PLAN.config(), layout_of(units, sparse, admit)), Union(units, folder, config.batch_size)
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


def children() -> list[int]:
    """Processes that this one started and that still run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(number) for number in (task / "children").read_text(encoding="ascii").split()]
    return found


def test_what_is_counted_is_counted_of_both(tmp_path: Path) -> None:
    """How often ids were met, until they are met often enough. A row opens with the batch of a process that knows."""
    config = changed(epochs=1)
    together = Learner(ranking(41), config, tmp_path / "two", sparse=True, admit=6).on().weights()
    expected, _ = alone(ranking(41), config, tmp_path / "one", True, admit=6)
    assert torch.equal(together["embed.counts"], expected["embed.counts"])
    assert expected["embed.counts"].bincount().count_nonzero() > 4  # of many a number


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
GOES_ON = changed(optimizer="adam", lr=0.01)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """With dropout: the dice of a process are those of its rank and the step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Learner(ranking(), GOES_ON, tmp_path_factory.mktemp("unbroken"), DROPPING, sparse=True).on()
    torch.set_num_threads(before)
    return made


@needs_proc
def test_a_run_of_two_that_was_left_ends_both_and_goes_on_bit_for_bit(unbroken: Learner, tmp_path: Path) -> None:
    before = set(children())
    left = Learner(ranking(), GOES_ON, tmp_path, DROPPING, sparse=True).on(3)
    assert set(children()) == before
    resumed = Learner(ranking(), GOES_ON, tmp_path, DROPPING, sparse=True).on()
    assert [r.loss for r in (left.records + resumed.records) if not r.metrics] == [
        r.loss for r in unbroken.records if not r.metrics
    ]
    assert same(resumed.weights(), unbroken.weights())


@needs_proc
def test_a_process_that_dies_ends_the_run_and_it_goes_on_later(unbroken: Learner, tmp_path: Path) -> None:
    before = set(children())
    made = Learner(ranking(), GOES_ON, tmp_path, DROPPING, sparse=True)
    for _ in range(9):  # into the second epoch
        made.records.append(next(made.run))
    (other,) = set(children()) - before
    os.kill(other, signal.SIGKILL)
    with pytest.raises(ProcessError) as caught:
        made.on()
    hint = "lower processes, or look at what the process said before it ended"
    assert str(caught.value) == f"training.processes: process 1 of 2 ended by signal SIGKILL ({hint})"
    assert set(children()) == before
    resumed = Learner(ranking(), GOES_ON, tmp_path, DROPPING, sparse=True).on()
    # 7 batches of 2 times 4 are an epoch, after which it was saved
    assert next(r.step for r in resumed.records if not r.metrics) == 8
    assert same(resumed.weights(), unbroken.weights())


LED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.training.ranked import Learner, ranking
from tests.training.test_distributed import TWO, children

torch.set_num_threads(1)
for record in Learner(ranking(), TWO, Path(sys.argv[1])).run:
    if record.step == 3:
        print(*children(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_proc
@pytest.mark.slow
def test_a_process_that_does_nothing_more_is_waited_for_no_longer_than_it_may_take(tmp_path: Path) -> None:
    before = set(children())
    made = Learner(ranking(), changed(timeout_s=30.0), tmp_path)
    made.records += [next(made.run), next(made.run)]
    (other,) = set(children()) - before
    os.kill(other, signal.SIGSTOP)
    with pytest.raises(ProcessError) as caught:
        made.on()
    assert caught.value.what.startswith("the processes lost one another: ")
    assert set(children()) == before


@needs_proc
def test_a_process_whose_leader_is_killed_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LED, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    (other,) = map(int, done.stdout.split())
    assert until(lambda: not alive(other))


def alive(process: int) -> bool:
    """Whether it runs: one that ended may not have been collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_torchrun_starts_them_too(tmp_path: Path) -> None:
    """The same weights as with processes of one's own; the artifacts are written once."""
    words = 'read = "stream", processes = 2'
    folders = []
    for name in ("own", "torchrun"):
        (tmp_path / name).mkdir()
        file = project(tmp_path / name, learned=True) / "shortlist.toml"
        head, tail = file.read_text(encoding="utf-8").split("[coarse]")
        tail = tail.replace("train = { ", f"train = {{ {words}, ")
        file.write_text(f"{head}[coarse]{tail}", encoding="utf-8")
        folders.append(file.parent)
    assert main(["train", "--project", str(folders[0])]) == 0
    script = str(Path(sys.executable).with_name("shortlist"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*launch, script, "train", "--project", str(folders[1])],
        capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train for test: done") == 1
    for name in ("coarse", "rank"):
        one, other = (load(folder / "var" / "models" / "test" / name) for folder in folders)
        assert one.manifest.metrics == other.manifest.metrics
        weights = [file for file in one.names("npy") if file.startswith("weight.")]
        assert weights
        digests = [[a.manifest.files[file].sha256 for file in weights] for a in (one, other)]
        assert digests[0] == digests[1]


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
