"""The sample pipeline on disk (the stable hash is tested with the encoders)."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.batch import Batch, Columns
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.dataset.stream import Stream, write
from shortlist.errors import ConfigError, DataError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.schema import Catalogue, Profiles, Schema

NOW = 1_700_000_000_000


def full(n: int, requests: int, seed: int = 0) -> Batch:
    """A batch with every kind of feature: rows of a request apart from each other, widths of nothing, large ids."""
    rng = np.random.default_rng(seed)
    length = rng.integers(0, 4, requests)
    steps = {c: rng.integers(2, 99, (requests, 3)) for c in ("item", "age")}
    request = Columns.of(
        requests,
        {"user.id": rng.integers(2, 2**40, requests)},
        {"user.age": rng.random(requests)},
        {"history": (length, steps), "none": (length * 0, {"value": np.zeros((requests, 0), dtype=np.int64)})},
        {"user.vec": rng.random((requests, 2), dtype=np.float32)},
    )
    row = Columns.of(
        n,
        {"item.id": rng.integers(0, 50, n), "number": np.arange(n)},
        {"price": rng.random(n), "recall.hot": rng.random(n)},
        {"item.tags": (rng.integers(0, 3, n), {"value": rng.integers(2, 9, (n, 2))})},
        {"item.vec": rng.random((n, 4), dtype=np.float32), "flat": np.zeros((n, 0), dtype=np.float32)},
    )
    request_of = np.concatenate([np.arange(requests), rng.integers(0, requests, n - requests)])
    labels, valid = torch.from_numpy(rng.random((n, 2), dtype=np.float32)), torch.from_numpy(rng.random((n, 2)) < 0.5)
    weights, targets = torch.from_numpy(rng.random(n, dtype=np.float32)), torch.from_numpy(rng.integers(0, 9, (n, 3)))
    return Batch(request, row, torch.from_numpy(request_of), ("click", "like"), labels, valid, weights, targets)


def flat(n: int, start: int = 0) -> Batch:
    """Rows without requests, that hold their own number."""
    return Batch.of(Columns.of(n), Columns.of(n, {"number": np.arange(start, start + n)}), np.arange(n))


def everything(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor by name, as seen from the rows."""
    seen = batch.expand()
    found: dict[str, torch.Tensor] = {}
    for side, columns in (("request", seen.request), ("row", seen.row)):
        found |= {f"{side}.{name}": columns[name] for name in (*columns.sparse_names, *columns.dense_names)}
        found |= {f"{side}.{name}": vec for name, vec in columns.vecs.items()}
        for name, group in columns.groups.items():
            found[f"{side}.{name}#"] = group.length
            found |= {f"{side}.{name}#{channel}": steps for channel, steps in group.channels.items()}
    optional = {name: getattr(batch, name) for name in ("labels", "valid", "weights", "targets")}
    return found | {name: tensor for name, tensor in optional.items() if tensor is not None}


def same(one: Batch, other: Batch) -> None:
    a, b = everything(one), everything(other)
    assert list(a) == list(b)
    assert one.tasks == other.tasks
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), name


def numbers(batches: Iterable[Batch]) -> list[int]:
    return [number for batch in batches for number in batch.row["number"].tolist()]


def parts(total: int, size: int) -> Iterator[Batch]:
    return (flat(min(size, total - start), start) for start in range(0, total, size))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    batch = full(40, 9)
    assert write(tmp_path / "s", [batch], group_rows=7) == 40
    (read,) = Stream(tmp_path / "s", 40, 0, shuffle=False)
    same(read, batch)
    write(tmp_path / "whole", [batch])
    (read,) = Stream(tmp_path / "whole", 40, 0)
    assert len(read.request) == 9  # in one row group a request is there once, however many its rows


def test_batches_are_cut_anywhere(tmp_path: Path) -> None:
    first, second = full(40, 9), full(23, 23, seed=1)
    write(tmp_path / "s", [first, second], group_rows=16, shard_bytes=1)
    read = list(Stream(tmp_path / "s", 25, 0, shuffle=False, window=1))
    assert [len(batch) for batch in read] == [25, 25, 13]
    wanted = {name: torch.cat([t, everything(second)[name]]) for name, t in everything(first).items()}
    for name, tensor in wanted.items():
        assert torch.equal(torch.cat([everything(batch)[name] for batch in read]), tensor), name
    assert all(len(batch.request) <= len(batch) for batch in read)


