"""A map of items for the eye: t-SNE (van der Maaten & Hinton, JMLR 2008), exact gradient, started from the two main
axes (Kobak & Berens, Nature Communications 2019).

N items, D width, K neighbours. For inspection, never a metric: distances between groups and sizes of groups on the map
mean nothing. How well vectors keep categories together is `purity`, in the original space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from shortlist.forms import Vectors

__all__ = ["ItemMap", "item_map", "tsne", "purity", "chance", "picture", "write", "MAP_FILES"]

Real = NDArray[np.float64]
Single = NDArray[np.float32]
Ints = NDArray[np.int64]

EXAGGERATION, EARLY = 12.0, 250  # how much stronger neighbours pull at first, and for how many steps
BLOCK = 1 << 17  # numbers of a distance block: what a core keeps near

MAP_FILES = ("item_map.svg", "item_map.png", "item_map.csv")
COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#86bc25")
OTHER = "#9aa4b2"
WIDTH, HEIGHT, MARGIN, LEGEND = 640, 560, 12, 180


@dataclass(frozen=True)
class ItemMap:
    """Items by key, ascending [N]; `vectors` [N, D] as compared, `places` [N, 2] on the map, each axis within 0..1."""

    keys: Ints
    vectors: Single
    places: Real


def item_map(
    form: Vectors, rng: np.random.Generator, sample: int = 5000, perplexity: float = 30.0, iterations: int = 1000
) -> ItemMap:
    """At most `sample` items of a form. Vectors are brought to length 1 unless their metric is `l2`: what differs then
    is direction, not popularity. A form holds items alone, no row of padding or of the unknown.
    """
    n = len(form.keys)
    picked = rng.choice(n, sample, replace=False) if n > sample else np.arange(n)
    picked = picked[np.argsort(form.keys[picked])]
    x = form.matrix[picked]
    if form.metric != "l2":
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return ItemMap(form.keys[picked], x, scaled(tsne(x, rng, perplexity, iterations)))


def scaled(places: Real) -> Real:
    """Each axis from 0 to 1; one without extent lies in the middle."""
    if not len(places):
        return places
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    unit: Real = np.divide(places - low, extent, out=np.full(places.shape, 0.5), where=extent > 0)
    return unit


def tsne(x: NDArray[Any], rng: np.random.Generator, perplexity: float = 30.0, iterations: int = 1000) -> Real:
    """Places [N, 2] of rows [N, D], which are first brought to their 50 main axes. Same rng, same places.

    Neighbours beyond 3 * perplexity attract nothing, as is usual; all pairs repel, exactly: O(N²) a step in time, not
    in memory.
    """
    n = len(x)
    if n < 2:
        return np.zeros((n, 2))
    x = principal(np.asarray(x, dtype=np.float64), 50)
    perplexity = max(1.0, min(perplexity, (n - 1) / 3))
    near, squared = neighbours(x, min(n - 1, int(3 * perplexity)))
    rows = np.repeat(np.arange(n), near.shape[1])
    one_way = sparse.csr_array((affinities(squared, perplexity).ravel(), (rows, near.ravel())), shape=(n, n))
    both = sparse.csr_array(one_way + one_way.T)
    i, j, starts = np.repeat(np.arange(n), np.diff(both.indptr)), both.indices, both.indptr[:-1]
    pull = (both.data / (2 * n)).astype(np.float32)

    y = np.zeros((n, 2), dtype=np.float32)
    y[:, : min(2, x.shape[1])] = x[:, :2]
    y *= 1e-4 / max(float(y[:, 0].std()), 1e-12)
    y += rng.normal(size=y.shape).astype(np.float32) * np.float32(1e-6)  # what lies on one place can part
    speed, gain = np.zeros_like(y), np.ones_like(y)
    rate = max(n / EXAGGERATION / 4, 50.0)
    for step in range(iterations):
        early = step < EARLY
        gap = [axis[i] - axis[j] for axis in y.T.copy()]
        weight = pull * np.float32(EXAGGERATION if early else 1) / (1 + gap[0] ** 2 + gap[1] ** 2)
        attract = np.stack([np.add.reduceat(weight * part, starts) for part in gap], axis=1)
        slope = 4 * (attract - repulsion(y)).astype(np.float32)
        gain = np.where((slope > 0) != (speed > 0), gain + 0.2, gain * 0.8).clip(0.01)
        speed = (0.5 if early else 0.8) * speed - np.float32(rate) * gain * slope
        y += speed
        y -= y.mean(axis=0)
    return y.astype(np.float64)


def repulsion(y: Single) -> Real:
    """Σ_j q_ij² (y_i - y_j) / Σ q [N, 2], q_ij = 1 / (1 + |y_i - y_j|²) of all pairs, in blocks of products."""
    n = len(y)
    square = np.einsum("nd,nd->n", y, y)
    ones = np.ones(n, dtype=np.float32)
    left, right = np.column_stack([-2 * y, square + 1, ones]), np.column_stack([y, ones, square]).T
    onto = np.column_stack([y, ones])
    total, force, size = 0.0, np.empty((n, 2)), max(1, BLOCK // n)
    for low in range(0, n, size):
        q = left[low : low + size] @ right  # 1 + |y_i - y_j|²
        np.reciprocal(q, out=q)
        total += float((q @ ones).sum(dtype=np.float64))
        np.square(q, out=q)
        summed = q @ onto
        force[low : low + size] = y[low : low + size] * summed[:, 2:] - summed[:, :2]
    return force / (total - n)  # without the pairs of an item with itself


def principal(x: Real, width: int) -> Real:
    """Rows on their main axes [N, min(width, D)], each axis turned so that its largest part is positive."""
    x = x - x.mean(axis=0)
    values, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, np.argsort(-values, kind="stable")[:width]]
    largest = np.argmax(np.abs(axes), axis=0)
    turned: Real = x @ (axes * np.sign(axes[largest, np.arange(axes.shape[1])]))
    return turned


def neighbours(x: NDArray[Any], k: int) -> tuple[Ints, Real]:
    """The k nearest other rows [N, K] and their squared distances, in blocks; ties by the smaller row."""
    n = len(x)
    x = x - x.mean(axis=0, dtype=np.float64)
    square, size = np.einsum("nd,nd->n", x, x), max(1, BLOCK // n)
    near, squared = np.empty((n, k), dtype=np.int64), np.empty((n, k))
    for low in range(0, n, size):
        rows = slice(low, min(low + size, n))
        gap = square[rows, None] + square - 2 * (x[rows] @ x.T)
        gap[np.arange(len(gap)), np.arange(n)[rows]] = np.inf
        order = np.argsort(gap, axis=1, kind="stable")[:, :k]
        near[rows], squared[rows] = order, np.maximum(np.take_along_axis(gap, order, axis=1), 0)
    return near, squared


def affinities(squared: Real, perplexity: float) -> Real:
    """p_{j|i} [N, K]: a Gaussian over squared distances whose width gives each row that perplexity."""
    squared = squared - squared[:, :1]  # the nearest: nothing underflows
    low, high = np.zeros(len(squared)), np.full(len(squared), np.inf)
    beta = 1 / np.maximum(squared.mean(axis=1), 1e-12)
    for _ in range(64):
        p = np.exp(-beta[:, None] * squared)
        total = p.sum(axis=1)
        entropy = np.log(total) + beta * (p * squared).sum(axis=1) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
        beta = np.minimum(beta, 1e12)
    p = np.exp(-beta[:, None] * squared)
    affinity: Real = p / p.sum(axis=1, keepdims=True)
    return affinity


def purity(x: NDArray[Any], labels: Ints, k: int = 10) -> float:
    """Share of the k nearest rows [N, D] that have the row's own label, labels below 0 (unknown) left out; `chance` is
    what it would be without any order. NaN for fewer than two rows.
    """
    known = labels >= 0
    x, labels = np.asarray(x, dtype=np.float64)[known], labels[known]
    if len(x) < 2:
        return float("nan")
    near, _ = neighbours(x, min(k, len(x) - 1))
    return float((labels[near] == labels[:, None]).mean())


def chance(labels: Ints) -> float:
    """Share of other rows that have a row's own label, the mean over rows."""
    counts = np.bincount(labels[labels >= 0])
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else float("nan")


