"""What an evaluation says, in three voices: plain figures, a table for a terminal, a report with pictures."""

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shortlist import __version__
from shortlist.candidates import Candidates
from shortlist.config import ProjectConfig
from shortlist.evaluation.channels import Cost
from shortlist.evaluation.data_report import DataReport, compared, sampled
from shortlist.evaluation.funnel import Listed, Measured
from shortlist.evaluation.project import Data, Outcome, histories_before, trained
from shortlist.evaluation.report import ChannelFigures, Cut, MapPage, Part, Report, Row, Run, Score
from shortlist.evaluation.stages import DEPTH, MERGE, Staged
from shortlist.evaluation.tsne import MAP_FILES, chance, item_map, picture, purity, write
from shortlist.forms import Vectors
from shortlist.metrics.beyond import exposure
from shortlist.metrics.bootstrap import Estimate, difference, mean, means
from shortlist.schema import Catalogue, Schema, text
from shortlist.training.curves import read

__all__ = [
    "figures", "cohort_figures", "stage_figures", "channel_figures", "channel_table", "overlap_table", "table",
    "verdicts", "report", "runs", "data_report", "item_map_page", "MAP_FILES",
]  # fmt: skip

ASKED = 2_000  # events whose moments features are looked at
Figures = dict[str, dict[str, list[float]]]


def estimates(listed: Listed, seed: int) -> dict[str, Estimate]:
    """Every metric of a list maker with its interval."""
    return means(listed.columns, np.random.default_rng(seed))


def figures(outcome: Outcome, seed: int) -> Figures:
    """`{list: {metric: [value, low, high]}}`, without what is unknown: what `--json` prints and a release carries."""
    out: Figures = {}
    for listed in outcome.measured.listed:
        row = {name: [e.value, e.low, e.high] for name, e in estimates(listed, seed).items()}
        row |= {f"coverage@{k}": [value] * 3 for k, value in listed.coverage.items()}
        drawn = means(outcome.sampled.get(listed.name, {}), np.random.default_rng(seed))
        row |= {f"sampled_{name}": [e.value, e.low, e.high] for name, e in drawn.items()}
        out[listed.name] = {name: values for name, values in row.items() if np.isfinite(values).all()}
    return out


def cohort_figures(outcome: Outcome, seed: int) -> dict[str, Any]:
    """`{cohort: {"of", "bound", "size", "figures": {list: {metric: [value, low, high]}}}}`, without what is unknown."""
    out: dict[str, Any] = {}
    for cohort in outcome.cohorts:
        rows = {name: means(columns, np.random.default_rng(seed)) for name, columns in cohort.columns.items()}
        told = {
            name: {m: [e.value, e.low, e.high] for m, e in row.items() if np.isfinite(e.value)}
            for name, row in rows.items()
        }
        out[cohort.name] = {"of": cohort.of, "bound": cohort.bound, "size": cohort.size, "figures": told}
    return out


def stage_figures(outcome: Outcome, seed: int) -> dict[str, Any]:
    """What scoring stages are worth as plain figures; empty where the scene has none."""
    staged = outcome.staged
    if staged is None:
        return {}
    survivals = []
    for s in staged.survivals:
        row: dict[str, Any] = {"by": s.by, "best": s.depth, "cuts": s.cuts.tolist()}
        row["kept"] = [round(float(x), 6) for x in np.nanmean(s.shares, axis=0)]
        if staged.keep is not None:
            e = mean(s.at(staged.keep), np.random.default_rng(seed))
            row |= {"keep": staged.keep, "kept_at_keep": [e.value, e.low, e.high]}
        survivals.append(row)
    scores = [
        {"score": j.score, "label": j.label, **{name: value for name, value in j.metrics.items() if np.isfinite(value)}}
        for j in staged.judged
    ]
    return {"requests": staged.requests, "candidates": staged.rows, "survival": survivals, "scores": scores}


