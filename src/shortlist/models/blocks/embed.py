"""One embedding table for all fields of a width, with offsets by vocabulary: one gather a batch.

N requests or rows, F fields, L steps, D width, K hashes. Id 0 of every vocabulary is one shared row that is zero and
stays zero. `Layout.tables` says what else there is: rows shared by hash (Svenstrup, Hansen, Winther, NIPS 2017,
arXiv:1709.03933), tables of several widths (Ginart et al., ISIT 2021, arXiv:1909.11810), admission by count, bytes.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Columns, Group, Layout, Side, Tables

__all__ = ["Embed", "Packed", "packed", "width_of"]

FIRST = 2  # ids 0 (padding) and 1 (unknown) come before values
PRIME = (1 << 31) - 1
ROOT, SCALE, MIXED = 0.25, 6, 0.3


@dataclass(frozen=True)
class Words:
    """Where a vocabulary lies: `shift` + id is a row of the table of its `width`, `count` + id a place in the counts.

    With `buckets` only id 1 has a row of its own; behind it come the buckets, and `keys` are (a, b) of each hash.
    """

    width: int
    shift: int
    count: int
    buckets: int = 0
    keys: tuple[tuple[int, int], ...] = ()


class Embed(nn.Module):
    """Vectors of the ids of a batch. Columns of one vocabulary share rows: history and target speak of the same items.

    `sparse` says whether gradients are; None leaves it to the layout's tables. `table` is the widest; others, and the
    maps of all that are narrower than D, are by width in `narrow` and `maps`.
    """

    def __init__(self, layout: Layout, dim: int, *, std: float = 0.01, sparse: bool | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.vocabularies = dict(layout.vocabularies)
        tables = layout.tables
        least = min((size - FIRST for size in layout.vocabularies.values() if size > FIRST), default=1)
        self.words: dict[str, Words] = {}
        rows: dict[int, int] = {}
        count = 1
        for name, size in layout.vocabularies.items():
            wide = width_of(tables, dim, size - FIRST, least)
            at = rows.setdefault(wide, 1)
            buckets = tables.hash_above if tables.hash_above is not None and size - FIRST > tables.hash_above else 0
            keys = tuple(_key(name, k) for k in range(tables.hashes)) if buckets else ()
            # id 1, unknown, is the first of its own rows
            self.words[name] = Words(wide, at - 1, count - 1, buckets, keys)
            rows[wide] += 1 + buckets if buckets else size - 1
            count += size - 1
        self.widest = max(rows, default=dim)
        made = {wide: _table(n, wide, std, sparse, layout) for wide, n in (rows or {dim: 1}).items()}
        self.table = cast(nn.Embedding, made.pop(self.widest))  # or what is asked as one
        self.narrow = nn.ModuleDict({str(wide): table for wide, table in made.items()})
        self.maps = nn.ModuleDict({str(wide): nn.Linear(wide, dim, bias=False) for wide in rows if wide < dim})
        with torch.no_grad():  # vectors begin alike: mapped ones, and sums of rows
            for name, matrix in self.maps.items():
                nn.init.normal_(matrix.get_parameter("weight"), std=int(name) ** -0.5)
            for part in self.words.values() if not layout.packed else ():
                weight = self._of(part.width).get_parameter("weight")
                weight[part.shift + FIRST :][: part.buckets] *= max(1, len(part.keys)) ** -0.5
        self.admit = tables.admit
        self.counts: Tensor | None
        self.register_buffer("counts", torch.zeros(count, dtype=torch.int32) if tables.admit > 1 else None)

    def ids(self, vocabulary: str, ids: Tensor) -> Tensor:
        """Rows of the vocabulary's table, any shape, for ids that have a row each."""
        words = self.words[vocabulary]
        assert not words.buckets, "an id of this vocabulary is several rows: ask for vectors"
        return torch.where(ids > 0, ids + words.shift, 0)

    def forward(self, columns: Columns, side: Side, names: Sequence[str] | None = None) -> Tensor:
        """Vectors of sparse columns [N, F, D], of `names` or of all, in their order."""
        names = columns.sparse_names if names is None else tuple(names)
        at = [columns.sparse_names.index(name) for name in names]
        ids = columns.sparse if names == columns.sparse_names else columns.sparse[:, at]
        return self.vectors(ids, [side.sparse[name] for name in names])

    def group(self, group: Group, side: Side, name: str, channels: Sequence[str] | None = None) -> Tensor:
        """Vectors of the channels of a group [N, L, C, D]; steps behind the length are zero."""
        words = side.groups[name]
        names = list(group.channels) if channels is None else list(channels)
        ids = torch.stack([group.channels[channel] for channel in names], dim=-1) * group.mask.unsqueeze(-1)
        return self.vectors(ids, [words[channel] for channel in names])

    def pooled(self, group: Group, side: Side, name: str) -> Tensor:
        """Mean of a group's steps [N, C * D]; an empty one is zero."""
        vectors = self.group(group, side, name).flatten(2)
        return vectors.sum(dim=1) / group.length.clamp(min=1).unsqueeze(1)

    def vectors(self, ids: Tensor, vocabularies: Sequence[str]) -> Tensor:
        """Vectors [..., F, D] of ids [..., F], the f-th of a vocabulary each. Counts the ids while it trains."""
        words = [self.words[name] for name in vocabularies]
        if not words:
            none: Tensor = self.table(ids)
            return none.new_zeros(*ids.shape, self.dim)
        if self.counts is not None:
            ids = self._admitted(ids, words, self.counts)
        parts, order = [], []
        for wide, hashed in sorted({(part.width, bool(part.buckets)) for part in words}):
            at = [n for n, part in enumerate(words) if (part.width, bool(part.buckets)) == (wide, hashed)]
            mine, some = [words[n] for n in at], ids if len(at) == len(words) else ids[..., at]
            table = self._of(wide)
            vectors: Tensor = table(_hashed(some, mine)).sum(dim=-2) if hashed else table(_placed(some, mine))
            parts.append(self.maps[str(wide)](vectors) if wide < self.dim else vectors)
            order += at
        if len(parts) == 1:
            return parts[0]
        back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=ids.device)
        return torch.cat(parts, dim=-2).index_select(-2, back)

    def _of(self, wide: int) -> nn.Module:
        return self.table if wide == self.widest else self.narrow[str(wide)]

    def _admitted(self, ids: Tensor, words: Sequence[Words], counts: Tensor) -> Tensor:
        """The same ids, but 1 where one has been met too rarely. An id's own row opens with the batch in which its
        count is full, for all its places there; it is counted no further then."""
        shift = torch.tensor([part.count for part in words], dtype=torch.long, device=ids.device)
        at = torch.where(ids > 0, ids + shift, 0)
        if self.training and torch.is_grad_enabled():
            rare = at[(counts[at] < self.admit) & (at > 0)]
            counts.index_add_(0, rare, torch.ones_like(rare, dtype=counts.dtype))
        return torch.where(counts[at] < self.admit, ids.clamp(max=1), ids)


