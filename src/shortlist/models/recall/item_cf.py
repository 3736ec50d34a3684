"""ItemCF: items that the same users took, weighted by order, time and category (Sarwar et al., WWW 2001;
Linden, Smith, York, IEEE Internet Computing 2003; popularity exponent: Deshpande, Karypis, TOIS 2004). U
users, I items, E list entries.

Reads users' lists in order of time, and the publish time and category of items. Lists: item -> similar items."""

__all__ = ["ItemCF"]

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, Positive, Share, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, DataError
from shortlist.forms import Lists
from shortlist.models.blocks.limits import fits
from shortlist.schema import Catalogue, Schema

HOUR_MS = 3_600_000
ROWS = 256  # rows a thread takes at once: hot items are heavy, so small enough to share them out
Short = NDArray[np.int32]
Ints = NDArray[np.int64]
Single = NDArray[np.float32]

if TYPE_CHECKING:  # the loops load numba
    from shortlist.models.blocks.cooccurrence import Rows


class ItemCF:
    """s_ij = sum over common users of c_ij / (|U_i|^(1-alpha) |U_j|^alpha), c_ij by `weights`:

    - `sequence`: IUF, direction, position, click gap, publish gap and category, as configured. One neutral value each
      (`iuf = false`, `back = 1`, `position_decay = 1`, `same_category = 0`, a half-life of None, `inf` in
      TOML) turns it off.
    - `binary`: 1 for each common user, which with alpha 0.5 is the cosine.
    - `rating`: adjusted cosine of the event values, over the co-raters; alpha does not enter. Only likeness
      above 0 is kept.

    Of repeated events on one item the latest stands. `cap` shortens lists, never |I_u| and |U_i|.

    A new user, or a new click, needs no more than the history at hand; an item that nobody took has no neighbours.
    """

    source: ClassVar[str] = "neighbours"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`keep` neighbours of an item; the latest `cap` items of a user count (None, `inf` in TOML: all).

        `alpha` 0.5 treats both items alike; above it a popular neighbour counts less, below it more. `engine` counts
        pairs as tables, of a log that loops in memory do not hold (docs/decisions/spark.md).
        """

        weights: Literal["sequence", "binary", "rating"] = "sequence"
        keep: Count = 200
        cap: Count | None = 200
        alpha: Annotated[float, Ge(0), Le(1)] = 0.5
        iuf: bool = True
        back: Share = 0.7
        position_decay: Share = 0.9
        click_half_life_hours: Positive | None = 6.0
        publish_half_life_hours: Positive | None = 72.0
        same_category: NonNegative = 0.5
        normalize: bool = False
        budget_bytes: Count = 4 * 2**30
        engine: Literal["polars", "duckdb", "spark"] | None = None

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config = config
        self.schema = schema
        ordered = config.weights == "sequence"
        self.published = schema.published if ordered and config.publish_half_life_hours else None
        self.category = schema.category if ordered and config.same_category else None
        fields = [name for name in (self.published, self.category) if name]
        self.reads: tuple[str, ...] = ("actions", *(f"item.{name}" for name in fields))

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """Lists of at most `keep` items each, best first; an item without a neighbour has none. Raises
        CapacityError, DataError."""
        from shortlist.models.blocks import cooccurrence as loops

        config, kind = self.config, self.config.weights
        log = interactions.liked(self.schema.weights)
        if kind == "rating":
            log = log.where(np.isfinite(log.values))
            if not len(log):
                hint = 'set schema.value, or weights = "binary"'
                raise DataError("no event has a value", where="item_cf", hint=hint)
        if config.engine is not None:
            return self._as_tables(config.engine, log, catalogue)
        if len(log) >= 2**31:
            what, hint = f"{len(log)} events, one solve takes fewer than 2^31", "train on a shorter period"
            raise CapacityError(what, where="item_cf", hint=hint)
        need = self.estimate(len(log.item_keys), len(log))
        hint = "raise budget_bytes or lower keep"
        fits(f"{len(log.item_keys)} items", need, config.budget_bytes, "item_cf", hint)
        keys, (events, place) = log.item_keys, log.places
        cap = max(len(log), 1) if config.cap is None else config.cap
        kept, distinct, audience = loops.census(log.offsets, events, place, cap, len(keys))
        offsets = np.concatenate([[0], np.cumsum(kept)])
        event = np.empty(0 if kind == "binary" else offsets[-1], dtype=np.int32)
        entry = np.empty(len(event), dtype=np.int32)
        items = loops.latest(log.offsets, events, place, offsets, len(keys), event)
        starts, user = loops.by_item(offsets, items, len(keys), entry)
        own, other = _power(audience, config.alpha - 1), _power(audience, -config.alpha)
        rows: Rows
        if kind == "binary":

            def rows(low: int, high: int, sizes: Short, best: Ints, scores: Single) -> None:
                loops.counted(low, high, sizes, best, scores, offsets, items, starts, user, own, other)

        elif kind == "rating":
            deviation = _deviation(log.values[event], kept)

            def rows(low: int, high: int, sizes: Short, best: Ints, scores: Single) -> None:
                loops.rated(low, high, sizes, best, scores, offsets, items, starts, entry, user, deviation)

        else:
            iuf = 1 / np.log1p(distinct) if config.iuf else np.ones(len(distinct))
            step = _gap(log.times[event], config.click_half_life_hours)
            published = self._published(catalogue, keys)
            codes, tags = self._categories(catalogue, keys)

            def rows(low: int, high: int, sizes: Short, best: Ints, scores: Single) -> None:
                loops.sequenced(
                    low, high, sizes, best, scores, offsets, items, starts, entry, user, iuf, step,
                    config.position_decay, config.back, own, other, published, codes, tags, 1 + config.same_category,
                )  # fmt: skip

        lists = loops.ranked(rows, keys, keys, min(config.keep, len(keys) - 1), ROWS)
        if config.normalize and len(lists):
            lists.scores[:] /= np.repeat(lists.scores[lists.offsets[:-1]], np.diff(lists.offsets))
        return lists

    def estimate(self, items: int, events: int) -> int:
        """Bytes at the peak: the result, the users' lists both ways round with what each weighs, sums of a thread."""
        return items * (min(self.config.keep, items) * 12 + 5 * 8) + 40 * events

    def _as_tables(self, engine: str, log: Interactions, catalogue: Catalogue) -> Lists:
        from shortlist.models.blocks.tabled import events, lists, opened
        from shortlist.tables.similar_items import similar_items

        config, keys = self.config, log.item_keys
        published = self._published(catalogue, keys)
        item, label = self._labels(catalogue, keys)
        hours = config.click_half_life_hours
        with opened(engine, "item_cf.engine") as tables:
            ranked = similar_items(
                events(tables, log, self.schema.weights), config.weights, keep=config.keep, cap=config.cap,
                alpha=config.alpha, iuf=config.iuf, back=config.back, position_decay=config.position_decay,
                click_half_life_ms=None if hours is None else hours * HOUR_MS,
                published=tables.table({"item": keys, "published_ms": published}) if len(published) else None,
                labels=tables.table({"item": item, "label": label}) if len(item) else None,
                same_category=config.same_category, normalize=config.normalize, settle=tables.settled,
            )  # fmt: skip
            return lists(tables, ranked, "item", "other", config.budget_bytes)

    def _labels(self, catalogue: Catalogue, keys: Ints) -> tuple[Ints, Ints]:
        """Categories as rows: item and label [N], none where they have no weight."""
        codes, tags = self._categories(catalogue, keys)
        bits = np.unpackbits(tags.view(np.uint8), axis=1, bitorder="little")
        place, label = np.nonzero(bits) if bits.size else (np.flatnonzero(codes >= 0), codes[codes >= 0])
        return keys[place], label.astype(np.int64)

    def _published(self, catalogue: Catalogue, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """Publish times in half-lives [I], NaN where unknown; empty when they have no weight."""
        hours = self.config.publish_half_life_hours
        if self.published is None or hours is None:
            return np.zeros(0)
        times = catalogue.items.take(self.published, keys).astype(np.float64)
        return (times - np.nanmin(times, initial=np.inf)) / (hours * HOUR_MS)

    def _categories(
        self, catalogue: Catalogue, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """A code per item [I], -1 unknown; for fields of several values a set of bits instead [I, W]."""
        codes, tags = np.full(len(keys), -1, dtype=np.int32), np.zeros((len(keys), 0), dtype=np.uint64)
        if self.category is None:
            return codes, tags
        values = catalogue.items.take(self.category, keys)
        field = self.schema.items[self.category]
        if field.kind != "varlen":
            known: dict[Any, int] = {}
            for n, value in enumerate(values):
                if value is not None and value == value:
                    codes[n] = known.setdefault(value, len(known))
            return codes, tags
        sets = [_values(value, field.split) for value in values]
        place = {name: n for n, name in enumerate(sorted({name for names in sets for name in names}))}
        tags = np.zeros((len(keys), (len(place) + 63) // 64), dtype=np.uint64)
        for n, names in enumerate(sets):
            for name in names:
                tags[n, place[name] // 64] |= np.uint64(1) << np.uint64(place[name] % 64)
        return codes, tags


def _values(value: Any, split: str | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return value.split(split) if split else [value]
    return [str(part) for part in value]


def _power(counts: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    return np.maximum(counts, 1).astype(np.float64) ** exponent


def _gap(times: NDArray[np.int64], half_life_hours: float | None) -> NDArray[np.float64]:
    """Factor of the click gap from each entry to the next [E]. Between two users' lists it means nothing and
    is not read."""
    if half_life_hours is None or not len(times):
        return np.ones(len(times))
    gap = np.abs(np.diff(times, append=times[-1:]))
    return np.exp2(-gap / (half_life_hours * HOUR_MS))


def _deviation(values: Single, kept: Ints) -> NDArray[np.float64]:
    """Values of the entries minus the mean of their user's entries."""
    owner = np.repeat(np.arange(len(kept)), kept)
    mean = np.bincount(owner, weights=values, minlength=len(kept)) / np.maximum(kept, 1)
    deviation: NDArray[np.float64] = values - mean[owner]
    return deviation
