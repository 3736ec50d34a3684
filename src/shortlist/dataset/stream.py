"""Encoded examples on disk, read in a stream: Parquet shards with a schema and checksums, bounded memory.

Rows lie in row groups. The requests they belong to lie beside them and are read once for each row group with rows of
theirs; fields of users and items lie once in side tables, joined when a batch is made. What is held at a time is a
window of rows. What is shuffled and counted are rows, or, in a stream written `whole`, requests with all their rows.
n rows, W ranks.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.batch import Batch, Columns, Group
from shortlist.dataset.loader import ahead, check, cuts, resumed
from shortlist.errors import ConfigError, DataError

__all__ = ["Stream", "write", "concatenated", "FORMAT"]

FORMAT = 1
MANIFEST = "manifest.json"
SHARD_BYTES = 128 << 20
GROUP_ROWS = 32_768
AGAIN = "write the stream again"

Table = dict[str, Any]
Work = tuple[int, int, int, int]  # shard, group, and what of it from, to: rows, or requests


# ---------------------------------------------------------------------------------------------- write


def write(
    folder: str | Path,
    batches: Iterable[Batch],
    *,
    sides: Mapping[str, Columns] | None = None,
    whole: bool = False,
    shard_bytes: int = SHARD_BYTES,
    group_rows: int = GROUP_ROWS,
) -> int:
    """Write batches of one layout as shards, beside their place, and rename; the number of rows.

    A sparse column named in `sides` holds lines of that table: when read, it is replaced by the table's columns (see
    `Assembler.bare` and `Assembler.sides`). `whole` keeps the rows of a request together wherever it is read: they
    must lie so, in the order of the requests, each of which has one. A shard holds about `shard_bytes` as it lies in
    memory. Raises DataError when the folder is there already, when batches differ in their columns, and when there is
    no row.
    """
    folder, sides = Path(folder), sides or {}
    if folder.exists():
        raise DataError("there is something here already", where=str(folder), hint="name a new folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        manifest = _write(scratch, folder, iter(batches), sides, whole, shard_bytes, group_rows)
        manifest["seal"] = _seal(manifest)
        (scratch / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        scratch.chmod(0o755)
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # nothing is left here when it was renamed
    return int(manifest["rows"])


def _write(
    scratch: Path,
    folder: Path,
    batches: Iterator[Batch],
    sides: Mapping[str, Columns],
    whole: bool,
    shard_bytes: int,
    group_rows: int,
) -> Table:
    first = next(batches, None)
    columns = _described(first) if first else {}
    shards: list[Table] = []
    kept: list[Batch] = []
    size = 0
    for n, batch in enumerate(chain([first] if first else [], batches)):
        if _described(batch) != columns:
            raise DataError(
                f"batch {n} has other columns than the first", where=str(folder), hint="write batches of one layout"
            )
        if whole and not _together(batch.request_of, len(batch.request)):
            raise ValueError("rows of a request that is kept whole lie together, in the order of the requests")
        _check_sides(batch, sides, folder)
        kept.append(_narrow(batch))
        size += _bytes(kept[-1])
        if size >= shard_bytes:
            shards.append(_shard(scratch, len(shards), concatenated(kept), group_rows, whole))
            kept, size = [], 0
    if kept:
        shards.append(_shard(scratch, len(shards), concatenated(kept), group_rows, whole))
    rows = sum(group["rows"] for shard in shards for group in shard["groups"])
    if not rows:
        raise DataError("no row to write", where=str(folder), hint="check what the examples are made from")
    tables: Table = {}
    for name, table in sides.items():
        file = f"side-{len(tables)}.parquet"
        _frame(table).write_parquet(scratch / file)
        tables[name] = {"file": file, "sha256": _digest(scratch / file), "columns": _side(table)}
    return {"format": FORMAT, "rows": rows, "whole": whole, "columns": columns, "shards": shards, "sides": tables}


def _together(request_of: Tensor, requests: int) -> bool:
    """Whether rows lie in the order of the requests, each of which has one."""
    steps = request_of[1:] - request_of[:-1]
    ends = not requests or (len(request_of) > 0 and int(request_of[0]) == 0 and int(request_of[-1]) == requests - 1)
    return bool(ends and ((steps == 0) | (steps == 1)).all())


def _shard(scratch: Path, number: int, batch: Batch, group_rows: int, whole: bool) -> Table:
    """Write one shard: its rows, and its requests where these have columns.

    Where requests are whole, groups end where these do, and row groups on disk are smaller than they: of one more than
    a group little is read.
    """
    flat = not _width(batch.request)
    frame = _frame(batch.row)
    if whole or not flat:
        frame = frame.with_columns(pl.Series("#request", batch.request_of.int().numpy()))
    for name, matrix in (("label", batch.labels), ("valid", batch.valid)):
        if matrix is not None:
            frame = frame.with_columns(
                pl.Series(f"#{name}.{t}", matrix[:, n].numpy()) for n, t in enumerate(batch.tasks)
            )
    if batch.weights is not None:
        frame = frame.with_columns(pl.Series("#weight", batch.weights.numpy()))
    if batch.targets is not None:
        frame = frame.with_columns(pl.Series("#targets", batch.targets.numpy()))
    shard: Table = {"file": f"rows-{number:05d}.parquet", "requests": None, "groups": []}
    frame.write_parquet(scratch / shard["file"], row_group_size=max(group_rows // 8, 1) if whole else group_rows)
    shard["sha256"] = _digest(scratch / shard["file"])
    if not flat:
        shard["requests"] = f"requests-{number:05d}.parquet"
        _frame(batch.request).write_parquet(scratch / shard["requests"], row_group_size=max(group_rows // 8, 1))
        shard["requests_sha256"] = _digest(scratch / shard["requests"])
    for start, stop in pairwise(_edges(batch, group_rows, whole)):
        asked = batch.request_of[start:stop]
        low, high = (0, 0) if flat and not whole else (int(asked.min()), int(asked.max()) + 1)
        shard["groups"].append({"rows": len(asked), "low": low, "high": high})
    return shard


def _edges(batch: Batch, group_rows: int, whole: bool) -> list[int]:
    """Where groups begin and end, in rows."""
    if not whole:
        return [*range(0, len(batch), group_rows), len(batch)]
    starts = np.searchsorted(batch.request_of.numpy(), np.arange(len(batch.request)))
    first = np.unique(starts // group_rows, return_index=True)[1]
    return [*starts[first].tolist(), len(batch)]


def _described(batch: Batch) -> Table:
    """The columns of a batch as a plain table: its schema on disk."""
    return {
        "request": _side(batch.request),
        "row": _side(batch.row),
        "tasks": list(batch.tasks),
        "labels": batch.labels is not None,
        "valid": batch.valid is not None,
        "weights": batch.weights is not None,
        "targets": None if batch.targets is None else batch.targets.shape[1],
    }


def _side(columns: Columns) -> Table:
    groups = {
        name: {"channels": list(group.channels), "width": next(iter(group.channels.values())).shape[1]}
        for name, group in columns.groups.items()
    }
    vecs = {name: vec.shape[1] for name, vec in columns.vecs.items()}
    return {"sparse": list(columns.sparse_names), "dense": list(columns.dense_names), "groups": groups, "vecs": vecs}


def _width(columns: Columns) -> int:
    return len(columns.sparse_names) + len(columns.dense_names) + len(columns.groups) + len(columns.vecs)


def _check_sides(batch: Batch, sides: Mapping[str, Columns], folder: Path) -> None:
    for name, table in sides.items():
        held = [columns for columns in (batch.request, batch.row) if name in columns.sparse_names]
        if not held:
            raise DataError(f"no column {name!r} for its table", where=str(folder), hint="write bare batches")
        last = int(held[0][name].max()) if len(held[0]) else -1
        if last >= len(table):
            what = f"{name!r} names line {last}, its table has {len(table)}"
            raise DataError(what, where=str(folder), hint="take batches and tables from the same assembler")


def _frame(columns: Columns) -> pl.DataFrame:
    """Columns as a frame; sequences and vectors as arrays, one of width 0 left out."""
    series = [pl.Series(name, columns.sparse[:, n].numpy()) for n, name in enumerate(columns.sparse_names)]
    series += [pl.Series(name, columns.dense[:, n].numpy()) for n, name in enumerate(columns.dense_names)]
    for name, group in columns.groups.items():
        series.append(pl.Series(f"{name}#", group.length.numpy()))
        wide = {f"{name}#{channel}": steps.numpy() for channel, steps in group.channels.items() if steps.shape[1]}
        series += [pl.Series(full, steps) for full, steps in wide.items()]
    series += [pl.Series(name, vec.numpy()) for name, vec in columns.vecs.items() if vec.shape[1]]
    return pl.DataFrame(series)


# ----------------------------------------------------------------------------------------------- read


class Stream:
    """Batches of a written folder, one epoch each time it is iterated, as a `Loader` gives them: same ranks, same
    state, same way of going on.

    With `shuffle`, row groups come in a random order and `window` rows of them are mixed at a time; without, shards
    are read in turn, `interleave` at a time. The order is a function of (seed, epoch, window) alone. Each shard is
    checked against its sum when it is first read. A batch is `batch_size` rows, or requests where these are whole.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        prefetch: int = 2,
        drop_last: bool = False,
        *,
        window: int = 262_144,
        interleave: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Raises DataError for a folder that is missing, damaged or of another format, ConfigError for bad sizes."""
        check(batch_size, prefetch, rank, ranks)
        for name, value in (("window", window), ("interleave", interleave)):
            if value < 1:
                raise ConfigError(f"should be at least 1, got {value}", where=f"loader.{name}", hint="correct it")
        self.folder = Path(folder)
        self._manifest = _manifest(self.folder)
        self.whole = bool(self._manifest.get("whole", False))
        self.units = sum(self._units(group) for shard in self._manifest["shards"] for group in shard["groups"])
        if self.units < ranks:
            what = f"{self.units} {'requests' if self.whole else 'rows'} for {ranks} ranks"
            raise DataError(what, where=str(folder), hint="give more data, or start fewer ranks")
        self.batch_size, self.seed, self.shuffle, self.prefetch = batch_size, seed, shuffle, prefetch
        self.drop_last, self.window, self.interleave = drop_last, window, interleave
        self.rank, self.ranks = rank, ranks
        self.epoch, self.row = 0, 0
        self._checked: set[str] = set()
        self._sides = {name: self._table(entry) for name, entry in self._manifest["sides"].items()}

    @property
    def rows(self) -> int:
        """Rows of all ranks together."""
        return int(self._manifest["rows"])

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._cuts()) - 1

    def __iter__(self) -> Iterator[Batch]:
        edges = self._cuts()
        edges = edges[edges >= self.row]
        made = ahead(self._batches(edges), self.prefetch)
        with closing(made):
            for batch, stop in zip(made, edges[1:], strict=True):
                self.row = int(stop)  # before it is handed out: what is saved while it is worked on counts it
                yield batch
        self.epoch, self.row = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """Where this rank is, as plain values: what is needed to go on."""
        return {"epoch": self.epoch, "row": self.row, **self._run()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises DataError when it is of another run."""
        self.epoch, self.row = resumed(state, self._run(), str(self.folder))

    def _run(self) -> dict[str, Any]:
        names = ("seed", "batch_size", "shuffle", "drop_last", "window", "interleave", "rank", "ranks")
        return {name: getattr(self, name) for name in names} | {"data": self._manifest["seal"]}

    def _cuts(self) -> NDArray[np.int64]:
        return cuts(self.units, self.batch_size, self.rank, self.ranks, self.drop_last)

    def _units(self, group: Table) -> int:
        """What is counted of a group."""
        return int(group["high"] - group["low"] if self.whole else group["rows"])

    def _work(self) -> list[Work]:
        """What this rank reads, in order: its equal share of all groups one after the other."""
        shards = self._manifest["shards"]
        found = [(shard, group) for shard, s in enumerate(shards) for group in range(len(s["groups"]))]
        groups = [(shard // self.interleave, group, shard) for shard, group in found]
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(groups))
            groups = [groups[at] for at in order]
        else:
            groups.sort()
        share, more = divmod(self.units, self.ranks)
        low = self.rank * share + min(self.rank, more)
        high = low + share + (self.rank < more)
        work, start = [], 0
        for _, group, shard in groups:
            n = self._units(shards[shard]["groups"][group])
            a, b = max(low - start, 0), min(high - start, n)
            if a < b:
                work.append((shard, group, a, b))
            start += n
        return work

    def _batches(self, edges: NDArray[np.int64]) -> Generator[Batch, None, None]:
        """Batches between edges, from windows; one may lie across two of them."""
        if len(edges) < 2:
            return
        with closing(self._windows(int(edges[0]))) as windows:
            at, held = next(windows)
            for start, stop in pairwise(edges.tolist()):
                parts: list[Batch] = []
                while start < stop:
                    if start == at + len(held.order):
                        at, held = next(windows)
                    upto = min(stop, at + len(held.order))
                    parts.append(held.take(start - at, upto - at))
                    start = upto
                yield self._finished(concatenated(parts))

    def _windows(self, row: int) -> Generator[tuple[int, "_Window"], None, None]:
        """Windows from the one that holds `row` of this rank, each with the place of its first row."""
        pieces: list[list[Work]] = [[]]
        size = 0
        for piece in self._work():
            if size >= self.window:
                pieces.append([])
                size = 0
            pieces[-1].append(piece)
            size += self._rows(piece)
        sizes = [sum(piece[3] - piece[2] for piece in window) for window in pieces]
        starts = np.cumsum([0, *sizes])[:-1].tolist()
        first = int(np.searchsorted(starts, row, side="right")) - 1
        reads = ahead((self._read(piece) for window in pieces[first:] for piece in window), min(self.prefetch, 1))
        with closing(reads):
            for n in range(first, len(pieces)):
                batch = concatenated(list(islice(reads, len(pieces[n]))))
                order = np.arange(sizes[n])
                if self.shuffle:
                    np.random.default_rng([self.seed, self.epoch, self.rank, n]).shuffle(order)
                offsets = None
                if self.whole:
                    offsets = np.searchsorted(batch.request_of.numpy(), np.arange(sizes[n] + 1))
                yield starts[n], _Window(batch, order, offsets)

    def _rows(self, piece: Work) -> int:
        """Rows of a piece, about as many where it is a part of a group of whole requests."""
        group = self._manifest["shards"][piece[0]]["groups"][piece[1]]
        return int((piece[3] - piece[2]) * group["rows"] // self._units(group))

    def _read(self, piece: Work) -> Batch:
        """Rows of one group, with their requests; ids as narrow as they lie on disk."""
        number, group, low, high = piece
        shard, columns = self._manifest["shards"][number], self._manifest["columns"]
        start = sum(g["rows"] for g in shard["groups"][:group])
        first, last = shard["groups"][group]["low"], shard["groups"][group]["high"]
        if self.whole:
            first, last = first + low, first + high
            frame = self._open(shard["file"], shard["sha256"], start, shard["groups"][group]["rows"])
            inside = np.searchsorted(frame["#request"].to_numpy(), (first, last))
            frame = frame.slice(inside[0], inside[1] - inside[0])
        else:
            frame = self._open(shard["file"], shard["sha256"], start + low, high - low)
        row = _columns(frame, columns["row"])
        request_of = torch.arange(len(frame))
        if "#request" in frame.columns:
            request_of = torch.from_numpy(frame["#request"].to_numpy().astype(np.int64)) - first
        if shard["requests"] is None:
            asked = pl.DataFrame(height=last - first if self.whole else len(frame))
        else:
            asked = self._open(shard["requests"], shard["requests_sha256"], first, last - first)
        request = _columns(asked, columns["request"])
        tasks = columns["tasks"]
        labels = _matrix(frame, [f"#label.{t}" for t in tasks]).float() if columns["labels"] else None
        valid = _matrix(frame, [f"#valid.{t}" for t in tasks]).bool() if columns["valid"] else None
        weights = torch.from_numpy(frame["#weight"].to_numpy(writable=True)) if columns["weights"] else None
        targets = None if columns["targets"] is None else _wide(frame, "#targets", columns["targets"])
        return Batch(request, row, request_of, tuple(tasks), labels, valid, weights, targets)

    def _open(self, file: str, digest: str, start: int, rows: int | None) -> pl.DataFrame:
        """Rows of a file, which is checked before its first use."""
        path = self.folder / file
        if file not in self._checked:
            if not path.is_file():
                raise DataError("the file is missing", where=str(path), hint=AGAIN)
            if _digest(path) != digest:
                raise DataError("the file is damaged: its checksum differs", where=str(path), hint=AGAIN)
            self._checked.add(file)
        return pl.scan_parquet(path, glob=False).slice(start, rows).collect()

    def _table(self, entry: Table) -> Columns:
        columns = _columns(self._open(entry["file"], entry["sha256"], 0, None), entry["columns"])
        return _long(columns)

    def _finished(self, batch: Batch) -> Batch:
        """Ids wide, side tables joined."""
        return replace(
            batch,
            request=self._joined(_long(batch.request)),
            row=self._joined(_long(batch.row)),
            targets=None if batch.targets is None else batch.targets.long(),
        )

    def _joined(self, columns: Columns) -> Columns:
        for name, table in self._sides.items():
            if name not in columns.sparse_names:
                continue
            at = columns.sparse_names.index(name)
            found = table.take(columns.sparse[:, at])
            columns = Columns(
                torch.cat([columns.sparse[:, :at], found.sparse, columns.sparse[:, at + 1 :]], dim=1),
                torch.cat([found.dense, columns.dense], dim=1),
                (*columns.sparse_names[:at], *found.sparse_names, *columns.sparse_names[at + 1 :]),
                (*found.dense_names, *columns.dense_names),
                {**found.groups, **columns.groups},
                {**found.vecs, **columns.vecs},
            )
        return columns


@dataclass(frozen=True)
class _Window:
    """Rows in memory and the order they are handed out in: by row, or by request where these are whole: `offsets` then
    are where the rows of each begin, and the last end.
    """

    batch: Batch
    order: NDArray[np.int64]
    offsets: NDArray[np.int64] | None = None

    def take(self, start: int, stop: int) -> Batch:
        """The start-th to the stop-th."""
        rows = self.order[start:stop]
        if self.offsets is not None:
            low, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
            rows = np.arange(counts.sum()) + np.repeat(low - np.cumsum(counts) + counts, counts)
        return self.batch.take(torch.from_numpy(rows))


def _manifest(folder: Path) -> Table:
    file = folder / MANIFEST
    try:
        table = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError("no stream here", where=str(folder), hint="name a folder that `write` made") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the manifest cannot be read: {error}", where=str(file), hint=AGAIN) from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        found = table.get("format") if isinstance(table, dict) else None
        raise DataError(f"format {found!r}, this version reads {FORMAT}", where=str(file), hint=AGAIN)
    if table.get("seal") != _seal(table):
        raise DataError("the manifest is damaged: its checksum differs", where=str(file), hint=AGAIN)
    return table


def _columns(frame: pl.DataFrame, side: Table) -> Columns:
    groups = {}
    for name, entry in side["groups"].items():
        length = torch.from_numpy(frame[f"{name}#"].to_numpy(writable=True))
        channels = {channel: _wide(frame, f"{name}#{channel}", entry["width"]) for channel in entry["channels"]}
        groups[name] = Group(length, channels)
    return Columns(
        _matrix(frame, side["sparse"]),
        _matrix(frame, side["dense"]).float(),
        tuple(side["sparse"]),
        tuple(side["dense"]),
        groups,
        {name: _wide(frame, name, width).float() for name, width in side["vecs"].items()},
    )


def _matrix(frame: pl.DataFrame, names: list[str]) -> Tensor:
    """Columns as the lines of a matrix, which are gathered as a whole later."""
    if not names:
        return torch.zeros(len(frame), 0, dtype=torch.int32)
    return torch.from_numpy(frame.select(names).to_numpy(order="c", writable=True))


def _wide(frame: pl.DataFrame, name: str, width: int) -> Tensor:
    if not width:
        return torch.zeros(len(frame), 0, dtype=torch.int32)
    return torch.from_numpy(frame[name].to_numpy(writable=True))


# -------------------------------------------------------------------------------------------- batches


def concatenated(batches: list[Batch]) -> Batch:
    """Batches of the same columns, one after the other."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    starts = np.cumsum([0, *(len(b.request) for b in batches)])[:-1].tolist()
    return Batch(
        _stacked([b.request for b in batches]),
        _stacked([b.row for b in batches]),
        torch.cat([b.request_of + start for b, start in zip(batches, starts, strict=True)]),
        first.tasks,
        *(
            None if getattr(first, name) is None else torch.cat([getattr(b, name) for b in batches])
            for name in ("labels", "valid", "weights", "targets")
        ),
    )


def _stacked(sides: list[Columns]) -> Columns:
    first = sides[0]
    groups = {
        name: Group(
            torch.cat([s.groups[name].length for s in sides]),
            {c: torch.cat([s.groups[name].channels[c] for s in sides]) for c in group.channels},
        )
        for name, group in first.groups.items()
    }
    return replace(
        first,
        sparse=torch.cat([s.sparse for s in sides]),
        dense=torch.cat([s.dense for s in sides]),
        groups=groups,
        vecs={name: torch.cat([s.vecs[name] for s in sides]) for name in first.vecs},
    )


def _narrow(batch: Batch) -> Batch:
    """Whole numbers in half the room where they fit."""
    targets = None if batch.targets is None else _int(batch.targets)
    return replace(batch, request=_ints(batch.request), row=_ints(batch.row), targets=targets)


def _ints(columns: Columns) -> Columns:
    groups = {
        name: Group(group.length, {c: _int(steps) for c, steps in group.channels.items()})
        for name, group in columns.groups.items()
    }
    return replace(columns, sparse=_int(columns.sparse), groups=groups)


def _int(numbers: Tensor) -> Tensor:
    fits = not numbers.numel() or (int(numbers.max()) < 2**31 and int(numbers.min()) >= -(2**31))
    return numbers.int() if fits else numbers


def _long(columns: Columns) -> Columns:
    groups = {
        name: Group(group.length.long(), {c: steps.long() for c, steps in group.channels.items()})
        for name, group in columns.groups.items()
    }
    return replace(columns, sparse=columns.sparse.long(), groups=groups)


def _bytes(batch: Batch) -> int:
    sides = (batch.request, batch.row)
    parts = [t for c in sides for t in (c.sparse, c.dense, *c.vecs.values())]
    parts += [t for c in sides for g in c.groups.values() for t in (g.length, *g.channels.values())]
    parts += [t for t in (batch.labels, batch.valid, batch.weights, batch.targets) if t is not None]
    return sum(t.nbytes for t in parts)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(table: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in table.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()