def table(found: Figures, ks: tuple[int, ...], page: int) -> list[list[str]]:
    """Rows of text, the first the head: each list with recall at every cut, NDCG and coverage at the page's length."""
    columns = [*(f"recall@{k}" for k in ks), f"ndcg@{page}", f"coverage@{page}"]
    rows = [["list", *columns]]
    for name, row in found.items():
        cells = [_cell(row[c], interval=not c.startswith("coverage")) if c in row else "" for c in columns]
        rows.append([name, *cells])
    return rows


def _cell(values: list[float], *, interval: bool) -> str:
    value, low, high = values
    return f"{value:.4f} [{low:.3f}, {high:.3f}]" if interval else f"{value:.3f}"


def verdicts(measured: Measured, seed: int) -> list[str]:
    """What the figures say in words: the merge against the best channel, the page against it and against hot lists."""
    k, page = measured.deepest, measured.page
    recall, ndcg = f"recall@{k}", f"ndcg@{page}"
    if ndcg not in measured.of("page").columns:
        ndcg = f"ndcg@{min(measured.ks)}"
    out = []
    best = measured.best_channel(recall).name
    _, share = measured.compare("merged", best, recall, seed)
    if np.isfinite(share.value):  # nothing is no measure of anything
        out.append(f"merged {recall} is {_span(share)} of the best channel ({best})")
    for name, column in measured.left_out.items():
        lost = mean(measured.of("merged").columns[recall] - column, np.random.default_rng(seed))
        out.append(f"merged {recall} with {name} minus without it: {_span(lost, sign=True)}")
    best = measured.best_channel(ndcg).name
    gap, _ = measured.compare("page", best, ndcg, seed)
    out.append(f"page {ndcg} minus the best channel ({best}): {_span(gap)}")
    if "hot" in {c.name for c in measured.channels} and best != "hot":
        _, times = measured.compare("page", "hot", ndcg, seed)
        if np.isfinite(times.value):
            out.append(f"page {ndcg} is {_span(times, 2)} times the hot list's")
    return out


def stage_verdicts(staged: Staged, seed: int) -> list[str]:
    """What the stages' figures say in words: what the first cut loses, and how each score orders a request."""
    out = []
    if staged.survivals and staged.keep is not None:
        first, merge = staged.survivals[0], staged.survivals[-1]
        kept, other = first.at(staged.keep), merge.at(staged.keep)
        out.append(
            f"{first.by} keeps {_span(mean(kept, np.random.default_rng(seed)), 3)} of the {DEPTH} that "
            f"{staged.names[-1]} puts first within its best {staged.keep}; cutting in merge order would keep "
            f"{_span(mean(other, np.random.default_rng(seed)), 3)}, difference "
            f"{_span(difference(kept, other, np.random.default_rng(seed)), 3)}"
        )
    for label in dict.fromkeys(j.label for j in staged.judged):
        rows = [j for j in staged.judged if j.label == label]
        said = ", ".join(f"{j.score} {j.metrics['gauc']:.4f}" for j in rows)
        out.append(f"GAUC on {label}: {said}")
    return out


def _span(e: Estimate, digits: int = 4, *, sign: bool = False) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{e.value:{form}} [{e.low:{form}}, {e.high:{form}}]"


