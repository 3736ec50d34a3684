"""Data parallel training: processes that each read their share of every batch and take the same steps.

Gradients are averaged, those of tables row by row. The first process leads: it alone validates and writes, and what it
decides the others are told through a store of keys. A process that fails says why there; one that dies closes its
connections, and the others stop. W processes, T tables, N rows of a table, D width.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from shortlist.errors import ArtifactError, ConfigError, DataError, ProcessError, ShortlistError

__all__ = ["Team", "Alone", "Together", "lead", "follow", "started", "dismissed", "WORKER"]

WORKER = "shortlist.training.worker"  # what the other processes run
LOG = logging.getLogger("shortlist.training")
LOOK_S = 0.02  # between two looks whether a key is set
ENDED_S = 10.0  # to see how a process ended, and to let one end
LONELY = "lower processes, or look at what the process said before it ended"
ERRORS: dict[str, type[ShortlistError]] = {e.code: e for e in (ConfigError, DataError, ArtifactError, ProcessError)}


class Team(Protocol):
    """The processes of one training; `rank` 0 leads."""

    rank: int
    ranks: int

    def tell(self, key: str, value: Any) -> Any:
        """What the leader says under a key, to everybody: plain JSON values. The others wait for it, however long."""
        ...

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors what the leader's are."""
        ...

    def average(
        self, loss: Tensor, dense: Sequence[Tensor], tables: Sequence[Tensor], buffers: Sequence[Tensor]
    ) -> float:
        """Leave in the weights the mean of the processes' gradients, and in the buffers their mean; the mean loss."""
        ...

    def add(self, counts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Leave in counts [V], each beside what it was before, what all processes together have added."""
        ...

    def mean(self, number: Tensor) -> Tensor:
        """Of numbers without a gradient, over the processes."""
        ...


class Alone:
    """One process."""

    rank, ranks = 0, 1

    def tell(self, key: str, value: Any) -> Any:
        return value

    def same(self, tensors: Sequence[Tensor]) -> None:
        pass

    def average(
        self, loss: Tensor, dense: Sequence[Tensor], tables: Sequence[Tensor], buffers: Sequence[Tensor]
    ) -> float:
        return float(loss)

    def add(self, counts: Sequence[tuple[Tensor, Tensor]]) -> None:
        pass

    def mean(self, number: Tensor) -> Tensor:
        return number


@dataclass
class Together:
    """W processes on one process group. `children` are those that this one started."""

    rank: int
    ranks: int
    store: Store
    children: Sequence["subprocess.Popen[bytes]"] = ()
    told: set[str] = field(default_factory=set)

    def tell(self, key: str, value: Any) -> Any:
        if self.rank == 0:
            self.store.set(f"said/{key}", json.dumps(value))
            return value
        with self._calls():
            return json.loads(_awaited(self.store, f"said/{key}"))

    def same(self, tensors: Sequence[Tensor]) -> None:
        with self._calls(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def average(
        self, loss: Tensor, dense: Sequence[Tensor], tables: Sequence[Tensor], buffers: Sequence[Tensor]
    ) -> float:
        with self._calls(), torch.no_grad():
            total = self._flat(loss, dense, buffers)
            if tables:
                self._tables(tables)
            return total

    def add(self, counts: Sequence[tuple[Tensor, Tensor]]) -> None:
        with self._calls():
            for now, then in counts:
                at = (now != then).nonzero().squeeze(1)
                sizes = [torch.zeros(1, dtype=torch.long, device=at.device) for _ in range(self.ranks)]
                dist.all_gather(sizes, torch.tensor([len(at)], device=at.device))
                counted = [int(size) for size in sizes]
                ids, more = self._gathered(at, (now - then)[at], counted)
                now.copy_(then).index_add_(0, ids, more)

    def mean(self, number: Tensor) -> Tensor:
        with self._calls():
            total = number.detach().to(torch.float64, copy=True)
            dist.all_reduce(total)
            return (total / self.ranks).to(torch.float32)

    def _flat(self, loss: Tensor, dense: Sequence[Tensor], buffers: Sequence[Tensor]) -> float:
        """All that has the same shape everywhere, in one exchange; a weight that nobody has a gradient of has none."""
        has = torch.tensor([weight.grad is not None for weight in dense], dtype=loss.dtype, device=loss.device)
        grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in dense]
        parts = [loss.detach().reshape(1), has, *(t.reshape(-1).to(loss.dtype) for t in (*grads, *buffers))]
        sums = torch.cat(parts)
        dist.all_reduce(sums)
        sums /= self.ranks
        at = 1 + len(dense)
        for weight, seen in zip(dense, sums[1:at].tolist(), strict=True):
            if seen:
                weight.grad = sums[at : at + weight.numel()].view_as(weight).to(weight.dtype)
            at += weight.numel()
        for buffer in buffers:
            buffer.copy_(sums[at : at + buffer.numel()].view_as(buffer))
            at += buffer.numel()
        return float(sums[0])

    def _tables(self, tables: Sequence[Tensor]) -> None:
        """Rows that any process touched, summed where several did: as many numbers travel as rows were touched."""
        grads = [None if w.grad is None else w.grad.coalesce() if w.grad.is_sparse else w.grad for w in tables]
        sizes = [0 if g is None else g.indices().shape[1] if g.is_sparse else -1 for g in grads]
        mine = torch.tensor(sizes, device=tables[0].device)
        every = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(every, mine)
        sizes_WT = torch.stack(every)
        for n, (weight, grad) in enumerate(zip(tables, grads, strict=True)):
            counts = sizes_WT[:, n].tolist()
            if min(counts) < 0:  # somewhere every row has a gradient
                whole = torch.zeros_like(weight) if grad is None else grad.to_dense() if grad.is_sparse else grad
                dist.all_reduce(whole)
                weight.grad = whole / self.ranks
            elif max(counts):
                weight.grad = self._rows(weight, grad, counts)

    def _rows(self, weight: Tensor, grad: Tensor | None, counts: list[int]) -> Tensor:
        ids = weight.new_zeros(0, dtype=torch.long) if grad is None else grad.indices()[0]
        rows = weight.new_zeros(0, weight.shape[1]) if grad is None else grad.values()
        at, values = self._gathered(ids, rows, counts)
        mean = torch.sparse_coo_tensor(at.unsqueeze(0), values / self.ranks, weight.shape, check_invariants=False)
        return mean.coalesce()

    def _gathered(self, ids: Tensor, values: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """Ids and values [N, ...] of all processes one after the other, given how many each has."""
        most = max(counts)
        padded = [torch.cat([t, t.new_zeros(most - len(t), *t.shape[1:])]) for t in (ids, values)]
        out = []
        for mine in padded:
            every = [torch.empty_like(mine) for _ in counts]
            dist.all_gather(every, mine)
            out.append(torch.cat([part[:n] for part, n in zip(every, counts, strict=True)]))
        return out[0], out[1]

    @contextlib.contextmanager
    def _calls(self) -> Iterator[None]:
        """What libraries raise when a process is gone becomes what that process said, or that it is gone."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from None

    def _lost(self, error: RuntimeError) -> ShortlistError:
        until = time.monotonic() + ENDED_S
        while True:
            for rank in range(self.ranks):
                said = _said(self.store, f"failed/{rank}")
                if said is not None and rank != self.rank:
                    return _error(json.loads(said))
            for rank, child in enumerate(self.children, 1):
                if child.poll() is not None:
                    what = f"process {rank} of {self.ranks} ended{_how(child.returncode)}"
                    return ProcessError(what, where="training.processes", hint=LONELY)
            if not self.children or time.monotonic() > until:
                break
            time.sleep(0.05)
        what = f"the processes lost one another: {str(error).splitlines()[0]}"
        return ProcessError(what, where="training.processes", hint=LONELY)


@contextlib.contextmanager
def lead(processes: int, device: str, timeout_s: float, job: Mapping[str, Any]) -> Iterator[Team]:
    """The team of a training of so many processes, which are given the `job` (plain JSON values): those that torchrun
    started, else new ones on this machine. They end when this does. Raises ConfigError, ProcessError."""
    given = started()
    if processes == 1:
        if given is not None and given[1] > 1:
            LOG.warning("%d processes were started, this training takes one: write processes = %d", given[1], given[1])
        yield Alone()
        return
    if given is not None:
        rank, ranks = given
        if ranks != processes:
            what = f"{ranks} processes were started, processes says {processes}"
            raise ConfigError(what, where="training.processes", hint=f"write processes = {ranks}")
        store, number = _torchrun(), _count("jobs")
        store.set(f"job/{number}", json.dumps(job, allow_nan=False))
        own = PrefixStore(f"training/{number}", store)
        with _group(own, rank, ranks, device, timeout_s):
            yield Together(rank, ranks, own)
        return
    with _children(processes, timeout_s) as (store, children):
        own = PrefixStore("training/0", store)
        together = Together(0, processes, own, children)
        store.set("job/0", json.dumps(job, allow_nan=False))
        for rank in range(1, processes):
            with together._calls():
                _awaited(own, f"ready/{rank}", together.children)
        with _loopback(), _group(own, 0, processes, device, timeout_s):
            yield together


def follow(rank: int, ranks: int, port: int | None, work: Callable[[Mapping[str, Any], Team], None]) -> int:
    """The life of a process that does not lead: each job it is given, to the end; its exit status.

    Without a `port` the store is torchrun's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader is asked, and ends the others
    try:
        store = _torchrun() if port is None else TCPStore("127.0.0.1", port, None, False)
        for number in range(sys.maxsize):
            job = json.loads(_awaited(store, f"job/{number}"))
            if job is None:
                return 0
            own = PrefixStore(f"training/{number}", store)
            own.set(f"ready/{rank}", "")
            try:
                with _group(own, rank, ranks, job["device"], job["timeout_s"]):
                    work(job, Together(rank, ranks, own))
            except ShortlistError as error:
                own.set(f"failed/{rank}", json.dumps(_words(error)))
                raise
            if port is not None:
                return 0
    except (dist.DistError, ShortlistError):
        return 1  # the leader is gone, or was told why
    return 0


def started() -> tuple[int, int] | None:
    """Rank and number of the processes that torchrun started, this one among them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextlib.contextmanager
def dismissed() -> Iterator[None]:
    """After this the processes that torchrun started beside this one have nothing to wait for."""
    yield
    if started() is not None:
        _torchrun().set(f"job/{_count('jobs')}", json.dumps(None))


# ------------------------------------------------------------------------------------------ processes


_OF_TORCHRUN: dict[str, Any] = {}


def _torchrun() -> Store:
    """The store of torchrun, connected to once."""
    if "store" not in _OF_TORCHRUN:
        _OF_TORCHRUN["store"] = next(rendezvous("env://"))[0]
    store: Store = _OF_TORCHRUN["store"]
    return store


def _count(name: str) -> int:
    """0, 1, 2, ... of this process."""
    _OF_TORCHRUN[name] = _OF_TORCHRUN.get(name, -1) + 1
    return int(_OF_TORCHRUN[name])


@contextlib.contextmanager
def _children(processes: int, timeout_s: float) -> Iterator[tuple[Store, list["subprocess.Popen[bytes]"]]]:
    """New processes on this machine and the store they share with this one; they are ended at last."""
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=timeout_s), wait_for_workers=False)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    env |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # that a connection was closed is seen, and said once, by this one
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, processes):
            command = [sys.executable, "-m", WORKER, str(rank), str(processes), str(store.port)]
            children.append(
                subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            )  # fmt: skip
        yield store, children
        for child in children:
            child.wait(ENDED_S)
    except subprocess.TimeoutExpired:
        pass  # it is ended below: all its work is done
    finally:
        for child in children:
            child.kill()
            child.wait()


