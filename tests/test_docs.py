"""The documents are true: examples run as they stand, links lead somewhere, tables name what exists."""

import ast
import dataclasses
import importlib
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from shortlist.artifact import Artifact
from shortlist.candidates import Ragged, Requests
from shortlist.config import FeatureConfig, catalogue, find, parse
from shortlist.dataset.interactions import Interactions
from shortlist.features.base import Events, Rows
from shortlist.features.featureset import FeatureSet
from shortlist.features.replay import Replayed
from shortlist.forms import Lists
from shortlist.funnel import recipes
from shortlist.schema import Catalogue, Profiles, Schema

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NOW = 1_700_000_000_000
HOUR = 3_600_000


def examples() -> dict[str, str]:
    """Path inside the package -> text of each file shown in docs/adding.md."""
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, flags=re.DOTALL)
    return dict(found)


@pytest.fixture
def dropped_in(tmp_path: Path) -> Iterator[None]:
    """The files of docs/adding.md, as if they had been put into their folders."""
    touched: list[tuple[types.ModuleType, str, str]] = []
    for place, text in examples().items():
        folder, _, name = place.rpartition("/")
        target = tmp_path / folder / f"{name}"
        target.parent.mkdir(parents=True)
        target.write_text(text, encoding="utf-8")
        package = importlib.import_module("shortlist." + folder.replace("/", "."))
        package.__path__.append(str(target.parent))
        touched.append((package, str(target.parent), name.removesuffix(".py")))
    importlib.invalidate_caches()
    yield
    for package, added, name in touched:
        package.__path__.remove(added)
        sys.modules.pop(f"{package.__name__}.{name}", None)


ITEMS = Profiles.from_frame(
    pl.DataFrame(
        {
            "key": [0, 1, 2, 3],
            "minutes": [10.0, 50.0, None, 20.0],
            "published": [NOW - 3 * HOUR, NOW - HOUR, NOW - 2 * HOUR, NOW + HOUR],
        }
    )
)
SCHEMA = Schema.parse({"items": {"minutes": "dense", "published": "time"}, "published": "published"})
NOTHING: dict[str, list[Any]] = {name: [] for name in ("offset", "user", "item", "action", "time_ms")}
CATALOGUE = Catalogue(Catalogue.empty().users, ITEMS)


def requests(histories: list[list[int]]) -> Requests:
    r = len(histories)
    offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    items = np.array([item for h in histories for item in h], dtype=np.int64)
    history = Ragged(offsets, items, np.zeros(len(items), dtype=np.int64), np.zeros(len(items), dtype=np.int16))
    return Requests(np.arange(r), np.full(r, NOW), 3, history, Ragged.empty(r), Ragged.empty(r))


def everything(owners: Any, items: Any) -> Any:
    return np.ones(len(items), dtype=bool)


@pytest.mark.usefixtures("dropped_in")
def test_dropped_files_are_found() -> None:
    assert list(examples()) == [
        "funnel/filters/short.py", "models/recall/newest.py", "funnel/sources/last_item.py",
        "features/kinds/revisit.py",
    ]  # fmt: skip
    assert "short" in catalogue("shortlist.funnel.filters")
    assert "newest" in catalogue("shortlist.models.recall")
    assert "last_item" in catalogue("shortlist.funnel.sources")


@pytest.mark.usefixtures("dropped_in")
def test_the_filter_of_the_page() -> None:
    short: Any = find("short", ["shortlist.funnel.filters"], "here")
    asked = np.array([0, 1, 2, 99])
    keep = short(short.Config(minutes=30), SCHEMA, ITEMS).keep(requests([[]]), np.zeros(4, dtype=np.int64), asked)
    assert keep.tolist() == [True, False, True, True]  # 10, 50, no length, not in the catalogue


@pytest.mark.usefixtures("dropped_in")
def test_the_model_and_the_source_of_the_page() -> None:
    newest: Any = find("newest", ["shortlist.models.recall"], "here")
    none = np.zeros(0, dtype=np.int64)
    form = newest(newest.Config(keep=2), SCHEMA).solve(Interactions.of(none, none), CATALOGUE, NOW)
    assert form.items.tolist() == [1, 2]  # published 1 h and 2 h ago; 3 h is cut, item 3 comes later

    last_item: Any = find("last_item", ["shortlist.funnel.sources"], "here")
    lists = Lists.ranked(np.array([0, 0, 1]), np.array([2, 3, 2]), np.array([1, 2, 5], dtype=np.float32))
    source = last_item(last_item.Config(), lists, SCHEMA)
    owners, items, scores = source.recall(requests([[1, 0], [0, 1], []]), 2, everything)
    assert (owners.tolist(), items.tolist(), scores.tolist()) == ([0, 0, 1], [3, 2, 2], [2.0, 1.0, 5.0])


@pytest.mark.usefixtures("dropped_in")
def test_the_feature_of_the_page() -> None:
    features = FeatureSet.of([FeatureConfig("had", "revisit", {"last": 1})], SCHEMA)
    known = Replayed(Events.of(pl.DataFrame(NOTHING), SCHEMA), CATALOGUE, SCHEMA, features)
    asked = requests([[1, 0], []])
    rows = Rows(asked, np.array([0, 0, 1]), np.array([0, 1, 0]))
    # of the first user's history the last event counts, item 0; the other has none
    assert {name: column.tolist() for name, column in known.columns(rows).items()} == {"had": [1.0, 0.0, 0.0]}
    assert features.last == 1


@pytest.mark.usefixtures("dropped_in")
def test_a_project_can_name_them() -> None:
    config = parse(
        {"recall": [{"name": "newest", "use": "newest"}], "filters": ["seen", {"use": "short", "minutes": 20}]}
    )
    newest: Any = find("newest", ["shortlist.models.recall"], "here")
    none = np.zeros(0, dtype=np.int64)
    form = newest(newest.Config(), SCHEMA).solve(Interactions.of(none, none), CATALOGUE, NOW)
    words = recipes.document(config, SCHEMA, {"newest": newest})
    made = cast(Artifact, types.SimpleNamespace(form=lambda: form, beside=dict))
    funnel = recipes.assemble(words, lambda name: made, CATALOGUE)["home"]
    slates = funnel.run(dataclasses.replace(requests([[0], []]), n=3))
    # newest first: 1, 2, 0; item 1 is longer than 20 minutes, the first user has met item 0
    assert slates.matrix(3).tolist() == [[2, -1, -1], [2, 0, -1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_import_what_there_is(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{target} is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    shown = set(examples())
    for name in set(
        re.findall(r"`((?:docs|src|tests|bench|configs)/[\w./-]+\.\w+|[a-z_]+(?:/[a-z_]+)*\.py)`", page.read_text())
    ):
        places = [ROOT / name, ROOT / "src" / "shortlist" / name]
        assert name in shown or any(place.exists() for place in places), f"{name} is not there"


def test_every_folder_of_the_table_exists() -> None:
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    folders = re.findall(r"^\| `([\w/]+)/` \|", text, flags=re.MULTILINE)
    assert len(folders) == 10
    assert all((ROOT / "src" / "shortlist" / folder).is_dir() for folder in folders)