def report(
    outcome: Outcome,
    config: ProjectConfig,
    items: np.ndarray[Any, np.dtype[np.int64]],
    took: Mapping[str, float],
    runs: tuple[Run, ...] = (),
    map: str | None = None,
    data: DataReport | None = None,
) -> Report:
    """The report with pictures. `items` are the catalogue's keys, `took` seconds by step, `map` the map's file beside
    it, `data` what feature columns were and are.
    """
    measured = outcome.measured
    deepest, page = measured.deepest, measured.page
    rows = []
    for listed in measured.listed:
        k = page if page in listed.coverage else min(listed.coverage)
        extra = {"coverage": listed.coverage[k], "gini": listed.gini[k], "novelty": listed.novelty[k]}
        rows.append(Row(listed.name, listed.kind, estimates(listed, config.seed), extra))
    asked = max(measured.requests, 1)
    merged = measured.of("merged").columns[f"recall@{deepest}"]
    channels = []
    for n, channel in enumerate(measured.channels):
        lists = channel.lists[:, :deepest]
        lost = mean(merged - measured.left_out[channel.name], np.random.default_rng(config.seed))
        use = next(c.use for c in config.recall if c.name == channel.name)
        ms = measured.took_ms.get(f"recall:{channel.name}", 0.0) / asked
        cost, (row,) = outcome.costs.get(channel.name), [row for row in rows if row.name == channel.name]
        channels.append(
            ChannelFigures(
                channel.name,
                use,
                float((lists >= 0).sum(1).mean()),
                measured.alone[n],
                lost,
                ms,
                cost.p50_ms if cost else None,
                cost.bytes if cost else None,
                row.figures,
                _cold(cost),
            )
        )
    fates = measured.fates
    recalled = sum(fates.values())
    later = ("selected", "not_selected", "over_budget")
    dropped = {name: n for name, n in fates.items() if name not in later and not name.startswith("below_")}
    eligible = recalled - sum(dropped.values())
    in_budget = eligible - fates.get("over_budget", 0)
    funnel = {
        "recalled": recalled / asked, "eligible": eligible / asked,
        "in budget": in_budget / asked, "shown": fates.get("selected", 0) / asked,
    }  # fmt: skip
    recipe = {
        **outcome.recipe,
        "shortlist": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        **{f"{step} took": f"{seconds:.1f} s" for step, seconds in took.items()},
    }
    return Report(
        title="How good are the recommendations?",
        subtitle=f"{measured.requests:,} users asked at the moment before their held-out events.",
        recipe=recipe,
        rows=tuple(rows),
        ks=measured.ks,
        channels=tuple(channels),
        overlap=measured.overlap,
        drops={name: n for name, n in fates.items() if name != "selected"},
        funnel=funnel,
        counts={
            "training log": outcome.popularity,
            "page": exposure(measured.of("page").lists, items),
        },
        adds_metric=f"recall@{deepest}",
        requests=measured.requests,
        skipped=measured.requests - measured.labelled,
        notes=tuple(said(outcome, config.seed)),
        parts=parts(outcome, config.seed),
        part_metrics=tuple(dict.fromkeys((f"recall@{page}", f"recall@{deepest}", f"ndcg@{page}"))),
        runs=runs,
        map=map,
        data=data,
        **_stages(outcome.staged),
    )


def _cold(cost: Cost | None) -> str:
    """For whom and what a channel serves without events, in words."""
    if cost is None or cost.cold_users is None or cost.cold_items is None:
        return ""
    words = [word for word, can in (("users", cost.cold_users), ("items", cost.cold_items)) if can]
    return " and ".join(words) or "neither"