@contextlib.contextmanager
def _group(store: Store, rank: int, ranks: int, device: str, timeout_s: float) -> Iterator[None]:
    """torch's process group: nccl where each process has a GPU of its own, else gloo."""
    backend = "gloo"
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        backend = "nccl"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout_s))
    except RuntimeError as error:
        what = f"the processes did not meet: {str(error).splitlines()[0]}"
        raise ProcessError(what, where="training.processes", hint=LONELY) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Processes of one machine speak over its loopback interface, unless the environment says another."""
    name = "GLOO_SOCKET_IFNAME"
    if name in os.environ:
        yield
        return
    os.environ[name] = "lo0" if sys.platform == "darwin" else "lo"
    try:
        yield
    finally:
        del os.environ[name]


def _awaited(store: Store, key: str, children: Sequence["subprocess.Popen[bytes]"] = ()) -> bytes:
    """A key's value, once it is set. Raises RuntimeError when who sets it is gone."""
    while not store.check([key]):
        if any(child.poll() is not None for child in children):
            raise RuntimeError("a process ended before it began")
        time.sleep(LOOK_S)
    value: bytes = store.get(key)
    return value


def _said(store: Store, key: str) -> bytes | None:
    try:
        return store.get(key) if store.check([key]) else None
    except RuntimeError:
        return None  # the store is gone with its process


def _how(status: int) -> str:
    return f" by signal {signal.Signals(-status).name}" if status < 0 else f" with status {status}"


def _words(error: ShortlistError) -> dict[str, str]:
    return {"code": error.code, "what": error.what, "where": error.where, "hint": error.hint}


def _error(words: Mapping[str, str]) -> ShortlistError:
    kind = ERRORS.get(words["code"], ProcessError)
    return kind(words["what"], where=words["where"], hint=words["hint"])
