"""What the kinds that Faiss does share: reading and writing its files, threads, selectors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError
from shortlist.index.cut import Ints
from shortlist.index.points import Points

FILE = "index.faiss"
AGAIN = "train and publish again"


def library() -> Any:
    """Faiss, imported when it is asked for. Its own stubs are wrong about overloads."""
    import faiss

    return faiss


def metric(points: Points) -> int:
    """Faiss' name of it: a cosine is the inner product of unit rows."""
    faiss = library()
    return int(faiss.METRIC_L2 if points.metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def coarse(points: Points, width: int) -> Any:
    """What assigns rows to lists."""
    faiss = library()
    return faiss.IndexFlatL2(width) if points.metric == "l2" else faiss.IndexFlatIP(width)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Threads of one search, while this lasts: many requests at once are many processes, not many threads."""
    faiss = library()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def grouped(made: Any, rows: NDArray[np.float32], seed: int) -> Any:
    """An index of lists, trained and filled."""
    made.cp.seed, made.cp.min_points_per_centroid, made.cp.max_points_per_centroid = seed, 1, 64
    made.train(rows)
    made.add(rows)
    return made


def searched(made: Any, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None, **params: Any) -> Ints:
    """Rows [Q, n] that an index finds; `params` are those of its kind, `kind` the class of them."""
    faiss = library()
    asked = params.pop("kind")(**params)
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        asked.sel = faiss.IDSelectorBitmap(bits)  # keeps a reference to the bits
    with threads(1):
        _, rows = made.search(queries, n, params=asked)
    found: Ints = rows
    return found


def write(made: Any, folder: Path) -> None:
    faiss = library()
    faiss.write_index(made, str(folder / FILE))


def read(folder: Path, points: Points, kind: str, mapped: bool, width: int | None = None) -> Any:
    """An index as it was written: mapped, or read whole. Raises ArtifactError for one that is damaged or of other
    vectors."""
    faiss = library()
    path = folder / FILE
    flags = faiss.IO_FLAG_READ_ONLY | (faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    try:
        made = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        said = str(error).splitlines()[-1].rpartition("Error: ")[2] if str(error) else type(error).__name__
        raise ArtifactError(f"not an index: {said}", where=str(path), hint=AGAIN) from None
    wide = points.width if width is None else width
    if type(made).__name__ != kind or (made.ntotal, made.d) != (len(points), wide):
        what = f"a {type(made).__name__} of {made.ntotal} vectors of width {made.d}"
        what += f", not a {kind} of {len(points)} of width {wide}"
        raise ArtifactError(what, where=str(path), hint=AGAIN)
    if hasattr(made, "invlists") and made.metric_type != metric(points):
        raise ArtifactError("an index of another metric", where=str(path), hint=AGAIN)
    return made