def channel_figures(outcome: Outcome, told: Figures, seed: int) -> dict[str, Any]:
    """Every channel in the mix as plain values: what it finds (`told`, as `figures` gives it), what the others do not,
    what it costs; and the overlap.

    `adds` is the recall at the deepest cut that the merge loses without it. Cohorts stand under `cohort_figures`.
    """
    measured, deepest = outcome.measured, outcome.measured.deepest
    merged = measured.of("merged").columns[f"recall@{deepest}"]
    out: dict[str, Any] = {}
    for n, channel in enumerate(measured.channels):
        lost = mean(merged - measured.left_out[channel.name], np.random.default_rng(seed))
        row: dict[str, Any] = {"figures": told[channel.name], "alone": measured.alone[n]}
        row |= {f"gini@{k}": value for k, value in channel.gini.items() if np.isfinite(value)}
        row |= {f"novelty@{k}": value for k, value in channel.novelty.items() if np.isfinite(value)}
        row["adds"] = [lost.value, lost.low, lost.high]
        cost = outcome.costs.get(channel.name)
        if cost is not None:
            row |= {"bytes": cost.bytes, "p50_ms": cost.p50_ms, "p95_ms": cost.p95_ms}
            row |= {"cold_users": cost.cold_users, "cold_items": cost.cold_items}
        out[channel.name] = row
    names = list(out)
    overlap = {a: {b: float(measured.overlap[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}
    return {"deepest": deepest, "channels": out, "overlap": overlap}


def channel_table(found: dict[str, Any], cohorts: Mapping[str, Any], page: int) -> list[list[str]]:
    """Rows of text, the first the head: each channel by what it finds, adds and costs, and by cohort."""
    deep = f"recall@{found['deepest']}"
    names = [name for name, cohort in cohorts.items() if any(deep in row for row in cohort["figures"].values())]
    head = ["channel", deep, "adds", "alone", f"coverage@{page}", f"novelty@{page}", f"gini@{page}"]
    rows = [[*head, *(f"{name}" for name in names), "ms alone", "MB", "without events"]]
    for name, row in found["channels"].items():
        told = row["figures"]
        k = page if f"coverage@{page}" in told else found["deepest"]
        cells = [_cell(told[deep], interval=True), _cell(row["adds"], interval=True), f"{100 * row['alone']:.1f} %"]
        cells += [f"{told[f'coverage@{k}'][0]:.3f}"]
        wanted = ((f"novelty@{k}", 2), (f"gini@{k}", 3))  # unknown of a channel that brings nothing
        cells += [f"{row[name]:.{digits}f}" if name in row else "" for name, digits in wanted]
        for cohort in names:
            value = cohorts[cohort]["figures"].get(name, {}).get(deep)
            cells.append(f"{value[0]:.4f}" if value else "")
        cost = Cost(*(row[key] for key in ("bytes", "p50_ms", "p95_ms", "cold_users", "cold_items")))
        rows.append([name, *cells, f"{cost.p50_ms:.2f}", f"{cost.bytes / 1e6:.1f}", _cold(cost)])
    return rows


def overlap_table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text, the first the head: percent of the row channel's items that the column channel brings too."""
    names = list(found["overlap"])
    body = [[a, *(f"{100 * found['overlap'][a][b]:.0f}" for b in names)] for a in names]
    return [["overlap, %", *names], *body]


def said(outcome: Outcome, seed: int) -> list[str]:
    """All verdicts."""
    drawn = []
    for name, columns in outcome.sampled.items():
        found = means({m: columns[m] for m in ("hit_rate@10", "ndcg@10")}, np.random.default_rng(seed))
        drawn.append(
            f"{name}, the held-out item among the drawn: " + ", ".join(f"{m} {_span(e)}" for m, e in found.items())
        )
    stages = stage_verdicts(outcome.staged, seed) if outcome.staged else []
    return verdicts(outcome.measured, seed) + drawn + stages


def parts(outcome: Outcome, seed: int) -> dict[str, tuple[Part, ...]]:
    """Cohorts as the report shows them, by what is parted."""
    out: dict[str, tuple[Part, ...]] = {}
    for cohort in outcome.cohorts:
        users = cohort.of == "users"
        edge = f"at {'most' if cohort.name.startswith('new') else 'least'} {cohort.bound:,}"
        words = (
            f"{cohort.size:,} users, {edge} events behind them"
            if users
            else f"{cohort.size:,} labels, met by {edge} users in training"
        )
        rows = {name: means(columns, np.random.default_rng(seed)) for name, columns in cohort.columns.items()}
        out[cohort.of] = (*out.get(cohort.of, ()), Part(cohort.name, words, rows))
    return out


def _stages(staged: Staged | None) -> dict[str, Any]:
    if staged is None:
        return {}
    words = (
        f"Measured on {staged.requests:,} requests without cuts, so that every stage scores all {staged.rows:,} "
        "candidates in budget."
    )
    cuts = []
    for s in staged.survivals:
        by = "merge order" if s.by == MERGE else s.by
        cuts.append(Cut(f"{by}, of the {s.depth} best", s.cuts, np.nanmean(s.shares, axis=0)))
    scores = [Score("merge order" if j.score == MERGE else j.score, j.label, j.metrics, j.curve) for j in staged.judged]
    return {"cuts": tuple(cuts), "keep": staged.keep, "scores": tuple(scores), "stage_words": words}


def runs(data: Data, on: Literal["valid", "test"]) -> tuple[Run, ...]:
    """Logs of the runs behind the part's models, in the order of the funnel; of what learns without steps none."""
    folder = data.project.home / "models" / on / ".runs"
    out = []
    for name, artifact in (trained(data, on) or {}).items():
        log = next(iter((folder / name).glob("*/log.jsonl")), None)  # one: a run removes what others left
        if log is None or not any(file.startswith("weight.") for file in artifact.names("npy")):
            continue
        records = read(log)
        if any("loss" in record for record in records):
            out.append(Run(name, records))
    return tuple(out)


def data_report(data: Data, on: Literal["valid", "test"], seed: int) -> DataReport | None:
    """Feature columns at the moments of at most `ASKED` events that were learned from, and of as many held-out ones,
    with the items that were taken then; None where the project has no features."""
    if not len(data.features):
        return None
    rng, samples = np.random.default_rng(seed), []
    for part in (data.part(on), data.split.valid if on == "valid" else data.split.test):
        log = part.liked(data.schema.weights)
        at = np.sort(rng.permutation(len(log))[:ASKED])
        users, now, items = log.users[at], log.times[at], log.items[at]
        context = {name: column[at] for name, column in log.context.items()}
        asked = data.requests(users, now, 1, histories_before(data.interactions, users, now), context)
        taken = replace(Candidates.empty(len(at)), offsets=np.arange(len(at) + 1), items=items)
        samples.append(sampled(asked, taken, data.features.columns))
    return compared(samples[0], samples[1], ("training", on))


def item_map_page(
    data: Data, on: Literal["valid", "test"], seed: int, limit: int = 1500, folder: Path | None = None
) -> MapPage | None:
    """A map of at most `limit` items by the first channel that has vectors; None where no channel has. With a `folder`
    its picture and its coordinates are written there too, as files (`MAP_FILES`)."""
    for name, artifact in (trained(data, on) or {}).items():
        form = artifact.form() if artifact.manifest.form is not None else None
        if not isinstance(form, Vectors) or len(form.keys) < 2:
            continue
        found = item_map(form, np.random.default_rng(seed), limit)
        items = data.catalogue.items
        ids = items.take("id", found.keys)
        titles = items.take(data.schema.title, found.keys) if data.schema.title else ids
        shown = [str(t if t is not None else i) for t, i in zip(titles, ids, strict=True)]
        field = category_of(data.schema, data.catalogue)
        names = first_values(data.schema, data.catalogue, field, found.keys) if field else [None] * len(shown)
        codes = np.array([-1] * len(names), dtype=np.int64)
        known = np.array([n is not None for n in names])
        if known.any():
            codes[known] = np.unique([n for n in names if n is not None], return_inverse=True)[1]
        colour = f", coloured by {field}" if field else ""
        some = f"{len(shown):,} of {len(form.keys):,} items" if len(shown) < len(form.keys) else f"{len(shown):,} items"
        words = f"{some} as the channel {name} sees them{colour}."
        svg = picture(found.places, shown, names)
        if folder is not None:
            write(folder, found, shown, names)
        near, random = purity(found.vectors, codes), chance(codes)
        return MapPage("A map of the items", words, svg, 10, near, random)
    return None


def category_of(schema: Schema, catalogue: Catalogue) -> str | None:
    """The item field that colours a map: the schema's category, else the first with a few values (2 to 50)."""
    if schema.category is not None:
        return schema.category
    for name, field in schema.items.items():
        if field.kind not in ("sparse", "varlen") or name in (schema.title, schema.image):
            continue
        values = {v for v in first_values(schema, catalogue, name, catalogue.items.keys) if v is not None}
        if 2 <= len(values) <= 50:
            return name
    return None


def first_values(
    schema: Schema, catalogue: Catalogue, name: str, keys: np.ndarray[Any, np.dtype[np.int64]]
) -> list[str | None]:
    """The first value of an item field for keys [N] as text, None where there is none."""
    split = schema.items[name].split
    raw = catalogue.items.take(name, keys).tolist()
    if split:
        raw = [value.split(split)[0] if isinstance(value, str) else value for value in raw]
    first = [(value[0] if len(value) else None) if isinstance(value, list | tuple) else value for value in raw]
    return [value or None for value in text(first).to_list()]