def picture(places: Real, titles: Sequence[str], categories: Sequence[str | None]) -> str:
    """The map as SVG: a dot per item in the colour of its category, the ten most frequent ones; its title shows under
    the pointer. No script, no network.
    """
    names, counts = np.unique([name for name in categories if name is not None], return_counts=True)
    largest = [str(names[n]) for n in np.argsort(-counts, kind="stable")[: len(COLORS)]]
    color_of = dict(zip(largest, COLORS, strict=False))
    inner = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    spots = MARGIN + np.column_stack([places[:, 0], 1 - places[:, 1]]) * inner if len(places) else places
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEGEND} {HEIGHT}" role="img" '
        'class="item-map" font-family="system-ui, sans-serif" font-size="12">',
        "<title>Items by likeness of their vectors</title>",
        "<style>.item-map circle:hover { stroke: currentColor; stroke-width: 1.5 }</style>",
    ]
    for (x, y), title, category in zip(spots, titles, categories, strict=True):
        text = clean(f"{title} ({category})" if category is not None else title)
        fill = color_of.get(category or "", OTHER)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{fill}" fill-opacity="0.75">{text}</circle>')
    legend = [*color_of.items(), *([("other", OTHER)] if len(names) > len(largest) or None in categories else [])]
    for n, (name, fill) in enumerate(legend):
        y = MARGIN + 10 + 20 * n
        shown = name if len(name) <= 22 else f"{name[:21]}…"
        lines.append(f'<circle cx="{WIDTH + 10}" cy="{y}" r="5" fill="{fill}"/>')
        lines.append(f'<text x="{WIDTH + 22}" y="{y + 4}" fill="#5d6675">{escape(printable(shown))}</text>')
    return "\n".join([*lines, "</svg>\n"])


def clean(text: str) -> str:
    return f"<title>{escape(printable(text))}</title>"


def printable(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(c if c >= " " or c in "\t\n" else " " for c in text if c not in "\ufffe\uffff")


def write(folder: Path, found: ItemMap, titles: Sequence[str], categories: Sequence[str | None]) -> None:
    """`item_map.svg`, `item_map.png` and `item_map.csv` (key, x, y, title, category), line by line the same items."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    svg = picture(found.places, titles, categories)
    drawn, photo, places = (folder / name for name in MAP_FILES)
    drawn.write_text(svg, encoding="utf-8")
    photo.write_bytes(vl_convert.svg_to_png(svg, scale=2))
    x, y = found.places[:, 0], found.places[:, 1]
    columns = {"key": found.keys, "x": x, "y": y, "title": list(titles), "category": list(categories)}
    pl.DataFrame(columns, schema_overrides={"category": pl.String}).write_csv(places)
