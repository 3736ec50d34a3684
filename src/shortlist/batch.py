"""Batch: the one thing models eat, in training and in serving alike.

R requests, B rows (candidates or examples), N either of them, F sparse fields, G dense fields, L steps of a sequence,
T tasks. What belongs to a request is held once per request; `request_of` [B] says which request a row belongs to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from shortlist.config import Count, Positive, frozen

__all__ = ["Batch", "Columns", "Group", "Layout", "Side", "Tables"]


@dataclass(frozen=True)
class Side:
    """What columns one side of a batch has: sparse column -> its vocabulary, dense names, groups as channel ->
    vocabulary, widths of vectors.
    """

    sparse: Mapping[str, str] = field(default_factory=dict)
    dense: tuple[str, ...] = ()
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    vecs: Mapping[str, int] = field(default_factory=dict)


@frozen
class Tables:
    """How embedding tables are kept (docs/decisions/tables.md); `models/blocks/embed.py` obeys it.

    A table of more than `sparse_above` numbers has a sparse gradient: update rules touch the rows of a batch alone. A
    vocabulary of more than `hash_above` values has that many rows, and an id is the sum of `hashes` of them. `widths`
    of tables: equal to the model's; by `root`, 6 n^power for n values; `mixed`, dim (n_least / n)^power, so that the
    largest vocabularies are the narrowest; both to the nearest power of two, at least `least`. An id that training has
    met fewer than `admit` times reads the row of the unknown. `serve` int8 keeps a released table as bytes with a scale
    a row.
    """

    sparse_above: Annotated[int, Ge(0)] = 1_000_000
    hash_above: Count | None = None
    hashes: Count = 2
    widths: Literal["equal", "root", "mixed"] = "equal"
    power: Positive | None = None  # None: 0.25 by root, 0.3 mixed
    least: Count = 4
    admit: Count = 1
    serve: Literal["float32", "int8"] = "float32"


@dataclass(frozen=True)
class Layout:
    """What a model is built for: the columns of requests and of rows, how many ids each vocabulary has (the two
    reserved ones included), and the tasks in the order of labels. Columns of one vocabulary share its embeddings,
    which are kept as `tables` says; `packed` when they are already bytes, for serving.
    """

    request: Side
    row: Side
    vocabularies: Mapping[str, int]
    tasks: tuple[str, ...] = ()
    tables: Tables = field(default_factory=Tables)
    packed: bool = False


@dataclass(frozen=True)
class Group:
    """Aligned channels of one sequence: each [N, L], right padded with 0, sharing `length` [N]."""

    length: Tensor
    channels: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = {name: tuple(channel.shape) for name, channel in self.channels.items()}
        first = next(iter(shapes.values()), (0, 0))
        if len(first) != 2 or any(shape != first for shape in shapes.values()):
            raise ValueError(f"channels of a group differ in shape: {shapes}")
        if any(shape[0] != len(self.length) for shape in shapes.values()):
            raise ValueError(f"{len(self.length)} lengths for channels of shape {shapes}")

    @property
    def mask(self) -> Tensor:
        """True where a step is real: bool [N, L]."""
        width = next(iter(self.channels.values())).shape[1]
        return torch.arange(width, device=self.length.device) < self.length[:, None]

    def take(self, index: Tensor) -> "Group":
        return Group(self.length[index], {name: channel[index] for name, channel in self.channels.items()})

    def to(self, device: torch.device | str) -> "Group":
        return Group(self.length.to(device), {name: channel.to(device) for name, channel in self.channels.items()})


@dataclass(frozen=True)
class Columns:
    """Features of N requests or rows: a long matrix [N, F], a float matrix [N, G], groups, vectors [N, D] by name."""

    sparse: Tensor
    dense: Tensor
    sparse_names: tuple[str, ...] = ()
    dense_names: tuple[str, ...] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    vecs: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for names, matrix in ((self.sparse_names, self.sparse), (self.dense_names, self.dense)):
            if matrix.ndim != 2 or matrix.shape[1] != len(names):
                raise ValueError(f"{len(names)} names for a matrix of shape {tuple(matrix.shape)}")
        n = len(self.sparse)
        lengths = [len(self.dense), *(len(g.length) for g in self.groups.values()), *map(len, self.vecs.values())]
        if any(length != n for length in lengths):
            raise ValueError(f"columns differ in length: {[n, *lengths]}")

    @classmethod
    def of(
        cls,
        n: int,
        sparse: Mapping[str, NDArray[np.int64]] | None = None,
        dense: Mapping[str, NDArray[Any]] | None = None,
        groups: Mapping[str, tuple[NDArray[np.int64], Mapping[str, NDArray[Any]]]] | None = None,
        vecs: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> "Columns":
        """From numpy columns of length n, in the order given; a group is (lengths [n], channels [n, L])."""
        sparse, dense = sparse or {}, dense or {}
        long_NF = np.stack(list(sparse.values()), axis=1) if sparse else np.zeros((n, 0))
        float_NG = np.stack(list(dense.values()), axis=1) if dense else np.zeros((n, 0))
        return cls(
            torch.from_numpy(long_NF.astype(np.int64, copy=False)),
            torch.from_numpy(float_NG.astype(np.float32, copy=False)),
            tuple(sparse),
            tuple(dense),
            {
                name: Group(
                    torch.from_numpy(length), {key: torch.from_numpy(channel) for key, channel in channels.items()}
                )
                for name, (length, channels) in (groups or {}).items()
            },
            {name: torch.from_numpy(vec) for name, vec in (vecs or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.sparse)

    def __getitem__(self, name: str) -> Tensor:
        """One sparse or dense column [N]. Raises KeyError naming what there is."""
        if name in self.sparse_names:
            return self.sparse[:, self.sparse_names.index(name)]
        if name in self.dense_names:
            return self.dense[:, self.dense_names.index(name)]
        raise KeyError(f"no column {name!r} among {[*self.sparse_names, *self.dense_names]}")

    def take(self, index: Tensor) -> "Columns":
        return replace(
            self,
            sparse=self.sparse[index],
            dense=self.dense[index],
            groups={name: group.take(index) for name, group in self.groups.items()},
            vecs={name: vec[index] for name, vec in self.vecs.items()},
        )

    def to(self, device: torch.device | str) -> "Columns":
        return replace(
            self,
            sparse=self.sparse.to(device),
            dense=self.dense.to(device),
            groups={name: group.to(device) for name, group in self.groups.items()},
            vecs={name: vec.to(device) for name, vec in self.vecs.items()},
        )

    def beside(self, other: "Columns") -> "Columns":
        """Both side by side, these first. Raises ValueError for a name in both."""
        mine = {*self.sparse_names, *self.dense_names, *self.groups, *self.vecs}
        shared = mine & {*other.sparse_names, *other.dense_names, *other.groups, *other.vecs}
        if shared:
            raise ValueError(f"columns on both sides: {sorted(shared)}")
        return Columns(
            torch.cat([self.sparse, other.sparse], dim=1),
            torch.cat([self.dense, other.dense], dim=1),
            self.sparse_names + other.sparse_names,
            self.dense_names + other.dense_names,
            {**self.groups, **other.groups},
            {**self.vecs, **other.vecs},
        )


@dataclass(frozen=True)
class Batch:
    """`request` columns [R, ...], `row` columns [B, ...], `request_of` [B] long.

    `now` [R] are the moments of the requests (ms), for objectives: no model reads them.

    For training: `labels` float [B, T] and `valid` bool [B, T] (whether a row carries a task's label) in the order of
    `tasks`, `weights` float [B], and `targets` long [B, L], what follows each step of a sequence (0: nothing).
    """

    request: Columns
    row: Columns
    request_of: Tensor
    tasks: tuple[str, ...] = ()
    labels: Tensor | None = None
    valid: Tensor | None = None
    weights: Tensor | None = None
    targets: Tensor | None = None
    now: Tensor | None = None

    def __post_init__(self) -> None:
        b = len(self.row)
        if self.now is not None and len(self.now) != len(self.request):
            raise ValueError(f"{len(self.now)} moments for {len(self.request)} requests")
        if self.request_of.shape != (b,):
            raise ValueError(f"request_of has shape {tuple(self.request_of.shape)} for {b} rows")
        for name in ("labels", "valid"):
            matrix: Tensor | None = getattr(self, name)
            if matrix is not None and matrix.shape != (b, len(self.tasks)):
                raise ValueError(f"{name} has shape {tuple(matrix.shape)} for {b} rows and {len(self.tasks)} tasks")
        for name in ("weights", "targets"):
            column: Tensor | None = getattr(self, name)
            if column is not None and len(column) != b:
                raise ValueError(f"{name} has {len(column)} entries for {b} rows")

    @classmethod
    def of(cls, request: Columns, row: Columns, request_of: NDArray[np.int64]) -> "Batch":
        """From columns and the request of each row [B]."""
        if len(request_of) and not 0 <= request_of.min() <= request_of.max() < len(request):
            raise ValueError(f"request_of names a request outside 0..{len(request) - 1}")
        return cls(request, row, torch.from_numpy(request_of))

    def __len__(self) -> int:
        """Rows B."""
        return len(self.row)

    def rows(self, start: int, stop: int) -> "Batch":
        """Rows start..stop with the requests they belong to."""
        return self.take(torch.arange(start, min(stop, len(self)), device=self.request_of.device))

    def take(self, index: Tensor) -> "Batch":
        """Rows by position, with just the requests they belong to, which keep their order."""
        used, request_of = torch.unique(self.request_of[index], return_inverse=True)
        return replace(
            self,
            request=self.request.take(used),
            row=self.row.take(index),
            request_of=request_of,
            labels=_pick(self.labels, index),
            valid=_pick(self.valid, index),
            weights=_pick(self.weights, index),
            targets=_pick(self.targets, index),
            now=_pick(self.now, used),
        )

    def expand(self) -> "Batch":
        """Request columns repeated for each row (R = B): for models that read both side by side."""
        ones = torch.arange(len(self), device=self.request_of.device)
        now = _pick(self.now, self.request_of)
        return replace(self, request=self.request.take(self.request_of), request_of=ones, now=now)

    def joined(self) -> Columns:
        """Request and row columns side by side, one line a row [B, ...]."""
        return self.expand().request.beside(self.row)

    def to(self, device: torch.device | str) -> "Batch":
        return replace(
            self,
            request=self.request.to(device),
            row=self.row.to(device),
            request_of=self.request_of.to(device),
            labels=_move(self.labels, device),
            valid=_move(self.valid, device),
            weights=_move(self.weights, device),
            targets=_move(self.targets, device),
            now=_move(self.now, device),
        )


def _pick(tensor: Tensor | None, index: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[index]


def _move(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