def test_shuffled_rows_keep_what_is_theirs(tmp_path: Path) -> None:
    batch = full(60, 11)
    write(tmp_path / "s", [batch], group_rows=8)
    for read in Stream(tmp_path / "s", 13, 5, window=30):
        same(read, batch.take(read.row["number"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 0..99 in five shards of 20, in row groups of 8, 8 and 4."""
    folder = tmp_path_factory.mktemp("stream") / "rows"
    write(folder, parts(100, 20), group_rows=8, shard_bytes=1)
    return folder


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 40),
    window=st.integers(1, 120),
    ranks=st.integers(1, 6),
    shuffle=st.booleans(),
    interleave=st.integers(1, 6),
)
def test_ranks_see_each_row_once(
    folder: Path, size: int, window: int, ranks: int, shuffle: bool, interleave: int
) -> None:
    readers = [
        Stream(folder, size, 0, shuffle, 0, window=window, interleave=interleave, rank=r, ranks=ranks)
        for r in range(ranks)
    ]
    seen = [list(reader) for reader in readers]
    assert sorted(number for batches in seen for number in numbers(batches)) == list(range(100))
    assert {len(batches) for batches in seen} == {len(readers[0])}
    assert all(1 <= len(batch) <= size + (ranks > 1) for batches in seen for batch in batches)


def test_not_shuffled_is_in_order_and_shards_take_turns(folder: Path) -> None:
    assert numbers(Stream(folder, 9, 0, shuffle=False)) == list(range(100))
    turns = numbers(Stream(folder, 9, 0, shuffle=False, interleave=2))
    # the first row groups of shards 0 and 1, then the second ones, the third ones; then shards 2 and 3; then 4
    assert turns[:32] == [*range(8), *range(20, 28), *range(8, 16), *range(28, 36)]
    assert turns[32:48] == [*range(16, 20), *range(36, 40), *range(40, 48)]
    assert turns[80:] == list(range(80, 100))


def test_interleaving_one_shard_is_sequential(tmp_path: Path) -> None:
    write(tmp_path / "one", parts(50, 50), group_rows=8)
    assert numbers(Stream(tmp_path / "one", 9, 0, shuffle=False, interleave=4)) == list(range(50))


def test_epochs_differ_and_a_seed_repeats_them(folder: Path) -> None:
    one, same = Stream(folder, 9, 1, window=40), Stream(folder, 9, 1, window=40, prefetch=0)
    epochs = [numbers(one), numbers(one)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert [numbers(same), numbers(same)] == epochs
    assert numbers(Stream(folder, 9, 2, window=40)) != epochs[0]
    # windows mix row groups: the first batch of 9 is of more groups than the two it would lie in
    assert len({number // 8 for number in numbers(Stream(folder, 9, 1, window=100))[:9]}) > 2


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 40),
    window=st.integers(1, 120),
    stop=st.integers(0, 100),
    prefetch=st.sampled_from([0, 2]),
    ranks=st.integers(1, 3),
)
def test_resumed_is_uninterrupted(folder: Path, size: int, window: int, stop: int, prefetch: int, ranks: int) -> None:
    def fresh() -> Stream:
        return Stream(folder, size, 7, prefetch=prefetch, window=window, rank=ranks - 1, ranks=ranks)

    whole = fresh()
    expected = [numbers([batch]) for _ in range(2) for batch in whole]
    stop = min(stop, len(expected) - 1)
    killed, seen = fresh(), list[list[int]]()
    while len(seen) < stop:
        for batch in killed:
            seen.append(numbers([batch]))
            if len(seen) == stop:
                break
    resumed = fresh()
    resumed.load(json.loads(json.dumps(killed.state())))
    while len(seen) < len(expected):
        seen += [numbers([batch]) for batch in resumed]
    assert seen[: len(expected)] == expected


def test_leaving_early_ends_the_threads(folder: Path) -> None:
    before = set(threading.enumerate())
    for _ in Stream(folder, 3, 0, window=10):
        break
    assert set(threading.enumerate()) <= before


# ------------------------------------------------------------------------------------------ side tables


def test_side_tables_are_joined_not_written_out(tmp_path: Path) -> None:
    schema = Schema.parse(
        {
            "users": {"city": "sparse", "age": "dense", "likes": {"kind": "varlen", "vocab": "tag"}},
            "items": {
                "category": "sparse", "published": "time", "price": "dense", "words": {"kind": "dense", "buckets": 3},
                "tags": {"kind": "varlen", "vocab": "tag"}, "look": "vec",
            },
            "context": {"region": "sparse", "hour": "dense"},
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    cities, likes = [f"c{n % 3}" for n in range(8)], [["a"], None] * 4
    users = pl.DataFrame({"key": range(8), "city": cities, "age": rng.random(8), "likes": likes})
    items = pl.DataFrame(
        {
            "key": range(20), "category": [f"k{n % 4}" for n in range(20)], "price": rng.random(20), "words": range(20),
            "published": [NOW - n * 10**8 for n in range(20)], "tags": [["a", "b"], []] * 10,
            "look": [[float(n), 1.0] for n in range(20)],
        }
    )  # fmt: skip
    catalogue = Catalogue(Profiles.from_frame(users), Profiles.from_frame(items))
    context = {"region": np.array(["n", "s"]), "hour": np.array([1.0, 5.0])}
    known = np.arange(15)  # items 15..19 have a profile that training never met
    make = Assembler(schema, Encoders.fit(schema, catalogue, np.arange(6), known, context), catalogue, history=4)
    none, asked = Ragged.empty(3), {"region": np.array(["n", "x", "s"]), "hour": np.array([3.0, np.nan, 1.0])}
    history = Ragged.of(np.array([0, 2, 2, 3]), np.array([3, 18, 4]))
    requests = Requests(np.array([2, 7, 99]), np.full(3, NOW), 5, history, none, none, asked)
    rank = np.array([[1], [2], [0], [1], [3]], dtype=np.int32)
    candidates = Candidates(
        np.array([0, 2, 3, 5]), np.array([0, 16, 5, 77, 3]), ("hot",), rank, rank.astype(np.float32), {},
        np.zeros(5, dtype=np.int16),
    )  # fmt: skip
    write(tmp_path / "s", [make.bare(requests, candidates)], sides=make.sides())
    (read,) = Stream(tmp_path / "s", 5, 0, shuffle=False)
    same(read, make(requests, candidates))
    kept = {*pl.read_parquet_schema(tmp_path / "s" / "rows-00000.parquet")}
    table = make.sides()["item.row"]
    assert not kept & {*table.sparse_names, *table.dense_names, *table.groups, *table.vecs}
    assert {"item.id", "item.row", "item.published", "recall.hot", "#request"} <= kept


def test_a_line_that_a_side_table_has_not(tmp_path: Path) -> None:
    table = Columns.of(2, {"item.category": np.array([2, 3])})
    batch = Batch.of(Columns.of(1), Columns.of(1, {"item.row": np.array([2])}), np.array([0]))
    hint = "take batches and tables from the same assembler"
    for sides, message in (
        ({"item.row": table}, f"'item.row' names line 2, its table has 2 ({hint})"),
        ({"user.row": table}, "no column 'user.row' for its table (write bare batches)"),
    ):
        with pytest.raises(DataError) as caught:
            write(tmp_path / "s", [batch], sides=sides)
        assert str(caught.value) == f"{tmp_path / 's'}: {message}"
    assert list(tmp_path.iterdir()) == []  # nothing half made is left


# --------------------------------------------------------------------------------------------- damage


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damaged(file: Path) -> str:
    return f"{file}: the file is damaged: its checksum differs (write the stream again)"


@pytest.mark.parametrize("name", ["rows-00001.parquet", "requests-00000.parquet"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_one_changed_bit_is_found(tmp_path: Path, name: str, prefetch: int) -> None:
    write(tmp_path / "s", [full(20, 3), full(20, 3, seed=1)], shard_bytes=1)
    assert sum(len(batch) for batch in Stream(tmp_path / "s", 10, 0, prefetch=prefetch)) == 40
    spoil(tmp_path / "s" / name)
    with pytest.raises(DataError) as caught:
        list(Stream(tmp_path / "s", 10, 0, prefetch=prefetch))
    assert str(caught.value) == damaged(tmp_path / "s" / name)


def test_side_tables_and_manifests_are_checked_when_opened(tmp_path: Path) -> None:
    batch = Batch.of(Columns.of(1), Columns.of(1, {"item.row": np.array([0])}), np.array([0]))
    folder = tmp_path / "s"
    write(folder, [batch], sides={"item.row": Columns.of(1, {"item.category": np.array([2])})})
    manifest = (folder / "manifest.json").read_text(encoding="utf-8")
    for text, message in (
        (manifest.replace('"rows": 1', '"rows": 2', 1), "the manifest is damaged: its checksum differs"),
        (manifest.replace('"format": 1', '"format": 9'), "format 9, this version reads 1"),
        ("[]", "format None, this version reads 1"),
        (
            manifest[:9],
            "the manifest cannot be read: Expecting ':' delimiter: line 1 column 10 (char 9)",
        ),
    ):
        (folder / "manifest.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            Stream(folder, 1, 0)
        assert str(caught.value) == f"{folder / 'manifest.json'}: {message} (write the stream again)"
    (folder / "manifest.json").write_text(manifest, encoding="utf-8")
    spoil(folder / "side-0.parquet")
    with pytest.raises(DataError) as caught:
        Stream(folder, 1, 0)
    assert str(caught.value) == damaged(folder / "side-0.parquet")


def test_a_missing_shard_and_a_missing_stream(tmp_path: Path) -> None:
    write(tmp_path / "s", [flat(3)])
    (tmp_path / "s" / "rows-00000.parquet").unlink()
    with pytest.raises(DataError) as caught:
        list(Stream(tmp_path / "s", 1, 0))
    assert str(caught.value) == f"{tmp_path / 's' / 'rows-00000.parquet'}: the file is missing (write the stream again)"
    with pytest.raises(DataError) as caught:
        Stream(tmp_path / "t", 1, 0)
    assert str(caught.value) == f"{tmp_path / 't'}: no stream here (name a folder that `write` made)"


def test_what_cannot_be_written(tmp_path: Path) -> None:
    other = Batch.of(Columns.of(1), Columns.of(1, {"other": np.array([1])}), np.array([0]))
    for batches, message in (
        ([flat(2), other], "batch 1 has other columns than the first (write batches of one layout)"),
        ([], "no row to write (check what the examples are made from)"),
        ([flat(0)], "no row to write (check what the examples are made from)"),
    ):
        with pytest.raises(DataError) as caught:
            write(tmp_path / "s", batches)
        assert str(caught.value) == f"{tmp_path / 's'}: {message}"
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "s", [flat(2)])
    with pytest.raises(DataError) as caught:
        write(tmp_path / "s", [flat(2)])
    assert str(caught.value) == f"{tmp_path / 's'}: there is something here already (name a new folder, or remove it)"


def test_states_and_sizes_are_checked(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "s", parts(100, 20))
    with pytest.raises(DataError) as caught:
        Stream(tmp_path / "s", 9, 0, window=5).load(Stream(folder, 9, 0, window=6).state())
    hint = "resume with the data and settings it was saved with"
    assert str(caught.value) == f"{tmp_path / 's'}: the saved state has window 6, this run 5 ({hint})"
    with pytest.raises(DataError, match="the saved state has data '"):
        Stream(tmp_path / "s", 9, 0).load(Stream(folder, 9, 0).state())
    with pytest.raises(ConfigError) as error:
        Stream(folder, 9, 0, window=0)
    assert str(error.value) == "loader.window: should be at least 1, got 0 (correct it)"
    with pytest.raises(DataError) as caught:
        Stream(folder, 9, 0, ranks=101)
    assert str(caught.value) == f"{folder}: 100 rows for 101 ranks (give more data, or start fewer ranks)"


MEASURE = """
import sys
from pathlib import Path
import torch
from shortlist.dataset.stream import Stream

torch.set_num_threads(1)

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

next(iter(Stream(sys.argv[1], 4096, 0, window=8192)))  # what a first read loads stays loaded
before = peak()
rows = sum(len(batch) for batch in Stream(sys.argv[1], 4096, 0, window=int(sys.argv[2])))
print(rows, peak() - before)
"""


def test_memory_is_bounded_by_the_window(tmp_path: Path) -> None:
    """Over ten times the rows that a window holds add little to the peak of a process."""

    def wide(n: int, seed: int) -> Batch:
        values = np.random.default_rng(seed).integers(2, 2**30, (40, n))
        columns = Columns.of(n, {f"c{c}": column for c, column in enumerate(values)})
        return Batch.of(Columns.of(n), columns, np.arange(n))

    total, size = 1_000_000, 100_000
    write(tmp_path / "s", (wide(size, n) for n in range(total // size)), shard_bytes=32 << 20, group_rows=8192)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "s"), str(65_536)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    rows, added = done.stdout.split()
    assert int(rows) == total
    # 1M rows of 40 four-byte ids are 153 MB; a window of 65,536 is 10 MB, and a few copies of it are in flight
    assert float(added) < 153 / 2, added


# ------------------------------------------------------------------------------------- whole requests


def asked(first: int, requests: int) -> Batch:
    """Requests that hold their number, with 1, 2, 3, 4, 1, 2, ... rows that hold it too."""
    counts = (np.arange(requests) + first) % 4 + 1
    owner = np.repeat(np.arange(requests), counts)
    request = Columns.of(requests, {"asked": np.arange(first, first + requests)})
    row = Columns.of(len(owner), {"of": owner + first, "place": np.concatenate([np.arange(n) for n in counts])})
    return Batch.of(request, row, owner)


def unit_numbers(batch: Batch) -> list[int]:
    """Requests of a batch, in the order of their rows."""
    assert torch.equal(batch.request["asked"][batch.request_of], batch.row["of"])
    seen = batch.row["of"].tolist()
    return [number for n, number in enumerate(seen) if not n or seen[n - 1] != number]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests 0..99 in four shards of 25, in groups of about 8 rows."""
    folder = tmp_path_factory.mktemp("stream") / "requests"
    blocks = (asked(first, 25) for first in range(0, 100, 25))
    # 25 times 1 + 2 + 3 + 4 rows
    assert write(folder, blocks, whole=True, group_rows=8, shard_bytes=1) == 250
    return folder


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 40), window=st.integers(1, 300), ranks=st.integers(1, 6), shuffle=st.booleans())
def test_ranks_see_each_request_once_with_all_its_rows(
    requests: Path, size: int, window: int, ranks: int, shuffle: bool
) -> None:
    readers = [Stream(requests, size, 0, shuffle, 0, window=window, rank=r, ranks=ranks) for r in range(ranks)]
    seen = [[unit_numbers(batch) for batch in reader] for reader in readers]
    found = [number for batches in seen for batch in batches for number in batch]
    assert sorted(found) == list(range(100))  # each once: none is cut in two
    assert {len(batches) for batches in seen} == {len(readers[0])}
    assert all(1 <= len(batch) <= size + (ranks > 1) for batches in seen for batch in batches)
    again = Stream(requests, size, 0, shuffle, 0, window=window)
    assert sum(len(batch) for batch in again) == again.rows == 250  # with all rows


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 30), window=st.integers(1, 300), stop=st.integers(0, 60), ranks=st.integers(1, 3))
def test_whole_requests_resumed_are_uninterrupted(
    requests: Path, size: int, window: int, stop: int, ranks: int
) -> None:
    def fresh() -> Stream:
        return Stream(requests, size, 7, window=window, rank=ranks - 1, ranks=ranks)

    expected = [unit_numbers(batch) for batch in fresh()]
    stop = min(stop, len(expected) - 1)
    killed, seen = fresh(), list[list[int]]()
    for batch in killed if stop else ():
        seen.append(unit_numbers(batch))
        if len(seen) == stop:
            break
    resumed = fresh()
    resumed.load(json.loads(json.dumps(killed.state())))
    assert seen + [unit_numbers(batch) for batch in resumed] == expected


def test_requests_without_columns_are_whole_too(tmp_path: Path) -> None:
    bare = [Batch.of(Columns.of(3), Columns.of(6, {"n": np.arange(6)}), np.array([0, 0, 1, 2, 2, 2]))]
    write(tmp_path / "s", bare, whole=True, group_rows=2)
    found = [(len(b.request), b.row["n"].tolist()) for b in Stream(tmp_path / "s", 2, 0, shuffle=False)]
    assert found == [(2, [0, 1, 2]), (1, [3, 4, 5])]


def test_whole_requests_lie_together(tmp_path: Path) -> None:
    for owners in ([0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 2, 2]):
        batch = Batch.of(Columns.of(max(owners) + 1), Columns.of(3, {"n": np.arange(3)}), np.array(owners))
        if owners == [0, 0, 0]:
            write(tmp_path / "s", [batch], whole=True)
            continue
        with pytest.raises(ValueError, match="rows of a request that is kept whole lie together"):
            write(tmp_path / "t", [batch], whole=True)
    with pytest.raises(DataError) as caught:
        Stream(tmp_path / "s", 1, 0, ranks=2)
    assert str(caught.value) == f"{tmp_path / 's'}: 1 requests for 2 ranks (give more data, or start fewer ranks)"
