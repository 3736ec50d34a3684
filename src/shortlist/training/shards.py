"""What a ranker learns on, written to disk before it is read: batches of a source in the memory of a window of rows.

Where negatives are drawn an epoch is written when it begins, with the draws it has in memory too, and removed when the
next is there; else all epochs read what the first wrote. A batch is as many requests as one of the source's.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns
from shortlist.dataset import stream
from shortlist.dataset.loader import cuts, resumed
from shortlist.dataset.stream import Stream
from shortlist.training.distributed import Alone, Team

__all__ = ["Shards", "Written", "FOLDER"]

FOLDER = "rows"
BLOCK = 1_024  # requests that are encoded at once to be written
WINDOW = 262_144  # rows in memory that a batch is drawn from
SHARD_BYTES = 32 << 20  # less than files that stay have: what is written lies in memory some times over


class Written(Protocol):
    """Units that can be written: `bare` is a batch of them without what `assembler.sides()` has."""

    @property
    def drawn(self) -> bool: ...

    def __len__(self) -> int: ...

    def at_epoch(self, epoch: int) -> "Written": ...

    def bare(self, rows: NDArray[np.int64]) -> Batch: ...


class Shards:
    """One epoch each time it is iterated, as a `Loader` gives it, from `folder`; a loaded state is taken up again.

    Of the processes of a `team` each reads its own share of every batch's requests, and the first writes: the others
    need no `source`, only how many `units` it has and whether an epoch is `drawn`.
    """

    def __init__(
        self,
        folder: Path,
        units: int,
        drawn: bool,
        batch_size: int,
        seed: int,
        *,
        source: Written | None = None,
        sides: Callable[[], Mapping[str, Columns]] | None = None,
        team: Team | None = None,
        window: int = WINDOW,
    ) -> None:
        self.folder, self.units, self.drawn = folder, units, drawn
        self.batch_size, self.seed, self.window = batch_size, seed, window
        self.source, self.sides, self.team = source, sides, team or Alone()
        self.epoch, self.row = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(cuts(self.units, self.batch_size, self.team.rank, self.team.ranks, False)) - 1

    def __iter__(self) -> Iterator[Batch]:
        place = self.folder / (f"epoch-{self.epoch:05}" if self.drawn else "every")
        if self.team.rank == 0:
            self._write(place)
        self.team.tell(f"rows/{self.epoch}", {})
        read = Stream(
            place, self.batch_size, self.seed, window=self.window, rank=self.team.rank, ranks=self.team.ranks
        )  # fmt: skip
        read.load(read.state() | {"epoch": self.epoch, "row": self.row})
        for batch in read:
            self.row = read.row
            yield batch
        self.epoch, self.row = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """Where all processes are, as plain values: what is needed to go on."""
        return {"epoch": self.epoch, "row": self.row, **self._run()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises DataError when it is of another run."""
        self.epoch, self.row = resumed(state, self._run(), str(self.folder))

    def remove(self) -> None:
        """Take what was written away: a run that goes on writes it again."""
        if self.team.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> dict[str, Any]:
        names = ("units", "drawn", "batch_size", "seed", "window")
        return {name: getattr(self, name) for name in names} | {"ranks": self.team.ranks}

    def _write(self, place: Path) -> None:
        """This epoch's rows, unless they are there, and no other's: all have read those of the one before."""
        if not place.exists():
            assert self.source is not None
            assert self.sides is not None
            source = self.source.at_epoch(self.epoch)
            blocks = (np.arange(at, min(at + BLOCK, self.units)) for at in range(0, self.units, BLOCK))
            stream.write(
                place, (source.bare(rows) for rows in blocks), sides=self.sides(), whole=True, shard_bytes=SHARD_BYTES
            )
        for other in self.folder.iterdir():
            if other != place:
                shutil.rmtree(other)