def _table(rows: int, width: int, std: float, sparse: bool | None, layout: Layout) -> nn.Module:
    if layout.packed:
        return Packed(rows, width)
    many = rows * width > layout.tables.sparse_above if sparse is None else sparse
    table = Table(rows, width, padding_idx=0, sparse=many)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0] = 0
    return table


class Table(nn.Embedding):
    """torch's, but a sparse gradient is what came in: entries of padding are looked for only where there are any."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.sparse and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return super().forward(input)
        out: Tensor = Rows.apply(self.weight, input)  # type: ignore[no-untyped-call]
        return out


class Rows(torch.autograd.Function):
    """Rows [..., D] of a table [V, D] with a gradient of these rows alone, repeats as they are."""

    @staticmethod
    def forward(weight: Tensor, rows: Tensor) -> Tensor:
        return functional.embedding(rows, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        weight, rows = inputs
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows = ctx.saved_tensors[0].reshape(-1)
        values, real = grad.reshape(-1, ctx.shape[1]), rows != 0
        if not bool(real.all()):
            rows, values = rows[real], values[real]
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, ctx.shape, check_invariants=False), None


class Packed(nn.Module):
    """A table for serving: rows of bytes [V, D], and what a byte is worth in each [V]. Only rows asked for become
    numbers."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.bytes: Tensor
        self.scale: Tensor
        self.register_buffer("bytes", torch.zeros(rows, width, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(rows))

    def forward(self, rows: Tensor) -> Tensor:
        return self.bytes[rows].to(self.scale.dtype) * self.scale[rows].unsqueeze(-1)


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [V, D] as bytes and the scale [V] of each: the largest of a row is 127, the rest to the nearest. What comes
    back differs from a number by at most half a scale."""
    scale = weight.abs().amax(dim=1) / 127
    return (weight / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).round().to(torch.int8), scale


def width_of(tables: Tables, dim: int, values: int, least: int) -> int:
    """Width of the table of a vocabulary of some `values`, where the smallest has `least` of them: at most dim."""
    if tables.widths == "equal":
        return dim
    n = max(values, 1)
    if tables.widths == "root":
        wanted = SCALE * n ** (tables.power or ROOT)
    else:
        wanted = dim * (max(least, 1) / n) ** (tables.power or MIXED)
    return min(dim, max(tables.least, 1 << max(0, round(math.log2(wanted)))))


def _placed(ids: Tensor, words: Sequence[Words]) -> Tensor:
    """Rows [..., F] of ids [..., F] that have a row each."""
    shift = torch.tensor([part.shift for part in words], dtype=torch.long, device=ids.device)
    return torch.where(ids > 0, ids + shift, 0)


def _hashed(ids: Tensor, words: Sequence[Words]) -> Tensor:
    """Rows [..., F, K] of ids [..., F] that share them: of the unknown its own row, and nothing else."""
    keys = torch.tensor([part.keys for part in words], device=ids.device)
    shift, buckets = (
        torch.tensor(column, device=ids.device).unsqueeze(1)
        for column in zip(*((part.shift, part.buckets) for part in words), strict=True)
    )
    ids = ids.unsqueeze(-1)
    # below 2^31 each: the product stays below 2^62
    shared = (ids * keys[..., 0] + keys[..., 1]) % PRIME % buckets + shift + FIRST
    own = torch.zeros_like(shared)
    own[..., :1] = torch.where(ids > 0, ids + shift, 0)
    return torch.where(ids >= FIRST, shared, own)


def _key(vocabulary: str, k: int) -> tuple[int, int]:
    """(a, b) of the k-th hash ((a x + b) mod p) mod buckets (Carter, Wegman, JCSS 1979): the same in every process."""
    digest = hashlib.sha256(f"{vocabulary}/{k}".encode()).digest()
    a, b = (int.from_bytes(part, "little") for part in (digest[:8], digest[8:16]))
    return 1 + a % (PRIME - 1), b % PRIME
