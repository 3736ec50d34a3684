"""docs/features.md is true: each block of TOML loads, gives the columns it names, and every kind has one."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from shortlist.config import catalogue, find, parse
from shortlist.features import content
from shortlist.features.featureset import KINDS, FeatureSet
from shortlist.schema import Schema

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
FEATURES = [block for block in BLOCKS if "[[feature]]" in block]
SCHEMA = Schema.parse(tomllib.loads(BLOCKS[0])["schema"])


def made(block: str) -> FeatureSet:
    return FeatureSet.of(parse(tomllib.loads(block)).feature, SCHEMA)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[1])
def test_a_block_is_a_project_file(block: str) -> None:
    config = parse(tomllib.loads(block))
    schema = Schema.parse(config.schema)
    content.check(schema)
    if block not in FEATURES:
        assert config.schema
        assert not config.feature


@pytest.mark.parametrize("block", FEATURES, ids=lambda block: tomllib.loads(block)["feature"][0]["use"])
def test_a_feature_gives_the_columns_it_names(block: str) -> None:
    said = block.strip().rpartition("# columns: ")[2].split(", ")
    assert list(made(block).columns) == said


def test_all_of_them_together_are_a_project() -> None:
    every = parse(tomllib.loads("\n".join(FEATURES)))
    assert len(FeatureSet.of(every.feature, SCHEMA)) == len(FEATURES)


def test_every_kind_is_shown_under_its_name() -> None:
    headings = re.findall(r"^### (\w+)$", TEXT, flags=re.MULTILINE)
    assert sorted(headings) == sorted(catalogue(KINDS))
    for heading, block in zip(headings, FEATURES, strict=True):  # in the order of the page
        assert f'use = "{heading}"' in block


def test_every_text_encoder_is_in_the_table() -> None:
    table = TEXT.partition("## Texts as vectors")[2].partition("|---|")[2].partition("```")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == sorted(catalogue(content.PACKAGE))


@pytest.mark.parametrize("kind", catalogue(KINDS))
def test_every_option_is_named_and_its_default_is_right(kind: str) -> None:
    """Of each kind's own section, with those that speak for several."""
    section = re.split(r"^##", TEXT.partition(f"### {kind}\n")[2], flags=re.MULTILINE)[0]
    shared = TEXT.partition("## Counters")[2].partition("###")[0]
    if kind == "crossed":
        shared += TEXT.partition("### interests")[2].partition("###")[0]
    found: Any = find(kind, [KINDS], "here")
    for option in found.Config.__dataclass_fields__:
        assert re.search(rf"`{option}\b|^{option} =", section + shared, flags=re.MULTILINE), option
    for option, default in re.findall(r"`(\w+)` \(`?([\w.]+)`?\)", section):
        assert str(found.Config.__dataclass_fields__[option].default) in (default, f"{default}.0"), option
