"""A ranker that reads what it learns on from disk learns what it learns from memory, and goes on where it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.dataset.test_stream import same as alike
from tests.training.ranked import Learner, ranking, same

from shortlist.dataset.loader import Loader
from shortlist.errors import ArtifactError
from shortlist.training.learn import Training
from shortlist.training.shards import Shards

STREAM = Training(read="stream", batch_size=8, epochs=3, lr=0.01)


def shards(folder: Path, window: int = 10_000, on: object = None) -> Shards:
    units = ranking() if on is None else ranking(on=on)
    return Shards(
        folder, len(units), units.drawn, 8, 3, source=units, sides=units.assembler.sides, window=window
    )  # fmt: skip


def test_within_a_window_it_gives_what_memory_gives(tmp_path: Path) -> None:
    """The same requests in the same batches with the same draws, in each epoch."""
    memory, disk = Loader(ranking(), 8, 3), shards(tmp_path / "rows")
    assert len(memory) == len(disk) == 7  # 50 requests in batches of 8
    for _ in range(2):
        for one, other in zip(memory, disk, strict=True):
            order = torch.argsort(one.request["user.id"])  # a batch from disk has its requests in order of writing
            alike(other, one.take(torch.arange(len(one))))
            assert torch.equal(other.request["user.id"].sort().values, one.request["user.id"][order])


def test_negatives_are_drawn_anew_and_an_epoch_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    disk = shards(tmp_path / "rows")
    seen = []
    for epoch in range(2):
        seen.append(sorted(item for batch in disk for item in batch.row["item.id"].tolist()))
        assert [file.name for file in (tmp_path / "rows").iterdir()] == [f"epoch-{epoch:05}"]
    assert seen[0] != seen[1]
    # a request has 4 labelled pairs, one or two of them positive, and 2 negatives for each of these: 50 * 4 + 75 * 2
    assert len(seen[0]) == len(seen[1]) == 350
    disk.remove()
    assert not (tmp_path / "rows").exists()


def test_what_is_not_drawn_is_written_once(tmp_path: Path) -> None:
    disk = shards(tmp_path / "rows", on="impression")
    first = {item for batch in disk for item in batch.row["item.id"].tolist()}
    written = (tmp_path / "rows" / "every" / "manifest.json").stat()
    assert {item for batch in disk for item in batch.row["item.id"].tolist()} == first
    assert (tmp_path / "rows" / "every" / "manifest.json").stat().st_mtime_ns == written.st_mtime_ns


@pytest.mark.parametrize("stop", [1, 6, 7, 9])
def test_a_state_is_taken_up_by_another_process_without_the_files(stop: int, tmp_path: Path) -> None:
    def lines(made: Shards, n: int) -> list[list[int]]:
        out: list[list[int]] = []
        while len(out) < n:
            for batch in made:
                out.append(batch.row["item.id"].tolist())
                if len(out) == n:
                    break
        return out

    unbroken = lines(shards(tmp_path / "a", window=40), 14)
    first = shards(tmp_path / "b", window=40)
    seen = lines(first, stop)
    other = shards(tmp_path / "c", window=40)
    other.load(first.state())
    assert seen + lines(other, 14 - stop) == unbroken


def test_a_run_from_disk_is_the_run_from_memory(tmp_path: Path) -> None:
    memory = Learner(ranking(), Training(batch_size=8, epochs=3, lr=0.01), tmp_path / "m").on()
    disk = Learner(ranking(), STREAM, tmp_path / "d").on()
    # rows of a batch come in another order of requests: sums differ in their last bits
    for name, weight in memory.weights().items():
        assert torch.allclose(weight, disk.weights()[name], atol=1e-6), name
    assert [r.step for r in disk.records] == [r.step for r in memory.records]
    assert not (tmp_path / "d" / "rows").exists()


@pytest.mark.parametrize("every", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 9, 20])
def test_a_run_that_was_left_goes_on_bit_for_bit(stop: int, every: int, tmp_path: Path) -> None:
    config = Training(read="stream", batch_size=8, epochs=3, lr=0.01, checkpoint_every=every, validate_every=4)
    unbroken = Learner(ranking(), config, tmp_path / "a").on()
    Learner(ranking(), config, tmp_path / "b").on(stop)
    # what a kill leaves: files of this epoch, and a part of the next
    (tmp_path / "b" / "rows" / ".epoch-00009-half").mkdir(parents=True)
    resumed = Learner(ranking(), config, tmp_path / "b").on()
    assert same(resumed.weights(), unbroken.weights())
    assert (resumed.records or unbroken.records)[-1].step == unbroken.records[-1].step == 21


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.training.ranked import Learner, ranking
from shortlist.training.learn import Training

torch.set_num_threads(1)
config = Training(read="stream", batch_size=8, epochs=3, lr=0.01, checkpoint_every=2)
for record in Learner(ranking(), config, Path(sys.argv[1])).run:
    if record.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("stop", [5, 12])
def test_a_run_that_was_killed_goes_on_bit_for_bit(stop: int, tmp_path: Path) -> None:
    config = Training(read="stream", batch_size=8, epochs=3, lr=0.01, checkpoint_every=2)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "b"), str(stop)]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root, timeout=300, check=False).returncode == -signal.SIGKILL
    resumed = Learner(ranking(), config, tmp_path / "b").on()
    assert resumed.records[0].step == stop - stop % 2 + 1  # after the last checkpoint
    assert same(resumed.weights(), Learner(ranking(), config, tmp_path / "a").on().weights())


def test_a_run_read_otherwise_is_another_run(tmp_path: Path) -> None:
    Learner(ranking(), STREAM, tmp_path).on(3)
    with pytest.raises(ArtifactError) as caught:
        Learner(ranking(), Training(batch_size=8, epochs=3, lr=0.01), tmp_path).on()
    assert caught.value.what == (
        "the checkpoint was made with another configuration: read was 'stream', now 'memory'"
    )  # fmt: skip
