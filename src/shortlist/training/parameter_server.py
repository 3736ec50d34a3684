"""Parameter servers in one process: sparse tables sharded by a hash of the id, pulled and pushed by workers (Li et al.,
OSDI 2014; FTRL-proximal: McMahan et al., KDD 2013).

It says what the contract is and carries its proofs; tables larger than a machine are trained by `sharded.py`. A row is
made when it is first pushed: until then its value is a function of its id alone. N ids, D width, S servers, W workers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from shortlist.config import Count, NonNegative, Positive, frozen, plain
from shortlist.errors import ArtifactError
from shortlist.features.hashing import mix
from shortlist.training import checkpoints
from shortlist.training.checkpoints import Checkpoint, fingerprint

__all__ = ["ParameterServer", "learn"]

Ints = NDArray[np.int64]
EMPTY = np.zeros(0, dtype=np.int64)
NUMBERS = ("ids", "touched", "waiting", "met", "seen")


@dataclass
class _Shard:
    """Rows of one server: `ids` ascending, `rows` [n, D] and the state of each as they are ordered; ids that wait for
    admission, ascending, with how often they were met and when last."""

    ids: Ints
    rows: Tensor
    state: dict[str, Tensor]
    touched: Ints
    waiting: Ints = field(default_factory=EMPTY.copy)
    met: Ints = field(default_factory=EMPTY.copy)
    seen: Ints = field(default_factory=EMPTY.copy)

    def places(self, ids: Ints) -> Ints:
        """Where ids are, -1 where they have no row."""
        return _places(self.ids, ids)

    def add(self, ids: Ints, rows: Tensor, rule: str, now: int) -> None:
        """New ids, ascending, with their first rows."""
        order = np.argsort(np.concatenate([self.ids, ids]), kind="stable")
        at = torch.from_numpy(order)
        fresh = _start(rule, rows)
        self.ids = np.concatenate([self.ids, ids])[order]
        self.rows = torch.cat([self.rows, rows])[at]
        self.state = {n: t if not t.ndim else torch.cat([t, fresh[n]])[at] for n, t in self.state.items()}
        self.touched = np.concatenate([self.touched, np.full(len(ids), now)])[order]

    def keep(self, mask: NDArray[np.bool_]) -> None:
        at = torch.from_numpy(np.flatnonzero(mask))
        self.ids, self.rows, self.touched = self.ids[mask], self.rows[at], self.touched[mask]
        self.state = {name: t if not t.ndim else t[at] for name, t in self.state.items()}


class ParameterServer:
    """S servers and what W workers may do: `pull` rows, `push` gradients.

    `sync` applies the mean of the workers' gradients when all have pushed, and none goes on before; `async` applies
    each push as it comes; `bounded` does too, and lets no worker pull that is more than `bound` steps ahead of the
    slowest.
    """

    @frozen
    class Config:
        dim: Count
        servers: Count = 1
        mode: Literal["sync", "async", "bounded"] = "sync"
        bound: Annotated[int, Ge(0)] = 0  # steps that a worker may be ahead; of `bounded`
        rule: Literal["adagrad", "adam", "sgd", "ftrl"] = "adagrad"
        lr: Positive = 0.05
        l1: NonNegative = 0.0  # of ftrl
        l2: NonNegative = 0.0
        beta: NonNegative = 1.0  # of ftrl
        std: NonNegative = 0.01  # of first rows, normal; those of ftrl are 0
        admit: Count = 1  # times that an id is met before it has a row; its pulls are 0 until then
        expire: Annotated[int, Ge(0)] = 0  # steps without a push after which `sweep` takes a row away; 0: never
        seed: int = 0

    def __init__(self, config: Config, workers: int = 1) -> None:
        self.config, self.clock = config, 0
        self.clocks = np.zeros(workers, dtype=np.int64)  # pushes of each worker
        self.shards = [self._empty() for _ in range(config.servers)]
        self.pending: list[tuple[Ints, Tensor, Ints]] = []

    def ready(self, worker: int) -> bool:
        """Whether a worker may pull now, or waits for others."""
        ahead = int(self.clocks[worker] - self.clocks.min())
        return {"sync": ahead == 0, "async": True, "bounded": ahead <= self.config.bound}[self.config.mode]

    def pull(self, worker: int, ids: Ints) -> Tensor:
        """Rows [N, D] of ids >= 0, repeated as these are. Makes none."""
        self._check(worker)
        out = torch.empty(len(ids), self.config.dim)
        servers = self._server(ids)
        for number, shard in enumerate(self.shards):
            mine = np.flatnonzero(servers == number)
            place = shard.places(ids[mine])
            there = place >= 0
            out[torch.from_numpy(mine[there])] = shard.rows[torch.from_numpy(place[there])]
            out[torch.from_numpy(mine[~there])] = self._first(ids[mine[~there]])
        return out

    def push(self, worker: int, ids: Ints, grads: Tensor, met: Ints | None = None) -> None:
        """Gradients [N, D] of ids: those of an id are summed. `met` is how often an id was met, once where not said."""
        self._check(worker)
        met = np.ones(len(ids), dtype=np.int64) if met is None else met
        self.clocks[worker] += 1
        if self.config.mode != "sync":
            self._apply(ids, grads, met)
            return
        self.pending.append((ids, grads, met))
        if len(self.pending) == len(self.clocks):
            every, self.pending = self.pending, []
            grads = torch.cat([grad for _, grad, _ in every]) / len(every)
            self._apply(np.concatenate([part[0] for part in every]), grads, np.concatenate([p[2] for p in every]))

    def sweep(self) -> int:
        """Take away the rows that nobody pushed for longer than `expire` steps, with their state; how many."""
        if not self.config.expire:
            return 0
        gone = 0
        for shard in self.shards:
            young = self.clock - shard.touched <= self.config.expire
            gone += int((~young).sum())
            shard.keep(young)
            fresh = self.clock - shard.seen <= self.config.expire
            shard.waiting, shard.met, shard.seen = shard.waiting[fresh], shard.met[fresh], shard.seen[fresh]
        return gone

    def rows(self) -> tuple[Ints, Tensor]:
        """All ids that have a row, ascending, and the rows."""
        ids = np.concatenate([shard.ids for shard in self.shards])
        order = np.argsort(ids)
        return ids[order], torch.cat([shard.rows for shard in self.shards])[torch.from_numpy(order)]

    def save(self, folder: Path) -> None:
        """As a checkpoint: what each server has, its state, the workers' places. Raises ValueError amid a step."""
        if self.pending:
            raise ValueError(f"{len(self.pending)} of {len(self.clocks)} workers have pushed: save between two steps")
        tensors = {
            f"{n}/{name}": tensor for n, shard in enumerate(self.shards) for name, tensor in _tensors(shard).items()
        }
        run = {"clock": self.clock, "clocks": self.clocks.tolist()}
        checkpoints.save(folder, Checkpoint(self.clock, plain(self.config), self._mark(), run, tensors))

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises ArtifactError when it is not there, damaged, or of another
        configuration."""
        found = checkpoints.load(folder)
        if found is None:
            raise ArtifactError(
                "no servers were saved here", where=str(folder), hint="name the folder they were saved to"
            )
        checkpoints.check_same(found, plain(self.config), self._mark(), folder)
        self.clock, self.clocks = found.run["clock"], np.array(found.run["clocks"], dtype=np.int64)
        for n in range(len(self.shards)):
            table = {k.removeprefix(f"{n}/"): t for k, t in found.tensors.items() if k.startswith(f"{n}/")}
            state = {name.removeprefix("state/"): t for name, t in table.items() if name.startswith("state/")}
            numbers = {name: table[name].numpy() for name in NUMBERS}
            self.shards[n] = _Shard(rows=table["rows"], state=state, **numbers)

    # ------------------------------------------------------------------------------------------ a server

    def _mark(self) -> str:
        return fingerprint("parameter servers", len(self.clocks))

    def _empty(self) -> _Shard:
        rows = torch.zeros(0, self.config.dim)
        return _Shard(EMPTY.copy(), rows, _start(self.config.rule, rows), EMPTY.copy())

    def _check(self, worker: int) -> None:
        if not self.ready(worker):
            ahead = int(self.clocks[worker] - self.clocks.min())
            raise ValueError(f"worker {worker} is {ahead} steps ahead of the slowest: it waits")

    def _server(self, ids: Ints) -> Ints:
        return (mix(ids.view(np.uint64)) % np.uint64(len(self.shards))).astype(np.int64)

    def _first(self, ids: Ints) -> Tensor:
        """What ids without a row are [N, D]: normal numbers by a hash of (seed, id, place), or 0."""
        config = self.config
        if config.admit > 1 or config.rule == "ftrl":
            return torch.zeros(len(ids), config.dim)
        return self._normal(ids)

    def _normal(self, ids: Ints) -> Tensor:
        config = self.config
        seed = mix(np.array([config.seed], dtype=np.int64).view(np.uint64))
        places = np.arange(1, config.dim + 1, dtype=np.uint64)
        each = mix(np.add.outer(mix(ids.view(np.uint64) ^ seed), places))
        uniform = ((each >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        return torch.from_numpy((ndtri(uniform) * config.std).astype(np.float32))

    def _apply(self, ids: Ints, grads: Tensor, met: Ints) -> None:
        """One step of all servers, also of those that have none of the rows."""
        self.clock += 1
        servers = self._server(ids)
        for number, shard in enumerate(self.shards):
            mine = np.flatnonzero(servers == number)
            self._step(shard, ids[mine], grads[torch.from_numpy(mine)], met[mine])

    def _step(self, shard: _Shard, ids: Ints, grads: Tensor, met: Ints) -> None:
        from shortlist.training.rows import change, summed  # loads numba

        config = self.config
        distinct, index = np.unique(ids, return_inverse=True)
        new = shard.places(distinct) < 0
        times = np.bincount(index, weights=met, minlength=len(distinct)).astype(np.int64)
        admitted = self._admit(shard, distinct[new], times[new])
        if len(admitted):
            first = torch.zeros(len(admitted), config.dim) if config.rule == "ftrl" else self._normal(admitted)
            shard.add(admitted, first, config.rule, self.clock)
        place = shard.places(ids)
        # what made an id known was the gradient of a row that it did not have yet
        used = place >= 0 if config.admit == 1 else (place >= 0) & ~np.isin(ids, admitted)
        at = torch.from_numpy(np.flatnonzero(used))
        slots = torch.full((len(shard.ids),), -1, dtype=torch.int32)
        parts = summed(torch.from_numpy(place[used]), grads[at].contiguous(), slots, 1)
        if "step" in shard.state:
            shard.state["step"].fill_(self.clock - 1)
        if config.rule == "ftrl":
            for rows, grad in parts:
                shard.rows[rows] = ftrl(shard.state, shard.rows[rows], rows, grad, config)
        else:
            change(config.rule, shard.rows, shard.state, parts, config.lr, config.l2)
        shard.touched[place[place >= 0]] = self.clock

    def _admit(self, shard: _Shard, ids: Ints, times: Ints) -> Ints:
        """Those of new ids, ascending, that have now been met often enough; the others are counted."""
        place = _places(shard.waiting, ids)
        before = np.where(place >= 0, shard.met[place] if len(shard.met) else 0, 0)
        enough = before + times >= self.config.admit
        rest = ~np.isin(shard.waiting, ids)
        waiting = np.concatenate([shard.waiting[rest], ids[~enough]])
        order = np.argsort(waiting)
        shard.waiting = waiting[order]
        shard.met = np.concatenate([shard.met[rest], (before + times)[~enough]])[order]
        shard.seen = np.concatenate([shard.seen[rest], np.full((~enough).sum(), self.clock)])[order]
        return ids[enough]


def ftrl(state: dict[str, Tensor], w: Tensor, rows: Tensor, grad: Tensor, config: ParameterServer.Config) -> Tensor:
    """New values of distinct rows [N, D]. n += g^2, z += g - w (sqrt(n') - sqrt(n)) / lr, and w' = 0 where |z| <= l1,
    else -(z - sign(z) l1) / ((beta + sqrt(n')) / lr + l2)."""
    z, n = state["z"][rows], state["n"][rows]
    after = n + grad.square()
    z = z + grad - w * (after.sqrt() - n.sqrt()) / config.lr
    state["z"][rows], state["n"][rows] = z, after
    shrunk = z.sign() * (z.abs() - config.l1).clamp(min=0)
    return -shrunk / ((config.beta + after.sqrt()) / config.lr + config.l2)


def learn(server: ParameterServer, worker: int, ids: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """One step of a worker: each id pulled once, `loss` of the rows of all `ids` (any shape, + [D]), gradients summed
    per id and pushed. The loss."""
    from shortlist.training.rows import summed  # loads numba

    flat = ids.reshape(-1)
    distinct, inverse, met = torch.unique(flat, return_inverse=True, return_counts=True)
    rows = server.pull(worker, distinct.numpy())[inverse].requires_grad_()
    value = loss(rows.view(*ids.shape, -1))
    value.backward()
    grad = rows.grad
    assert grad is not None
    ((places, sums),) = summed(inverse, grad, torch.full((len(distinct),), -1, dtype=torch.int32), 1)
    server.push(worker, distinct[places].numpy(), sums, met[places].numpy())
    return float(value.detach())


def _start(rule: str, rows: Tensor) -> dict[str, Tensor]:
    """The state of new rows."""
    if rule == "adagrad":
        return {"sum": rows.new_zeros(len(rows))}
    names = {"adam": ("exp_avg", "exp_avg_sq"), "ftrl": ("z", "n")}.get(rule, ())
    step = {"step": torch.zeros(())} if rule == "adam" else {}
    return step | {name: torch.zeros_like(rows) for name in names}


def _tensors(shard: _Shard) -> Mapping[str, Tensor]:
    numbers = {name: torch.from_numpy(getattr(shard, name)) for name in NUMBERS}
    return {"rows": shard.rows, **numbers, **{f"state/{name}": t for name, t in shard.state.items()}}


def _places(ids: Ints, asked: Ints) -> Ints:
    """Where `asked` are among ids that ascend, -1 where they are not."""
    if not len(ids):
        return np.full(len(asked), -1)
    place = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
    return np.where(ids[place] == asked, place, -1)
