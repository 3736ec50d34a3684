"""The report page: whole, self-contained, safe, the same for the same numbers. The sample below is generated."""

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from shortlist.errors import ConfigError
from shortlist.evaluation.report import (
    ChannelFigures,
    Cut,
    MapPage,
    Part,
    Report,
    Row,
    Run,
    Score,
    count,
    label,
    metric,
    render,
    render_map,
    share,
    write_map,
    write_report,
)
from shortlist.metrics.bootstrap import Estimate
from shortlist.metrics.calibration import curve


def around(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def sample() -> Report:
    """Made-up figures of a project with five channels; nothing here was measured."""
    rng = np.random.default_rng(0)
    names = ("similar", "users_like_you", "trending", "new_arrivals", "same_category")
    uses = ("item_cf", "user_cf", "hot", "newest", "content")
    level = np.array([0.081, 0.069, 0.034, 0.012, 0.041])
    rows = [
        Row(
            name,
            "channel",
            {
                **{f"recall@{k}": around(x * k**0.45 / 2, 0.002 + x * 0.04) for k in (10, 50, 100)},
                "ndcg@10": around(x * 1.2, 0.003),
                "mrr@10": around(x * 1.5, 0.004),
            },
            {"coverage": cover, "gini": spread, "novelty": 9.1, "ild": 0.61},
        )
        for name, x, cover, spread in zip(
            names, level, (0.71, 0.52, 0.011, 0.094, 0.88), (0.71, 0.79, 0.99, 0.95, 0.52), strict=True
        )
    ]
    merged = {f"recall@{k}": around(0.062 * k**0.5, 0.006) for k in (10, 50, 100)}
    page = {"recall@10": around(0.211, 0.007), "ndcg@10": around(0.163, 0.005), "hit_rate@10": around(0.48, 0.012)}
    rows.append(Row("merged", "merged", merged, {"coverage": 0.93, "gini": 0.66}))
    rows.append(Row("page", "page", page, {"coverage": 0.64, "gini": 0.74, "novelty": 8.7, "ild": 0.66}))
    overlap = np.clip(rng.random((5, 5)) * 0.5, 0.01, 1)
    np.fill_diagonal(overlap, 1)
    overlap[3] = np.nan
    adds = (
        around(0.031, 0.004),
        around(0.012, 0.003),
        around(0.002, 0.0015),
        around(-0.001, 0.001),
        around(0.009, 0.002),
    )
    items, alone, took = (298.4, 211, 100, 50, 187.25), (0.41, 0.22, 0.64, 0.9, 0.55), (1.21, 3.4, 0.08, 0.05, 0.77)
    popular = np.sort(rng.zipf(1.6, 4000).clip(max=3000))
    return Report(
        title="Books: evaluation of the home scene",
        subtitle="Held-out events of 12,408 requests after the cut, against everything recalled, merged and shown.",
        recipe={
            "project": "books/shortlist.toml",
            "snapshot": "events 0..1,204,311, sha256 5f0c…91ab",
            "split": "user_time, last 20 % of each user",
            "seed": "0",
            "machine": "2 cores, 24 GiB",
            "durations": "train 41.2 s, evaluate 18.9 s",
        },
        rows=tuple(rows),
        ks=(10, 50, 100),
        channels=tuple(ChannelFigures(*row) for row in zip(names, uses, items, alone, adds, took, strict=True)),
        overlap=overlap,
        drops={"seen": 812_345, "unavailable": 40_112, "over the budget": 1_204_400, "too many of one category": 9_003},
        funnel={"recalled": 846.65, "merged": 611.2, "after filters": 542.5, "after budget": 300, "shown": 10},
        counts={"training log": popular, "page": (popular**0.8).astype(np.int64) * (rng.random(4000) < 0.64)},
        adds_metric="recall@100",
        requests=12_408,
        skipped=311,
        notes=("Channel new_arrivals brought nothing to 4 % of the requests.",),
    )


def staged(name: str = "rank.click") -> Report:
    """The same with cohorts, stages and runs; nothing here was measured."""
    rng = np.random.default_rng(1)
    p = rng.random(2000) * 0.3
    rows = {row.name: {k: v for k, v in row.metrics.items() if k != "mrr@10"} for row in sample().rows}
    measured = {"auc": 0.7712, "gauc": 0.7421, "calibration": 1.05}
    cuts = np.array([10, 100, 200])
    return replace(
        sample(),
        parts={"users": (Part("new users", "40 users, at most 3 events", rows), Part("old users", name, rows))},
        part_metrics=("recall@10", "ndcg@10"),
        cuts=(Cut(name, cuts, np.array([0.2, 0.9, 1])), Cut("merge order", cuts, np.array([0.1, np.nan, 1]))),
        keep=100,
        scores=(
            Score(name, "click", measured, curve(p, (rng.random(2000) < p).astype(np.float64))),
            Score("merge order", "click", {"auc": 0.71}),
        ),
        stage_words="Measured on 40 requests.",
        runs=(Run(name, [{"step": 1, "loss": 0.7}, {"step": 1, "metrics": {"gauc": 0.6}, "best": True}]),),
        map="map.html",
    )


class Tags(HTMLParser):
    """Checks nesting, gathers text, ids and everything that would be fetched."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render(sample())


def test_page_is_whole_and_needs_nothing_else(page: str) -> None:
    tags = Tags(page)
    assert tags.fetched == []
    assert "script" not in tags.tags
    assert not re.search(r"@import|url\(", page)
    assert len(tags.ids) == len(set(tags.ids))
    # Pictures: four metrics, adds, overlap, coverage, Gini, curves, funnel, drops.
    assert page.count("<svg ") == 11


def test_page_shows_the_figures(page: str) -> None:
    text = re.sub(r"\s+", " ", Tags(page).text)
    # NDCG@10 of the page 0.163 ± 0.005; coverage 64 %; requests; dropped: 812,345 + 40,112 + 1,204,400 + 9,003.
    for piece in ("0.1630", "0.1580 to 0.1680", "64.0 %", "12,408", "311 without a label", "2,065,860 candidates"):
        assert piece in text
    # Every list, stage, reason and recipe line is there.
    for piece in ("users_like_you", "after budget", "too many of one category", "sha256 5f0c…91ab", "-0.0010"):
        assert piece in text
    for section in ("Accuracy", "Channels", "Spread over the catalogue", "Funnel", "Notes", "Recipe"):
        assert f"<h2>{section}</h2>" in page


def test_numbers_stand_on_the_right(page: str) -> None:
    assert '<td class="n">0.2110<small>0.2040–0.2180</small></td>' in page
    assert ".n { text-align: right;" in page


def test_every_colour_has_a_dark_twin(page: str) -> None:
    light = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]{3,6})"', page.partition("<body>")[2]))
    dark = set(re.findall(r'svg \[fill="(#[0-9a-f]{6})"\]', page.partition("<body>")[0]))
    assert light <= dark


def test_cohorts_stages_and_runs_are_shown() -> None:
    page = render(staged())
    tags = Tags(page)
    # The one address is that of the map beside it, which is followed and never fetched.
    assert tags.fetched == ["map.html"]
    # Eleven as above, the cut, the calibration, one run.
    assert page.count("<svg ") == 14
    for heading in ("New and old", "Scoring stages", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert "dashed: 100 candidates, the cut in use" in page
    assert '<th scope="row">click</th><td>rank.click</td><td class="n">0.7712</td><td class="n">0.7421</td>' in page
    # The merge order is no probability: one figure and two dashes.
    assert '<td>merge order</td><td class="n">0.7100</td><td class="n">–</td><td class="n">–</td>' in page
    light = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]{3,6})"', page.partition("<body>")[2]))
    assert light <= set(re.findall(r'svg \[fill="(#[0-9a-f]{6})"\]', page.partition("<body>")[0]))


def test_names_of_stages_and_runs_cannot_become_markup() -> None:
    evil = '</svg><script>alert("x")</script>&'
    assert "script" not in Tags(render(staged(evil))).tags


def test_what_was_not_measured_has_no_section(page: str) -> None:
    for heading in ("New and old", "Scoring stages", "Training"):
        assert f"<h2>{heading}</h2>" not in page


def test_a_map_says_how_pure_it_is_and_needs_nothing(tmp_path: Path) -> None:
    svg = '<svg viewBox="0 0 1 1"><circle r="1"><title>Alien</title></circle></svg>'
    found = MapPage("A map & more", "2 items", svg, 10, 0.379, 0.191)
    write_map(found, tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert tags.fetched == ["report.html"]
    assert "script" not in tags.tags
    assert "Of an item's 10 nearest neighbours, 37.9 % share its category; by chance it would be 19.1 %." in tags.text
    assert "<title>Alien</title>" in page
    assert "A map &amp; more" in page
    assert "by chance" not in render_map(MapPage("Without categories", "", svg))


def test_same_figures_same_page(page: str) -> None:
    assert render(sample()) == page


def test_names_cannot_become_markup() -> None:
    evil = '</svg><script>alert("x")</script>&\\\'"'
    report = sample()
    rows = tuple(replace(row, name=evil) for row in report.rows)
    channels = tuple(replace(channel, name=evil, use=evil) for channel in report.channels)
    report = replace(
        report, title=evil, subtitle=evil, rows=rows, channels=channels, recipe={evil: evil}, notes=(evil,),
        drops={evil: 1}, funnel={evil: 1.0}, counts={evil: np.array([1, 2])}, adds_metric=evil,
    )  # fmt: skip
    tags = Tags(render(report))
    assert "script" not in tags.tags
    # In the heading as it is written.
    assert evil in tags.text


def test_a_report_may_hold_almost_nothing(tmp_path: Path) -> None:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    rows = (Row("hot", "channel", {"recall@10": nothing}),)
    page = render(Report(title="Empty", subtitle="", recipe={}, rows=rows, ks=(10,)))
    assert page.count("<svg ") == 1
    assert '<td class="n">–<small>–––</small></td>' in page
    assert "<h2>Channels</h2>" not in page
    Tags(render(Report(title="Nothing", subtitle="", recipe={}, rows=(), ks=())))


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "report.html"
    report = Report(title="One", subtitle="", recipe={}, rows=(), ks=())
    write_report(report, path)
    write_report(replace(report, title="Two ü"), path)
    assert "<h1>Two ü</h1>" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    report = Report(title="One", subtitle="", recipe={}, rows=(), ks=())
    write_report(report, path)

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(replace(report, title="Two"), path)
    assert "<h1>One</h1>" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError) as error:
        render(sample())
    assert str(error.value) == 'report: jinja2 is not installed (pip install "shortlist[serve]")'


def test_overlap_must_fit_the_channels() -> None:
    with pytest.raises(ValueError, match=r"overlap is \(2, 2\) for 5 channels"):
        replace(sample(), overlap=np.eye(2))


def test_figures_as_text() -> None:
    nan = float("nan")
    assert (metric(0.12345), metric(None), metric(nan)) == ("0.1235", "–", "–")
    assert (share(0.123), share(None), share(nan)) == ("12.3 %", "–", "–")
    assert [count(x) for x in (7, 12345.4, 0.0812, 187.25, nan)] == ["7", "12,345", "0.0812", "187", "–"]
    assert [label(x) for x in ("ndcg@10", "recall@50", "hit_rate@5", "coverage")] == [
        "NDCG@10",
        "Recall@50",
        "Hit rate@5",
        "Coverage",
    ]
