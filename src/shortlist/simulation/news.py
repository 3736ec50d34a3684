"""A world's log in the formats of two news contests, as their files are: what `events/adapters/` reads.

`globo`: clicks with where they were made, articles, and vectors of 250 numbers. `yidian`: exposures with clicks, users
with likelihoods of age and gender, documents. The whole log is in memory. E events, I items, U users.
"""

__all__ = ["FORMATS", "globo", "save", "yidian"]

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Share
from shortlist.errors import DataError
from shortlist.events.adapters.globo_news import ARTICLES, LOGS, VECTORS
from shortlist.events.adapters.yidian import DOCUMENTS, PEOPLE, SHOWN
from shortlist.simulation.events import Events
from shortlist.simulation.ground import DEVICES, GENDERS, REGIONS
from shortlist.simulation.policy import Policy
from shortlist.simulation.truth import CLICK, HOUR_MS, IMPRESSION
from shortlist.simulation.world import World

Tables = dict[str, pl.DataFrame]
Ints = NDArray[np.int64]

WIDTH = 250  # numbers of an article's vector
WORDS_PER_S = 3.0
TRAVELS = 0.05  # share of clicks that are made in another region than the user's
COUNTRIES = (1, 1, 1, 2, 2)  # by region
SYSTEMS = (20, 17, 2)  # by device
LATE = 0.02  # share of documents whose time of publication lies behind their first exposure
UNDATED = 0.02  # share of documents without one
YOUNGEST = (0, 25, 30, 40)  # of the groups of ages
FILES = {"globo": (LOGS[0], ARTICLES, VECTORS), "yidian": (SHOWN, PEOPLE, DOCUMENTS)}
GROUPS = ("A_0_24", "A_25_29", "A_30_39", "A_40+")


def save(
    folder: Path,
    form: str,
    config: World.Config,
    policy: Callable[[World], Policy],
    seed: int,
    progress: Callable[[int, int, str], None],
) -> dict[str, int]:
    """Make a world and write its log as `form` has it. Returns rows by file. Raises DataError when one is there.

    The same config, policy and seed write the same bytes.
    """
    for name in FILES[form]:
        if (folder / name).exists():
            raise DataError("there is a log already", where=str(folder / name), hint="name another folder")
    world = World.generate(config, np.random.default_rng([seed, 0]))
    parts = []
    for n, part in enumerate(world.simulate(policy(world), np.random.default_rng([seed, 1]))):
        parts.append(part)
        progress(min((n + 1) * config.tick_hours // 24, config.days), config.days, f"{sum(map(len, parts))} events")
    tables = FORMATS[form](world, Events.joined(parts), np.random.default_rng([seed, 2]))
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        if name.endswith(".txt"):
            table.write_csv(folder / name, separator="\t", include_header=False, quote_style="never")
        else:
            table.write_csv(folder / name)
    return {name: len(table) for name, table in tables.items()}


def globo(world: World, events: Events, rng: np.random.Generator, width: int = WIDTH) -> Tables:
    """Clicks, articles and vectors. These have the angles of the items' content, turned into `width` numbers, and any
    lengths: who compares them divides by those.
    """
    clicks = events.take(np.flatnonzero(events.actions == CLICK)).in_time()
    people, shelf = world.truth.people, world.truth.shelf
    away = rng.random(len(clicks)) < TRAVELS
    region = np.where(away, rng.integers(len(REGIONS), size=len(clicks)), people.region[clicks.users])
    log = pl.DataFrame(
        {
            "user_id": clicks.users, "click_article_id": clicks.items, "click_timestamp": clicks.times,
            "click_environment": np.full(len(clicks), 4), "click_deviceGroup": 1 + clicks.devices.astype(np.int64),
            "click_os": np.array(SYSTEMS)[clicks.devices], "click_country": np.array(COUNTRIES)[region],
            "click_region": 1 + region, "click_referrer_type": np.where(clicks.requests >= 0, 1, 2),
        }
    )  # fmt: skip
    articles = pl.DataFrame(
        {
            "article_id": np.arange(len(shelf)), "category_id": shelf.category, "created_at_ts": shelf.published,
            "words_count": np.round(WORDS_PER_S * shelf.length_s).astype(np.int64),
        }
    )  # fmt: skip
    turned = np.linalg.qr(rng.standard_normal((width, shelf.content.shape[1])))[0]
    lengths = rng.uniform(0.5, 20.0, (len(shelf), 1))
    vectors = (lengths * (shelf.content @ turned.T)).astype(np.float32)
    emb = pl.DataFrame({"article_id": np.arange(len(shelf)), **{f"emb_{n}": vectors[:, n] for n in range(width)}})
    return dict(zip(FILES["globo"], (log, articles, emb), strict=True))


def yidian(world: World, events: Events, rng: np.random.Generator, late: Share = LATE) -> Tables:
    """Exposures, users and documents. A click answers the exposure of its slate: those made without one are left out.

    Of the documents shown, the share `late` is dated within the hours behind the first exposure, as some of the contest
    are; so their first exposures lie before their publication.
    """
    people = world.truth.people
    shown, clicks = (events.take(np.flatnonzero(events.actions == action)) for action in (IMPRESSION, CLICK))
    shown = shown.in_time()
    answered = clicks.take(np.flatnonzero(clicks.requests >= 0))
    read = pl.DataFrame({"request": answered.requests, "item": answered.items, "duration": answered.values})
    log = pl.DataFrame(
        {
            "userId": shown.users, "item": shown.items, "showTime": shown.times,
            "network": np.where(shown.devices == 1, 2, 5), "place": shown.positions.astype(np.int64) - 1,
            "request": shown.requests,
        }
    )  # fmt: skip
    log = log.join(read.unique(["request", "item"]), on=["request", "item"], how="left", maintain_order="left")
    log = log.select(
        "userId", itemId="item", showTime=pl.col("showTime").min().over("request"), network="network",
        refresh=pl.col("request").rank("dense").over("userId").cast(pl.Int64) - 1, showPos="place",
        click=pl.col("duration").is_not_null().cast(pl.Int64), duration=pl.col("duration").fill_null(0).round(0),
    )  # fmt: skip
    group = np.searchsorted(YOUNGEST, people.age, side="right") - 1
    users = pl.DataFrame(
        {
            "userId": np.arange(len(people)), "deviceName": np.array(DEVICES)[people.device],
            "OS": np.array(("Android", "Windows", "IOS"))[people.device], "province": np.array(REGIONS)[people.region],
            "city": [f"{REGIONS[r]} {u % 3}" for u, r in enumerate(people.region.tolist())],
            "age": [_said(GROUPS, int(g)) for g in group],
            "gender": [_said(("female", "male"), int(g)) if GENDERS[g] != "x" else "" for g in people.gender],
        }
    )  # fmt: skip
    return dict(zip(FILES["yidian"], (log, users, _documents(world, log, late, rng)), strict=True))


def _documents(world: World, log: pl.DataFrame, late: float, rng: np.random.Generator) -> pl.DataFrame:
    truth = world.truth
    fields = truth.shelf.fields(truth.ground)
    first = log.group_by("itemId").agg(first=pl.col("showTime").min()).sort("itemId")
    wrong = first.filter(rng.random(len(first)) < late)
    published = truth.shelf.published.copy()
    published[wrong["itemId"].to_numpy()] = wrong["first"].to_numpy() + rng.integers(1, 6 * HOUR_MS, len(wrong))
    undated = rng.random(len(published)) < UNDATED
    undated[wrong["itemId"].to_numpy()] = False
    dates = pl.Series("published", published).cast(pl.String)
    return pl.DataFrame(
        {
            "itemId": np.arange(len(published)), "title": fields["title"].tolist(), "published": dates,
            "images": rng.integers(0, 7, len(published)), "category": fields["category"].tolist(),
            "subcategory": [f"{c}/{m}" for c, m in zip(fields["category"], fields["creator"], strict=True)],
            "keywords": [
                ",".join(f"{word}:{1 / (n + 1):.3f}" for n, word in enumerate(words)) for words in fields["keywords"]
            ],
        }
    ).with_columns(published=pl.when(pl.Series(~undated)).then("published").otherwise(pl.lit("")))  # fmt: skip


def _said(names: tuple[str, ...], which: int) -> str:
    """`name:number,...`: four fifths for one, the rest for the others."""
    rest = 0.2 / (len(names) - 1)
    return ",".join(f"{name}:{0.8 if n == which else rest:.6f}" for n, name in enumerate(names))


FORMATS: dict[str, Callable[[World, Events, np.random.Generator], Tables]] = {"globo": globo, "yidian": yidian}
